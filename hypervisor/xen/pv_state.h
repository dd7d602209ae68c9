// The domctl pair of xen-patches/: what Xen alone knows of a guest with PV drivers.
//
// The structures are those of the patched public/domctl.h, which Debian's libxen-dev does not have.
// On a Xen without the patches the domctl answers 'no such'. The engine does not use this yet; the
// order in which it is to be used is in docs/xen-patches.md.
#pragma once

#include <memory>

#include "base/result.h"
#include "hypervisor/xen/control.h"
#include "hypervisor/xen/pv_guest_state.h"

namespace understudy::xen {

/// One connection, one thread at a time.
class PvState {
 public:
  /// Errors: unavailable, if this host's Xen has no such domctl.
  static Result<std::unique_ptr<PvState>> open();
  ~PvState();
  PvState(const PvState&) = delete;
  PvState& operator=(const PvState&) = delete;

  /// Times, vCPUs, channels and the FIFO ABI's pages of a domain that is paused, into `state`.
  /// Errors: failed, with what Xen says; config, where the guest has more than is handled.
  Result<void> get(DomainId domid, PvGuestState& state);
  /// Sets all of them in a paused domain. On an error the domain is of no use any more.
  Result<void> set(DomainId domid, const PvGuestState& state);
  /// Notifies the other end of a channel that is bound like `channel`, as the guest would.
  Result<void> notify(DomainId domid, PvChannel channel);

  /// The frames of the domain's grant table, mapped for reading and writing; and where the guest
  /// has them. The mapping lives as long as this object, or until the next call.
  Result<std::span<std::byte>> map_grants(DomainId domid, std::uint32_t frames);
  Result<std::vector<std::uint64_t>> grant_gfns(DomainId domid);

 private:
  struct Buffers;
  struct Request;
  PvState();
  Result<void> call(std::uint32_t command, DomainId domid, Request& request);
  Result<std::uint64_t> gfn_of(std::uint64_t mfn);

  std::unique_ptr<Buffers> buffers_;
};

}  // namespace understudy::xen
