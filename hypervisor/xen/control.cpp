#include "hypervisor/xen/control.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>

namespace understudy::xen {
namespace {

constexpr std::array<std::uint64_t, 6> kFixedParameters = {
    HVM_PARAM_STORE_PFN,      HVM_PARAM_STORE_EVTCHN, HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_IDENT_PT,     HVM_PARAM_NR_IOREQ_SERVER_PAGES};
constexpr std::array<std::uint64_t, 5> kCarriedParameters = {
    HVM_PARAM_VM_GENERATION_ID_ADDR, HVM_PARAM_ACPI_IOPORTS_LOCATION, HVM_PARAM_VIRIDIAN,
    HVM_PARAM_X87_FIP_WIDTH, HVM_PARAM_MCA_CAP};

constexpr std::size_t kExtentsPerCall = 1024;

struct PolicyDeleter {
  void operator()(xc_cpu_policy_t* policy) const { ::xc_cpu_policy_destroy(policy); }
};
using Policy = std::unique_ptr<xc_cpu_policy_t, PolicyDeleter>;

}  // namespace

std::string_view shutdown_reason(unsigned reason) {
  switch (reason) {
    case SHUTDOWN_poweroff:
      return "powered off";
    case SHUTDOWN_reboot:
      return "rebooted";
    case SHUTDOWN_suspend:
      return "suspended";
    case SHUTDOWN_crash:
      return "crashed";
    case SHUTDOWN_watchdog:
      return "was ended by its watchdog";
    default:
      return "stopped for a reason that is not known";
  }
}

std::span<const std::uint64_t> fixed_parameters() {
  return kFixedParameters;
}
std::span<const std::uint64_t> carried_parameters() {
  return kCarriedParameters;
}

Result<std::unique_ptr<Control>> Control::open() {
  std::unique_ptr<Control> control(new Control);
  control->xc_ = ::xc_interface_open(control->log_.logger(), control->log_.logger(), 0);
  if (control->xc_ == nullptr) {
    return Error(ErrorCode::unavailable,
                 control->log_.error(errno, "no access to Xen (libxenctrl)").message());
  }
  control->memory_ = ::xenforeignmemory_open(control->log_.logger(), 0);
  if (control->memory_ == nullptr) {
    return Error(ErrorCode::unavailable,
                 control->log_.error(errno, "no access to guests' memory").message());
  }
  return control;
}

Control::~Control() {
  if (memory_ != nullptr) ::xenforeignmemory_close(memory_);
  if (xc_ != nullptr) ::xc_interface_close(xc_);
}

Error Control::failed(std::string_view what, DomainId domid) {
  const int error_number = errno;
  return log_.error(error_number, fmt::format("{} of domain {}", what, domid));
}

Result<std::string> Control::xen_version() {
  const int version = ::xc_version(xc_, XENVER_version, nullptr);
  if (version < 0) return log_.error(errno, "asking for Xen's version");
  const auto number = static_cast<unsigned>(version);
  return fmt::format("{}.{}", number >> 16U, number & 0xffffU);
}

Result<std::uint64_t> Control::free_memory() {
  xc_physinfo_t info{};
  if (::xc_physinfo(xc_, &info) != 0) return log_.error(errno, "asking for free memory");
  return (info.free_pages - std::min<std::uint64_t>(info.outstanding_pages, info.free_pages)) *
         kPageBytes;
}

Result<DomainFacts> Control::facts(DomainId domid) {
  xc_domaininfo_t info{};
  const int found = ::xc_domain_getinfolist(xc_, domid, 1, &info);
  if (found < 0) return failed("asking for the state", domid);
  if (found == 0 || info.domain != domid) {
    return fail(ErrorCode::no_such, "there is no domain {}", domid);
  }
  DomainFacts facts;
  facts.domid = domid;
  for (const auto octet : info.handle) facts.uuid += fmt::format("{:02x}", octet);
  facts.translated = (info.flags & XEN_DOMINF_hvm_guest) != 0;
  facts.hap = (info.flags & XEN_DOMINF_hap) != 0;
  facts.paused = (info.flags & XEN_DOMINF_paused) != 0;
  facts.dying = (info.flags & XEN_DOMINF_dying) != 0;
  facts.ever_ran = info.cpu_time > 0;
  if ((info.flags & XEN_DOMINF_shutdown) != 0) {
    facts.shutdown = (info.flags >> XEN_DOMINF_shutdownshift) & XEN_DOMINF_shutdownmask;
  }
  facts.pages = info.tot_pages;
  facts.vcpus = info.max_vcpu_id + 1;
  return facts;
}

Result<void> Control::unpause(DomainId domid) {
  log_.begin();
  if (::xc_domain_unpause(xc_, domid) != 0) return failed("unpausing", domid);
  return ok();
}

Result<void> Control::suspend_from_outside(DomainId domid) {
  log_.begin();
  if (::xc_domain_shutdown(xc_, domid, SHUTDOWN_suspend) != 0) return failed("suspending", domid);
  return ok();
}

Result<void> Control::resume_suspended(DomainId domid, Method method) {
  log_.begin();
  // The fast way puts a return value into the guest's registers: only for one that waits for it.
  const int fast = method == Method::cooperative ? 1 : 0;
  if (::xc_domain_resume(xc_, domid, fast) != 0) return failed("resuming", domid);
  return ok();
}

Result<std::vector<std::byte>> Control::hvm_context(DomainId domid) {
  log_.begin();
  const int bytes = ::xc_domain_hvm_getcontext(xc_, domid, nullptr, 0);
  if (bytes <= 0) return failed("asking for the size of the context", domid);
  std::vector<std::byte> context(static_cast<std::size_t>(bytes));
  const int got = ::xc_domain_hvm_getcontext(
      xc_, domid, reinterpret_cast<std::uint8_t*>(context.data()), static_cast<unsigned>(bytes));
  if (got <= 0) return failed("saving the context", domid);
  context.resize(static_cast<std::size_t>(got));
  return context;
}

Result<void> Control::set_hvm_context(DomainId domid, std::span<const std::byte> context) {
  log_.begin();
  std::vector<std::byte> copy(context.begin(), context.end());
  if (::xc_domain_hvm_setcontext(xc_, domid, reinterpret_cast<std::uint8_t*>(copy.data()),
                                 static_cast<unsigned>(copy.size())) != 0) {
    return failed("loading the context", domid);
  }
  return ok();
}

Result<std::uint64_t> Control::parameter(DomainId domid, std::uint64_t number) {
  std::uint64_t value = 0;
  if (::xc_hvm_param_get(xc_, domid, static_cast<std::uint32_t>(number), &value) != 0) {
    return failed(fmt::format("reading parameter {}", number), domid);
  }
  return value;
}

Result<void> Control::set_parameter(DomainId domid, const HvmParameter& parameter) {
  if (::xc_hvm_param_set(xc_, domid, static_cast<std::uint32_t>(parameter.number),
                         parameter.value) != 0) {
    return failed(fmt::format("setting parameter {}", parameter.number), domid);
  }
  return ok();
}

Result<TscInfo> Control::tsc(DomainId domid) {
  TscInfo tsc;
  if (::xc_domain_get_tsc_info(xc_, domid, &tsc.mode, &tsc.elapsed_ns, &tsc.khz,
                               &tsc.incarnation) != 0) {
    return failed("reading the time stamp counter's mode", domid);
  }
  return tsc;
}

Result<void> Control::set_tsc(DomainId domid, const TscInfo& tsc) {
  if (::xc_domain_set_tsc_info(xc_, domid, tsc.mode, tsc.elapsed_ns, tsc.khz, tsc.incarnation) !=
      0) {
    return failed("setting the time stamp counter's mode", domid);
  }
  return ok();
}

Result<void> Control::read_processor(DomainId domid, GuestDescription& guest) {
  log_.begin();
  const Policy policy(::xc_cpu_policy_init());
  std::uint32_t leaves = 0;
  std::uint32_t msrs = 0;
  if (policy == nullptr || ::xc_cpu_policy_get_domain(xc_, domid, policy.get()) != 0 ||
      ::xc_cpu_policy_get_size(xc_, &leaves, &msrs) != 0) {
    return failed("reading the processor", domid);
  }
  std::vector<xen_cpuid_leaf_t> leaf_list(leaves);
  std::vector<xen_msr_entry_t> msr_list(msrs);
  if (::xc_cpu_policy_serialise(xc_, policy.get(), leaf_list.data(), &leaves, msr_list.data(),
                                &msrs) != 0) {
    return failed("reading the processor", domid);
  }
  leaf_list.resize(leaves);
  msr_list.resize(msrs);
  for (const auto& leaf : leaf_list)
    guest.cpuid.push_back({leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d});
  for (const auto& msr : msr_list) guest.msrs.push_back({msr.idx, msr.val});
  return ok();
}

namespace {

Policy policy_of(xc_interface* xc, const GuestDescription& guest) {
  Policy policy(::xc_cpu_policy_init());
  if (policy == nullptr) return nullptr;
  std::vector<xen_cpuid_leaf_t> leaves;
  leaves.reserve(guest.cpuid.size());
  for (const auto& leaf : guest.cpuid)
    leaves.push_back({leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d});
  std::vector<xen_msr_entry_t> msrs;
  msrs.reserve(guest.msrs.size());
  for (const auto& msr : guest.msrs) msrs.push_back({msr.index, 0, msr.value});
  if (::xc_cpu_policy_update_cpuid(xc, policy.get(), leaves.data(),
                                   static_cast<std::uint32_t>(leaves.size())) != 0 ||
      ::xc_cpu_policy_update_msrs(xc, policy.get(), msrs.data(),
                                  static_cast<std::uint32_t>(msrs.size())) != 0) {
    return nullptr;
  }
  return policy;
}

}  // namespace

Result<void> Control::check_processor(const GuestDescription& guest) {
  log_.begin();
  const Policy host(::xc_cpu_policy_init());
  const Policy wanted = policy_of(xc_, guest);
  if (wanted == nullptr) return log_.error(ErrorCode::bad_data, "the guest's processor is invalid");
  if (host == nullptr ||
      ::xc_cpu_policy_get_system(xc_, XEN_SYSCTL_cpu_policy_hvm_max, host.get()) != 0) {
    return log_.error(errno, "reading this host's processor");
  }
  if (!::xc_cpu_policy_is_compatible(xc_, host.get(), wanted.get())) {
    return log_.error(ErrorCode::failed,
                      "this host's processor lacks something that the guest was shown");
  }
  return ok();
}

Result<void> Control::set_processor(DomainId domid, const GuestDescription& guest) {
  log_.begin();
  const Policy wanted = policy_of(xc_, guest);
  if (wanted == nullptr) return log_.error(ErrorCode::bad_data, "the guest's processor is invalid");
  if (::xc_cpu_policy_set_domain(xc_, domid, wanted.get()) != 0) {
    return failed("setting the processor", domid);
  }
  return ok();
}

Result<void> Control::populate(DomainId domid, std::span<const std::uint64_t> gfns) {
  log_.begin();
  for (std::size_t at = 0; at < gfns.size(); at += kExtentsPerCall) {
    const auto part = gfns.subspan(at, std::min(kExtentsPerCall, gfns.size() - at));
    std::vector<xen_pfn_t> frames(part.begin(), part.end());
    if (::xc_domain_populate_physmap_exact(xc_, domid, frames.size(), 0, 0, frames.data()) != 0) {
      return failed(fmt::format("adding {} pages to the memory", frames.size()), domid);
    }
  }
  return ok();
}

Result<void> Control::depopulate(DomainId domid, std::span<const std::uint64_t> gfns) {
  log_.begin();
  for (std::size_t at = 0; at < gfns.size(); at += kExtentsPerCall) {
    const auto part = gfns.subspan(at, std::min(kExtentsPerCall, gfns.size() - at));
    std::vector<xen_pfn_t> frames(part.begin(), part.end());
    if (::xc_domain_decrease_reservation_exact(xc_, domid, frames.size(), 0, frames.data()) != 0) {
      return failed(fmt::format("taking {} pages from the memory", frames.size()), domid);
    }
  }
  return ok();
}

Result<std::uint64_t> Control::count_populated(DomainId domid, std::uint64_t first,
                                               std::uint64_t most) {
  std::vector<xen_pfn_t> frames(most);
  std::vector<int> errors(most);
  for (std::size_t i = 0; i < most; ++i) frames[i] = first + i;
  void* const mapped =
      ::xenforeignmemory_map(memory_, domid, PROT_READ, most, frames.data(), errors.data());
  if (mapped == nullptr) return std::uint64_t{0};
  std::uint64_t count = 0;
  while (count < most && errors[count] == 0) ++count;
  ::xenforeignmemory_unmap(memory_, mapped, most);
  return count;
}

Result<std::vector<Area>> Control::find_populated(DomainId domid, std::uint64_t first,
                                                  std::uint64_t count) {
  std::vector<Area> found;
  const std::uint64_t end = first + count;
  for (std::uint64_t at = first; at < end; at += kExtentsPerCall) {
    const std::size_t part = std::min<std::uint64_t>(kExtentsPerCall, end - at);
    std::vector<xen_pfn_t> frames(part);
    std::vector<int> errors(part);
    for (std::size_t i = 0; i < part; ++i) frames[i] = at + i;
    void* const mapped =
        ::xenforeignmemory_map(memory_, domid, PROT_READ, part, frames.data(), errors.data());
    if (mapped == nullptr) continue;  // None of them.
    ::xenforeignmemory_unmap(memory_, mapped, part);
    for (std::size_t i = 0; i < part; ++i) {
      if (errors[i] != 0) continue;
      if (!found.empty() && found.back().first_gfn + found.back().count == at + i) {
        ++found.back().count;
      } else {
        found.push_back({at + i, 1});
      }
    }
  }
  return found;
}

Result<std::uint64_t> Control::highest_frame(DomainId domid) {
  log_.begin();
  xen_pfn_t frame = 0;
  if (::xc_domain_maximum_gpfn(xc_, domid, &frame) < 0) {
    return failed("asking for the highest frame", domid);
  }
  return frame;
}

// --- the dirty log ---

Result<std::unique_ptr<DirtyLog>> DirtyLog::open(Control& control, DomainId domid,
                                                 std::uint64_t frames) {
  std::unique_ptr<DirtyLog> log(new DirtyLog(control, domid, frames));
  // As HYPERCALL_BUFFER_INIT_NO_BOUNCE has it.
  log->buffer_.ubuf = reinterpret_cast<void*>(-1);  // NOLINT(performance-no-int-to-ptr)
  const std::uint64_t bytes = (frames + 63) / 64 * 8;
  const auto pages = static_cast<int>((bytes + kPageBytes - 1) / kPageBytes);
  if (::xc__hypercall_buffer_alloc_pages(control.xc(), &log->buffer_, pages) == nullptr) {
    return control.log().error(errno, "memory for the dirty bitmap");
  }
  log->buffer_pages_ = pages;
  return log;
}

DirtyLog::~DirtyLog() {
  disable();
  if (buffer_pages_ > 0) {
    ::xc__hypercall_buffer_free_pages(control_.xc(), &buffer_, buffer_pages_);
  }
}

Result<void> DirtyLog::enable() {
  control_.log().begin();
  const auto turn_on = [this] {
    return ::xc_shadow_control(control_.xc(), domid_, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, nullptr,
                               0);
  };
  if (turn_on() != 0) {
    // Left on by a process that died, or by another toolstack.
    (void)::xc_shadow_control(control_.xc(), domid_, XEN_DOMCTL_SHADOW_OP_OFF, nullptr, 0);
    if (turn_on() != 0) {
      const int error_number = errno;
      return control_.log().error(
          error_number, fmt::format("Xen keeps no log of written pages for domain {}", domid_));
    }
  }
  enabled_ = true;
  return ok();
}

void DirtyLog::disable() {
  if (!enabled_) return;
  enabled_ = false;
  (void)::xc_shadow_control(control_.xc(), domid_, XEN_DOMCTL_SHADOW_OP_OFF, nullptr, 0);
}

Result<std::span<const std::uint64_t>> DirtyLog::clean() {
  control_.log().begin();
  xc_shadow_op_stats_t statistics{};
  if (::xc_logdirty_control(control_.xc(), domid_, XEN_DOMCTL_SHADOW_OP_CLEAN, &buffer_, frames_, 0,
                            &statistics) < 0) {
    const int error_number = errno;
    return control_.log().error(error_number,
                                fmt::format("reading the dirty log of domain {}", domid_));
  }
  return std::span(static_cast<const std::uint64_t*>(buffer_.hbuf), (frames_ + 63) / 64);
}

// --- xenstore ---

Result<std::unique_ptr<Store>> Store::open() {
  xs_handle* const handle = ::xs_open(0);
  if (handle == nullptr) {
    return Error(ErrorCode::unavailable, system_error(errno, "no access to xenstore").message());
  }
  return std::unique_ptr<Store>(new Store(handle));
}

Store::~Store() {
  ::xs_close(handle_);
}

std::optional<std::string> Store::read(const std::string& path) {
  unsigned bytes = 0;
  const std::unique_ptr<void, decltype(&std::free)> value(
      ::xs_read(handle_, XBT_NULL, path.c_str(), &bytes), &std::free);
  if (value == nullptr) return std::nullopt;
  return std::string(static_cast<const char*>(value.get()), bytes);
}

std::vector<std::string> Store::list(const std::string& path) {
  unsigned count = 0;
  // One block of memory for all of it.
  const std::unique_ptr<char*, decltype(&std::free)> names(
      ::xs_directory(handle_, XBT_NULL, path.c_str(), &count), &std::free);
  std::vector<std::string> list;
  for (unsigned i = 0; names != nullptr && i < count; ++i) list.emplace_back(names.get()[i]);
  return list;
}

bool Store::write(const std::string& path, std::string_view value) {
  return ::xs_write(handle_, XBT_NULL, path.c_str(), value.data(),
                    static_cast<unsigned>(value.size()));
}

Result<bool> Store::replace(const std::string& path, std::string_view expected,
                            std::string_view value) {
  for (;;) {
    const xs_transaction_t transaction = ::xs_transaction_start(handle_);
    if (transaction == XBT_NULL) return system_error(errno, "xenstore: a transaction");
    unsigned bytes = 0;
    const std::unique_ptr<void, decltype(&std::free)> found(
        ::xs_read(handle_, transaction, path.c_str(), &bytes), &std::free);
    const bool same =
        std::string_view(static_cast<const char*>(found.get()), found ? bytes : 0) == expected;
    if (!same || !::xs_write(handle_, transaction, path.c_str(), value.data(),
                             static_cast<unsigned>(value.size()))) {
      (void)::xs_transaction_end(handle_, transaction, true);
      return false;
    }
    if (::xs_transaction_end(handle_, transaction, false)) return true;
    if (errno != EAGAIN) return system_error(errno, "xenstore: a transaction");
  }
}

Result<void> Store::resume(DomainId domid) {
  if (!::xs_resume_domain(handle_, domid)) {
    return system_error(errno, fmt::format("xenstore: resuming domain {}", domid));
  }
  return ok();
}

}  // namespace understudy::xen
