#include "hypervisor/qemu/qemu_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/condition.h"
#include "hypervisor/qemu/pidfd.h"

namespace understudy {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);

std::string read_small_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const std::string& this_boot() {
  static const std::string id = [] {
    std::string text = read_small_file("/proc/sys/kernel/random/boot_id");
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }();
  return id;
}

/// Owns the file actions and attributes of one posix_spawn.
class SpawnPlan {
 public:
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

/// Starts the command and returns its process id.
Result<pid_t> spawn(const Command& command) {
  std::vector<std::pair<std::string, std::string>> replaced = command.environment;
  std::vector<std::string> environment;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    const bool is_replaced = std::any_of(replaced.begin(), replaced.end(), [&](const auto& pair) {
      return text.starts_with(pair.first + "=");
    });
    if (!is_replaced) environment.emplace_back(text);
  }
  for (const auto& [name, value] : replaced) {
    environment.push_back(fmt::format("{}={}", name, value));
  }

  SpawnPlan plan;
  int highest = 2;
  for (const auto& [number, fd] : command.descriptors) highest = std::max(highest, number);
  // Our descriptors are first moved out of the way of the numbers that the process wants to see.
  std::vector<UniqueFd> moved;
  posix_spawn_file_actions_addopen(&plan.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&plan.actions, 1, command.output.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&plan.actions, 1, 2);
  for (const auto& [number, fd] : command.descriptors) {
    moved.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, highest + 1));
    if (!moved.back().valid()) return system_error(errno, "passing a descriptor on");
    posix_spawn_file_actions_adddup2(&plan.actions, moved.back().get(), number);
  }
  posix_spawn_file_actions_addclosefrom_np(&plan.actions, highest + 1);
  posix_spawn_file_actions_addchdir_np(&plan.actions, "/");

  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&plan.attributes, &none);
  posix_spawnattr_setsigdefault(&plan.attributes, &all);
  posix_spawnattr_setflags(
      &plan.attributes,
      static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));

  std::vector<char*> argv;
  argv.reserve(command.arguments.size() + 1);
  for (const std::string& argument : command.arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  std::vector<char*> envp;
  envp.reserve(environment.size() + 1);
  for (std::string& entry : environment) envp.push_back(entry.data());
  envp.push_back(nullptr);

  pid_t pid = 0;
  const int error =
      ::posix_spawnp(&pid, argv[0], &plan.actions, &plan.attributes, argv.data(), envp.data());
  if (error != 0) return system_error(error, fmt::format("starting {}", command.arguments[0]));
  return pid;
}

}  // namespace

Result<ProcessIdentity> ProcessIdentity::of(pid_t pid) {
  const std::string stat = read_small_file(fmt::format("/proc/{}/stat", pid));
  // The second field is the program's name in parentheses and may hold anything, so count from its
  // end: start_time is the 20th after it.
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return fail(ErrorCode::no_such, "no process {}", pid);
  std::size_t position = name_end + 1;
  for (int field = 2; field < 22; ++field) {
    position = stat.find_first_not_of(' ', stat.find(' ', position));
    if (position == std::string::npos) return fail(ErrorCode::no_such, "no process {}", pid);
    if (field == 2 && stat[position] == 'Z') {
      return fail(ErrorCode::no_such, "process {} has ended", pid);
    }
  }
  ProcessIdentity identity{pid, 0, this_boot()};
  std::from_chars(stat.data() + position, stat.data() + stat.size(), identity.start_time);
  return identity;
}

bool has_work(pid_t pid) {
  std::error_code error;
  const std::filesystem::directory_iterator threads(fmt::format("/proc/{}/task", pid), error);
  for (auto thread = begin(threads); !error && thread != end(threads); thread.increment(error)) {
    const std::string stat = read_small_file((thread->path() / "stat").string());
    // "ID (name) R …", where the name may hold anything.
    const std::size_t name_end = stat.rfind(')');
    if (name_end != std::string::npos && stat.substr(name_end).starts_with(") R")) return true;
  }
  return false;
}

Result<ProcessIdentity> ProcessIdentity::from_json(const json::value& value) {
  const auto* object = value.if_object();
  const auto* pid = object ? object->if_contains("pid") : nullptr;
  const auto* start_time = object ? object->if_contains("start_time") : nullptr;
  const auto* boot_id = object ? object->if_contains("boot_id") : nullptr;
  if (!pid || !pid->is_int64() || pid->get_int64() < 2 || pid->get_int64() > (1 << 22) ||
      !start_time || !start_time->is_int64() || !boot_id || !boot_id->is_string()) {
    return fail(ErrorCode::bad_data,
                "process: expected an object with pid, start_time (numbers) and boot_id (text)");
  }
  return ProcessIdentity{static_cast<pid_t>(pid->get_int64()),
                         static_cast<std::uint64_t>(start_time->get_int64()),
                         std::string(boot_id->get_string())};
}

json::value ProcessIdentity::to_json() const {
  json::object object;
  object["pid"] = pid;
  object["start_time"] = static_cast<std::int64_t>(start_time);
  object["boot_id"] = boot_id;
  return object;
}

/// Shared by a Process and the coroutine that waits for the pidfd.
struct Process::Watch : std::enable_shared_from_this<Watch> {
  Watch(const asio::any_io_executor& executor, ProcessIdentity who, int fd)
      : identity(std::move(who)), descriptor(executor, fd) {}

  ProcessIdentity identity;
  asio::posix::stream_descriptor descriptor;
  Condition changed;
  bool alive = true;
  std::string ending;

  bool has_ended() {
    pollfd look{descriptor.native_handle(), POLLIN, 0};
    return ::poll(&look, 1, 0) == 1;
  }

  Task<void> watch() {
    const auto self = shared_from_this();
    // Asio may wake us for an event of the descriptor that had this number before, so look again.
    while (!has_ended()) {
      const auto [error] =
          co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_read, kNoThrow);
      if (error || !descriptor.is_open()) co_return;  // Let go of: the process goes on without us.
    }
    siginfo_t info{};
    ending = "gone";
    if (::waitid(P_PIDFD, static_cast<id_t>(descriptor.native_handle()), &info,
                 WEXITED | WNOHANG) == 0 &&
        info.si_pid != 0) {
      ending =
          info.si_code == CLD_EXITED
              ? fmt::format("exit status {}", info.si_status)
              : fmt::format("killed by signal {} ({})", info.si_status,
                            ::sigdescr_np(info.si_status) ? ::sigdescr_np(info.si_status) : "?");
    }
    alive = false;
    changed.notify_all();
  }
};

Process::Process(std::shared_ptr<Watch> watch) : watch_(std::move(watch)) {
  asio::co_spawn(
      watch_->descriptor.get_executor(), [watch = watch_] { return watch->watch(); },
      asio::detached);
}

Process::~Process() {
  let_go();
}

void Process::let_go() {
  boost::system::error_code ignored;
  watch_->descriptor.close(ignored);
  watch_->changed.notify_all();
}

Result<std::unique_ptr<Process>> Process::start(const asio::any_io_executor& executor,
                                                const Command& command) {
  BOOST_OUTCOME_TRY(const pid_t pid, spawn(command));
  // Our own child keeps its id until we reap it, so there is no race here.
  const int fd = ::pidfd_open(pid, 0);
  if (fd < 0) {
    const int error = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return system_error(error, "pidfd_open");
  }
  UniqueFd pidfd(fd);
  // A child that has ended already still has an identity, though `of` calls it gone.
  auto identity = ProcessIdentity::of(pid);
  ProcessIdentity who =
      identity ? std::move(identity.value()) : ProcessIdentity{pid, 0, this_boot()};
  return std::unique_ptr<Process>(
      new Process(std::make_shared<Watch>(executor, std::move(who), pidfd.release())));
}

Result<std::unique_ptr<Process>> Process::adopt(const asio::any_io_executor& executor,
                                                const ProcessIdentity& identity) {
  const auto gone = [&] {
    return fail(ErrorCode::no_such, "process {} has ended since its state was written",
                identity.pid);
  };
  if (identity.boot_id != this_boot()) return gone();
  UniqueFd pidfd(::pidfd_open(identity.pid, 0));
  if (!pidfd.valid()) return gone();
  // Compared after the pidfd was opened: if they are equal now, the pidfd is this very process.
  const auto now = ProcessIdentity::of(identity.pid);
  if (!now || !(now.value() == identity)) return gone();
  return std::unique_ptr<Process>(
      new Process(std::make_shared<Watch>(executor, identity, pidfd.release())));
}

const ProcessIdentity& Process::identity() const {
  return watch_->identity;
}
int Process::pidfd() const {
  return watch_->descriptor.native_handle();
}
bool Process::alive() const {
  return watch_->alive;
}
std::string Process::ending() const {
  return watch_->ending;
}

void Process::kill() {
  if (watch_->alive && watch_->descriptor.is_open()) {
    ::pidfd_send_signal(pidfd(), SIGKILL, nullptr, 0);
  }
}

Task<bool> Process::wait(std::chrono::milliseconds timeout_ms) {
  const auto watch = watch_;
  const auto ended = [&watch] { return !watch->alive || !watch->descriptor.is_open(); };
  co_await watch->changed.wait_until(ended, Condition::Clock::now() + timeout_ms);
  co_return !watch->alive;
}

Task<void> Process::wait() {
  const auto watch = watch_;
  const auto ended = [&watch] { return !watch->alive || !watch->descriptor.is_open(); };
  co_await watch->changed.wait_until(ended, Condition::Clock::time_point::max());
}

Task<Result<std::string>> run_to_end(asio::any_io_executor executor, Command command,
                                     std::chrono::milliseconds timeout_ms) {
  constexpr std::size_t kOutputBytesMax = std::size_t{64} << 10;
  // Its output goes to a file without a name, reached through the descriptor.
  UniqueFd output(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!output.valid()) co_return system_error(errno, "a temporary file in /tmp");
  command.output = fmt::format("/proc/self/fd/{}", output.get());
  BOOST_OUTCOME_CO_TRY(auto process, Process::start(executor, command));
  const std::string program = command.arguments[0];
  const bool ended = co_await process->wait(timeout_ms);
  if (!ended) {
    process->kill();
    co_await process->wait(std::chrono::seconds(5));
    co_return fail(ErrorCode::timed_out, "{} did not end within {} ms", program,
                   timeout_ms.count());
  }
  std::string text(kOutputBytesMax, '\0');
  const ssize_t count = ::pread(output.get(), text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (process->ending() != "exit status 0") {
    co_return fail(ErrorCode::failed, "{}: {}: {}", program, process->ending(), text);
  }
  co_return text;
}

std::string tail_of(const std::filesystem::path& file, std::size_t bytes_max) {
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  if (!stream) return {};
  const auto size = static_cast<std::size_t>(std::max<std::streamoff>(0, stream.tellg()));
  stream.seekg(static_cast<std::streamoff>(size - std::min(size, bytes_max)));
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

}  // namespace understudy
