#include "hypervisor/xen/guest_suspend.h"

#include <thread>

namespace understudy::xen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLookEvery = std::chrono::milliseconds(5);
constexpr std::string_view kRequest = "suspend";
constexpr unsigned kPausesMax = 16;

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
  Clock::time_point limit = Clock::now() + limits.answer;
  bool asked = false;
  bool taken = false;
  for (;;) {
    if (!asked) {
      BOOST_OUTCOME_TRY(asked, store.replace(node, "", kRequest));
    }
    BOOST_OUTCOME_TRY(facts, control.facts(domid));
    if (facts.suspended()) return facts;
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
    std::this_thread::sleep_for(kLookEvery);
  }
}

Result<void> settle_guest(Control& control, Store& store, DomainId domid, Method method) {
  if (const auto withdrawn = store.replace(shutdown_node(domid), kRequest, ""); !withdrawn) {
    return withdrawn.error();
  }
  BOOST_OUTCOME_TRY(auto facts, control.facts(domid));
  if (facts.suspended()) {
    BOOST_OUTCOME_TRY(control.resume_suspended(domid));
    BOOST_OUTCOME_TRY(store.resume(domid));
  }
  if (method == Method::cooperative) return ok();
  for (unsigned i = 0; facts.paused && i < kPausesMax; ++i) {
    BOOST_OUTCOME_TRY(control.unpause(domid));
    BOOST_OUTCOME_TRY(facts, control.facts(domid));
  }
  return ok();
}

}  // namespace understudy::xen
