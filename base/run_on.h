// Work that would keep a coroutine's thread for too long, done by another executor.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/task.h"

namespace understudy {

/// Runs `work` on `executor` and comes back to the caller's with its result, which is not void.
/// `work` must be a named function of the caller: GCC 12 destroys a temporary of a co_await
/// expression twice.
template <typename Work>
Task<std::invoke_result_t<Work&>> run_on(boost::asio::any_io_executor executor, Work& work) {
  std::optional<std::invoke_result_t<Work&>> result;
  const auto body = [&work, &result]() -> Task<void> {
    result.emplace(work());
    co_return;
  };
  co_await boost::asio::co_spawn(std::move(executor), body, boost::asio::use_awaitable);
  co_return std::move(*result);
}

}  // namespace understudy
