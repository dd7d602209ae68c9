// A wake-up call between coroutines of one thread.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <utility>

#include "base/task.h"

namespace understudy {

/// One coroutine waits, others notify. A notification with nobody waiting is kept (once), so that
/// none is lost between the check of a condition and the wait for it. All on one thread. Where
/// several wait, or for state that can be asked: base/condition.h.
class Signal {
 public:
  explicit Signal(const boost::asio::any_io_executor& executor) : timer_(executor) {}

  /// Ends the present wait, or the next one at once.
  void notify() {
    notified_ = true;
    timer_.cancel();
  }

  /// Forgets a kept notification: the caller is about to look at everything that could have caused
  /// it.
  void clear() { notified_ = false; }

  /// Waits until notified or until `deadline`; true if notified.
  Task<bool> wait_until(std::chrono::steady_clock::time_point deadline) {
    if (!std::exchange(notified_, false)) {
      timer_.expires_at(deadline);
      co_await timer_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      co_return std::exchange(notified_, false);
    }
    co_return true;
  }

 private:
  boost::asio::steady_timer timer_;
  bool notified_ = false;
};

/// Waits for `duration`.
inline Task<void> sleep_for(std::chrono::steady_clock::duration duration) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor, duration);
  co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
}

}  // namespace understudy
