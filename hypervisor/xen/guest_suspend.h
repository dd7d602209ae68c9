// Bringing a guest into its suspend hypercall, and out again, as fast as it goes.
//
// The request goes over xenstore (control/shutdown = "suspend"), as every toolstack sends it; the
// guest takes it (the node becomes empty), freezes its tasks and its frontends and makes the
// hypercall; Xen then says that the domain is 'shut down, suspended'. libxl learns that from
// xenstored, which learns it from Xen by an event, and before that rescans all domains; we ask Xen
// itself, which is one hypercall of microseconds: every half millisecond where guests are quick,
// and less often where they are not, because on a host with one processor each look takes it away
// from the guest that is to hurry. Resuming is one hypercall too; xenstored is told afterwards,
// when the guest runs already.
//
// When to ask, to wait, to take the request back is decided in suspend_request.h.
#pragma once

#include "base/result.h"
#include "hypervisor/xen/control.h"
#include "hypervisor/xen/suspend_request.h"

namespace understudy::xen {

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
