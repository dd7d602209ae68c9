// How the agent starts a task that nobody waits for.
#pragma once

#include <exception>

namespace understudy {

/// For boost::asio::co_spawn: what such a task throws is a fault of the program's, and leaves the
/// event loop.
inline void rethrow(const std::exception_ptr& failure) {
  if (failure) std::rethrow_exception(failure);
}

}  // namespace understudy
