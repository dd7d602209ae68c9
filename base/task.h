// Coroutines: how the rooms that do things wait.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/result.h"

namespace understudy {

/// A coroutine under Asio that ends with a T. It runs on the executor that it was spawned on.
template <typename T>
using Task = boost::asio::awaitable<T>;

}  // namespace understudy
