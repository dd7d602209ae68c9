// Coroutines that wait until somebody tells them to look again, in the order in which they came.
//
// It promises little, so that it is easy to be right: a wait ends when it was notified, when its
// deadline has passed, or when it was cancelled. The waiter then looks at the condition itself. All
// on one executor; nothing happens between looking and waiting.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <list>

#include "base/task.h"

namespace understudy::transport {

/// A row of waiting coroutines.
class Waiters {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit Waiters(boost::asio::any_io_executor executor) : executor_(std::move(executor)) {}
  Waiters(const Waiters&) = delete;
  Waiters& operator=(const Waiters&) = delete;
  ~Waiters() = default;

  /// Waits at the end of the row, at most until `deadline`. The row must outlive the wait.
  Task<void> wait(Time deadline = Time::max()) {
    Place place(*this, deadline);
    co_await place.timer().async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
  }
  /// Wakes the first.
  void notify_first() {
    if (!row_.empty()) row_.front().cancel();
  }
  /// Wakes all.
  void notify_all() {
    for (auto& timer : row_) timer.cancel();
  }
  /// True when nobody waits.
  [[nodiscard]] bool empty() const { return row_.empty(); }

 private:
  // A place in the row, left at the end of the wait however it ends.
  class Place {
   public:
    Place(Waiters& waiters, Time deadline) : waiters_(waiters) {
      waiters_.row_.emplace_back(waiters_.executor_, deadline);
      position_ = std::prev(waiters_.row_.end());
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() { waiters_.row_.erase(position_); }
    [[nodiscard]] boost::asio::steady_timer& timer() { return *position_; }

   private:
    Waiters& waiters_;
    std::list<boost::asio::steady_timer>::iterator position_;
  };

  boost::asio::any_io_executor executor_;
  std::list<boost::asio::steady_timer> row_;
};

}  // namespace understudy::transport
