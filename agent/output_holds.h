// How long, and how often, a domain's output was held when it should have flowed: what tells a
// probe that failed because of a closed gate from one that failed because of the service. Pure.
//
// Intuition: looking at the gate before and after a probe misses a closure in between, and what was
// dropped by it. So closures are counted as they happen, and the time is added up in which nothing
// was released.
//
// Awkward case: a backup that hangs has not been declared lost yet, the gate counts as flowing, and
// nothing is released all the same. That is seen in the time since the last release. Epochs that
// are merely long are no hold: kUsual is taken off each gap.
#pragma once

#include <chrono>
#include <cstdint>

namespace understudy {

class OutputHolds {
 public:
  using Moment = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::milliseconds kUsual{100};

  struct Tally {
    std::uint64_t closures = 0;         ///< How often output stopped flowing.
    std::chrono::microseconds held{0};  ///< Beyond what is usual between two releases.
    bool operator==(const Tally&) const = default;
  };

  /// As of now output flows: the gate is open (`open`), or it follows commits.
  void on_state(Moment now, bool open, bool flows) {
    if (flows_ && !flows) ++closures_;
    if (open != open_) on_released(now);
    open_ = open;
    flows_ = flows;
  }
  /// Something was let out, or the gate was opened or closed.
  void on_released(Moment now) {
    held_ += gap(now);
    last_ = now;
  }
  [[nodiscard]] Tally tally(Moment now) const { return {closures_, held_ + gap(now)}; }

 private:
  [[nodiscard]] std::chrono::microseconds gap(Moment now) const {
    using std::chrono::microseconds;
    if (open_ || now < last_ + kUsual) return microseconds(0);
    return std::chrono::duration_cast<microseconds>(now - last_ - kUsual);
  }
  bool open_ = true;
  bool flows_ = true;
  Moment last_{};
  std::uint64_t closures_ = 0;
  std::chrono::microseconds held_{0};
};

/// Whether a probe that got no answer within `timeout` failed because of the gate, given the
/// tallies before and after it: output stopped flowing meanwhile, or was held for most of the time.
inline bool held_by_gate(const OutputHolds::Tally& before, const OutputHolds::Tally& after,
                         std::chrono::microseconds timeout) {
  return after.closures != before.closures || after.held - before.held >= timeout / 2;
}

}  // namespace understudy
