#include "hypervisor/xen/xen_hypervisor.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <boost/json/value.hpp>
#include <fstream>
#include <utility>

#include "hypervisor/xen/guest_checks.h"
#include "hypervisor/xen/save_guard.h"
#include "hypervisor/xen/xen_domain.h"
#include "hypervisor/xen/xen_guest.h"
#include "hypervisor/xen/xen_standby.h"

namespace understudy {

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

using xen::DomainFacts;
using xen::DomainId;
using xen::DomainSettings;
using xen::GuestDescription;
using xen::GuestIdentity;
using xen::GuestLayout;
using xen::GuestThread;
using xen::Life;
using xen::Method;
using xen::RecordedGuest;
using xen::XenHost;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kAcpiFramesMax = 64;

// What an agent that died while it built a standby left behind. The image in any standby of an
// earlier agent is lost, so whatever has such a name and never ran is of no use to anybody.
void remove_stale_standbys(XenHost& host) {
  for (const DomainId domid : host.toolstack->find_all(xen::standby_name(""))) {
    const auto facts = host.slow_control->facts(domid);
    if (!facts || !facts.value().paused || facts.value().ever_ran) continue;
    spdlog::warn("xen: removing domain {}, a standby that an earlier agent left", domid);
    if (auto destroyed = host.toolstack->destroy(domid); !destroyed)
      spdlog::warn("xen: {}", destroyed.error().message());
  }
}

std::string first_line_of(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool is_bridge(const std::string& name) {
  std::error_code error;
  return fs::is_directory(fs::path("/sys/class/net") / name / "bridge", error);
}

class XenHypervisor final : public Hypervisor {
 public:
  explicit XenHypervisor(std::shared_ptr<XenHost> host) : host_(std::move(host)) {}

  std::string name() const override { return "xen"; }

  Task<Result<std::unique_ptr<Domain>>> start(DomainConfig config) override {
    co_return fail(ErrorCode::config,
                   "{}: on Xen, domains are made by Xen's own tools: `xl create`, then `understudy "
                   "protect`",
                   config.name);
  }

  Task<Result<std::unique_ptr<Domain>>> find(std::string name) override {
    const auto describe = [this, &name] { return identify(name); };
    BOOST_OUTCOME_CO_TRY(auto identity, co_await host_->slow.run(describe));
    spdlog::info("xen: found domain={} domid={} method={}", name, identity.domid,
                 to_string(identity.description.method));
    co_return take(std::move(identity));
  }

  Task<Result<std::unique_ptr<Domain>>> adopt(const boost::json::value& runtime_state) override {
    BOOST_OUTCOME_CO_TRY(auto recorded, RecordedGuest::from_json(runtime_state));
    const auto recognise = [this, &recorded] { return recognised(recorded); };
    BOOST_OUTCOME_CO_TRY(auto identity, co_await host_->slow.run(recognise));
    BOOST_OUTCOME_CO_TRY(auto domain, take(std::move(identity)));
    BOOST_OUTCOME_CO_TRY(co_await static_cast<xen::XenDomain&>(*domain).settle());
    spdlog::info("xen: adopted domain={}", domain->config().name);
    co_return std::move(domain);
  }

  Task<Result<std::unique_ptr<Standby>>> prepare_standby(DomainConfig config) override {
    for (const Finding& finding : co_await check(config, true)) {
      if (finding.severity == Finding::Severity::refusal) {
        co_return fail(ErrorCode::failed, "{}: {}", finding.subject, finding.message);
      }
    }
    BOOST_OUTCOME_CO_TRY(auto standby, co_await xen::XenStandby::build(host_, std::move(config)));
    spdlog::info("xen: standby ready domain={}", standby->config().name);
    co_return std::move(standby);
  }

  Task<std::vector<Finding>> check(const DomainConfig& config, bool as_standby) override {
    const auto look = [this, &config, as_standby]() -> Result<std::vector<Finding>> {
      return findings(config, as_standby);
    };
    auto found = co_await host_->slow.run(look);
    co_return std::move(found.value());
  }

  Task<Result<void>> clean_up(const boost::json::value& runtime_state) override {
    BOOST_OUTCOME_CO_TRY(const auto recorded, RecordedGuest::from_json(runtime_state));
    // A domain of the operator's is not ours to remove, whatever happened to it.
    if (!recorded.standby) co_return ok();
    const auto remove = [this, &recorded]() -> Result<void> {
      const auto facts = host_->slow_control->facts(recorded.domid);
      if (!facts || facts.value().uuid != recorded.uuid) return ok();
      return host_->toolstack->destroy(recorded.domid);
    };
    co_return co_await host_->slow.run(remove);
  }

 private:
  // --- on the slow thread ---

  Result<GuestIdentity> identify(const std::string& name) {
    xen::Control& control = *host_->slow_control;
    GuestIdentity identity;
    BOOST_OUTCOME_TRY(identity.domid, host_->toolstack->find(name));
    if (identity.domid == 0) return fail(ErrorCode::usage, "dom0 cannot be protected");
    BOOST_OUTCOME_TRY(const auto facts, control.facts(identity.domid));
    BOOST_OUTCOME_TRY(const auto settings, host_->toolstack->settings_of(identity.domid));
    if (settings.obstacle) {
      return fail(ErrorCode::config, "{} cannot be protected: {}", name, *settings.obstacle);
    }
    identity.uuid = facts.uuid;
    identity.outputs = outputs_of(identity.domid, settings);
    BOOST_OUTCOME_TRY(identity.description, describe(facts, settings));
    identity.config.name = name;
    identity.config.memory_bytes = settings.memory_max_kib * 1024;
    identity.config.vcpus = facts.vcpus;
    for (const auto& nic : settings.nics) identity.config.nics.push_back({nic.bridge, nic.mac});
    identity.config.xen = identity.description.to_text();
    BOOST_OUTCOME_TRY(identity.config.validate());
    return identity;
  }

  Result<GuestDescription> describe(const DomainFacts& facts, const DomainSettings& settings) {
    xen::Control& control = *host_->slow_control;
    if (const auto saver = xen::saver_of(facts.domid)) {
      return fail(ErrorCode::unavailable,
                  "{} cannot be protected now: another toolstack saves or migrates it (process {})",
                  settings.name, *saver);
    }
    if (facts.shutdown) {
      return fail(ErrorCode::unavailable, "{} does not run: the guest {}", settings.name,
                  xen::shutdown_reason(*facts.shutdown));
    }
    GuestDescription guest;
    guest.libxl = settings.json;
    guest.xen_version = host_->version;
    BOOST_OUTCOME_TRY(const auto callback, control.parameter(facts.domid, HVM_PARAM_CALLBACK_IRQ));
    const auto method = xen::choose_method({.translated = facts.translated,
                                            .hap = facts.hap,
                                            .hvm = settings.hvm,
                                            .pv_drivers = callback != 0},
                                           host_->options.method);
    if (!method) return method.error().in(settings.name + " cannot be protected");
    guest.method = method.value();
    BOOST_OUTCOME_TRY(guest.layout,
                      settings.hvm ? hvm_layout(facts, settings) : pvh_layout(facts, settings));
    for (const std::uint64_t number : xen::fixed_parameters()) {
      BOOST_OUTCOME_TRY(const auto value, control.parameter(facts.domid, number));
      guest.parameters.push_back({number, value});
    }
    BOOST_OUTCOME_TRY(control.read_processor(facts.domid, guest));
    return guest;
  }

  Result<GuestLayout> pvh_layout(const DomainFacts& facts, const DomainSettings& settings) {
    BOOST_OUTCOME_TRY(
        const auto acpi_frames,
        host_->slow_control->count_populated(facts.domid, GuestLayout::kAcpiBegin, kAcpiFramesMax));
    return GuestLayout::pvh(settings.memory_max_kib, acpi_frames);
  }

  Result<GuestLayout> hvm_layout(const DomainFacts& facts, const DomainSettings& settings) {
    xen::Control& control = *host_->slow_control;
    BOOST_OUTCOME_TRY(const auto highest, control.highest_frame(facts.domid));
    std::vector<xen::Area> areas;
    for (const xen::Area& window : GuestLayout::hvm_windows(settings.memory_max_kib, highest)) {
      BOOST_OUTCOME_TRY(const auto found,
                        control.find_populated(facts.domid, window.first_gfn, window.count));
      areas.insert(areas.end(), found.begin(), found.end());
    }
    for (const xen::Area& area : areas)
      spdlog::debug("xen: domain={} memory from frame {:#x} on: {}", facts.domid, area.first_gfn,
                    area.count);
    return GuestLayout::of(std::move(areas));
  }

  Result<GuestIdentity> recognised(const RecordedGuest& recorded) {
    BOOST_OUTCOME_TRY(const auto facts, host_->slow_control->facts(recorded.domid));
    if (facts.uuid != recorded.uuid || facts.dying) {
      return fail(ErrorCode::no_such, "domain {} is gone (another one has its number {})",
                  recorded.config.name, recorded.domid);
    }
    if (facts.shutdown && !facts.suspended()) {
      return fail(ErrorCode::no_such, "the guest {}", xen::shutdown_reason(*facts.shutdown));
    }
    GuestIdentity identity;
    identity.config = recorded.config;
    identity.domid = recorded.domid;
    identity.uuid = recorded.uuid;
    identity.made_here = recorded.made_here;
    BOOST_OUTCOME_TRY(identity.description, GuestDescription::from_text(recorded.config.xen));
    BOOST_OUTCOME_TRY(const auto settings,
                      host_->toolstack->settings_from(identity.description.libxl));
    identity.outputs = outputs_of(recorded.domid, settings);
    return identity;
  }

  Result<std::vector<Finding>> findings(const DomainConfig& config, bool as_standby) {
    std::vector<Finding> list;
    const auto fine = [&list](std::string subject, std::string message) {
      list.push_back({Finding::Severity::ok, std::move(subject), std::move(message)});
    };
    const auto refuse = [&list](std::string subject, std::string message) {
      list.push_back({Finding::Severity::refusal, std::move(subject), std::move(message)});
    };
    if (const auto valid = config.validate(); !valid) {
      refuse("config", valid.error().message());
      return list;
    }
    if (config.xen.empty()) {
      refuse("config", "it is not a Xen domain's");
      return list;
    }
    const auto guest = GuestDescription::from_text(config.xen);
    if (!guest) {
      refuse("config", guest.error().message());
      return list;
    }
    if (const auto differs = xen::version_obstacle(host_->version, guest.value().xen_version)) {
      refuse("xen", *differs);
    } else {
      fine("xen", host_->version);
    }
    const auto settings = host_->toolstack->settings_from(guest.value().libxl);
    if (!settings) {
      refuse("config", settings.error().message());
      return list;
    }
    if (settings.value().obstacle) refuse("config", *settings.value().obstacle);
    if (const auto fits = host_->slow_control->check_processor(guest.value()); fits) {
      fine("processor", "can be what the guest was shown");
    } else {
      refuse("processor", fits.error().message());
    }
    for (const NicConfig& nic : config.nics) {
      const std::string subject = "bridge " + nic.bridge;
      if (is_bridge(nic.bridge)) {
        fine(subject, "is there");
      } else {
        refuse(subject, "there is no such bridge");
      }
    }
    if (as_standby) check_room(config, settings.value(), list);
    return list;
  }

  void check_room(const DomainConfig& config, const DomainSettings& settings,
                  std::vector<Finding>& list) {
    if (const auto taken = host_->toolstack->find(config.name); taken) {
      list.push_back({Finding::Severity::refusal, "name",
                      fmt::format("there is a domain {} here already (number {})", config.name,
                                  taken.value())});
    }
    const auto needed = host_->toolstack->needed_bytes(settings);
    const auto free = host_->slow_control->free_memory();
    if (!needed || !free) {
      list.push_back({Finding::Severity::refusal, "memory",
                      needed ? free.error().message() : needed.error().message()});
      return;
    }
    const bool enough = free.value() >= needed.value();
    list.push_back(
        {enough ? Finding::Severity::ok : Finding::Severity::refusal, "memory",
         fmt::format("{} MiB needed, {} MiB that no domain has{}", needed.value() / kMiB,
                     free.value() / kMiB,
                     enough ? "" : "; give dom0 less (dom0_mem= on Xen's command line)")});
  }

  // --- on the executor's thread ---

  Result<std::unique_ptr<Domain>> take(GuestIdentity identity) {
    BOOST_OUTCOME_TRY(auto life, Life::watch(host_, identity.domid, identity.uuid,
                                             Life::Meaning{.remove_rest = identity.made_here,
                                                           .method = identity.description.method}));
    BOOST_OUTCOME_TRY(auto thread, GuestThread::open());
    BOOST_OUTCOME_TRY(auto domain, xen::XenDomain::take(host_, std::move(identity), std::move(life),
                                                        std::move(thread)));
    return std::unique_ptr<Domain>(std::move(domain));
  }

  std::shared_ptr<XenHost> host_;
};

}  // namespace

std::string xen_obstacle() {
  if (first_line_of("/sys/hypervisor/type") != "xen") return "this machine does not run Xen";
  if (first_line_of("/proc/xen/capabilities").find("control_d") == std::string::npos) {
    return "this is not dom0 (or xenfs is not mounted on /proc/xen)";
  }
  for (const char* device : {"/dev/xen/privcmd", "/dev/xen/evtchn"}) {
    if (::access(device, R_OK | W_OK) != 0) {
      return fmt::format("{}: {} (is the module loaded?)", device,
                         std::generic_category().message(errno));
    }
  }
  if (auto store = xen::Store::open(); !store) return store.error().message();
  return {};
}

Result<std::unique_ptr<Hypervisor>> make_xen_hypervisor(asio::any_io_executor executor,
                                                        XenOptions options) {
  if (const std::string obstacle = xen_obstacle(); !obstacle.empty()) {
    return fail(ErrorCode::unavailable, "Xen domains are not to be had here: {}", obstacle);
  }
  auto host = std::make_shared<XenHost>();
  host->executor = std::move(executor);
  host->options = std::move(options);
  BOOST_OUTCOME_TRY(host->toolstack, xen::Toolstack::open());
  BOOST_OUTCOME_TRY(host->slow_control, xen::Control::open());
  BOOST_OUTCOME_TRY(host->version, host->slow_control->xen_version());
  remove_stale_standbys(*host);
  return std::unique_ptr<Hypervisor>(std::make_unique<XenHypervisor>(std::move(host)));
}

}  // namespace understudy
