// One request to a guest that it suspend itself, from the word in xenstore to the standstill: what
// to do next, decided from what was seen last. No Xen, no xenstore, no clock in here.
//
// Intuition: whoever wants a guest to suspend looks at it, and each look says what comes next: ask,
// wait a while, take the request back, or stop, for better or worse.
//
// Awkward cases: an operator's request (xl reboot, xl shutdown) that the guest has not taken yet
// must not be overwritten by ours: ours waits. A guest without PV drivers never takes the request:
// it is taken back, and the guest knows nothing of it. A guest that took it and does not suspend in
// time may do so any moment later: whoever gave up looks again before the next attempt (and a
// domain found suspended is resumed). A guest that an operator has paused is not asked before it
// runs again. A domain that suspends before we have asked does so for
// somebody else: another toolstack is at work on it (xl save, xl migrate), and gets its way. If
// both ask within the same moment, nobody can tell whose suspension it is: that is left to the
// operator, who is told to end the protection first.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::xen {

/// How long a guest may take.
struct SuspendLimits {
  /// To take the request.
  std::chrono::milliseconds answer{5'000};
  /// To stand still, once it has taken it.
  std::chrono::milliseconds suspend{30'000};
  /// How long it takes as a rule (0: not known): nobody looks in the first quarter of that.
  std::chrono::microseconds usual{0};
};

/// What one look at a domain shows.
struct GuestSight {
  bool suspended = false;  ///< The guest stands in the suspend hypercall.
  bool dying = false;      ///< The domain is being taken apart.
  bool paused = false;     ///< An operator has stopped it (xl pause): it can answer nothing.
  /// All its vCPUs have stopped for another reason than a suspension, in words: "rebooted".
  std::optional<std::string_view> ended;
};

/// One attempt. First comes on_look(), then whatever the steps say.
class SuspendRequest {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Kind {
    ask,       ///< Put the request where it belongs, if nothing is there; then on_asked().
    wait,      ///< Look again after `pause`.
    withdraw,  ///< Take the request back, if it is still there; then on_withdrawn().
    done,      ///< It stands still, because we have asked.
    failed,    ///< See `why`. The guest runs on, or will.
  };
  struct Step {
    Kind kind = Kind::wait;
    std::chrono::microseconds pause{0};
    std::optional<Error> why;
  };

  SuspendRequest(const SuspendLimits& limits, Clock::time_point now)
      : limits_(limits), limit_(now + limits.answer) {}

  Step on_look(Clock::time_point now, const GuestSight& seen);
  /// `written`: the request is where it belongs. Otherwise `other` is there, unread by the guest.
  Step on_asked(Clock::time_point now, bool written, std::string_view other);
  /// `withdrawn`: the guest had not taken it. Otherwise it is on its way into the suspension.
  Step on_withdrawn(Clock::time_point now, bool withdrawn);

  /// How often it was looked at.
  [[nodiscard]] unsigned looks() const { return looks_; }

 private:
  [[nodiscard]] Step wait() const;

  SuspendLimits limits_;
  Clock::time_point limit_;
  unsigned looks_ = 0;
  bool asked_ = false;
  bool taken_ = false;
  bool paused_ = false;      ///< At the last look.
  bool first_wait_ = false;  ///< The next wait is the first one since the request.
};

}  // namespace understudy::xen
