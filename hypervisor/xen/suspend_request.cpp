#include "hypervisor/xen/suspend_request.h"

#include <algorithm>

namespace understudy::xen {
namespace {

using std::chrono::microseconds;

constexpr microseconds kLookMin{500};
constexpr microseconds kLookMax{10'000};
constexpr int kLooksPerSuspension = 32;

SuspendRequest::Step failed(Error why) {
  return {.kind = SuspendRequest::Kind::failed, .pause = {}, .why = std::move(why)};
}

Error paused_by_operator() {
  return fail(ErrorCode::timed_out,
              "an operator has paused the guest: no checkpoint until it goes on (xl unpause)");
}

}  // namespace

SuspendRequest::Step SuspendRequest::on_look(Clock::time_point now, const GuestSight& seen) {
  ++looks_;
  paused_ = seen.paused;
  if (seen.suspended && !asked_) {
    return failed(fail(ErrorCode::try_again,
                       "the guest is suspended already: another toolstack is at work on it"));
  }
  if (seen.suspended) return {.kind = Kind::done, .pause = {}, .why = {}};
  if (seen.ended || seen.dying) {
    return failed(fail(ErrorCode::failed, "the guest {} instead of suspending",
                       seen.ended ? *seen.ended : "was destroyed"));
  }
  if (!asked_ && !paused_) return {.kind = Kind::ask, .pause = {}, .why = {}};
  if (now <= limit_) return wait();
  if (asked_ && !taken_) return {.kind = Kind::withdraw, .pause = {}, .why = {}};
  if (paused_) return failed(paused_by_operator());
  return failed(fail(ErrorCode::timed_out,
                     "the guest took the request to suspend and did not stand still within {} s "
                     "(its kernel's log says why)",
                     limits_.suspend.count() / 1000));
}

SuspendRequest::Step SuspendRequest::on_asked(Clock::time_point now, bool written,
                                              std::string_view other) {
  asked_ = written;
  first_wait_ = written;
  if (!written && now > limit_) {
    return failed(fail(ErrorCode::try_again,
                       "the guest has not taken another request ({}) within {} s",
                       other.empty() ? "none" : other, limits_.answer.count() / 1000));
  }
  Step next = wait();
  first_wait_ = false;
  return next;
}

SuspendRequest::Step SuspendRequest::on_withdrawn(Clock::time_point now, bool withdrawn) {
  if (withdrawn && paused_) return failed(paused_by_operator());
  if (withdrawn) {
    return failed(fail(ErrorCode::timed_out,
                       "the guest did not answer the request to suspend within {} s: it has no PV "
                       "drivers, or is not up yet",
                       limits_.answer.count() / 1000));
  }
  taken_ = true;
  limit_ = now + limits_.suspend;
  return wait();
}

SuspendRequest::Step SuspendRequest::wait() const {
  const microseconds pause =
      first_wait_ ? std::max(limits_.usual / 4, kLookMin)
                  : std::clamp(limits_.usual / kLooksPerSuspension, kLookMin, kLookMax);
  return {.kind = Kind::wait, .pause = pause, .why = {}};
}

}  // namespace understudy::xen
