#include "cli/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>

#include "base/result.h"

namespace understudy::cli {
namespace {

// What a signal handler can reach is global by nature; it is set for the lifetime of the one
// Interrupt.
std::atomic<int> signal_pipe = -1;

extern "C" void on_signal(int /*number*/) {
  const int saved = errno;
  const char byte = 1;
  // A full pipe has been readable for long: nothing is lost.
  [[maybe_unused]] const ssize_t written = ::write(signal_pipe.load(), &byte, 1);
  errno = saved;
}

void set_handler(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  ::sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read from the terminal has to come back.
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt() {
  int ends[2] = {-1, -1};
  UNDERSTUDY_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "no pipe for signals");
  read_end_ = UniqueFd(ends[0]);
  write_end_ = UniqueFd(ends[1]);
  int expected = -1;
  UNDERSTUDY_CHECK(signal_pipe.compare_exchange_strong(expected, ends[1]),
                   "two Interrupts at once");
  set_handler(on_signal);
}

Interrupt::~Interrupt() {
  set_handler(SIG_DFL);
  signal_pipe.store(-1);
}

bool Interrupt::raised() const {
  return wait_for(std::chrono::milliseconds(0));
}

bool Interrupt::wait_for(std::chrono::milliseconds time) const {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + time;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    pollfd waiting{read_end_.get(), POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(std::max<long>(left.count(), 0)));
    if (ready > 0) {
      return true;
    }
    if (ready == 0) {
      return false;
    }
  }
}

}  // namespace understudy::cli
