// What is saved of a PVH guest's paravirtual side, so that it goes on elsewhere without taking
// part: what Xen alone knows (pv_state.h), what lies in pages that the log of written pages does
// not see, and what xenstore holds. Not in use yet: it is to be a record of
// guest_state.h (docs/xen-patches.md).
//
// The pages come as one snapshot, taken before any memory is copied: a ring that says 'this request
// is answered' is older than the copy of the pages which the answer is about. The other way round,
// the guest could be told of data that its memory does not have.
//
// | at | content | octets |
// |---|---|---|
// | 0 | domid; counts: vCPUs, channels, FIFO pages, grant frames, pages, nodes, watches | 4 each |
// | 32 | system time, vm_assist, gfn of shared_info, callback | 8 each |
// | 64 | vCPUs, channels, gfns of FIFO pages, gfns of grant frames | 96, 24, 8, 8 each |
// | | shared_info, grant frames | 4096 each |
// | | pages: gfn, content | 8 + 4096 each |
// | | nodes, then watches: length, text, length, text | 4 + length each |
//
// All numbers little-endian. The reader trusts nothing: it is what a peer sent.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace understudy::xen {

/// One vCPU, as XEN_DOMCTL_get_pv_state tells it (struct xen_pv_vcpu_state).
struct PvVcpu {
  std::uint32_t vcpu_id = 0;
  std::uint32_t upcall_vector = 0;
  std::uint64_t vcpu_info_gfn = 0;     ///< kNoGfn if the guest has registered none.
  std::uint64_t fifo_control_gfn = 0;  ///< kNoGfn with the two-level ABI.
  std::uint32_t vcpu_info_offset = 0;
  std::uint32_t fifo_control_offset = 0;
  std::uint64_t runstate_address = 0;
  std::uint64_t time_address = 0;
  std::array<std::uint64_t, 4> runstate_time_ns{};
  std::uint64_t singleshot_timeout_ns = 0;
  std::uint64_t periodic_period_ns = 0;
  bool operator==(const PvVcpu&) const = default;
};
static_assert(sizeof(PvVcpu) == 96);

/// One event channel (struct xen_pv_evtchn_state).
struct PvChannel {
  std::uint32_t port = 0;
  std::uint8_t state = 0;  ///< EVTCHNSTAT_…
  std::uint8_t priority = 0;
  std::uint16_t flags = 0;
  std::uint32_t vcpu = 0;
  std::uint32_t remote = 0;
  std::uint16_t remote_domain = 0;
  std::array<std::uint16_t, 3> padding{};
  bool operator==(const PvChannel&) const = default;
};
static_assert(sizeof(PvChannel) == 24);

constexpr std::uint64_t kNoGfn = ~std::uint64_t{0};
constexpr std::size_t kPvPageBytes = 4096;
using PvPage = std::array<std::byte, kPvPageBytes>;

/// A page by its frame.
struct PvPageAt {
  std::uint64_t gfn = 0;
  PvPage content{};
  bool operator==(const PvPageAt&) const = default;
};

/// A node of xenstore below the domain's device/, or a watch: path and token.
struct PvText {
  std::string path;
  std::string value;
  bool operator==(const PvText&) const = default;
};

struct PvGuestState {
  std::uint32_t domid = 0;  ///< The guest's own number: it is in its memory.
  std::uint64_t system_time_ns = 0;
  std::uint64_t vm_assist = 0;
  std::uint64_t shared_info_gfn = 0;
  std::uint64_t callback = 0;  ///< HVM_PARAM_CALLBACK_IRQ.
  std::vector<PvVcpu> vcpus;
  std::vector<PvChannel> channels;
  std::vector<std::uint64_t> fifo_gfns;
  std::vector<std::uint64_t> grant_gfns;
  PvPage shared_info{};
  std::vector<PvPage> grants;  ///< As many as grant_gfns.
  std::vector<PvPageAt> pages;
  std::vector<PvText> nodes;    ///< Of frontends: "vif/0/tx-ring-ref" …; `state` nodes last.
  std::vector<PvText> watches;  ///< Path and token.

  bool operator==(const PvGuestState&) const = default;

  [[nodiscard]] std::vector<std::byte> encode() const;
  /// Errors: bad_data, naming the part.
  static Result<PvGuestState> decode(std::span<const std::byte> octets);
};

/// Whether a frontend's node belongs to the guest and may be written on the backup: not those by
/// which the toolstack says where the backend is. `path` is relative to device/.
bool carried_node(std::string_view path);

}  // namespace understudy::xen
