// Is the other host dead? Decided from heartbeats over one or several paths.
//
// Intuition: a host is dead for us when *every* configured path has been silent for the deadline.
// One path that still speaks is enough to be alive; a path that fell silent alone is a fault of
// that path, and is told. Silence proves nothing about the other host, only about what we hear;
// that is why promotion never rests upon this verdict alone but on the primary's gate being closed
// without us (checkpoint/epoch_primary.h).
//
// Awkward case, our own stall: we were stopped, swapped out or suspended ourselves, and wake with
// 'now' far ahead. The peer's heartbeats of that time wait in our sockets unread (or were dropped
// because the sockets were full), so the silence is ours. Told with numbers: ticks at 0 and 50 ms;
// SIGSTOP; SIGCONT at 900 ms, and the tick runs before the sockets are read: 850 ms of silence,
// 'dead', promotion — of a healthy primary. So a tick that comes later than `stall_after` starts a
// new waiting period of one whole deadline, in which the peer has time to be heard. What it costs:
// a peer that died during our stall is found one deadline later. On a host so overloaded that every
// tick is late the peer is never declared dead; `stalls` counts up and shows it.
//
// Not taken: adaptive (phi-accrual) detection. Its deadline follows the network's mood; ours is one
// figure that an operator can put against an outage, and that the primary's lease is derived from.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "checkpoint/protection.h"

namespace understudy {

/// Watches one peer host. A value: time comes in as an argument and never goes back.
class FailureDetector {
 public:
  struct Config {
    /// The peer sends one heartbeat per path each interval.
    std::chrono::milliseconds interval{50};
    /// Silence on all paths for this long is death. At least two intervals.
    std::chrono::milliseconds deadline{200};
    /// How many paths are configured; at least 1.
    std::size_t paths = 1;
    /// Our own tick coming later than this after the last one is a stall of ours.
    std::chrono::milliseconds stall_after{150};
  };

  enum class Verdict {
    alive,      ///< Heard within two intervals on some path (or the watch has only begun).
    suspected,  ///< Silent on all paths for two intervals or more.
    dead,       ///< Silent on all paths for the deadline. Ends with the next heartbeat.
  };

  /// The verdict has changed to `verdict`. `last_sign_of_life` is the time of the newest heartbeat
  /// (before the first one: when the watch began).
  struct Change {
    Verdict verdict;
    Instant last_sign_of_life;
  };

  /// The watch begins at `now`: a peer that never speaks is dead one deadline later.
  FailureDetector(const Config& config, Instant now);

  /// Anything authentic was heard from the peer on `path` (a heartbeat, or bulk data, which counts
  /// for the path it came on). `path` is below Config::paths.
  std::optional<Change> on_heartbeat(std::size_t path, Instant now);
  /// To be called at least every interval, and at next_deadline.
  std::optional<Change> on_tick(Instant now);

  [[nodiscard]] Verdict verdict() const { return verdict_; }
  [[nodiscard]] Instant last_sign_of_life() const;
  /// Whether `path` has been heard within the deadline, as of the last event.
  [[nodiscard]] bool path_alive(std::size_t path) const;
  /// How often our own tick came too late.
  [[nodiscard]] std::uint64_t stalls() const { return stalls_; }
  /// When on_tick must be called at the latest.
  [[nodiscard]] Instant next_deadline() const;

 private:
  std::optional<Change> change_to(Verdict verdict);

  Config config_;
  Verdict verdict_ = Verdict::alive;
  std::vector<Instant> heard_;
  /// Silence is counted from here at the earliest: the start, or the end of our own last stall.
  Instant listening_since_;
  Instant started_;
  Instant last_tick_;
  Instant now_;
  std::uint64_t stalls_ = 0;
};

/// The stable lower-case name of `verdict`.
std::string_view to_string(FailureDetector::Verdict verdict);

}  // namespace understudy
