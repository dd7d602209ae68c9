#include "hypervisor/xen/xen_standby.h"

#include <spdlog/spdlog.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <fstream>

#include "hypervisor/xen/placeholder_kernel.h"
#include "hypervisor/xen/xen_domain.h"

namespace understudy::xen {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point then) {
  return std::chrono::duration<double, std::milli>(Clock::now() - then).count();
}

Result<fs::path> write_placeholder(const fs::path& directory, bool hvm) {
  const fs::path path = directory / (hvm ? "placeholder-boot-image" : "placeholder-kernel");
  const auto octets = hvm ? placeholder_boot_image() : placeholder_kernel();
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(octets.data()),
             static_cast<std::streamsize>(octets.size()));
  file.close();
  if (!file) return fail(ErrorCode::io, "{} could not be written", path.string());
  return path;
}

// Only what is not zero is written: pages that Xen has cleared are left alone.
void clear(std::span<std::byte> memory) {
  static constexpr std::array<std::byte, kPageBytes> kZeros{};
  for (std::size_t at = 0; at < memory.size(); at += kPageBytes) {
    if (std::memcmp(memory.data() + at, kZeros.data(), kPageBytes) != 0)
      std::memset(memory.data() + at, 0, kPageBytes);
  }
}

bool contains(const DirtySet& set, std::uint64_t page) {
  const auto after = std::ranges::upper_bound(set, page, {}, &PageRange::first);
  return after != set.begin() && page < std::prev(after)->first + std::prev(after)->count;
}

}  // namespace

Result<GuestIdentity> XenStandby::make_domain(XenHost& host, const DomainConfig& config,
                                              GuestMemory& memory) {
  GuestIdentity identity;
  identity.config = config;
  identity.made_here = true;
  BOOST_OUTCOME_TRY(identity.description, GuestDescription::from_text(config.xen));
  BOOST_OUTCOME_TRY(const auto settings, host.toolstack->settings_from(identity.description.libxl));
  BOOST_OUTCOME_TRY(const auto kernel,
                    write_placeholder(host.options.runtime_directory, settings.hvm));
  const auto began = Clock::now();
  BOOST_OUTCOME_TRY(identity.domid,
                    host.toolstack->create_paused(settings, standby_name(config.name), kernel));
  const double create_ms = ms_since(began);
  identity.outputs = outputs_of(identity.domid, settings);
  if (auto prepared = prepare(host, identity, memory); !prepared) {
    memory.unmap();
    if (auto destroyed = host.toolstack->destroy(identity.domid); !destroyed)
      spdlog::warn("xen: {}", destroyed.error().message());
    return prepared.error();
  }
  spdlog::debug("xen: standby domain={} create_ms={:.0f} prepare_ms={:.0f}", identity.domid,
                create_ms, ms_since(began) - create_ms);
  return identity;
}

Result<void> XenStandby::prepare(XenHost& host, GuestIdentity& identity, GuestMemory& memory) {
  Control& control = *host.slow_control;
  const DomainId domid = identity.domid;
  BOOST_OUTCOME_TRY(const auto facts, control.facts(domid));
  identity.uuid = facts.uuid;
  for (const HvmParameter& wanted : identity.description.parameters) {
    BOOST_OUTCOME_TRY(const auto value, control.parameter(domid, wanted.number));
    if (value != wanted.value) {
      return fail(ErrorCode::failed,
                  "this host's Xen builds the domain another way: parameter {} is {:#x}, on the "
                  "primary it is {:#x}",
                  wanted.number, value, wanted.value);
    }
  }
  BOOST_OUTCOME_TRY(control.set_processor(domid, identity.description));
  BOOST_OUTCOME_TRY(memory.map(control, domid, GuestMemory::Access::read_write));
  if (identity.description.method == Method::transparent) {
    BOOST_OUTCOME_TRY(add_missing(control, domid, memory));
  }
  clear(memory.bytes());
  return ok();
}

// What an HVM guest's firmware has added on the primary, it would add here only by running.
Result<void> XenStandby::add_missing(Control& control, DomainId domid, GuestMemory& memory) {
  std::vector<std::uint64_t> missing;
  for (const PageRange& hole : memory.holes()) {
    for (std::uint64_t page = hole.first; page < hole.first + hole.count; ++page)
      missing.push_back(memory.layout().gfn_of(page));
  }
  if (missing.empty()) return ok();
  spdlog::debug("xen: standby domain={} gets {} pages of firmware and devices", domid,
                missing.size());
  BOOST_OUTCOME_TRY(control.populate(domid, missing));
  return memory.map(control, domid, GuestMemory::Access::read_write);
}

Task<Result<std::unique_ptr<XenStandby>>> XenStandby::build(std::shared_ptr<XenHost> host,
                                                            DomainConfig config) {
  BOOST_OUTCOME_CO_TRY(auto description, GuestDescription::from_text(config.xen));
  BOOST_OUTCOME_CO_TRY(auto memory, GuestMemory::reserve(description.layout));
  BOOST_OUTCOME_CO_TRY(auto thread, GuestThread::open());
  const auto make = [&] { return make_domain(*host, config, memory); };
  BOOST_OUTCOME_CO_TRY(auto identity, co_await host->slow.run(make));
  auto life = Life::watch(host, identity.domid, identity.uuid,
                          Life::Meaning{.remove_rest = true,
                                        .vanishing_is_death = true,
                                        .stands_paused = true,
                                        .method = identity.description.method});
  if (!life) {
    memory.unmap();
    const auto undo = [&] { return host->toolstack->destroy(identity.domid); };
    static_cast<void>(co_await host->slow.run(undo));
    co_return life.error();
  }
  std::unique_ptr<XenStandby> standby(new XenStandby(
      host, std::move(identity), std::move(life.value()), std::move(thread), std::move(memory)));
  if (standby->identity_.description.method == Method::transparent) {
    XenStandby* const made = standby.get();
    const auto connect = [made]() -> Result<void> {
      const DomainId domid = made->identity_.domid;
      BOOST_OUTCOME_TRY(made->device_model_,
                        DeviceModel::connect(DeviceModel::monitor_of(domid),
                                             device_model_scratch(*made->host_, domid)));
      return ok();
    };
    BOOST_OUTCOME_CO_TRY(co_await made->thread_->thread.run(connect));
  }
  co_return std::move(standby);
}

XenStandby::XenStandby(std::shared_ptr<XenHost> host, GuestIdentity identity,
                       std::shared_ptr<Life> life, std::unique_ptr<GuestThread> thread,
                       GuestMemory memory)
    : host_(std::move(host)),
      identity_(std::move(identity)),
      life_(std::move(life)),
      memory_(std::move(memory)),
      thread_(std::move(thread)) {}

XenStandby::~XenStandby() {
  if (discarded_) return;
  end();
}

// From here on it can never run. libxl takes seconds to take a domain apart; what is asked of this
// host next waits its turn behind that.
void XenStandby::end() {
  discarded_ = true;
  spent_ = true;
  life_->end(DomainExit::Kind::destroyed, "discarded");
  memory_.unmap();
  host_->slow.post([host = host_.get(), domid = identity_.domid, uuid = identity_.uuid] {
    // Somebody may have destroyed it before us; its number may be another's by now.
    const auto facts = host->slow_control->facts(domid);
    if (!facts || facts.value().uuid != uuid) return;
    if (auto destroyed = host->toolstack->destroy(domid); !destroyed)
      spdlog::warn("xen: {}", destroyed.error().message());
  });
}

Task<Result<std::unique_ptr<Domain>>> XenStandby::promote(std::span<const std::byte> device_state) {
  if (spent_) co_return fail(ErrorCode::internal, "promote: already used");
  spent_ = true;
  const std::string where = fmt::format("promoting domain {}", identity_.config.name);
  // All that can fail without the guest comes first: once it runs, nothing may fail.
  auto next = GuestThread::open();
  if (!next) co_return next.error().in(where);
  auto domain = XenDomain::take(host_, identity_, life_, std::move(next.value()));
  if (!domain) co_return domain.error().in(where);

  life_->meaning().stands_paused = false;
  const auto work = [this, device_state] { return load(device_state); };
  const Result<void> loaded = co_await thread_->thread.run(work);
  if (!loaded) {
    life_->look();
    co_return loaded.error().in(where);
  }
  // The domain belongs to its new owner; the mapping of the image and the name follow when the
  // guest runs.
  discarded_ = true;
  life_->meaning().vanishing_is_death = false;
  const std::shared_ptr<XenHost> host = host_;
  host->slow.post(
      [toolstack = host->toolstack.get(), domid = identity_.domid, name = identity_.config.name] {
        if (auto renamed = toolstack->rename(domid, name); !renamed)
          spdlog::warn("xen: {}", renamed.error().message());
      });
  thread_->thread.post([this] {
    memory_.unmap();
    device_model_.reset();
  });
  co_return std::move(domain.value());
}

Result<void> XenStandby::load(std::span<const std::byte> device_state) {
  const auto began = Clock::now();
  Control& control = *thread_->control;
  const DomainId domid = identity_.domid;
  // Between two looks of its watch somebody may have let it run.
  BOOST_OUTCOME_TRY(const auto facts, control.facts(domid));
  if (!facts.paused || facts.ever_ran) {
    return fail(ErrorCode::failed, "somebody has let the domain run that held the image");
  }
  BOOST_OUTCOME_TRY(const auto state, GuestState::decode(device_state));
  const bool transparent = state.method == Method::transparent;
  if (state.method != identity_.description.method || state.device_model.empty() == transparent) {
    return fail(ErrorCode::bad_data, "the state is not one that this domain can take");
  }
  const auto fixed = fixed_parameters();
  for (const HvmParameter& wanted : state.parameters) {
    BOOST_OUTCOME_TRY(const auto value, control.parameter(domid, wanted.number));
    if (value == wanted.value) continue;
    if (std::ranges::find(fixed, wanted.number) != fixed.end()) {
      return fail(ErrorCode::failed, "parameter {} is {:#x} here and was {:#x} there",
                  wanted.number, value, wanted.value);
    }
    BOOST_OUTCOME_TRY(control.set_parameter(domid, wanted));
  }
  BOOST_OUTCOME_TRY(match_holes(state.holes));
  // Before the context: devices set interrupt lines while they load, and the context has the last
  // word over those.
  if (transparent) {
    BOOST_OUTCOME_TRY(device_model_->start_from(state.device_model));
  }
  const double device_model_ms = ms_since(began);
  BOOST_OUTCOME_TRY(control.set_tsc(domid, state.tsc));
  BOOST_OUTCOME_TRY(control.set_hvm_context(domid, state.hvm_context));
  const double load_ms = ms_since(began);
  BOOST_OUTCOME_TRY(control.unpause(domid));
  spdlog::debug("xen: promoted domain={} device_model_ms={:.2f} load_ms={:.2f} unpause_ms={:.2f}",
                domid, device_model_ms, load_ms, ms_since(began) - load_ms);
  return ok();
}

// Frames that have memory on one host and none on the other: few, if any.
Result<void> XenStandby::match_holes(const DirtySet& wanted) {
  Control& control = *thread_->control;
  const DomainId domid = identity_.domid;
  const GuestLayout& layout = memory_.layout();
  if (!wanted.empty() && wanted.back().first + wanted.back().count > layout.pages()) {
    return fail(ErrorCode::bad_data, "the state has holes beyond the guest's memory");
  }
  if (wanted == memory_.holes()) return ok();

  std::vector<std::uint64_t> missing;
  std::vector<std::uint64_t> missing_pages;
  for (const PageRange& hole : memory_.holes()) {
    for (std::uint64_t page = hole.first; page < hole.first + hole.count; ++page) {
      if (contains(wanted, page)) continue;
      missing.push_back(layout.gfn_of(page));
      missing_pages.push_back(page);
    }
  }
  std::vector<std::uint64_t> surplus;
  for (const PageRange& hole : wanted) {
    for (std::uint64_t page = hole.first; page < hole.first + hole.count; ++page) {
      if (!contains(memory_.holes(), page)) surplus.push_back(layout.gfn_of(page));
    }
  }
  if (!surplus.empty()) {
    BOOST_OUTCOME_TRY(control.depopulate(domid, surplus));
  }
  if (missing.empty()) return ok();
  // Their content came into the holes of the image, which are private memory of ours.
  BOOST_OUTCOME_TRY(control.populate(domid, missing));
  for (std::size_t i = 0; i < missing.size(); ++i) {
    const xen_pfn_t frame = missing[i];
    int error = 0;
    void* const page =
        ::xenforeignmemory_map(control.memory(), domid, PROT_READ | PROT_WRITE, 1, &frame, &error);
    if (page == nullptr || error != 0) {
      return fail(ErrorCode::failed, "frame {:#x} could not be mapped", missing[i]);
    }
    std::memcpy(page, memory_.bytes().data() + missing_pages[i] * kPageBytes, kPageBytes);
    ::xenforeignmemory_unmap(control.memory(), page, 1);
  }
  return ok();
}

Task<void> XenStandby::discard() {
  if (!discarded_) end();
  co_return;
}

}  // namespace understudy::xen
