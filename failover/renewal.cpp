#include "failover/renewal.h"

#include <fmt/format.h>

#include <algorithm>

namespace understudy {

Renewal::Choice Renewal::choose(Instant now, const std::vector<Host>& ring, std::string_view self,
                                std::string_view lost) {
  Choice choice;
  const auto place = std::ranges::find(ring, lost, &Host::name);
  // From the one behind the lost host on, once around. Whoever is not in the list has no place.
  const auto first =
      place == ring.end() ? std::size_t{0} : static_cast<std::size_t>(place - ring.begin()) + 1;
  for (std::size_t step = 0; step < ring.size(); ++step) {
    const Host& host = ring[(first + step) % ring.size()];
    if (host.name == self) continue;
    if (choice.host.empty()) choice.host = host.name;
    if (!host.heard) refusals_.erase(host.name);  // It may be another one when it is back.
    const auto refusal = refusals_.find(host.name);
    std::string reason;
    if (!host.paired) {
      reason = fmt::format("{} is not paired with {}", host.name, self);
    } else if (!host.heard) {
      reason = fmt::format("{} is not heard", host.name);
    } else if (refusal != refusals_.end() && now < refusal->second.until) {
      reason = fmt::format("{} refused: {}", host.name, refusal->second.reason);
      choice.again = std::min(choice.again, refusal->second.until);
    } else {
      return {.protect = true, .host = host.name, .reason = {}, .again = kNever};
    }
    choice.reason += choice.reason.empty() ? reason : "; " + reason;
  }
  if (choice.host.empty()) choice.reason = "no other host is in its list";
  return choice;
}

void Renewal::on_refused(Instant now, const std::string& host, std::string reason) {
  Refusal& refusal = refusals_[host];
  refusal.reason = std::move(reason);
  auto pause = config_.back_off_first;
  for (unsigned time = 0; time < refusal.times && pause < config_.back_off_most; ++time) pause *= 2;
  refusal.until = now + std::min(pause, config_.back_off_most);
  ++refusal.times;
}

}  // namespace understudy
