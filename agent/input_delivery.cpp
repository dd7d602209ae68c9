#include "agent/input_delivery.h"

#include <algorithm>

namespace understudy {

void InputDelivery::on_given(Instant now, std::size_t interface, LogPosition position) {
  if (interface >= interfaces_.size()) return;
  Interface& on = interfaces_[interface];
  // The moment at which the queue is seen empty will leave the newest one only.
  if (!on.taken_before) on.in_flight.clear();
  on.in_flight.push_back({++on.given, position, now});
}

void InputDelivery::on_progress(std::span<const InputProgress> progress, bool paused) {
  for (std::size_t index = 0; index < std::min(progress.size(), interfaces_.size()); ++index) {
    Interface& on = interfaces_[index];
    const InputProgress& seen = progress[index];
    if (paused && seen.empty && seen.taken >= on.given) on.taken_before = seen.taken - on.given;
    if (!on.taken_before || seen.taken < *on.taken_before) continue;
    on.taken = std::min(on.given, seen.taken - *on.taken_before);
    while (!on.in_flight.empty() && on.in_flight.front().number < on.taken) {
      on.in_flight.pop_front();
    }
  }
}

// The newest frame, taken out of the queue, and nothing has come for a while.
bool InputDelivery::only_an_old_one(const Interface& interface, Instant now) {
  return interface.in_flight.size() == 1 && interface.in_flight.front().number <= interface.taken &&
         now - interface.in_flight.front().at >= kSilence;
}

bool InputDelivery::silent(Instant now) const {
  return std::ranges::any_of(
      interfaces_, [now](const Interface& interface) { return only_an_old_one(interface, now); });
}

LogPosition InputDelivery::certain(Instant now, LogPosition last, bool takes_inputs) const {
  LogPosition position = last;
  for (const Interface& on : interfaces_) {
    if (!on.taken_before) return LogPosition();
    if (on.in_flight.empty() || (takes_inputs && only_an_old_one(on, now))) continue;
    const std::uint64_t uncertain = on.in_flight.front().position.value;
    position = std::min(position, LogPosition(uncertain == 0 ? 0 : uncertain - 1));
  }
  return position;
}

std::size_t InputDelivery::followed() const {
  std::size_t frames = 0;
  for (const Interface& on : interfaces_) frames += on.in_flight.size();
  return frames;
}

}  // namespace understudy
