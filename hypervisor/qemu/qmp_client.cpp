#include "hypervisor/qemu/qmp_client.h"

#include <sys/socket.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/condition.h"

namespace understudy {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {
constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
}  // namespace

/// What the client and its reader share. The reader keeps it alive until the socket is closed.
struct QmpClient::Connection : std::enable_shared_from_this<Connection> {
  Connection(const asio::any_io_executor& executor, EventHandler handler)
      : socket(executor), on_event(std::move(handler)), lines(kLineBytesMax) {}

  asio::local::stream_protocol::socket socket;
  EventHandler on_event;
  QmpLineReader lines;
  Condition changed;
  std::optional<Error> broken;
  bool greeted = false;
  std::string version;
  std::uint64_t last_id = 0;
  /// Commands that are waited for. The slot belongs to the coroutine that waits.
  std::unordered_map<std::uint64_t, std::optional<QmpReply>> awaited;

  void break_with(Error error) {
    if (broken) return;
    broken = std::move(error);
    boost::system::error_code ignored;
    socket.close(ignored);
    changed.notify_all();
  }

  void take(QmpMessage message) {
    if (auto* reply = std::get_if<QmpReply>(&message)) {
      const auto slot = awaited.find(reply->id);
      if (slot != awaited.end()) slot->second = std::move(*reply);
    } else if (auto* event = std::get_if<QmpEvent>(&message)) {
      if (on_event) on_event(*event);
    } else {
      greeted = true;
      version = std::move(std::get<QmpGreeting>(message).version);
    }
  }

  Result<void> take_bytes(std::string_view bytes) {
    BOOST_OUTCOME_TRY(lines.feed(bytes));
    while (const auto line = lines.next()) {
      if (line->empty()) continue;
      BOOST_OUTCOME_TRY(QmpMessage message, parse_qmp_line(*line));
      take(std::move(message));
    }
    return ok();
  }

  Task<void> read_all() {
    const auto self = shared_from_this();
    std::array<char, 16384> buffer;
    while (!broken) {
      const auto [error, count] = co_await socket.async_read_some(asio::buffer(buffer), kNoThrow);
      if (broken) co_return;
      if (error == asio::error::eof) {
        break_with(fail(ErrorCode::unavailable, "QEMU closed its monitor"));
        co_return;
      }
      if (error) {
        break_with(
            fail(ErrorCode::unavailable, "QEMU's monitor cannot be read: {}", error.message()));
        co_return;
      }
      if (auto taken = take_bytes({buffer.data(), count}); !taken) {
        break_with(taken.error());
        co_return;
      }
      changed.notify_all();
    }
  }

  /// Writes `text`, with `fd` beside its first byte.
  Task<Result<void>> write(std::string text, int fd) {
    std::string_view rest = text;
    while (!rest.empty()) {
      if (broken) co_return *broken;
      iovec part{const_cast<char*>(rest.data()), rest.size()};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
      if (fd >= 0) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
      }
      const ssize_t sent = ::sendmsg(socket.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        rest.remove_prefix(static_cast<std::size_t>(sent));
        fd = -1;
      } else if (errno == EAGAIN) {
        const auto [error] =
            co_await socket.async_wait(asio::local::stream_protocol::socket::wait_write, kNoThrow);
        if (error && !broken) {
          break_with(fail(ErrorCode::unavailable, "QEMU's monitor: {}", error.message()));
        }
      } else if (errno != EINTR) {
        break_with(fail(ErrorCode::unavailable, "QEMU's monitor cannot be written: {}",
                        std::strerror(errno)));
      }
    }
    co_return ok();
  }

  Task<Result<void>> wait_until(std::function<bool()> predicate,
                                std::chrono::milliseconds timeout_ms, std::string_view what) {
    const auto self = shared_from_this();
    const bool holds = co_await changed.wait_until(
        [&] { return predicate() || broken.has_value(); }, Condition::Clock::now() + timeout_ms);
    if (holds && predicate()) co_return ok();
    if (broken) co_return *broken;
    co_return fail(ErrorCode::timed_out, "QEMU did not {} within {} ms", what, timeout_ms.count());
  }
};

QmpClient::QmpClient(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

QmpClient::~QmpClient() {
  connection_->on_event = nullptr;
  connection_->break_with(fail(ErrorCode::unavailable, "the monitor connection was given up"));
}

Task<Result<std::unique_ptr<QmpClient>>> QmpClient::connect(asio::any_io_executor executor,
                                                            std::string path,
                                                            std::chrono::milliseconds timeout_ms,
                                                            EventHandler on_event) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    co_return fail(ErrorCode::config, "{}: too long for a unix socket (at most {} characters)",
                   path, sizeof(sockaddr_un::sun_path) - 1);
  }
  auto connection = std::make_shared<Connection>(std::move(executor), std::move(on_event));
  const auto [error] = co_await connection->socket.async_connect(
      asio::local::stream_protocol::endpoint(path), kNoThrow);
  if (error) {
    co_return fail(ErrorCode::unavailable, "QEMU's monitor {}: {}", path, error.message());
  }
  connection->socket.native_non_blocking(true);
  asio::co_spawn(
      connection->socket.get_executor(), [connection] { return connection->read_all(); },
      asio::detached);
  std::unique_ptr<QmpClient> client(new QmpClient(connection));
  BOOST_OUTCOME_CO_TRY(co_await client->wait_until([&] { return connection->greeted; }, timeout_ms,
                                                   "greet on its monitor"));
  BOOST_OUTCOME_CO_TRY(co_await client->execute("qmp_capabilities", {}, timeout_ms));
  co_return client;
}

Task<Result<json::value>> QmpClient::execute(std::string_view command, json::object arguments,
                                             std::chrono::milliseconds timeout_ms) {
  const auto connection = connection_;
  if (connection->broken) co_return *connection->broken;
  const std::uint64_t id = ++connection->last_id;
  json::object request{{"execute", command}, {"id", id}};
  if (!arguments.empty()) request["arguments"] = std::move(arguments);
  connection->awaited.emplace(id, std::nullopt);
  Result<void> done = co_await connection->write(json::serialize(request) + "\n", -1);
  if (done) {
    done = co_await connection->wait_until([&] { return connection->awaited[id].has_value(); },
                                           timeout_ms, fmt::format("answer '{}'", command));
  }
  std::optional<QmpReply> reply = std::move(connection->awaited[id]);
  connection->awaited.erase(id);
  if (!done) co_return done.error();
  if (reply->error) {
    co_return fail(ErrorCode::failed, "QEMU refused '{}': {}", command, *reply->error);
  }
  co_return std::move(reply->value);
}

Task<Result<void>> QmpClient::execute_all(std::span<const QmpCommand> commands, int fd,
                                          std::chrono::milliseconds timeout_ms) {
  const auto connection = connection_;
  if (connection->broken) co_return *connection->broken;
  const std::uint64_t first_id = connection->last_id + 1;
  std::string text;
  for (const QmpCommand& command : commands) {
    const std::uint64_t id = ++connection->last_id;
    json::object request{{"execute", command.name}, {"id", id}};
    if (!command.arguments.empty()) request["arguments"] = command.arguments;
    text += json::serialize(request) + "\n";
    connection->awaited.emplace(id, std::nullopt);
  }
  const std::uint64_t last_id = connection->last_id;
  Result<void> done = co_await connection->write(std::move(text), fd);
  if (done) {
    const auto answered = [&] {
      for (std::uint64_t id = first_id; id <= last_id; ++id) {
        if (!connection->awaited[id]) return false;
      }
      return true;
    };
    done = co_await connection->wait_until(answered, timeout_ms,
                                           fmt::format("answer '{}'", commands.back().name));
  }
  for (std::uint64_t id = first_id; id <= last_id; ++id) {
    const auto& reply = connection->awaited[id];
    if (done && reply && reply->error) {
      done = fail(ErrorCode::failed, "QEMU refused '{}': {}", commands[id - first_id].name,
                  *reply->error);
    }
    connection->awaited.erase(id);
  }
  co_return done;
}

Task<Result<void>> QmpClient::wait_until(std::function<bool()> predicate,
                                         std::chrono::milliseconds timeout_ms,
                                         std::string_view what) {
  return connection_->wait_until(std::move(predicate), timeout_ms, what);
}

std::optional<Error> QmpClient::broken() const {
  return connection_->broken;
}

const std::string& QmpClient::qemu_version() const {
  return connection_->version;
}

}  // namespace understudy
