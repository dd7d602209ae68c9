// Ctrl-C, made into something that can be waited for.
//
// A client that watches long work must not be killed in the middle of a line: it has to say that
// the work goes on and how to watch it. While an Interrupt lives, SIGINT and SIGTERM write into a
// pipe; whoever waits (for a second to pass, for an answer of the agent) waits for that pipe too.
// The alternative, signalfd with a blocked mask, would be inherited by threads and children of
// tests.
#pragma once

#include <chrono>

#include "base/unique_fd.h"

namespace understudy::cli {

/// Catches SIGINT and SIGTERM for its lifetime. At most one may live at a time; not for use with
/// threads that build their own.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  /// True from the first signal on.
  [[nodiscard]] bool raised() const;

  /// Readable from the first signal on. Never read from it.
  [[nodiscard]] int descriptor() const { return read_end_.get(); }

  /// Waits for `time` or the signal; true if the signal came.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds time) const;

 private:
  UniqueFd read_end_;
  UniqueFd write_end_;
};

/// The exit status of a command that was ended by Ctrl-C, as a shell reports it.
inline constexpr int interrupted_status = 130;

}  // namespace understudy::cli
