// Child processes of the scene: agents, command-line calls, real clients.
//
// Every process belongs to one Process object that kills and reaps it, so that a failing test
// leaves nothing behind. Children live in sessions of their own: a Ctrl-C on the terminal reaches
// only us, and we take the scene down in order.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy::scene {

/// Where and how a child runs.
struct SpawnOptions {
  std::string network_namespace;  ///< Name of `ip netns`; empty: ours.
  std::filesystem::path log;      ///< stdout and stderr are appended here; empty: thrown away.
  std::filesystem::path cgroup;   ///< A cgroup v2 folder to be born in; empty: ours.
};

/// One child. Move-only. Killed (SIGKILL) and reaped at destruction unless released.
class Process {
 public:
  Process() = default;
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  /// Starts `command` (looked up in PATH).
  static Result<Process> spawn(const std::vector<std::string>& command,
                               const SpawnOptions& options = {});

  [[nodiscard]] bool valid() const { return pid_ > 0; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// True until it has ended; reaps it then.
  bool running();
  /// Waits for the end: the exit status, or 128 + signal; timed_out if it goes on.
  Result<int> wait(std::chrono::milliseconds limit);
  /// Sends `signal_number` if it still runs.
  void signal(int signal_number);
  /// Lets it live on after us (`--keep`).
  void release() { pid_ = -1; }

 private:
  friend Result<Process> spawn_with_outputs(const std::vector<std::string>&, const SpawnOptions&,
                                            int, int);
  void end();

  pid_t pid_ = -1;
  UniqueFd handle_;  ///< A pidfd: waiting with a limit, and no mix-up with a reused number.
  std::optional<int> status_;
};

/// What a command that ended has left.
struct CommandOutput {
  int status = 0;  ///< Exit status, or 128 + signal.
  std::string out;
  std::string err;
};

/// Runs `command` to its end and returns its outputs, whatever its status. Errors: it could not be
/// started, or did not end in time (then it is killed).
Result<CommandOutput> run_command(const std::vector<std::string>& command,
                                  std::chrono::milliseconds limit,
                                  const std::string& network_namespace = {});

/// The same where only status 0 will do: its stdout, or an error that quotes its stderr.
Result<std::string> run_checked(const std::vector<std::string>& command,
                                std::chrono::milliseconds limit = std::chrono::seconds(10),
                                const std::string& network_namespace = {});

}  // namespace understudy::scene
