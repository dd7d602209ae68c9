#include "hypervisor/xen/guest_suspend.h"

#include <spdlog/spdlog.h>

#include <thread>

namespace understudy::xen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLookAgainAfter = std::chrono::microseconds(500);
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
  const std::string node = shutdown_node(domid);
  const Clock::time_point began = Clock::now();
  double request_ms = 0;
  SuspendRequest request(limits, began);
  for (;;) {
    BOOST_OUTCOME_TRY(const auto facts, control.facts(domid));
    GuestSight seen{
        .suspended = facts.suspended(), .dying = facts.dying, .paused = facts.paused, .ended = {}};
    if (facts.shutdown && !facts.suspended()) seen.ended = shutdown_reason(*facts.shutdown);
    auto step = request.on_look(Clock::now(), seen);
    if (step.kind == SuspendRequest::Kind::ask) {
      BOOST_OUTCOME_TRY(const bool written, store.replace(node, "", kRequest));
      if (written) request_ms = ms_since(began);
      const std::string other = written ? "" : store.read(node).value_or("");
      step = request.on_asked(Clock::now(), written, other);
    }
    if (step.kind == SuspendRequest::Kind::withdraw) {
      BOOST_OUTCOME_TRY(const bool withdrawn, store.replace(node, kRequest, ""));
      step = request.on_withdrawn(Clock::now(), withdrawn);
    }
    if (step.kind == SuspendRequest::Kind::failed) return *step.why;
    if (step.kind == SuspendRequest::Kind::done) {
      spdlog::trace("xen: domain={} request_ms={:.2f} suspended_ms={:.2f} looks={}", domid,
                    request_ms, ms_since(began), request.looks());
      return facts;
    }
    std::this_thread::sleep_for(step.pause);
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
    std::this_thread::sleep_for(kLookAgainAfter);
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
