#include "tests/scene/process.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

namespace understudy::scene {
namespace {

std::string read_whole(int descriptor) {
  std::string text;
  std::array<char, 65536> block;
  lseek(descriptor, 0, SEEK_SET);
  ssize_t size = 0;
  while ((size = read(descriptor, block.data(), block.size())) > 0) {
    text.append(block.data(), static_cast<std::size_t>(size));
  }
  return text;
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

}  // namespace

/// Starts `command` with the given descriptors as stdout and stderr. Both wrappers (`ip netns
/// exec`, and the shell that enters the cgroup) replace themselves by the command: the pid is its
/// own.
Result<Process> spawn_with_outputs(const std::vector<std::string>& command,
                                   const SpawnOptions& options, int out, int err) {
  std::vector<std::string> words;
  if (!options.cgroup.empty()) {
    words = {"sh", "-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"", options.cgroup.string()};
  }
  if (!options.network_namespace.empty()) {
    words.insert(words.end(), {"ip", "netns", "exec", options.network_namespace});
  }
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, err, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A parent that blocks or ignores signals must not hand that on: curl is to die of SIGPIPE.
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(
      &attributes,
      static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
  Process process;
  const int error =
      posix_spawnp(&process.pid_, arguments[0], &files, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    process.pid_ = -1;
    return system_error(error, fmt::format("start {}", fmt::join(words, " ")));
  }
  process.handle_.reset(static_cast<int>(syscall(SYS_pidfd_open, process.pid_, 0)));
  return process;
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      handle_(std::move(other.handle_)),
      status_(other.status_) {}

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
    handle_ = std::move(other.handle_);
    status_ = other.status_;
  }
  return *this;
}

Process::~Process() {
  end();
}

void Process::end() {
  if (running()) {
    signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_ = -1;
}

Result<Process> Process::spawn(const std::vector<std::string>& command,
                               const SpawnOptions& options) {
  const std::string log = options.log.empty() ? "/dev/null" : options.log.string();
  const UniqueFd file(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!file.valid()) {
    return system_error(errno, log);
  }
  return spawn_with_outputs(command, options, file.get(), file.get());
}

bool Process::running() {
  if (pid_ <= 0 || status_) {
    return false;
  }
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) {
    return true;
  }
  status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return false;
}

Result<int> Process::wait(std::chrono::milliseconds limit) {
  if (running()) {
    pollfd event = {handle_.get(), POLLIN, 0};
    const auto end = std::chrono::steady_clock::now() + limit;
    while (running() && std::chrono::steady_clock::now() < end) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - std::chrono::steady_clock::now());
      poll(&event, 1, static_cast<int>(std::clamp<long>(left.count() + 1, 1, 1000)));
    }
  }
  if (!status_) {
    return fail(ErrorCode::timed_out, "process {} has not ended within {} ms", pid_, limit.count());
  }
  return *status_;
}

void Process::signal(int signal_number) {
  if (running()) {
    kill(pid_, signal_number);
  }
}

Result<CommandOutput> run_command(const std::vector<std::string>& command,
                                  std::chrono::milliseconds limit,
                                  const std::string& network_namespace) {
  // Files in memory instead of pipes: nothing can block, and there is no reader to write.
  const UniqueFd out(memfd_create("stdout", MFD_CLOEXEC));
  const UniqueFd err(memfd_create("stderr", MFD_CLOEXEC));
  if (!out.valid() || !err.valid()) {
    return system_error(errno, "memfd_create");
  }
  BOOST_OUTCOME_TRY(
      auto process,
      spawn_with_outputs(command, {.network_namespace = network_namespace}, out.get(), err.get()));
  auto status = process.wait(limit);
  if (!status) {
    return fail(ErrorCode::timed_out, "'{}' has not ended within {} ms; so far it said: {}{}",
                fmt::join(command, " "), limit.count(), read_whole(out.get()),
                read_whole(err.get()));
  }
  return CommandOutput{status.value(), read_whole(out.get()), read_whole(err.get())};
}

Result<std::string> run_checked(const std::vector<std::string>& command,
                                std::chrono::milliseconds limit,
                                const std::string& network_namespace) {
  BOOST_OUTCOME_TRY(auto output, run_command(command, limit, network_namespace));
  if (output.status != 0) {
    return fail(ErrorCode::failed, "'{}' ended with status {}: {}", fmt::join(command, " "),
                output.status, trimmed(output.err.empty() ? output.out : output.err));
  }
  return std::move(output.out);
}

}  // namespace understudy::scene
