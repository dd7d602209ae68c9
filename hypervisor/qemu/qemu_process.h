// A process that outlives us: started in a session of its own, recognised again later, watched
// whether or not it is our child.
//
// Intuition: a process id alone names nobody, because ids are used again. Together with the time at
// which the process started, and the boot in which it did, it names one process for ever. All that
// is done to it afterwards goes through a pidfd, which cannot come to mean another process.
//
// The alternative not taken: PR_SET_PDEATHSIG, which would kill every domain when the agent is
// updated.
#pragma once

#include <sys/types.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/fwd.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/unique_fd.h"

namespace understudy {

/// Names one process among all that ever ran on this host.
struct ProcessIdentity {
  pid_t pid = 0;
  std::uint64_t start_time = 0;  ///< Field 22 of /proc/PID/stat: clock ticks since boot.
  std::string boot_id;           ///< /proc/sys/kernel/random/boot_id.
  bool operator==(const ProcessIdentity&) const = default;

  /// Of the process that has `pid` now. Errors: no_such.
  static Result<ProcessIdentity> of(pid_t pid);
  static Result<ProcessIdentity> from_json(const boost::json::value& json);
  [[nodiscard]] boost::json::value to_json() const;
};

/// Whether any thread of the process runs, or would if a processor were free. False if there is no
/// such process.
bool has_work(pid_t pid);

/// What to start.
struct Command {
  std::vector<std::string> arguments;  ///< The first is the program, looked up in PATH.
  std::vector<std::pair<std::string, std::string>> environment;  ///< Set on top of our own.
  /// Descriptors that the process gets, first the number there (3 and up), then ours. No other is
  /// passed on.
  std::vector<std::pair<int, int>> descriptors;
  std::filesystem::path output;  ///< What it says on stdout and stderr; made anew.
};

/// A running process, by pidfd. Letting go of the object leaves the process alone.
class Process {
 public:
  /// Starts `command` in a session of its own, in "/", without our signal mask. Errors: no_such if
  /// there is no such program.
  static Result<std::unique_ptr<Process>> start(const boost::asio::any_io_executor& executor,
                                                const Command& command);
  /// Takes up a process started earlier, by us or by somebody else. Errors: no_such if it is gone.
  static Result<std::unique_ptr<Process>> adopt(const boost::asio::any_io_executor& executor,
                                                const ProcessIdentity& identity);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] const ProcessIdentity& identity() const;
  [[nodiscard]] int pidfd() const;
  /// False once it was seen to be gone.
  [[nodiscard]] bool alive() const;
  /// "exit status 1", "killed by signal 9 (Killed)", or "gone" for somebody else's child. Empty
  /// while it is alive.
  [[nodiscard]] std::string ending() const;

  /// Kills it at once. Does nothing if it is gone.
  void kill();
  /// Stops watching it: waiters return although it is alive.
  void let_go();
  /// Waits until it is gone (true) or `timeout_ms` has passed (false).
  Task<bool> wait(std::chrono::milliseconds timeout_ms);
  /// Waits until it is gone, however long.
  Task<void> wait();

 private:
  struct Watch;
  explicit Process(std::shared_ptr<Watch> watch);
  std::shared_ptr<Watch> watch_;
};

/// Runs a short command to its end and returns what it wrote (at most 64 KiB). Errors: no_such,
/// timed_out (it is killed), failed with its output if its exit status is not 0.
Task<Result<std::string>> run_to_end(boost::asio::any_io_executor executor, Command command,
                                     std::chrono::milliseconds timeout_ms);

/// The last `bytes_max` bytes of a text file, for error messages; empty if there is none.
std::string tail_of(const std::filesystem::path& file, std::size_t bytes_max);

}  // namespace understudy
