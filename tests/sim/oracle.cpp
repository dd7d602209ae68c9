#include "tests/sim/oracle.h"

#include <fmt/format.h>

#include <algorithm>

namespace understudy::sim {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a + 0x9e3779b97f4a7c15U * (b + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

std::uint64_t Random::next() {
  state_ += 0x9e3779b97f4a7c15U;
  return mix(state_, 0);
}

std::int64_t Random::between(std::int64_t low, std::int64_t high) {
  const auto range = static_cast<std::uint64_t>(high - low) + 1;
  return low + static_cast<std::int64_t>(next() % range);
}

std::size_t GuestState::step(std::uint64_t entropy) {
  ++n;
  h = mix(h, entropy) | 1U;
  const std::size_t page = h % kPages;
  pages[page] = mix(h, n);
  return page;
}

std::uint64_t GuestState::digest() const {
  std::uint64_t sum = mix(n, h);
  for (const std::uint64_t page : pages) sum = mix(sum, page);
  return sum;
}

Instance Oracle::born(const GuestState& state) {
  histories_.push_back({{state.h, state.digest()}});
  return histories_.size() - 1;
}

Instance Oracle::resumed(Instance origin, const GuestState& image) {
  std::vector<Step>& old = histories_[origin];
  if (image.n >= old.size() || old[image.n].h != image.h || old[image.n].digest != image.digest()) {
    violate(
        fmt::format("a state was resumed that never was: n={} of instance {}", image.n, origin));
  }
  const std::size_t kept = std::min<std::size_t>(image.n + 1, old.size());
  std::vector<Step> history(old.begin(), old.begin() + static_cast<std::ptrdiff_t>(kept));
  histories_.push_back(std::move(history));
  return histories_.size() - 1;
}

void Oracle::stepped(Instance instance, const GuestState& state) {
  histories_[instance].push_back({state.h, state.digest()});
}

void Oracle::whole(ProtectionId protection, std::uint64_t n) {
  std::uint64_t& newest = whole_[protection];
  newest = std::max(newest, n);
}

void Oracle::persisted(int host, Generation generation) {
  Generation& on_disk = disks_[host];
  if (generation < on_disk) {
    violate(fmt::format("host {}: generation on disk went back from {} to {}", host, on_disk,
                        generation));
  }
  on_disk = generation;
}

void Oracle::received(Instance instance, ProtectionId protection, bool alone, const Frame& frame,
                      bool frozen) {
  ++received_count_;
  if (instance < newest_voice_ && frozen) {
    const std::vector<Step>& newest = histories_[newest_voice_];
    if (frame.n < newest.size() && newest[frame.n].h == frame.h) {
      ++late_echoes_;
      return;
    }
  }
  if (instance < newest_voice_) {
    violate(fmt::format("two voices: instance {} spoke (n={}) after instance {} had spoken",
                        instance, frame.n, newest_voice_));
  }
  newest_voice_ = std::max(newest_voice_, instance);
  if (!alone) {
    const auto whole = whole_.find(protection);
    if (whole != whole_.end() && frame.n > whole->second) {
      violate(
          fmt::format("output before its commit: n={} of instance {} was released, the backup has "
                      "been whole up to n={}",
                      frame.n, instance, whole->second));
    }
  }
  if (client_.size() <= frame.n) client_.resize(frame.n + 1, 0);
  if (client_[frame.n] != 0 && client_[frame.n] != frame.h) {
    violate(fmt::format("two histories: the client has got n={} twice, with different content",
                        frame.n));
  }
  client_[frame.n] = frame.h;
  if (!knows_all(instance, histories_[instance].size() - 1)) {
    violate(fmt::format(
        "a history was broken off: instance {} speaks and does not know n={}, which the client got",
        instance, client_.size() - 1));
  }
}

bool Oracle::knows_all(Instance instance, std::uint64_t n) const {
  if (client_.empty()) return true;
  // A copy that another has spoken after is an old one, even of a guest that does the same again.
  if (instance < newest_voice_) return false;
  // The chain makes the newest frame vouch for all before it.
  const std::uint64_t newest = client_.size() - 1;
  return newest <= n && histories_[instance][newest].h == client_[newest];
}

}  // namespace understudy::sim
