// How long checkpoints stop the guest, and which part of a pause takes how long.
#pragma once

#include <array>
#include <boost/json/object.hpp>
#include <chrono>
#include <cstddef>
#include <deque>
#include <string_view>

namespace understudy {

/// The parts of a pause, in the order of time.
enum class PausePart { stop, barrier, dirty_set, copy, device_state, resume };
inline constexpr std::array<std::string_view, 6> kPausePartNames = {
    "stop", "barrier", "dirty_set", "copy", "device_state", "resume"};

/// One pause: `parts` in microseconds by PausePart. The total leaves out `stop`: the time from the
/// request to the instant when the guest stands still, in which it still runs.
struct Pause {
  std::array<double, kPausePartNames.size()> parts{};
  [[nodiscard]] double total_us() const;
};

/// The last pauses, kept for percentiles.
class PauseStatistics {
 public:
  static constexpr std::size_t kKept = 1000;

  void add(const Pause& pause);
  [[nodiscard]] bool empty() const { return pauses_.empty(); }
  /// {"p50","p99","mean","max"} of the totals, in milliseconds.
  [[nodiscard]] boost::json::object summary_ms() const;
  /// Mean of each part, in milliseconds.
  [[nodiscard]] boost::json::object parts_ms() const;
  /// Sum over all pauses ever, in seconds.
  [[nodiscard]] double sum_seconds() const { return sum_seconds_; }

 private:
  std::deque<Pause> pauses_;
  double sum_seconds_ = 0;
};

}  // namespace understudy
