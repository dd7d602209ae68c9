#include "tests/scene/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/unique_fd.h"
#include "tests/scene/process.h"

namespace understudy::scene {
namespace {

std::string path_of(const std::string& name) {
  return "/run/netns/" + name;
}

std::vector<std::string> words_of(std::string_view text) {
  std::istringstream stream{std::string(text)};
  return {std::istream_iterator<std::string>(stream), {}};
}

/// A zombie keeps its namespace link unreadable, so it never counts as living.
bool lives_in(pid_t pid, const struct stat& where) {
  struct stat own = {};
  return stat(fmt::format("/proc/{}/ns/net", pid).c_str(), &own) == 0 &&
         own.st_ino == where.st_ino && own.st_dev == where.st_dev;
}

}  // namespace

NetworkNamespace& NetworkNamespace::operator=(NetworkNamespace&& other) noexcept {
  std::swap(name_, other.name_);
  return *this;
}

NetworkNamespace::~NetworkNamespace() {
  if (!name_.empty()) {
    (void)delete_network_namespace(name_);
  }
}

Result<NetworkNamespace> NetworkNamespace::create(const std::string& name) {
  if (std::filesystem::exists(path_of(name))) {
    return fail(ErrorCode::exists, "network namespace {}: it is there already", name);
  }
  BOOST_OUTCOME_TRY(run_checked({"ip", "netns", "add", name}));
  NetworkNamespace made;
  made.name_ = name;
  BOOST_OUTCOME_TRY(made.ip("link set lo up"));
  return made;
}

Result<void> NetworkNamespace::ip(std::string_view arguments) const {
  std::vector<std::string> command = {"ip", "-n", name_};
  for (std::string& word : words_of(arguments)) {
    command.push_back(std::move(word));
  }
  BOOST_OUTCOME_TRY(run_checked(command));
  return ok();
}

Result<void> enter_network_namespace(const std::string& name) {
  const UniqueFd handle(open(path_of(name).c_str(), O_RDONLY | O_CLOEXEC));
  if (!handle.valid() || setns(handle.get(), CLONE_NEWNET) != 0) {
    return system_error(errno, fmt::format("enter network namespace {}", name));
  }
  return ok();
}

std::vector<pid_t> processes_in(const std::string& name) {
  std::vector<pid_t> found;
  struct stat where = {};
  if (stat(path_of(name).c_str(), &where) != 0) {
    return found;
  }
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string text = entry.path().filename();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
    if (error == std::errc() && end == text.data() + text.size() && pid != getpid() &&
        lives_in(pid, where)) {
      found.push_back(pid);
    }
  }
  return found;
}

Result<void> signal_all_in(const std::string& name, int signal_number) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  std::vector<pid_t> before;
  while (true) {
    const std::vector<pid_t> pids = processes_in(name);
    for (const pid_t pid : pids) {
      kill(pid, signal_number);
    }
    // A process may have been born while the others got their signal: look again until there is no
    // newcomer (or, when killing, nobody at all).
    if (pids.empty() || (signal_number != SIGKILL && pids == before)) {
      return ok();
    }
    if (std::chrono::steady_clock::now() > limit) {
      return fail(ErrorCode::timed_out,
                  "namespace {}: process {} does not die, or ever new ones come", name,
                  pids.front());
    }
    before = pids;
    if (signal_number == SIGKILL) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

Result<void> delete_network_namespace(const std::string& name) {
  if (!std::filesystem::exists(path_of(name))) {
    return ok();
  }
  BOOST_OUTCOME_TRY(signal_all_in(name, SIGKILL));
  BOOST_OUTCOME_TRY(run_checked({"ip", "netns", "del", name}));
  return ok();
}

}  // namespace understudy::scene
