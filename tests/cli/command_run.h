// One run of the command inside the test, its streams in memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "cli/run.h"

namespace understudy::cli {

struct Outcome {
  int status = -1;
  std::string out;
  std::string talk;
};

inline std::string contents(int descriptor) {
  std::string text;
  text.resize(static_cast<std::size_t>(::lseek(descriptor, 0, SEEK_END)));
  const ssize_t count = ::pread(descriptor, text.data(), text.size(), 0);
  text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  return text;
}

/// Streams in memory that claim to be whatever `nature` says.
class MemoryTerminal {
 public:
  explicit MemoryTerminal(const std::string& input = "", Terminal::Nature nature = {})
      : in_(::memfd_create("in", MFD_CLOEXEC)),
        out_(::memfd_create("out", MFD_CLOEXEC)),
        talk_(::memfd_create("talk", MFD_CLOEXEC)),
        terminal_({in_.get(), out_.get(), talk_.get()}, nature) {
    [[maybe_unused]] const ssize_t written = ::pwrite(in_.get(), input.data(), input.size(), 0);
  }

  Terminal& terminal() { return terminal_; }
  [[nodiscard]] std::string out() const { return contents(out_.get()); }
  [[nodiscard]] std::string talk() const { return contents(talk_.get()); }

 private:
  UniqueFd in_;
  UniqueFd out_;
  UniqueFd talk_;
  Terminal terminal_;
};

inline Outcome run(const std::vector<std::string>& words,
                   const std::string& socket = "/nowhere/agent.sock", const std::string& input = "",
                   Terminal::Nature nature = {}) {
  MemoryTerminal memory(input, nature);
  Outcome outcome;
  outcome.status = run_understudy(words, memory.terminal(), socket);
  outcome.out = memory.out();
  outcome.talk = memory.talk();
  return outcome;
}

}  // namespace understudy::cli
