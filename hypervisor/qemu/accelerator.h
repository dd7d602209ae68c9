// TCG or KVM: whether this host can run guests in hardware.
//
// Awkward case: /dev/kvm may be there although it cannot run an ordinary guest (some nested hosts
// offer it without hardware behind). The file's presence proves nothing; the processor's flag and a
// virtual processor made for the purpose do.
#pragma once

#include "base/result.h"
#include "hypervisor/domain_config.h"

namespace understudy {

/// Says whether KVM works here, and if not, why. Takes a few milliseconds at most.
Result<void> probe_kvm();

/// What to use for a wish: `automatic` becomes kvm where that works, else tcg. Errors: unavailable,
/// if kvm is wished for and does not work.
Result<Accelerator> choose_accelerator(Accelerator wish);

}  // namespace understudy
