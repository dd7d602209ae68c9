// What QEMU says on its monitor (QMP, docs/interop/qmp-spec of QEMU): bytes in, messages out.
//
// Intuition: one JSON object a line. Two pure steps, so that a test or a fuzzer can feed them
// without a socket: cut bytes into lines of bounded length, then read a line into one of four kinds
// of message. Nothing that QEMU may send makes either of them throw or grow without limit.
//
// Awkward case: QEMU is trusted with the guest, but a guest may have taken QEMU over. Nonsense on
// the monitor is therefore an ordinary error.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"

namespace understudy {

/// The first line of every connection.
struct QmpGreeting {
  std::string version;  ///< "7.2.22", for logs.
};

/// The answer to the command that was sent with `id`.
struct QmpReply {
  std::uint64_t id = 0;
  boost::json::value value;          ///< What it returned, if it did.
  std::optional<std::string> error;  ///< QEMU's own words, if it refused.
};

/// Something that happened in QEMU.
struct QmpEvent {
  std::string name;          ///< "STOP", "MIGRATION" …
  boost::json::object data;  ///< May be empty.
};

using QmpMessage = std::variant<QmpGreeting, QmpReply, QmpEvent>;

/// Reads one line, without its end. Errors: bad_data, with an excerpt of the line.
Result<QmpMessage> parse_qmp_line(std::string_view line);

/// Cuts a stream of bytes into lines.
class QmpLineReader {
 public:
  /// `line_bytes_max` bounds both a line and what is kept between two calls.
  explicit QmpLineReader(std::size_t line_bytes_max) : line_bytes_max_(line_bytes_max) {}

  /// Adds bytes as they came. Errors: bad_data once a line is too long; the reader is spent then.
  Result<void> feed(std::string_view bytes);
  /// The next whole line, without its line end, or nothing. Valid until the next call of any kind.
  std::optional<std::string_view> next();

 private:
  std::size_t line_bytes_max_;
  std::string buffer_;
  std::size_t start_ = 0;  ///< Where the first line not yet handed out begins.
};

}  // namespace understudy
