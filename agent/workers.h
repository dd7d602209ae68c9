// Work that would keep the deciding thread for too long, done on the pool of workers.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <functional>

#include "base/task.h"

namespace understudy {

/// Runs `work` on `workers` and comes back to the caller's executor. `work` stays the caller's: GCC
/// 12 destroys a temporary of a co_await twice, so nothing that owns anything may be one.
inline Task<void> run_on(boost::asio::any_io_executor workers, const std::function<void()>& work) {
  const auto body = [&work]() -> Task<void> {
    work();
    co_return;
  };
  co_await boost::asio::co_spawn(workers, body, boost::asio::use_awaitable);
}

}  // namespace understudy
