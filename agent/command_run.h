// Commands of the operator's (hooks, probes) run to their end, with a limit on time and output.
//
// Intuition: a command that hangs, forks or floods is somebody's mistake at the worst moment, when
// a failover is under way. So it runs in a session of its own, which is killed as a whole when its
// time is over; what it writes goes through a pipe that is always emptied, and only the beginning
// is kept; and nobody but the coroutine that asked waits for it.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// What to run, and its limits.
struct CommandLine {
  std::vector<std::string> words;  ///< The first is the program, looked up in PATH. No shell.
  std::vector<std::pair<std::string, std::string>> environment;  ///< Set on top of our own.
  std::chrono::milliseconds time_max{30'000};
  std::size_t output_bytes_max = 4096;  ///< Of stdout and stderr together; the rest is thrown away.
};

/// How it ended.
struct CommandEnd {
  bool succeeded = false;  ///< It ended by itself, with status 0.
  bool timed_out = false;  ///< It was killed because its time was over.
  std::string ending;  ///< "exit status 1", "killed by signal 9 (Killed)", "still ran after 2 s"
  std::string output;  ///< Printable, and cut at the limit.
  std::chrono::milliseconds took{0};
};

/// Runs `command` and waits for its end. Errors: no_such if there is no such program, no_resources.
/// A command that fails is no error here: see CommandEnd.
Task<Result<CommandEnd>> run_command_line(boost::asio::any_io_executor executor,
                                          CommandLine command);

/// `text` on one line: control characters become blanks, so that what a command writes cannot
/// forge lines of a log.
std::string on_one_line(std::string_view text);

}  // namespace understudy
