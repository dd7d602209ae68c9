#include "hypervisor/xen/toolstack.h"

extern "C" {
#include <libxl.h>
#include <libxl_event.h>
#include <libxl_utils.h>
}

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <thread>

#include "hypervisor/xen/control.h"
#include "hypervisor/xen/device_model.h"
#include "hypervisor/xen/guest_checks.h"

namespace understudy::xen {
namespace {

constexpr std::string_view kScriptFolder = "/etc/xen/scripts/";
constexpr libxl_childproc_hooks kChildHooks = {
    .chldowner = libxl_sigchld_owner_libxl_always_selective_reap,
    .fork_replacement = nullptr,
    .reaped_callback = nullptr,
};

/// libxl's structure with its life.
class Config {
 public:
  Config() { ::libxl_domain_config_init(&config_); }
  ~Config() { ::libxl_domain_config_dispose(&config_); }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;
  libxl_domain_config* operator&() { return &config_; }
  libxl_domain_config* operator->() { return &config_; }
  const libxl_domain_config& get() const { return config_; }

 private:
  libxl_domain_config config_;
};

void set_text(char*& field, const std::string* value) {
  std::free(field);
  field = value == nullptr ? nullptr : ::strdup(value->c_str());
}

void set_list(libxl_string_list& field, const std::vector<std::string>& values) {
  ::libxl_string_list_dispose(&field);
  field = static_cast<char**>(std::calloc(values.size() + 1, sizeof(char*)));
  for (std::size_t i = 0; field != nullptr && i < values.size(); ++i)
    field[i] = ::strdup(values[i].c_str());
}

/// libxl's errors are negative numbers of its own.
Error libxl_error(XenLog& log, int code, std::string_view what) {
  const auto remedy = code == ERROR_NOMEM             ? ErrorCode::no_resources
                      : code == ERROR_TIMEDOUT        ? ErrorCode::timed_out
                      : code == ERROR_DOMAIN_NOTFOUND ? ErrorCode::no_such
                                                      : ErrorCode::failed;
  return log.error(remedy, fmt::format("{} (libxl error {})", what, code));
}

// A hotplug script that this host's administrator has put where Xen's own ones are. A peer may
// choose among them, and nothing else.
bool is_installed_script(const char* script) {
  if (script == nullptr) return true;
  std::string_view name(script);
  if (name.starts_with(kScriptFolder)) name.remove_prefix(kScriptFolder.size());
  return name.starts_with("vif-") && name.find('/') == std::string_view::npos &&
         ::access((std::string(kScriptFolder) + std::string(name)).c_str(), X_OK) == 0;
}

bool is_on(libxl_defbool value) {
  return !::libxl_defbool_is_default(value) && ::libxl_defbool_val(value);
}

bool is_given(const libxl_string_list& list) {
  return list != nullptr && list[0] != nullptr;
}

bool is_standbys(const libxl_string_list& list) {
  const auto& ours = DeviceModel::arguments_of_standby();
  std::size_t i = 0;
  for (; list != nullptr && list[i] != nullptr; ++i) {
    if (i >= ours.size() || ours[i] != list[i]) return false;
  }
  return i == ours.size();
}

/// The arguments that a device model of ours was once started with are not the domain's.
void forget_arguments_of_standby(libxl_domain_config& config) {
  if (config.c_info.type != LIBXL_DOMAIN_TYPE_HVM || !is_standbys(config.b_info.extra_hvm)) return;
  ::libxl_string_list_dispose(&config.b_info.extra_hvm);
  config.b_info.extra_hvm = nullptr;
}

/// While it lives, tells libxl that the device model of the domain of that name runs: libxl waits
/// for that word, and a device model that waits for its state does not give it.
class DeviceModelHerald {
 public:
  explicit DeviceModelHerald(std::string name)
      : thread_([name = std::move(name)](const std::stop_token& end) { herald(name, end); }) {}

 private:
  static void herald(const std::string& name, const std::stop_token& end) {
    auto store = Store::open();
    if (!store) return;
    const std::string models = "/local/domain/0/device-model";
    while (!end.stop_requested()) {
      for (const std::string& domid : store.value()->list(models)) {
        if (store.value()->read("/local/domain/" + domid + "/name") != name) continue;
        std::error_code error;
        // Its monitor is there when its devices are.
        if (!std::filesystem::exists(DeviceModel::monitor_of(static_cast<DomainId>(
                                         std::strtoul(domid.c_str(), nullptr, 10))),
                                     error))
          continue;
        (void)store.value()->write(models + "/" + domid + "/state", "running");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  std::jthread thread_;
};

// What an HVM domain has, beside what any domain may have, that we cannot carry over, or that a
// peer must not choose.
std::optional<std::string> hvm_obstacle_in(const libxl_domain_build_info& build) {
  const auto& hvm = build.u.hvm;
  if (build.device_model_version != LIBXL_DEVICE_MODEL_VERSION_QEMU_XEN &&
      build.device_model_version != LIBXL_DEVICE_MODEL_VERSION_UNKNOWN) {
    return "its device model is not Xen's QEMU";
  }
  if (is_given(build.extra) || is_given(build.extra_hvm)) {
    return "its device model is given arguments of its own";
  }
  if (is_on(build.dm_restrict)) return "its device model is restricted (dm_restrict)";
  if (hvm.system_firmware != nullptr || hvm.smbios_firmware != nullptr ||
      hvm.acpi_firmware != nullptr || hvm.firmware != nullptr) {
    return "it has firmware of its own";
  }
  if (hvm.vga.kind != LIBXL_VGA_INTERFACE_TYPE_NONE) {
    return "it has a graphics adapter, whose memory moves about in the guest's; set vga = \"none\" "
           "and use its serial console";
  }
  if (is_on(hvm.vnc.enable) || is_on(hvm.sdl.enable) || is_on(hvm.spice.enable)) {
    return "its screen is served by its device model; set vnc = 0";
  }
  if (is_on(hvm.gfx_passthru)) return "it has a graphics adapter passed through";
  if (is_on(hvm.usb) || hvm.usbdevice != nullptr || is_given(hvm.usbdevice_list)) {
    return "it has USB devices";
  }
  if (hvm.soundhw != nullptr) return "it has a sound device";
  if (is_on(build.nested_hvm)) return "it is a host of guests itself (nestedhvm)";
  return std::nullopt;
}

// What such a domain has that we cannot carry over. Both hosts ask: the backup runs nothing that a
// peer chose (scripts, device models), whatever the configuration says.
std::optional<std::string> obstacle_in(const libxl_domain_config& config) {
  if (config.c_info.type == LIBXL_DOMAIN_TYPE_PV) {
    return choose_method({.translated = false}, "auto").error().message();
  }
  if (config.c_info.type != LIBXL_DOMAIN_TYPE_PVH && config.c_info.type != LIBXL_DOMAIN_TYPE_HVM) {
    return "it is of a kind that is not known";
  }
  if (config.b_info.device_model_stubdomain.val > 0 || config.b_info.device_model != nullptr) {
    return "it has a device model of its own";
  }
  if (config.num_disks > 0) {
    return "it has disks: writes to them are not part of checkpoints yet, so the backup would go "
           "on with other contents";
  }
  const std::pair<int, std::string_view> counts[] = {
      {config.num_pcidevs, "PCI devices passed through"},
      {config.num_dtdevs, "devices passed through"},
      {config.num_rdms, "reserved device memory"},
      {config.num_vtpms, "a virtual TPM"},
      {config.num_p9s, "a 9pfs share"},
      {config.num_pvcallsifs, "pvcalls"},
      {config.num_vdispls, "a virtual display"},
      {config.num_vsnds, "a sound device"},
      {config.num_channels, "channels"},
      {config.num_usbctrls, "USB controllers"},
      {config.num_usbdevs, "USB devices"},
      {config.b_info.num_ioports, "I/O ports passed through"},
      {config.b_info.num_irqs, "interrupts passed through"},
      {config.b_info.num_iomem, "I/O memory passed through"},
      {config.b_info.num_vnuma_nodes, "virtual NUMA nodes"},
  };
  for (const auto& [count, what] : counts) {
    if (count > 0) return fmt::format("it has {}", what);
  }
  if (config.b_info.target_memkb != config.b_info.max_memkb) {
    return fmt::format(
        "it is ballooned: it has {} of {} KiB; set memory and maxmem to the same amount",
        config.b_info.target_memkb, config.b_info.max_memkb);
  }
  if (is_on(config.c_info.driver_domain)) return "it is a driver domain";
  if (config.c_info.type == LIBXL_DOMAIN_TYPE_HVM) {
    if (auto obstacle = hvm_obstacle_in(config.b_info)) return obstacle;
  }
  for (int i = 0; i < config.num_nics; ++i) {
    const libxl_device_nic& nic = config.nics[i];
    if (!is_installed_script(nic.script)) {
      return fmt::format("its interface {} has a hotplug script ({}) that is no vif-… in {}", i,
                         nic.script, kScriptFolder);
    }
    if (nic.backend_domid != 0 || (nic.backend_domname != nullptr && *nic.backend_domname != 0)) {
      return fmt::format("its interface {} has its backend in a driver domain", i);
    }
    if (nic.bridge == nullptr || *nic.bridge == 0) {
      return fmt::format("its interface {} is on no bridge", i);
    }
    if (config.c_info.type == LIBXL_DOMAIN_TYPE_HVM && nic.nictype == LIBXL_NIC_TYPE_VIF) {
      return fmt::format("its interface {} is for PV drivers only (type=vif)", i);
    }
  }
  return std::nullopt;
}

DomainSettings settings_of(const libxl_domain_config& config, std::string json) {
  DomainSettings settings;
  settings.json = std::move(json);
  settings.name = config.c_info.name != nullptr ? config.c_info.name : "";
  for (const std::uint8_t octet : config.c_info.uuid.uuid)
    settings.uuid += fmt::format("{:02x}", octet);
  settings.hvm = config.c_info.type == LIBXL_DOMAIN_TYPE_HVM;
  settings.kernel = config.b_info.kernel != nullptr;
  settings.vcpus = static_cast<unsigned>(std::max(1, config.b_info.max_vcpus));
  settings.memory_kib = config.b_info.target_memkb;
  settings.memory_max_kib = config.b_info.max_memkb;
  for (int i = 0; i < config.num_nics; ++i) {
    const libxl_device_nic& nic = config.nics[i];
    NicFacts facts;
    facts.bridge = nic.bridge != nullptr ? nic.bridge : "";
    std::copy_n(static_cast<const std::uint8_t*>(nic.mac), facts.mac.octets.size(),
                facts.mac.octets.begin());
    facts.number = nic.devid >= 0 ? nic.devid : i;
    if (nic.ifname != nullptr) facts.device = nic.ifname;
    facts.emulated = settings.hvm;
    settings.nics.push_back(std::move(facts));
  }
  settings.obstacle = obstacle_in(config);
  return settings;
}

}  // namespace

Result<std::unique_ptr<Toolstack>> Toolstack::open() {
  std::unique_ptr<Toolstack> toolstack(new Toolstack);
  const int code =
      ::libxl_ctx_alloc(&toolstack->context_, LIBXL_VERSION, 0, toolstack->log_.logger());
  if (code != 0) {
    toolstack->context_ = nullptr;
    return toolstack->log_.error(ErrorCode::unavailable,
                                 fmt::format("libxl does not work here (libxl error {})", code));
  }
  ::libxl_childproc_setmode(toolstack->context_, &kChildHooks, nullptr);
  return toolstack;
}

Toolstack::~Toolstack() {
  if (context_ != nullptr) ::libxl_ctx_free(context_);
}

Result<DomainId> Toolstack::find(const std::string& name) {
  log_.begin();
  DomainId domid = 0;
  if (::libxl_name_to_domid(context_, name.c_str(), &domid) != 0) {
    return fail(ErrorCode::no_such, "Xen has no domain '{}'", name);
  }
  return domid;
}

std::vector<DomainId> Toolstack::find_all(std::string_view suffix) {
  log_.begin();
  std::vector<DomainId> found;
  int count = 0;
  libxl_dominfo* const domains = ::libxl_list_domain(context_, &count);
  for (int i = 0; i < count; ++i) {
    const std::unique_ptr<char, decltype(&std::free)> name(
        ::libxl_domid_to_name(context_, domains[i].domid), &std::free);
    if (name != nullptr && std::string_view(name.get()).ends_with(suffix))
      found.push_back(domains[i].domid);
  }
  if (domains != nullptr) ::libxl_dominfo_list_free(domains, count);
  return found;
}

Result<DomainSettings> Toolstack::settings_of(DomainId domid) {
  log_.begin();
  Config config;
  if (const int code = ::libxl_retrieve_domain_configuration(context_, domid, &config, nullptr);
      code != 0) {
    return libxl_error(log_, code, fmt::format("reading the configuration of domain {}", domid));
  }
  forget_arguments_of_standby(*(&config));
  const std::unique_ptr<char, decltype(&std::free)> json(
      ::libxl_domain_config_to_json(context_, &config), &std::free);
  if (json == nullptr) {
    return log_.error(ErrorCode::failed, "libxl could not write the configuration as JSON");
  }
  return xen::settings_of(config.get(), json.get());
}

Result<DomainSettings> Toolstack::settings_from(const std::string& json) {
  log_.begin();
  Config config;
  if (const int code = ::libxl_domain_config_from_json(context_, &config, json.c_str());
      code != 0) {
    return log_.error(ErrorCode::bad_data,
                      fmt::format("libxl cannot read the configuration (libxl error {})", code));
  }
  return xen::settings_of(config.get(), json);
}

Result<std::uint64_t> Toolstack::needed_bytes(const DomainSettings& settings) {
  log_.begin();
  Config config;
  std::uint64_t kib = 0;
  int code = ::libxl_domain_config_from_json(context_, &config, settings.json.c_str());
  if (code == 0) code = ::libxl_domain_need_memory(context_, &config, INVALID_DOMID, &kib);
  if (code != 0) return libxl_error(log_, code, "asking how much memory the domain needs");
  return kib * 1024;
}

Result<DomainId> Toolstack::create_paused(const DomainSettings& settings, const std::string& name,
                                          const std::filesystem::path& kernel) {
  log_.begin();
  Config config;
  if (const int code = ::libxl_domain_config_from_json(context_, &config, settings.json.c_str());
      code != 0) {
    return libxl_error(log_, code, "reading the domain's configuration");
  }
  if (const auto obstacle = obstacle_in(config.get())) {
    return fail(ErrorCode::config, "{}: {}", settings.name, *obstacle);
  }
  const std::string kernel_path = kernel.string();
  set_text(config->c_info.name, &name);
  config->c_info.domid = INVALID_DOMID;
  set_text(config->b_info.kernel, settings.kernel ? &kernel_path : nullptr);
  set_text(config->b_info.ramdisk, nullptr);
  set_text(config->b_info.cmdline, nullptr);
  set_text(config->b_info.bootloader, nullptr);
  std::optional<DeviceModelHerald> herald;
  if (settings.hvm) {
    set_list(config->b_info.extra_hvm, DeviceModel::arguments_of_standby());
    herald.emplace(name);
  }
  DomainId domid = INVALID_DOMID;
  if (const int code = ::libxl_domain_create_new(context_, &config, &domid, nullptr, nullptr);
      code != 0) {
    const Error error = libxl_error(log_, code, fmt::format("creating domain {}", name));
    if (domid != static_cast<DomainId>(INVALID_DOMID)) {
      (void)::libxl_domain_destroy(context_, domid, nullptr);
    }
    return error;
  }
  return domid;
}

Result<void> Toolstack::destroy(DomainId domid) {
  log_.begin();
  const int code = ::libxl_domain_destroy(context_, domid, nullptr);
  if (code != 0 && code != ERROR_DOMAIN_NOTFOUND) {
    return libxl_error(log_, code, fmt::format("destroying domain {}", domid));
  }
  return ok();
}

Result<void> Toolstack::rename(DomainId domid, const std::string& name) {
  log_.begin();
  if (const int code = ::libxl_domain_rename(context_, domid, nullptr, name.c_str()); code != 0) {
    return libxl_error(log_, code, fmt::format("renaming domain {} to {}", domid, name));
  }
  return ok();
}

}  // namespace understudy::xen
