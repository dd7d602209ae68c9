#include "cli/api_client.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/task.h"
#include "cli/json_view.h"
#include "cli/terminal.h"

namespace understudy::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;
using boost::system::error_code;

constexpr auto no_throw = asio::as_tuple(asio::use_awaitable);

/// The largest answer: a thousand events and every domain of a host fit many times.
constexpr std::size_t answer_bytes_max = std::size_t{16} << 20U;
/// Deeper nesting than this is not the agent's.
constexpr std::size_t json_depth_max = 16;

struct Answer {
  unsigned status = 0;
  std::string body;
};

Error not_connected(const std::string& path, const error_code& why) {
  if (why == asio::error::access_denied) {
    struct stat about {};
    std::string group = "its group";
    if (::stat(path.c_str(), &about) == 0) {
      const struct group* const entry = ::getgrgid(about.st_gid);
      group = entry != nullptr ? fmt::format("the group '{}'", entry->gr_name)
                               : fmt::format("the group {}", about.st_gid);
    }
    return fail(ErrorCode::permission, "may not open {}: run as root, or as a member of {}", path,
                group);
  }
  return fail(
      ErrorCode::unavailable,
      "no agent answers at {} ({}). Start it with 'systemctl start understudyd', or by hand with "
      "'understudyd --config FILE'; another socket is named by --socket or UNDERSTUDY_SOCKET",
      path, why.message());
}

/// One request on a connection of its own. `sent` becomes true when the agent may have seen it.
Task<Result<Answer>> exchange(const std::string& path, http::request<http::string_body> request,
                              bool& sent) {
  asio::local::stream_protocol::socket socket(co_await asio::this_coro::executor);
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    co_return fail(ErrorCode::usage, "the socket's path is longer than {} characters: {}",
                   sizeof(sockaddr_un::sun_path) - 1, path);
  }
  auto [connect_error] =
      co_await socket.async_connect(asio::local::stream_protocol::endpoint(path), no_throw);
  if (connect_error) {
    co_return not_connected(path, connect_error);
  }
  sent = true;
  auto [write_error, written] = co_await http::async_write(socket, request, no_throw);
  // An agent that refuses early may close before it has read everything; its answer is what counts.
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(answer_bytes_max);
  auto [read_error, read] = co_await http::async_read(socket, buffer, parser, no_throw);
  if (read_error) {
    if (read_error == http::error::end_of_stream || read_error == asio::error::connection_reset ||
        write_error) {
      co_return fail(ErrorCode::unavailable,
                     "the agent at {} closed the connection without an answer: see 'journalctl -u "
                     "understudyd'",
                     path);
    }
    co_return fail(ErrorCode::protocol, "what answers at {} is not an agent: {}", path,
                   read_error.message());
  }
  co_return Answer{parser.get().result_int(), std::move(parser.get().body())};
}

/// exchange, for co_spawn, which wants results that can be made from nothing.
Task<void> exchange_into(std::optional<Result<Answer>>& result, const std::string& path,
                         http::request<http::string_body> request, bool& sent) {
  result = co_await exchange(path, std::move(request), sent);
}

ErrorCode code_named(std::string_view name) {
  constexpr std::array codes = {
      ErrorCode::failed,
      ErrorCode::usage,
      ErrorCode::bad_data,
      ErrorCode::unavailable,
      ErrorCode::internal,
      ErrorCode::no_resources,
      ErrorCode::io,
      ErrorCode::try_again,
      ErrorCode::protocol,
      ErrorCode::permission,
      ErrorCode::config,
      ErrorCode::no_such,
      ErrorCode::not_authorized,
      ErrorCode::needs_force,
      ErrorCode::exists,
      ErrorCode::timed_out,
  };
  for (const ErrorCode code : codes) {
    if (to_string(code) == name) {
      return code;
    }
  }
  return ErrorCode::failed;
}

/// The agent's error body as an Error; refusals of its checks become lines of the message.
Error refusal(const Answer& answer) {
  error_code parse_error;
  const json::value parsed = json::parse(answer.body, parse_error);
  if (parse_error || !parsed.is_object() || object_at(parsed.get_object(), "error").empty()) {
    return fail(ErrorCode::protocol, "the agent answered with HTTP status {} and no reason",
                answer.status);
  }
  const json::object& error = object_at(parsed.get_object(), "error");
  std::string message = text_at(error, "message");
  for (const json::object* finding : objects_at(error, "findings")) {
    if (text_at(*finding, "severity") == "refusal") {
      message +=
          fmt::format("\n  {}: {}", text_at(*finding, "subject"), text_at(*finding, "message"));
    }
  }
  return {code_named(text_at(error, "code")), std::move(message)};
}

/// Sends one request and waits for a 2xx answer.
std::chrono::seconds limit_of(Patience patience) {
  switch (patience) {
    case Patience::short_while:
      return std::chrono::seconds(12);
    case Patience::asks_other_host:
      return std::chrono::seconds(35);
    case Patience::copies_memory:
      return std::chrono::hours(1);
  }
  return std::chrono::seconds(12);
}

Result<Answer> perform(const ApiClient::Settings& settings, http::verb method,
                       std::string_view target, std::string body, Patience patience) {
  const std::chrono::milliseconds limit = settings.timeout.value_or(limit_of(patience));
  http::request<http::string_body> request(method, std::string(target), 11);
  request.set(http::field::host, "agent");
  request.set(http::field::user_agent, "understudy/" UNDERSTUDY_VERSION);
  request.set(http::field::connection, "close");
  if (method == http::verb::post) {
    request.set(http::field::content_type, "application/json");
    request.body() = std::move(body);
  }
  request.prepare_payload();

  asio::io_context context(1);
  std::optional<Result<Answer>> result;
  bool sent = false;
  bool interrupted = false;
  asio::co_spawn(context, exchange_into(result, settings.socket_path, std::move(request), sent),
                 [&](const std::exception_ptr& thrown) {
                   if (thrown) {
                     result = fail(ErrorCode::internal, "the request to the agent threw");
                   }
                   context.stop();
                 });
  asio::posix::stream_descriptor cancel(context);
  if (settings.cancel_descriptor >= 0) {
    cancel.assign(::dup(settings.cancel_descriptor));
    cancel.async_wait(asio::posix::stream_descriptor::wait_read, [&](error_code error) {
      interrupted = !error;
      context.stop();
    });
  }
  context.run_for(limit);

  if (!result) {
    if (interrupted) {
      return fail(ErrorCode::failed, "interrupted");
    }
    return sent ? fail(ErrorCode::timed_out,
                       "no answer from the agent at {} within {} ms: whether it did what was asked "
                       "is unknown",
                       settings.socket_path, limit.count())
                : fail(ErrorCode::timed_out, "no connection to {} within {} ms",
                       settings.socket_path, limit.count());
  }
  if (*result && result->value().status / 100 != 2) {
    return refusal(result->value());
  }
  return std::move(*result);
}

Result<Reply> as_json(Result<Answer> answer) {
  if (!answer) {
    return answer.error();
  }
  Answer plain = std::move(answer).value();
  json::parse_options limits;
  limits.max_depth = json_depth_max;
  error_code error;
  json::value parsed = json::parse(plain.body, error, {}, limits);
  if (error || !parsed.is_object()) {
    return fail(ErrorCode::protocol, "the agent's answer is not a JSON object: {}",
                error ? error.message() : printable(plain.body.substr(0, 40)));
  }
  while (plain.body.ends_with('\n')) {
    plain.body.pop_back();
  }
  return Reply{std::move(plain.body), std::move(parsed.get_object())};
}

}  // namespace

ApiClient ApiClient::cancelled_by(int descriptor) const {
  Settings settings = settings_;
  settings.cancel_descriptor = descriptor;
  return ApiClient(std::move(settings));
}

ApiClient ApiClient::with_timeout(std::chrono::milliseconds timeout) const {
  Settings settings = settings_;
  settings.timeout = timeout;
  return ApiClient(std::move(settings));
}

Result<Reply> ApiClient::get(std::string_view target, Patience patience) const {
  return as_json(perform(settings_, http::verb::get, target, {}, patience));
}

Result<Reply> ApiClient::post(std::string_view target, const json::object& body,
                              Patience patience) const {
  return as_json(perform(settings_, http::verb::post, target, json::serialize(body), patience));
}

Result<Reply> ApiClient::remove(std::string_view target, Patience patience) const {
  return as_json(perform(settings_, http::verb::delete_, target, {}, patience));
}

Result<std::string> ApiClient::get_text(std::string_view target) const {
  BOOST_OUTCOME_TRY(Answer answer,
                    perform(settings_, http::verb::get, target, {}, Patience::short_while));
  return std::move(answer.body);
}

}  // namespace understudy::cli
