#include "hypervisor/xen/guest_suspend.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>

namespace understudy::xen {
namespace {

using Clock = std::chrono::steady_clock;

using std::chrono::microseconds;

constexpr microseconds kLookMin{500};
constexpr microseconds kLookMax{10'000};
constexpr int kLooksPerSuspension = 32;
constexpr std::string_view kRequest = "suspend";
/// For requests under way at the device model to be answered.
constexpr auto kStopMax = std::chrono::seconds(5);

double ms_since(Clock::time_point then) {
  return std::chrono::duration<double, std::milli>(Clock::now() - then).count();
}

std::string shutdown_node(DomainId domid) {
  return fmt::format("/local/domain/{}/control/shutdown", domid);
}

}  // namespace

Result<DomainFacts> suspend_guest(Control& control, Store& store, DomainId domid,
                                  const SuspendLimits& limits) {
  BOOST_OUTCOME_TRY(auto facts, control.facts(domid));
  if (facts.suspended()) {
    return fail(ErrorCode::try_again,
                "the guest is suspended already: another toolstack is at work on it");
  }
  const std::string node = shutdown_node(domid);
  const Clock::time_point began = Clock::now();
  Clock::time_point limit = began + limits.answer;
  double request_ms = 0;
  unsigned looks = 0;
  bool asked = false;
  bool taken = false;
  for (;;) {
    if (!asked) {
      BOOST_OUTCOME_TRY(asked, store.replace(node, "", kRequest));
      if (asked) request_ms = ms_since(began);
    }
    ++looks;
    BOOST_OUTCOME_TRY(facts, control.facts(domid));
    if (facts.suspended()) {
      spdlog::trace("xen: domain={} request_ms={:.2f} suspended_ms={:.2f} looks={}", domid,
                    request_ms, ms_since(began), looks);
      return facts;
    }
    if (facts.shutdown || facts.dying) {
      return fail(ErrorCode::failed, "the guest {} instead of suspending",
                  facts.shutdown ? shutdown_reason(*facts.shutdown) : "was destroyed");
    }
    if (Clock::now() > limit) {
      if (!asked) {
        return fail(ErrorCode::try_again,
                    "the guest has not taken another request ({}) within {} s",
                    store.read(node).value_or("none"), limits.answer.count() / 1000);
      }
      if (taken) {
        return fail(ErrorCode::timed_out,
                    "the guest took the request to suspend and did not stand still within {} s "
                    "(its kernel's log says why)",
                    limits.suspend.count() / 1000);
      }
      BOOST_OUTCOME_TRY(const bool withdrawn, store.replace(node, kRequest, ""));
      if (withdrawn) {
        return fail(ErrorCode::timed_out,
                    "the guest did not answer the request to suspend within {} s: it has no PV "
                    "drivers, or is not up yet",
                    limits.answer.count() / 1000);
      }
      taken = true;
      limit = Clock::now() + limits.suspend;
    }
    const bool first = asked && looks == 1;
    std::this_thread::sleep_for(
        first ? std::max(limits.usual / 4, kLookMin)
              : std::clamp(limits.usual / kLooksPerSuspension, kLookMin, kLookMax));
  }
}

Result<DomainFacts> stop_guest(Control& control, DomainId domid) {
  BOOST_OUTCOME_TRY(auto facts, control.facts(domid));
  if (facts.suspended()) {
    return fail(ErrorCode::try_again,
                "the guest is suspended already: another toolstack is at work on it");
  }
  BOOST_OUTCOME_TRY(const auto callback, control.parameter(domid, HVM_PARAM_CALLBACK_IRQ));
  if (callback != 0) {
    return fail(ErrorCode::failed,
                "the guest has begun to use PV drivers, whose state a transparent checkpoint does "
                "not hold; end the protection, and keep them out (xen_nopv) or use type = \"pvh\"");
  }
  const Clock::time_point began = Clock::now();
  BOOST_OUTCOME_TRY(control.suspend_from_outside(domid));
  for (;;) {
    BOOST_OUTCOME_TRY(facts, control.facts(domid));
    if (facts.suspended()) return facts;
    if (facts.shutdown || facts.dying) {
      return fail(ErrorCode::failed, "the guest {} instead of standing still",
                  facts.shutdown ? shutdown_reason(*facts.shutdown) : "was destroyed");
    }
    if (Clock::now() > began + kStopMax) {
      return fail(ErrorCode::timed_out,
                  "the guest does not stand still: its device model leaves a request unanswered");
    }
    std::this_thread::sleep_for(kLookMin);
  }
}

Result<void> settle_guest(Control& control, Store& store, DomainId domid, Method method) {
  if (const auto withdrawn = store.replace(shutdown_node(domid), kRequest, ""); !withdrawn) {
    return withdrawn.error();
  }
  BOOST_OUTCOME_TRY(auto facts, control.facts(domid));
  if (facts.suspended()) {
    BOOST_OUTCOME_TRY(control.resume_suspended(domid, method));
    BOOST_OUTCOME_TRY(store.resume(domid));
  }
  return ok();
}

}  // namespace understudy::xen
