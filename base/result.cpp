#include "base/result.h"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace understudy {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::failed:
      return "failed";
    case ErrorCode::usage:
      return "usage";
    case ErrorCode::bad_data:
      return "bad_data";
    case ErrorCode::unavailable:
      return "unavailable";
    case ErrorCode::internal:
      return "internal";
    case ErrorCode::no_resources:
      return "no_resources";
    case ErrorCode::io:
      return "io";
    case ErrorCode::try_again:
      return "try_again";
    case ErrorCode::protocol:
      return "protocol";
    case ErrorCode::permission:
      return "permission";
    case ErrorCode::config:
      return "config";
    case ErrorCode::no_such:
      return "no_such";
    case ErrorCode::not_authorized:
      return "not_authorized";
    case ErrorCode::needs_force:
      return "needs_force";
    case ErrorCode::exists:
      return "exists";
    case ErrorCode::timed_out:
      return "timed_out";
  }
  return "failed";
}

Error system_error(int error_number, std::string_view what) {
  ErrorCode code = ErrorCode::io;
  switch (error_number) {
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      code = ErrorCode::no_resources;
      break;
    case EACCES:
    case EPERM:
      code = ErrorCode::permission;
      break;
    case ENOENT:
    case ESRCH:
      code = ErrorCode::no_such;
      break;
    case EEXIST:
      code = ErrorCode::exists;
      break;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
      code = ErrorCode::unavailable;
      break;
    case ETIMEDOUT:
      code = ErrorCode::timed_out;
      break;
    default:
      break;
  }
  return {code, fmt::format("{}: {}", what, std::generic_category().message(error_number))};
}

void fail_stop(const char* file, int line, std::string_view message) {
  std::fprintf(stderr, "understudy: fail-stop at %s:%d: %.*s\n", file, line,
               static_cast<int>(message.size()), message.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace understudy
