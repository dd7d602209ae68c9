// Results: how every room says that something went wrong.
//
// A function that can fail for a reason that a peer, a guest, a disk or a user may cause returns
// Result<T>; the error names what failed, where, and what was expected. A broken promise of our own
// is an assertion (UNDERSTUDY_CHECK), kept on in release builds. Exceptions of libraries are turned
// into errors where the library is called, and do not cross a room's border.
#pragma once

#include <fmt/format.h>

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/coroutine_support.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <boost/outcome/try.hpp>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

namespace understudy {

/// What can be done about an error, seen from a script: each code is one remedy, and one exit
/// status of the command line (after sysexits and Pacemaker). The list is closed; the text carries
/// the details.
enum class ErrorCode : int {
  failed = 1,            ///< It did not work; the message says why.
  usage = 64,            ///< The request itself is malformed.
  bad_data = 65,         ///< Bytes from a peer, a file or a guest violate their format.
  unavailable = 69,      ///< A peer, a daemon or a device cannot be reached now.
  internal = 70,         ///< Our own mistake: report it.
  no_resources = 71,     ///< Memory, disk or kernel objects are exhausted.
  io = 74,               ///< The operating system refused to read or write.
  try_again = 75,        ///< Busy with something that will end.
  protocol = 76,         ///< The peer speaks another version, or breaks the protocol.
  permission = 77,       ///< Not allowed: not paired, not root, not in the group.
  config = 78,           ///< A configuration value is wrong.
  no_such = 105,         ///< No domain, peer or object of that name.
  not_authorized = 106,  ///< The right to act (arbiter, fence, operator's word) is missing.
  needs_force = 107,     ///< Refused because it is dangerous; can be forced.
  exists = 108,          ///< It is there already.
  timed_out = 124,       ///< No answer in time; the outcome is unknown.
};

/// The stable lower-case name of `code`, as used in JSON ("no_such").
std::string_view to_string(ErrorCode code);

/// One failure with its context. Immutable apart from `in`, which adds where it was met.
class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] ErrorCode code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }

  /// The same error, its message preceded by "`where`: ".
  [[nodiscard]] Error in(std::string_view where) const {
    return {code_, std::string(where) + ": " + message_};
  }

 private:
  ErrorCode code_;
  std::string message_;
};

/// A value or an Error. `if (!result) return result.error();` or BOOST_OUTCOME_TRY /
/// BOOST_OUTCOME_CO_TRY. Taking the value of an error is a bug of ours and ends the process.
template <typename T>
using Result = boost::outcome_v2::basic_result<T, Error, boost::outcome_v2::policy::terminate>;

/// Success without a value: `return ok();`
inline boost::outcome_v2::success_type<void> ok() {
  return boost::outcome_v2::success();
}

/// An Error from a format string: `return fail(ErrorCode::no_such, "no domain '{}'", name);`
template <typename... Args>
Error fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return {code, fmt::format(format, std::forward<Args>(args)...)};
}

/// An Error from an errno value (`error_number`), e.g. "open /dev/net/tun: Permission denied".
/// ENOMEM and ENOSPC become no_resources, EACCES and EPERM permission, ENOENT and ESRCH no_such,
/// all others io.
Error system_error(int error_number, std::string_view what);

/// Ends the process with `message` on stderr: used where going on would break a promise (the gate
/// stays closed, because closed is its state without us).
[[noreturn]] void fail_stop(const char* file, int line, std::string_view message);

}  // namespace understudy

/// An assertion that stays on in release builds. Never used on outside input.
#define UNDERSTUDY_CHECK(condition, message)                \
  do {                                                      \
    if (!(condition)) {                                     \
      ::understudy::fail_stop(__FILE__, __LINE__, message); \
    }                                                       \
  } while (false)
