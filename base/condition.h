// Waiting, under Asio, for something to become true.
//
// Intuition: the condition variable of a single-threaded world. Whoever changes the state calls
// notify_all(); whoever waits looks again. No lock, no missed wake-up, because nothing runs between
// looking and waiting.
//
// Awkward case: the object that owns the state may go while somebody waits. The waiter holds the
// list of waiters alive; its predicate must hold the rest.
#pragma once

#include <algorithm>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "base/task.h"

namespace understudy {

/// Wakes coroutines of one thread when state that they watch has changed.
class Condition {
 public:
  using Clock = std::chrono::steady_clock;

  /// Lets every waiter look at its predicate again.
  void notify_all() {
    for (boost::asio::steady_timer* waiter : *waiters_) waiter->cancel();
  }

  /// Waits until `predicate()` holds or `deadline` has passed; returns whether it holds. Looks at
  /// once, then after each notify_all(). Clock::time_point::max() means 'for ever'. The predicate
  /// should be a named lambda that captures references only: GCC 12 destroys the captures of a
  /// lambda written into a co_await expression twice. (Nor may its result be taken in the condition
  /// of an `if` or `while`: GCC 12 then frees the awaited coroutine twice. Name it first.)
  template <typename Predicate>
  Task<bool> wait_until(Predicate predicate, Clock::time_point deadline) {
    if (predicate()) co_return true;
    // Held here, because `this` may be gone when the wait ends.
    const std::shared_ptr<std::vector<boost::asio::steady_timer*>> waiters = waiters_;
    boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
    do {
      timer.expires_at(deadline);
      const Enlisted enlisted(*waiters, &timer);
      co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      if (predicate()) co_return true;
    } while (Clock::now() < deadline);
    co_return false;
  }

 private:
  using Waiters = std::vector<boost::asio::steady_timer*>;

  /// A timer on the list for as long as this lives, also when the coroutine is torn down.
  class Enlisted {
   public:
    Enlisted(Waiters& waiters, boost::asio::steady_timer* timer)
        : waiters_(waiters), timer_(timer) {
      waiters_.push_back(timer_);
    }
    ~Enlisted() { std::erase(waiters_, timer_); }
    Enlisted(const Enlisted&) = delete;
    Enlisted& operator=(const Enlisted&) = delete;

   private:
    Waiters& waiters_;
    boost::asio::steady_timer* timer_;
  };

  std::shared_ptr<Waiters> waiters_ = std::make_shared<Waiters>();
};

}  // namespace understudy
