// Bringing a guest into its suspend hypercall, and out again, as fast as it goes.
//
// The request goes over xenstore (control/shutdown = "suspend"), as every toolstack sends it; the
// guest takes it (the node becomes empty), freezes its tasks and its frontends and makes the
// hypercall; Xen then says that the domain is 'shut down, suspended'. libxl learns that from
// xenstored, which learns it from Xen by an event, and before that rescans all domains; we ask Xen
// itself, which is one hypercall of microseconds: every half millisecond where guests are quick,
// and less often where they are not, because on a host with one processor each look takes it away
// from the guest that is to hurry. Resuming is one
// hypercall too; xenstored is told afterwards, when the guest runs already.
//
// Awkward cases: an operator's request (xl reboot, xl shutdown) that the guest has not taken yet
// must not be overwritten by ours: ours waits. A guest without PV drivers never takes the request:
// it is taken back, and the guest knows nothing of it. A guest that took it and does not suspend in
// time may do so any moment later: whoever gave up looks again before the next attempt (and a
// domain found suspended is resumed). A domain that is suspended before we asked is somebody
// else's: another toolstack is at work on it (xl save, xl migrate), and gets its way.
#pragma once

#include <chrono>

#include "base/result.h"
#include "hypervisor/xen/control.h"

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

/// Suspends a running guest; the facts as of the moment when it stood still. Blocks. Errors:
/// timed_out (it did not answer, or did not finish), try_again (another toolstack is at work),
/// failed (it shut down instead), no_such. The guest runs on after an error, or will.
Result<DomainFacts> suspend_guest(Control& control, Store& store, DomainId domid,
                                  const SuspendLimits& limits);

/// Brings a guest without PV drivers to a standstill that it does not notice; the facts as of then.
/// Blocks. Errors as above; also failed, when the guest has taken to PV drivers meanwhile: their
/// state would be lost.
Result<DomainFacts> stop_guest(Control& control, DomainId domid);

/// Takes back what an earlier attempt with `method` may have left: a request that nobody answered,
/// a guest that is suspended. It runs when this returns, unless an operator has paused it. Blocks.
Result<void> settle_guest(Control& control, Store& store, DomainId domid, Method method);

}  // namespace understudy::xen
