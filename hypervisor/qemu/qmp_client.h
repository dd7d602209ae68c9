// Talking to a running QEMU: commands with a deadline, events as they come.
//
// Intuition: one reader takes every line as it arrives and either settles the command that waits
// for it or hands the event on. Commands may be sent back to back in one write, with a file
// descriptor beside them. Whatever goes wrong (no answer in time, a closed connection, nonsense, an
// endless line) is one named error, met by the command in progress and by every later one.
//
// Awkward case: an answer that comes after its deadline. Its id is no longer waited for, so it is
// dropped, and does not settle the next command.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/task.h"
#include "hypervisor/qemu/qmp_message.h"

namespace understudy {

/// One QMP command.
struct QmpCommand {
  std::string_view name;
  boost::json::object arguments;
};

/// One connection to a QEMU monitor. Used from the thread of its executor. Closes when it goes;
/// coroutines that still wait then get an error.
class QmpClient {
 public:
  using EventHandler = std::function<void(const QmpEvent&)>;

  /// A line longer than this is nonsense. The longest that we ask for, query-machines, is some
  /// 30 KB.
  static constexpr std::size_t kLineBytesMax = std::size_t{4} << 20;

  /// Connects to the unix socket `path`, waits for the greeting and leaves negotiation mode.
  /// `on_event` is called for each event, before any waiter of wait_until looks; it must not block
  /// and must not close the client.
  static Task<Result<std::unique_ptr<QmpClient>>> connect(boost::asio::any_io_executor executor,
                                                          std::string path,
                                                          std::chrono::milliseconds timeout_ms,
                                                          EventHandler on_event);
  ~QmpClient();
  QmpClient(const QmpClient&) = delete;
  QmpClient& operator=(const QmpClient&) = delete;

  /// Sends one command and waits for what it returns. Errors: failed (QEMU refused; its words are
  /// in the message), timed_out (the outcome is unknown), unavailable (the connection is gone),
  /// bad_data (nonsense came).
  Task<Result<boost::json::value>> execute(std::string_view command, boost::json::object arguments,
                                           std::chrono::milliseconds timeout_ms);

  /// Sends all commands in one write, `fd` (if not -1) with the first, and waits until all are
  /// answered. The first error wins. `fd` is still the caller's afterwards.
  Task<Result<void>> execute_all(std::span<const QmpCommand> commands, int fd,
                                 std::chrono::milliseconds timeout_ms);

  /// Waits until `predicate` holds, looking again after each message. `what` completes the sentence
  /// "QEMU did not …" of a timed_out error. Errors as for execute.
  Task<Result<void>> wait_until(std::function<bool()> predicate,
                                std::chrono::milliseconds timeout_ms, std::string_view what);

  /// Why the connection is of no use any more; nothing while it is.
  [[nodiscard]] std::optional<Error> broken() const;
  /// "7.2.22".
  [[nodiscard]] const std::string& qemu_version() const;

 private:
  struct Connection;
  explicit QmpClient(std::shared_ptr<Connection> connection);
  std::shared_ptr<Connection> connection_;
};

}  // namespace understudy
