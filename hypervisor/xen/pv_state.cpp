#include "hypervisor/xen/pv_state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

extern "C" {
#include <xen/grant_table.h>
#include <xen/memory.h>
#include <xencall.h>
}

namespace understudy::xen {
namespace {

constexpr std::uint32_t kGet = 87;
constexpr std::uint32_t kSet = 88;
constexpr std::uint32_t kVersion = 1;

constexpr std::uint32_t kDomain = 1U << 0U;
constexpr std::uint32_t kFifoControl = 1U << 1U;
constexpr std::uint32_t kChannels = 1U << 2U;
constexpr std::uint32_t kFifoArray = 1U << 3U;
constexpr std::uint32_t kVcpus = 1U << 4U;

constexpr std::uint16_t kNotify = 1U << 2U;

constexpr std::size_t kVcpusMax = 128;
constexpr std::size_t kChannelsMax = 1024;
constexpr std::size_t kFifoPagesMax = 128;
constexpr std::uint32_t kGrantFramesMax = 64;

/// struct xen_domctl_pv_state.
struct Body {
  std::uint32_t version = kVersion;
  std::uint32_t what = 0;
  std::uint32_t vcpus = 0;
  std::uint32_t fifo_pages = 0;
  std::uint32_t channels = 0;
  std::uint32_t next_port = 0;
  std::uint64_t system_time_ns = 0;
  std::uint64_t vm_assist = 0;
  std::uint64_t vcpu_list = 0;
  std::uint64_t channel_list = 0;
  std::uint64_t fifo_list = 0;
};
static_assert(sizeof(Body) == 64 && sizeof(Body) <= sizeof(xen_domctl::u));

}  // namespace

struct PvState::Request {
  Body body;
};

/// Memory that hypercalls may refer to, and the libraries' handles.
struct PvState::Buffers {
  xencall_handle* call = nullptr;
  xenforeignmemory_handle* memory = nullptr;
  xen_domctl* domctl = nullptr;
  PvVcpu* vcpus = nullptr;
  PvChannel* channels = nullptr;
  std::uint64_t* fifo = nullptr;
  std::byte* scratch = nullptr;  ///< Two pages.
  std::vector<xen_pfn_t> machine_to_physical;
  xenforeignmemory_resource_handle* grants = nullptr;

  ~Buffers() {
    if (grants != nullptr) ::xenforeignmemory_unmap_resource(memory, grants);
    if (call != nullptr) {
      for (void* buffer :
           {static_cast<void*>(domctl), static_cast<void*>(vcpus), static_cast<void*>(channels),
            static_cast<void*>(fifo), static_cast<void*>(scratch)}) {
        if (buffer != nullptr) ::xencall_free_buffer(call, buffer);
      }
      ::xencall_close(call);
    }
    if (memory != nullptr) ::xenforeignmemory_close(memory);
  }
};

PvState::PvState() : buffers_(std::make_unique<Buffers>()) {}
PvState::~PvState() = default;

Result<std::unique_ptr<PvState>> PvState::open() {
  std::unique_ptr<PvState> state(new PvState);
  Buffers& buffers = *state->buffers_;
  buffers.call = ::xencall_open(nullptr, 0);
  buffers.memory = ::xenforeignmemory_open(nullptr, 0);
  if (buffers.call == nullptr || buffers.memory == nullptr) {
    return system_error(errno, "hypercalls");
  }
  const auto memory = [&buffers](std::size_t bytes) {
    return ::xencall_alloc_buffer(buffers.call, bytes);
  };
  buffers.domctl = static_cast<xen_domctl*>(memory(sizeof(xen_domctl)));
  buffers.vcpus = static_cast<PvVcpu*>(memory(kVcpusMax * sizeof(PvVcpu)));
  buffers.channels = static_cast<PvChannel*>(memory(kChannelsMax * sizeof(PvChannel)));
  buffers.fifo = static_cast<std::uint64_t*>(memory(kFifoPagesMax * sizeof(std::uint64_t)));
  buffers.scratch = static_cast<std::byte*>(memory(2 * kPageBytes));
  if (buffers.domctl == nullptr || buffers.vcpus == nullptr || buffers.channels == nullptr ||
      buffers.fifo == nullptr || buffers.scratch == nullptr) {
    return system_error(errno, "memory for hypercalls");
  }
  // Dom0 cannot be asked about itself: that refusal comes from the domctl, if there is one.
  Request probe;
  const auto answer = state->call(kGet, 0, probe);
  if (!answer && answer.error().code() == ErrorCode::unavailable) return answer.error();
  return state;
}

Result<void> PvState::call(std::uint32_t command, DomainId domid, Request& request) {
  Buffers& buffers = *buffers_;
  const auto address = [](const void* memory) { return reinterpret_cast<std::uint64_t>(memory); };
  request.body.vcpu_list = address(buffers.vcpus);
  request.body.channel_list = address(buffers.channels);
  request.body.fifo_list = address(buffers.fifo);
  std::memset(buffers.domctl, 0, sizeof(xen_domctl));
  buffers.domctl->cmd = command;
  buffers.domctl->domain = static_cast<domid_t>(domid);
  buffers.domctl->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
  std::memcpy(&buffers.domctl->u, &request.body, sizeof request.body);
  const int code = ::xencall1(buffers.call, __HYPERVISOR_domctl, address(buffers.domctl));
  const int error_number = errno;
  std::memcpy(static_cast<void*>(&request.body), &buffers.domctl->u, sizeof request.body);
  if (code == 0) return ok();
  if (error_number == ENOSYS) {
    return fail(ErrorCode::unavailable,
                "this host's Xen has no XEN_DOMCTL_get_pv_state (xen-patches/)");
  }
  if (error_number == EOPNOTSUPP) {
    return fail(ErrorCode::config,
                "the state of domain {} cannot move: its ABI has 32 bits, or an event channel is "
                "of a kind that cannot",
                domid);
  }
  return system_error(error_number, fmt::format("{} the paravirtual state of domain {}",
                                                command == kGet ? "reading" : "setting", domid));
}

Result<void> PvState::get(DomainId domid, PvGuestState& state) {
  Buffers& buffers = *buffers_;
  Request request;
  request.body.what = kDomain | kChannels | kFifoArray | kVcpus;
  request.body.vcpus = kVcpusMax;
  request.body.channels = kChannelsMax;
  request.body.fifo_pages = kFifoPagesMax;
  BOOST_OUTCOME_TRY(call(kGet, domid, request));
  const Body& body = request.body;
  if (body.vcpus > kVcpusMax || body.fifo_pages > kFifoPagesMax || body.channels > kChannelsMax) {
    return fail(ErrorCode::failed, "Xen tells of more than was asked for");
  }
  state.domid = domid;
  state.system_time_ns = body.system_time_ns;
  state.vm_assist = body.vm_assist;
  state.vcpus.assign(buffers.vcpus, buffers.vcpus + body.vcpus);
  state.fifo_gfns.assign(buffers.fifo, buffers.fifo + body.fifo_pages);
  state.channels.assign(buffers.channels, buffers.channels + body.channels);
  for (std::uint32_t next = body.next_port; next != 0;) {
    Request more;
    more.body.what = kChannels;
    more.body.channels = kChannelsMax;
    more.body.next_port = next;
    BOOST_OUTCOME_TRY(call(kGet, domid, more));
    state.channels.insert(
        state.channels.end(), buffers.channels,
        buffers.channels + std::min<std::size_t>(more.body.channels, kChannelsMax));
    next = more.body.next_port;
  }
  if (state.channels.size() > kChannelsMax) {
    return fail(ErrorCode::config, "it has {} event channels; {} are handled",
                state.channels.size(), kChannelsMax);
  }
  return ok();
}

Result<void> PvState::set(DomainId domid, const PvGuestState& state) {
  Buffers& buffers = *buffers_;
  if (state.vcpus.size() > kVcpusMax || state.channels.size() > kChannelsMax ||
      state.fifo_gfns.size() > kFifoPagesMax) {
    return fail(ErrorCode::bad_data, "the paravirtual state has longer lists than Xen takes");
  }
  std::ranges::copy(state.vcpus, buffers.vcpus);
  std::ranges::copy(state.channels, buffers.channels);
  std::ranges::copy(state.fifo_gfns, buffers.fifo);
  Request request;
  request.body.what = kDomain | kFifoControl | kChannels | kFifoArray | kVcpus;
  request.body.vcpus = static_cast<std::uint32_t>(state.vcpus.size());
  request.body.channels = static_cast<std::uint32_t>(state.channels.size());
  request.body.fifo_pages = static_cast<std::uint32_t>(state.fifo_gfns.size());
  request.body.system_time_ns = state.system_time_ns;
  request.body.vm_assist = state.vm_assist;
  return call(kSet, domid, request);
}

Result<void> PvState::notify(DomainId domid, PvChannel channel) {
  channel.flags |= kNotify;
  buffers_->channels[0] = channel;
  Request request;
  request.body.what = kChannels;
  request.body.channels = 1;
  return call(kSet, domid, request);
}

Result<std::span<std::byte>> PvState::map_grants(DomainId domid, std::uint32_t frames) {
  Buffers& buffers = *buffers_;
  if (buffers.grants != nullptr) {
    ::xenforeignmemory_unmap_resource(buffers.memory, std::exchange(buffers.grants, nullptr));
  }
  void* mapped = nullptr;
  buffers.grants = ::xenforeignmemory_map_resource(
      buffers.memory, static_cast<domid_t>(domid), XENMEM_resource_grant_table,
      XENMEM_resource_grant_table_id_shared, 0, frames, &mapped, PROT_READ | PROT_WRITE, 0);
  if (buffers.grants == nullptr) {
    return system_error(errno, fmt::format("mapping the grant table of domain {}", domid));
  }
  return std::span(static_cast<std::byte*>(mapped), frames * kPageBytes);
}

// Xen tells the machine frames; where the guest has them, its machine-to-physical table knows.
Result<std::vector<std::uint64_t>> PvState::grant_gfns(DomainId domid) {
  Buffers& buffers = *buffers_;
  auto* const size = reinterpret_cast<gnttab_query_size*>(buffers.scratch);
  std::memset(size, 0, sizeof *size);
  size->dom = static_cast<domid_t>(domid);
  if (::xencall3(buffers.call, __HYPERVISOR_grant_table_op, GNTTABOP_query_size,
                 reinterpret_cast<std::uint64_t>(size), 1) != 0 ||
      size->status != GNTST_okay) {
    return fail(ErrorCode::failed, "asking for the size of the grant table of domain {}", domid);
  }
  const std::uint32_t frames = size->nr_frames;
  if (frames == 0 || frames > kGrantFramesMax) {
    return fail(ErrorCode::config, "its grant table has {} frames; 1 to {} are handled", frames,
                kGrantFramesMax);
  }
  auto* const acquire = reinterpret_cast<xen_mem_acquire_resource*>(buffers.scratch);
  auto* const list = reinterpret_cast<xen_pfn_t*>(buffers.scratch + kPageBytes);
  std::memset(acquire, 0, sizeof *acquire);
  acquire->domid = static_cast<domid_t>(domid);
  acquire->type = XENMEM_resource_grant_table;
  acquire->id = XENMEM_resource_grant_table_id_shared;
  acquire->nr_frames = frames;
  acquire->frame_list.p = list;
  if (::xencall2(buffers.call, __HYPERVISOR_memory_op, XENMEM_acquire_resource,
                 reinterpret_cast<std::uint64_t>(acquire)) != 0) {
    return system_error(errno, fmt::format("finding the grant table of domain {}", domid));
  }
  const std::vector<xen_pfn_t> machine(list, list + frames);
  std::vector<std::uint64_t> gfns;
  for (const xen_pfn_t mfn : machine) {
    BOOST_OUTCOME_TRY(const auto gfn, gfn_of(mfn));
    gfns.push_back(gfn);
  }
  return gfns;
}

Result<std::uint64_t> PvState::gfn_of(std::uint64_t mfn) {
  constexpr std::uint64_t kEntriesPerPage = kPageBytes / sizeof(std::uint64_t);
  constexpr std::uint64_t kPagesPerExtent = (std::uint64_t{2} << 20U) / kPageBytes;
  Buffers& buffers = *buffers_;
  if (buffers.machine_to_physical.empty()) {
    auto* const query = reinterpret_cast<xen_machphys_mfn_list*>(buffers.scratch);
    auto* const list = reinterpret_cast<xen_pfn_t*>(buffers.scratch + kPageBytes);
    std::memset(query, 0, sizeof *query);
    query->max_extents = kPageBytes / sizeof(xen_pfn_t);
    query->extent_start.p = list;
    if (::xencall2(buffers.call, __HYPERVISOR_memory_op, XENMEM_machphys_mfn_list,
                   reinterpret_cast<std::uint64_t>(query)) != 0) {
      return system_error(errno, "finding Xen's machine-to-physical table");
    }
    buffers.machine_to_physical.assign(list, list + query->nr_extents);
  }
  const std::uint64_t page = mfn / kEntriesPerPage;
  if (page / kPagesPerExtent >= buffers.machine_to_physical.size()) {
    return fail(ErrorCode::failed, "machine frame {:#x} is beyond Xen's table", mfn);
  }
  const xen_pfn_t frame =
      buffers.machine_to_physical[page / kPagesPerExtent] + page % kPagesPerExtent;
  int error = 0;
  void* const mapped =
      ::xenforeignmemory_map(buffers.memory, DOMID_XEN, PROT_READ, 1, &frame, &error);
  if (mapped == nullptr || error != 0) {
    return fail(ErrorCode::failed, "Xen's machine-to-physical table cannot be mapped");
  }
  std::uint64_t gfn = 0;
  std::memcpy(&gfn, static_cast<std::byte*>(mapped) + mfn % kEntriesPerPage * sizeof gfn,
              sizeof gfn);
  ::xenforeignmemory_unmap(buffers.memory, mapped, 1);
  return gfn;
}

}  // namespace understudy::xen
