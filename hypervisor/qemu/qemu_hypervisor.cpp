#include "hypervisor/qemu/qemu_hypervisor.h"

#include <spdlog/spdlog.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <boost/json/value.hpp>
#include <charconv>
#include <fstream>
#include <utility>
#include <vector>

#include "hypervisor/qemu/accelerator.h"
#include "hypervisor/qemu/qemu_domain.h"
#include "hypervisor/qemu/qemu_instance.h"
#include "hypervisor/qemu/qemu_process.h"
#include "hypervisor/qemu/qemu_rehearsal.h"
#include "hypervisor/qemu/qemu_standby.h"
#include "hypervisor/qemu/tap.h"
#include "hypervisor/qemu/write_tracking.h"

namespace understudy {

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
/// What a QEMU process needs besides the guest's memory, roughly.
constexpr std::uint64_t kProcessBytes = 64 * kMiB;

std::uint64_t in_mib(std::uint64_t bytes) {
  return (bytes + kMiB - 1) / kMiB;
}

/// A finding, and the code that start() fails with if it is a refusal.
struct Check {
  Finding finding;
  ErrorCode code = ErrorCode::failed;
};

Check fine(std::string subject, std::string message) {
  return {{Finding::Severity::ok, std::move(subject), std::move(message)}, ErrorCode::failed};
}
Check warning(std::string subject, std::string message) {
  return {{Finding::Severity::warning, std::move(subject), std::move(message)}, ErrorCode::failed};
}
Check refusal(std::string subject, const Error& error) {
  return {{Finding::Severity::refusal, std::move(subject), error.message()}, error.code()};
}

/// MemAvailable of /proc/meminfo, in bytes.
std::uint64_t available_memory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string word; meminfo >> word;) {
    std::uint64_t kib = 0;
    if (word == "MemAvailable:" && meminfo >> kib) return kib * 1024;
  }
  return 0;
}

/// "QEMU emulator version 7.2.22 (…)" to 7, 2; zeros if it says something else.
std::pair<int, int> version_in(std::string_view text) {
  constexpr std::string_view kBefore = "version ";
  const std::size_t start = text.find(kBefore);
  std::pair<int, int> version{0, 0};
  if (start == std::string_view::npos) return version;
  const char* const end = text.data() + text.size();
  const auto major = std::from_chars(text.data() + start + kBefore.size(), end, version.first);
  if (major.ptr != end && *major.ptr == '.') std::from_chars(major.ptr + 1, end, version.second);
  return version;
}

/// Where understudy-preload.so is looked for when the options do not say.
fs::path find_preload_library() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& directory :
       {program, program / "../lib/understudy", fs::path("/usr/lib/understudy"),
        fs::path("/usr/local/lib/understudy"), fs::path(UNDERSTUDY_BUILT_PRELOAD).parent_path()}) {
    const fs::path candidate = directory / "understudy-preload.so";
    if (fs::exists(candidate, error)) return fs::absolute(candidate, error);
  }
  return {};
}

class QemuHypervisor final : public Hypervisor {
 public:
  QemuHypervisor(asio::any_io_executor executor, QemuOptions options)
      : executor_(std::move(executor)), options_(std::move(options)) {
    if (options_.preload_library.empty()) options_.preload_library = find_preload_library();
    tracking_obstacle_ = find_tracking_obstacle();
  }

  std::string name() const override { return "qemu"; }

  Task<Result<std::unique_ptr<Domain>>> start(DomainConfig config) override {
    BOOST_OUTCOME_CO_TRY(auto instance,
                         co_await start_instance(std::move(config), QemuInstance::Role::domain));
    co_return std::make_unique<QemuDomain>(std::move(instance));
  }

  Task<Result<std::unique_ptr<Standby>>> prepare_standby(DomainConfig config) override {
    BOOST_OUTCOME_CO_TRY(auto instance,
                         co_await start_instance(std::move(config), QemuInstance::Role::standby));
    co_return std::make_unique<QemuStandby>(std::move(instance));
  }

  Task<Result<std::unique_ptr<Domain>>> adopt(const boost::json::value& runtime_state) override {
    BOOST_OUTCOME_CO_TRY(auto instance,
                         co_await QemuInstance::adopt(executor_, options_, runtime_state));
    BOOST_OUTCOME_CO_TRY(co_await QemuDomain::settle(*instance));
    instance->become_domain();
    instances_.push_back(instance);
    spdlog::info("qemu: adopted domain={}", instance->config().name);
    co_return std::make_unique<QemuDomain>(std::move(instance));
  }

  Task<Result<std::unique_ptr<Rehearsal>>> prepare_rehearsal(DomainConfig config) override {
    // Two domains must not write one log.
    config.console_log.clear();
    BOOST_OUTCOME_CO_TRY(auto network, IsolatedNetwork::create());
    BOOST_OUTCOME_CO_TRY(auto instance,
                         co_await start_instance(std::move(config), QemuInstance::Role::standby,
                                                 std::move(network)));
    co_return std::make_unique<QemuRehearsal>(std::move(instance));
  }

  Task<std::vector<Finding>> check(const DomainConfig& config, bool as_standby) override {
    std::vector<Finding> findings;
    for (Check& check : co_await run_checks(config, as_standby)) {
      findings.push_back(std::move(check.finding));
    }
    co_return findings;
  }

  Task<Result<void>> clean_up(const boost::json::value& runtime_state) override {
    co_return co_await QemuInstance::clean_up(executor_, runtime_state);
  }

 private:
  std::optional<std::string> find_tracking_obstacle() const {
    if (options_.force_tracking == TrackingMethod::full_compare) return "asked for";
    if (options_.preload_library.empty()) return "understudy-preload.so was not found";
    if (const auto probed = probe_write_tracking(); !probed) return probed.error().message();
    return std::nullopt;
  }

  Task<Result<std::shared_ptr<QemuInstance>>> start_instance(
      DomainConfig config, QemuInstance::Role role,
      std::optional<IsolatedNetwork> isolation = std::nullopt) {
    const bool isolated = isolation.has_value();
    const bool as_standby = role == QemuInstance::Role::standby;
    for (const Check& check : co_await run_checks(config, as_standby)) {
      if (check.finding.severity == Finding::Severity::refusal) {
        co_return Error(check.code, check.finding.subject + ": " + check.finding.message);
      }
    }
    if (tracking_obstacle_ && options_.force_tracking == TrackingMethod::pagemap_scan) {
      co_return fail(ErrorCode::unavailable, "write tracking: {}", *tracking_obstacle_);
    }
    BOOST_OUTCOME_CO_TRY(config.accelerator, choose_accelerator(config.accelerator));
    std::optional<std::string> obstacle = tracking_obstacle_;
    if (isolated) obstacle = "a rehearsal is never copied";
    BOOST_OUTCOME_CO_TRY(auto instance,
                         co_await QemuInstance::start(executor_, options_, options_.preload_library,
                                                      std::move(obstacle), std::move(config), role,
                                                      std::move(isolation)));
    instances_.push_back(instance);
    spdlog::info("qemu: {} domain={} machine={} accelerator={} version={}",
                 isolated     ? "rehearsal ready"
                 : as_standby ? "standby ready"
                              : "started",
                 instance->config().name, instance->config().machine,
                 to_string(instance->config().accelerator), instance->monitor().qemu_version());
    co_return instance;
  }

  Task<std::vector<Check>> run_checks(const DomainConfig& config, bool as_standby) {
    std::vector<Check> checks;
    if (const auto valid = config.validate(); !valid) {
      checks.push_back(refusal("config", valid.error()));
      co_return checks;
    }
    checks.push_back(co_await check_qemu());
    checks.push_back(check_accelerator(config, as_standby));
    for (const auto& [what, path] :
         {std::pair{"kernel", &config.kernel}, std::pair{"initrd", &config.initrd},
          std::pair{"image", &config.image}}) {
      if (!path->empty()) checks.push_back(check_file(what, *path));
    }
    if (!config.image.empty()) {
      checks.push_back(warning("image", "attached read-only; every host needs an identical copy"));
    }
    if (!config.console_log.empty()) checks.push_back(check_console_log(config.console_log));
    checks.push_back(check_memory(config.memory_bytes));
    if (!config.nics.empty()) {
      if (const auto taps = probe_taps(); !taps) checks.push_back(refusal("taps", taps.error()));
    }
    for (const NicConfig& nic : config.nics) {
      const std::string subject = "bridge " + nic.bridge;
      if (const auto bridge = check_bridge(nic.bridge); !bridge) {
        checks.push_back(refusal(subject, bridge.error()));
      } else {
        checks.push_back(fine(subject, "is there and up"));
      }
    }
    checks.push_back(check_tracking());
    co_return checks;
  }

  Task<Check> check_qemu() {
    if (qemu_version_.empty()) {
      Command command;
      command.arguments = {options_.qemu_binary, "--version"};
      auto said = co_await run_to_end(executor_, std::move(command), options_.start_timeout_ms);
      if (!said) {
        co_return said.error().code() == ErrorCode::no_such
            ? refusal("qemu", fail(ErrorCode::no_such,
                                   "{} is not installed (Debian package qemu-system-x86)",
                                   options_.qemu_binary))
            : refusal("qemu", said.error());
      }
      qemu_version_ = said.value().substr(0, said.value().find('\n'));
    }
    if (version_in(qemu_version_) < std::pair{7, 2}) {
      const std::string found = std::exchange(qemu_version_, {});
      co_return refusal(
          "qemu", fail(ErrorCode::unavailable, "expected version 7.2 or later, found: {}", found));
    }
    co_return fine("qemu", qemu_version_);
  }

  Check check_accelerator(const DomainConfig& config, bool as_standby) const {
    const auto chosen = choose_accelerator(config.accelerator);
    if (!chosen) return refusal("accelerator", chosen.error());
    if (chosen.value() == Accelerator::kvm && config.cpu == "max") {
      return warning("accelerator",
                     "kvm with cpu \"max\": both hosts need the same kind of processor; otherwise "
                     "name a model that both have");
    }
    if (chosen.value() == Accelerator::tcg && config.accelerator == Accelerator::automatic &&
        !as_standby) {
      return fine("accelerator", "tcg (no kvm: " + probe_kvm().error().message() + ")");
    }
    return fine("accelerator", std::string(to_string(chosen.value())));
  }

  static Check check_file(const char* what, const std::string& path) {
    if (::access(path.c_str(), R_OK) != 0) return refusal(what, system_error(errno, path));
    std::error_code error;
    if (!fs::is_regular_file(path, error) && !fs::is_block_file(path, error)) {
      return refusal(what, fail(ErrorCode::config, "{} is not a file", path));
    }
    return fine(what, path);
  }

  static Check check_console_log(const std::string& path) {
    const fs::path directory = fs::path(path).parent_path();
    if (::access(directory.c_str(), W_OK) != 0) {
      return refusal("console_log", system_error(errno, directory.string()));
    }
    return fine("console_log", path);
  }

  /// Memory that is promised to domains of ours but not used yet: holes that may fill any time.
  std::uint64_t promised_bytes() {
    std::uint64_t bytes = 0;
    std::erase_if(instances_, [](const auto& instance) { return instance.expired(); });
    for (const auto& weak : instances_) {
      const auto instance = weak.lock();
      if (!instance->alive()) continue;
      const std::uint64_t size = instance->config().memory_bytes;
      const std::uint64_t used = instance->memory().allocated_bytes();
      bytes += size > used ? size - used : 0;
    }
    return bytes;
  }

  Check check_memory(std::uint64_t guest_bytes) {
    const std::string directory = options_.memory_directory.string();
    struct statvfs status {};
    if (::statvfs(directory.c_str(), &status) != 0) {
      return refusal("memory", system_error(errno, directory));
    }
    const std::uint64_t promised = promised_bytes();
    const std::uint64_t free = std::uint64_t{status.f_bavail} * status.f_frsize;
    if (free < guest_bytes + promised) {
      return refusal("memory",
                     fail(ErrorCode::no_resources,
                          "{} has {} MiB free, of which {} MiB are promised to other "
                          "domains; {} MiB are needed",
                          directory, in_mib(free), in_mib(promised), in_mib(guest_bytes)));
    }
    const std::uint64_t available = available_memory();
    if (available < guest_bytes + promised + kProcessBytes) {
      return refusal(
          "memory", fail(ErrorCode::no_resources,
                         "the host has {} MiB of memory available, of which {} MiB are "
                         "promised to other domains; {} MiB are needed",
                         in_mib(available), in_mib(promised), in_mib(guest_bytes + kProcessBytes)));
    }
    return fine("memory",
                fmt::format("{} MiB needed, {} MiB free in {}, {} MiB available",
                            in_mib(guest_bytes), in_mib(free), directory, in_mib(available)));
  }

  Check check_tracking() const {
    if (!tracking_obstacle_) return fine("write tracking", "pagemap_scan");
    if (options_.force_tracking == TrackingMethod::pagemap_scan) {
      return refusal("write tracking", fail(ErrorCode::unavailable, "{}", *tracking_obstacle_));
    }
    return warning("write tracking",
                   "full_compare, which costs time in every pause: " + *tracking_obstacle_);
  }

  asio::any_io_executor executor_;
  QemuOptions options_;
  std::optional<std::string> tracking_obstacle_;
  std::string qemu_version_;
  std::vector<std::weak_ptr<QemuInstance>> instances_;
};

}  // namespace

std::unique_ptr<Hypervisor> make_qemu_hypervisor(asio::any_io_executor executor,
                                                 QemuOptions options) {
  return std::make_unique<QemuHypervisor>(std::move(executor), std::move(options));
}

}  // namespace understudy
