#include "hypervisor/qemu/qemu_instance.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstring>
#include <utility>

#include "hypervisor/qemu/command_line.h"
#include "hypervisor/qemu/pidfd.h"
#include "hypervisor/qemu/tap.h"

namespace understudy {

namespace asio = boost::asio;
namespace json = boost::json;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kLastWordsBytes = 600;
/// How long the end of a process may lag behind the end of its monitor connection, or the reverse.
constexpr std::chrono::milliseconds kEndsTogether{1000};

/// A listening socket, and the path without suffix that the instance's files are named after.
struct Listening {
  UniqueFd socket;
  fs::path base;
};

/// Binds `directory`/NAME-PID-N.qmp for the first free N.
Result<Listening> listen_for_monitor(const fs::path& directory, const std::string& name) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return system_error(error.value(), directory.string());
  fs::permissions(directory, fs::perms::owner_all, error);
  constexpr int kAttemptsMax = 1000;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    Listening listening;
    listening.base = directory / fmt::format("{}-{}-{}", name, ::getpid(), attempt);
    const std::string path = listening.base.string() + ".qmp";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
      return fail(ErrorCode::config, "{}: too long for a unix socket (at most {} characters)", path,
                  sizeof address.sun_path - 1);
    }
    std::memcpy(address.sun_path, path.c_str(), path.size());
    listening.socket.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!listening.socket.valid()) return system_error(errno, "a unix socket");
    if (::bind(listening.socket.get(), reinterpret_cast<const sockaddr*>(&address),
               sizeof address) != 0) {
      if (errno == EADDRINUSE) continue;
      return system_error(errno, path);
    }
    if (::listen(listening.socket.get(), 1) != 0) return system_error(errno, path);
    return listening;
  }
  return fail(ErrorCode::exists, "{}: no free name for a socket of {}", directory.string(), name);
}

/// What runtime_state() wrote, checked.
struct SavedState {
  QemuInstance::Role role = QemuInstance::Role::domain;
  DomainConfig config;
  ProcessIdentity process;
  fs::path monitor;
  fs::path log;
  std::vector<std::string> devices;
};

Result<SavedState> read_state(const json::value& state) {
  const auto* object = state.if_object();
  if (!object) return fail(ErrorCode::bad_data, "runtime state: expected an object");
  const auto text = [&](const char* key) -> Result<std::string> {
    const auto* value = object->if_contains(key);
    if (!value || !value->is_string()) {
      return fail(ErrorCode::bad_data, "runtime state: expected text under '{}'", key);
    }
    return std::string(value->get_string());
  };
  SavedState saved;
  BOOST_OUTCOME_TRY(const std::string role, text("role"));
  if (role != "domain" && role != "standby") {
    return fail(ErrorCode::bad_data, "runtime state: role is '{}', expected domain or standby",
                role);
  }
  saved.role = role == "domain" ? QemuInstance::Role::domain : QemuInstance::Role::standby;
  const auto* config = object->if_contains("config");
  const auto* process = object->if_contains("process");
  const auto* devices = object->if_contains("devices");
  if (!config || !process || !devices || !devices->is_array()) {
    return fail(ErrorCode::bad_data, "runtime state: expected config, process and devices");
  }
  BOOST_OUTCOME_TRY(saved.config, DomainConfig::from_json(*config));
  BOOST_OUTCOME_TRY(saved.process, ProcessIdentity::from_json(*process));
  BOOST_OUTCOME_TRY(saved.monitor, text("monitor"));
  BOOST_OUTCOME_TRY(saved.log, text("log"));
  for (const fs::path& path : {saved.monitor, saved.log}) {
    if (!path.is_absolute() || !path.filename().string().starts_with(saved.config.name + "-")) {
      return fail(ErrorCode::bad_data, "runtime state: {} is not a file of domain {}",
                  path.string(), saved.config.name);
    }
  }
  for (const json::value& device : devices->get_array()) {
    if (!device.is_string()) {
      return fail(ErrorCode::bad_data, "runtime state: expected device names under 'devices'");
    }
    saved.devices.emplace_back(device.get_string());
  }
  if (saved.devices.size() != saved.config.nics.size()) {
    return fail(ErrorCode::bad_data, "runtime state: {} devices for {} NICs", saved.devices.size(),
                saved.config.nics.size());
  }
  return saved;
}

std::string_view text_member(const json::object& object, const char* key) {
  const auto* value = object.if_contains(key);
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

}  // namespace

QemuInstance::QemuInstance(asio::any_io_executor executor, QemuOptions options, DomainConfig config,
                           Role role)
    : executor_(std::move(executor)),
      options_(std::move(options)),
      config_(std::move(config)),
      role_(role) {}

QemuInstance::~QemuInstance() = default;

Task<Result<std::shared_ptr<QemuInstance>>> QemuInstance::start(
    asio::any_io_executor executor, const QemuOptions& options, fs::path preload_library,
    std::optional<std::string> tracking_obstacle, DomainConfig config, Role role,
    std::optional<IsolatedNetwork> isolation) {
  std::shared_ptr<QemuInstance> instance(
      new QemuInstance(std::move(executor), options, std::move(config), role));
  instance->isolation_ = std::move(isolation);
  if (tracking_obstacle) instance->tracking_reason_ = *tracking_obstacle;
  Result<void> started = co_await instance->launch(preload_library);
  if (!started) {
    Error error = co_await instance->explain(started.error());
    if (instance->process_) {
      static_cast<void>(co_await instance->end());
    } else {
      instance->remove_files();
    }
    co_return error;
  }
  co_return instance;
}

Task<Result<void>> QemuInstance::launch(const fs::path& preload_library) {
  BOOST_OUTCOME_CO_TRY(Listening listening,
                       listen_for_monitor(options_.runtime_directory, config_.name));
  monitor_path_ = listening.base.string() + ".qmp";
  log_path_ = listening.base.string() + ".log";
  BOOST_OUTCOME_CO_TRY(memory_,
                       MemoryFile::create(options_.memory_directory, config_.memory_bytes));

  BOOST_OUTCOME_CO_TRY(std::vector<Tap> taps, make_taps());
  if (role_ == Role::domain) {
    BOOST_OUTCOME_CO_TRY(attach_taps());
  }

  Command command;
  command.arguments = qemu_arguments(options_.qemu_binary, config_, role_ == Role::standby);
  // The one process that may not outlive us: what it runs is a copy of a domain that lives.
  if (isolation_) {
    command.arguments.insert(command.arguments.begin(), {"setpriv", "--pdeathsig", "KILL", "--"});
  }
  command.output = log_path_;
  command.descriptors = {{kMonitorDescriptor, listening.socket.get()},
                         {kMemoryDescriptor, memory_->fd()}};
  for (std::size_t i = 0; i < taps.size(); ++i) {
    command.descriptors.emplace_back(kFirstTapDescriptor + static_cast<int>(i), taps[i].fd.get());
  }
  if (tracking_reason_.empty()) command.environment.emplace_back("LD_PRELOAD", preload_library);
  BOOST_OUTCOME_CO_TRY(process_, Process::start(executor_, command));
  // From here on QEMU alone holds the socket and the taps: they go when it goes.
  listening.socket.reset();
  taps.clear();

  BOOST_OUTCOME_CO_TRY(co_await connect());
  // Nobody will look for it after a crash of ours: no name of it stays.
  if (isolation_) fs::remove(monitor_path_);
  BOOST_OUTCOME_CO_TRY(co_await prepare_monitor());
  if (tracking_reason_.empty()) {
    if (auto opened = open_tracker(); !opened) {
      if (options_.force_tracking == TrackingMethod::pagemap_scan) co_return opened.error();
      give_up_tracking(opened.error().message());
    }
  }
  co_return ok();
}

Result<std::vector<Tap>> QemuInstance::make_taps() {
  std::vector<Tap> taps;
  const auto make = [this, &taps]() -> Result<void> {
    for (std::size_t i = 0; i < config_.nics.size(); ++i) {
      BOOST_OUTCOME_TRY(Tap tap, create_tap(config_.name, static_cast<unsigned>(i)));
      outputs_.push_back({tap.device, config_.nics[i].bridge, config_.nics[i].mac});
      taps.push_back(std::move(tap));
    }
    return ok();
  };
  BOOST_OUTCOME_TRY(isolation_ ? isolation_->inside(make) : make());
  return taps;
}

Task<Result<void>> QemuInstance::connect() {
  auto connected =
      co_await QmpClient::connect(executor_, monitor_path_.string(), options_.start_timeout_ms,
                                  [this](const QmpEvent& event) { on_event(event); });
  if (!connected) co_return connected.error();
  monitor_ = std::move(connected.value());
  co_return ok();
}

Task<Result<void>> QemuInstance::prepare_monitor() {
  json::array capabilities;
  for (const char* name : {"x-ignore-shared", "events"}) {
    json::object capability;
    capability["capability"] = name;
    capability["state"] = true;
    capabilities.push_back(std::move(capability));
  }
  json::object set_capabilities;
  set_capabilities["capabilities"] = std::move(capabilities);
  BOOST_OUTCOME_CO_TRY(co_await monitor_->execute(
      "migrate-set-capabilities", std::move(set_capabilities), options_.answer_timeout_ms));
  // The state goes through memory: no bandwidth to spare, and no round of memory to wait for.
  json::object set_parameters;
  set_parameters["max-bandwidth"] = std::int64_t{1} << 40;
  set_parameters["downtime-limit"] = 2000;
  BOOST_OUTCOME_CO_TRY(co_await monitor_->execute(
      "migrate-set-parameters", std::move(set_parameters), options_.answer_timeout_ms));

  // "q35" means another machine in another QEMU; the backup has to be told the version.
  json::object no_arguments;
  BOOST_OUTCOME_CO_TRY(const json::value machines,
                       co_await monitor_->execute("query-machines", std::move(no_arguments),
                                                  options_.answer_timeout_ms));
  if (const auto* list = machines.if_array()) {
    for (const json::value& machine : *list) {
      const auto* object = machine.if_object();
      if (object && text_member(*object, "alias") == config_.machine) {
        config_.machine = std::string(text_member(*object, "name"));
        break;
      }
    }
  }
  co_return config_.validate();
}

Result<void> QemuInstance::open_tracker() {
  BOOST_OUTCOME_TRY(WriteTracker tracker,
                    WriteTracker::open(process_->identity().pid, process_->pidfd()));
  tracker_ = std::move(tracker);
  return ok();
}

void QemuInstance::give_up_tracking(std::string reason) {
  spdlog::warn("qemu: writes are not tracked, memory will be compared domain={} reason=\"{}\"",
               config_.name, reason);
  if (tracker_) tracker_->disarm();
  tracker_.reset();
  tracking_reason_ = std::move(reason);
}

Result<std::vector<UniqueFd>> QemuInstance::fetch_taps() {
  std::vector<UniqueFd> taps;
  for (std::size_t nic = 0; nic < outputs_.size(); ++nic) {
    taps.emplace_back(
        ::pidfd_getfd(process_->pidfd(), kFirstTapDescriptor + static_cast<int>(nic), 0));
    if (!taps.back().valid()) {
      return system_error(errno, fmt::format("taking tap {} of QEMU", outputs_[nic].device));
    }
  }
  return taps;
}

Result<void> QemuInstance::attach_taps() {
  for (const OutputInterface& output : outputs_) {
    if (isolation_) {
      BOOST_OUTCOME_TRY(isolation_->bring_up(output.device));
      continue;
    }
    BOOST_OUTCOME_TRY(attach_tap(output.device, output.bridge));
  }
  return ok();
}

void QemuInstance::on_event(const QmpEvent& event) {
  if (event.name == "STOP") {
    told_.stopped = true;
  } else if (event.name == "RESUME") {
    told_.stopped = false;
  } else if (event.name == "MIGRATION") {
    const std::string_view status = text_member(event.data, "status");
    if (status == "completed") {
      told_.migration = MigrationStatus::completed;
    } else if (status == "failed" || status == "cancelled") {
      told_.migration = MigrationStatus::failed;
    } else {
      told_.migration = MigrationStatus::active;
    }
  } else if (event.name == "SHUTDOWN") {
    const std::string_view reason = text_member(event.data, "reason");
    if (reason == "guest-shutdown") told_.shutdown = DomainExit::Kind::guest_shutdown;
    if (reason == "guest-reset") told_.shutdown = DomainExit::Kind::guest_reset;
  }
}

Task<Error> QemuInstance::explain(Error error) {
  const bool lost = !process_ || (monitor_ && monitor_->broken()) || !monitor_;
  if (!process_ || !lost) co_return error;
  const bool ended = co_await process_->wait(kEndsTogether);
  if (!ended) co_return error;
  const std::string words = tail_of(log_path_, kLastWordsBytes);
  co_return fail(ErrorCode::failed, "QEMU of domain {} has ended ({}){}{}", config_.name,
                 process_->ending(), words.empty() ? "" : ": ", words);
}

void QemuInstance::remove_files() const {
  std::error_code ignored;
  fs::remove(monitor_path_, ignored);
  fs::remove(log_path_, ignored);
}

void QemuInstance::let_go() {
  process_->let_go();
  monitor_.reset();
}

void QemuInstance::end_at_once() {
  ended_by_us_ = true;
  process_->kill();
  remove_files();
}

Task<Result<void>> QemuInstance::end() {
  ended_by_us_ = true;
  process_->kill();
  const bool gone = co_await process_->wait(options_.start_timeout_ms);
  if (!gone) {
    co_return fail(ErrorCode::timed_out,
                   "QEMU of domain {} (process {}) was killed, but is not gone", config_.name,
                   process_->identity().pid);
  }
  remove_files();
  co_return ok();
}

Task<DomainExit> QemuInstance::wait_for_exit(std::shared_ptr<QemuInstance> instance) {
  co_await instance->process_->wait();
  if (instance->process_->alive()) {
    co_return DomainExit{DomainExit::Kind::destroyed, "no longer watched"};
  }
  if (instance->ended_by_us_) {
    co_return DomainExit{DomainExit::Kind::destroyed, "destroyed"};
  }
  // QEMU's last event may still be on its way.
  if (instance->monitor_) {
    static_cast<void>(co_await instance->monitor_->wait_until([] { return false; }, kEndsTogether,
                                                              "close its monitor"));
  }
  if (instance->told_.shutdown) {
    const bool reset = *instance->told_.shutdown == DomainExit::Kind::guest_reset;
    co_return DomainExit{*instance->told_.shutdown,
                         reset ? "the guest rebooted" : "the guest powered off"};
  }
  const std::string words = tail_of(instance->log_path_, kLastWordsBytes);
  co_return DomainExit{
      DomainExit::Kind::crashed,
      fmt::format("QEMU (process {}) ended: {}{}{}", instance->process_->identity().pid,
                  instance->process_->ending(), words.empty() ? "" : ": ", words)};
}

json::value QemuInstance::runtime_state() const {
  json::array devices;
  for (const OutputInterface& output : outputs_) devices.emplace_back(output.device);
  json::object state;
  state["role"] = role_ == Role::domain ? "domain" : "standby";
  state["config"] = config_.to_json();
  state["process"] = process_->identity().to_json();
  state["monitor"] = monitor_path_.string();
  state["log"] = log_path_.string();
  state["devices"] = std::move(devices);
  return state;
}

Task<Result<std::shared_ptr<QemuInstance>>> QemuInstance::adopt(asio::any_io_executor executor,
                                                                const QemuOptions& options,
                                                                const json::value& state) {
  BOOST_OUTCOME_CO_TRY(SavedState saved, read_state(state));
  std::shared_ptr<QemuInstance> instance(
      new QemuInstance(std::move(executor), options, std::move(saved.config), saved.role));
  BOOST_OUTCOME_CO_TRY(instance->process_, Process::adopt(instance->executor_, saved.process));
  instance->monitor_path_ = saved.monitor;
  instance->log_path_ = saved.log;
  for (std::size_t i = 0; i < saved.devices.size(); ++i) {
    const NicConfig& nic = instance->config_.nics[i];
    instance->outputs_.push_back({saved.devices[i], nic.bridge, nic.mac});
  }
  BOOST_OUTCOME_CO_TRY(
      instance->memory_,
      MemoryFile::of_process(saved.process.pid, kMemoryDescriptor, instance->config_.memory_bytes));
  BOOST_OUTCOME_CO_TRY(co_await instance->connect());
  BOOST_OUTCOME_CO_TRY(co_await instance->prepare_monitor());
  if (options.force_tracking == TrackingMethod::full_compare) {
    instance->tracking_reason_ = "asked for";
  } else if (auto opened = instance->open_tracker(); !opened) {
    instance->give_up_tracking(opened.error().message());
  }
  co_return instance;
}

Task<Result<void>> QemuInstance::clean_up(asio::any_io_executor executor,
                                          const json::value& state) {
  BOOST_OUTCOME_CO_TRY(const SavedState saved, read_state(state));
  auto process = Process::adopt(executor, saved.process);
  if (process) {
    process.value()->kill();
    const bool gone = co_await process.value()->wait(std::chrono::seconds(10));
    if (!gone) {
      co_return fail(ErrorCode::timed_out, "QEMU of domain {} (process {}) does not go away",
                     saved.config.name, saved.process.pid);
    }
  }
  std::error_code ignored;
  fs::remove(saved.monitor, ignored);
  fs::remove(saved.log, ignored);
  co_return ok();
}

}  // namespace understudy
