#include "agent/http_server.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <list>

#include "base/unique_fd.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::size_t kBodyBytesMax = 1u << 20;
constexpr int kConnectionsMax = 64;
constexpr auto kIdleLimit = std::chrono::seconds(60);
constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);

int hex_digit(char character) {
  if (character >= '0' && character <= '9') return character - '0';
  if (character >= 'a' && character <= 'f') return character - 'a' + 10;
  if (character >= 'A' && character <= 'F') return character - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (std::size_t index = 0; index < text.size(); ++index) {
    if (text[index] == '%' && index + 2 < text.size()) {
      const int high = hex_digit(text[index + 1]);
      const int low = hex_digit(text[index + 2]);
      if (high >= 0 && low >= 0) {
        decoded.push_back(static_cast<char>(high * 16 + low));
        index += 2;
        continue;
      }
    }
    decoded.push_back(text[index]);
  }
  return decoded;
}

HttpRequest to_request(const http::request<http::string_body>& message) {
  HttpRequest request;
  request.method = message.method_string();
  request.body = message.body();
  const std::string target = message.target();
  const auto question = target.find('?');
  request.path = percent_decoded(target.substr(0, question));
  if (question == std::string::npos) return request;
  std::string_view rest = std::string_view(target).substr(question + 1);
  while (!rest.empty()) {
    const auto pair = rest.substr(0, rest.find('&'));
    const auto equals = pair.find('=');
    if (equals != std::string_view::npos) {
      request.query[percent_decoded(pair.substr(0, equals))] =
          percent_decoded(pair.substr(equals + 1));
    }
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
  }
  return request;
}

}  // namespace

struct HttpServer::State : std::enable_shared_from_this<State> {
  explicit State(asio::io_context& io_context) : context(io_context) {}

  template <typename Protocol>
  Task<void> serve(beast::basic_stream<Protocol> stream, HttpHandler handler) {
    beast::flat_buffer buffer;
    while (!stopped) {
      http::request_parser<http::string_body> parser;
      parser.body_limit(kBodyBytesMax);
      stream.expires_after(kIdleLimit);
      const auto [read_error, unused] = co_await http::async_read(stream, buffer, parser, kNoThrow);
      if (read_error == http::error::body_limit) {
        http::response<http::string_body> refusal(http::status::payload_too_large, 11);
        refusal.prepare_payload();
        co_await http::async_write(stream, refusal, kNoThrow);
      }
      if (read_error) break;
      const bool keep_alive = parser.get().keep_alive();
      stream.expires_never();
      const HttpResponse answer = co_await handler(to_request(parser.get()));
      http::response<http::string_body> response(static_cast<http::status>(answer.status),
                                                 parser.get().version());
      response.set(http::field::content_type, answer.content_type);
      response.keep_alive(keep_alive);
      response.body() = answer.body;
      response.prepare_payload();
      stream.expires_after(kIdleLimit);
      const auto [write_error, sent] = co_await http::async_write(stream, response, kNoThrow);
      if (write_error || !keep_alive) break;
    }
    beast::error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_both, ignored);
  }

  template <typename Protocol>
  Task<void> accept(std::shared_ptr<typename Protocol::acceptor> acceptor, HttpHandler handler) {
    const auto self = this->shared_from_this();
    while (!stopped) {
      auto [error, socket] = co_await acceptor->async_accept(kNoThrow);
      if (error == asio::error::operation_aborted) break;
      if (error || connections >= kConnectionsMax) continue;
      ++connections;
      asio::co_spawn(context, serve(beast::basic_stream<Protocol>(std::move(socket)), handler),
                     [self](const std::exception_ptr&) { --self->connections; });
    }
  }

  asio::io_context& context;
  std::list<std::function<void()>> closers;
  int connections = 0;
  bool stopped = false;
};

HttpServer::HttpServer(asio::io_context& context) : state_(std::make_shared<State>(context)) {}

HttpServer::~HttpServer() {
  stop();
}

void HttpServer::stop() {
  state_->stopped = true;
  for (const auto& close : state_->closers) close();
  state_->closers.clear();
}

Result<void> HttpServer::listen_unix(const std::filesystem::path& path, const std::string& group,
                                     HttpHandler handler) {
  using Protocol = asio::local::stream_protocol;
  sockaddr_un address{};
  if (path.string().size() >= sizeof(address.sun_path)) {
    return fail(ErrorCode::config, "control socket {}: the path is longer than {} characters",
                path.string(), sizeof(address.sun_path) - 1);
  }
  boost::system::error_code error;
  {
    Protocol::socket probe(state_->context);
    probe.connect(Protocol::endpoint(path.string()), error);
    if (!error) {
      return fail(ErrorCode::exists, "another understudyd answers on {}", path.string());
    }
  }
  ::unlink(path.c_str());
  auto acceptor = std::make_shared<Protocol::acceptor>(state_->context);
  acceptor->open(Protocol(), error);
  // The socket is made with the narrow mode: nobody may slip in between bind and chmod.
  const auto old_mask = ::umask(0177);
  if (!error) acceptor->bind(Protocol::endpoint(path.string()), error);
  ::umask(old_mask);
  if (!error) acceptor->listen(16, error);
  if (error) return system_error(error.value(), fmt::format("listen on {}", path.string()));
  if (!group.empty()) {
    const ::group* entry = ::getgrnam(group.c_str());  // NOLINT(concurrency-mt-unsafe)
    if (entry == nullptr) {
      return fail(ErrorCode::config, "control_group: no group '{}' on this host", group);
    }
    if (::chown(path.c_str(), static_cast<uid_t>(-1), entry->gr_gid) != 0) {
      return system_error(errno, fmt::format("give {} to group {}", path.string(), group));
    }
  }
  if (::chmod(path.c_str(), 0660) != 0)
    return system_error(errno, fmt::format("chmod {}", path.string()));
  state_->closers.emplace_back([acceptor, path] {
    boost::system::error_code ignored;
    acceptor->close(ignored);
    ::unlink(path.c_str());
  });
  asio::co_spawn(state_->context, state_->accept<Protocol>(acceptor, std::move(handler)),
                 asio::detached);
  return ok();
}

Result<void> HttpServer::listen_tcp(const std::string& endpoint, HttpHandler handler) {
  using Protocol = asio::ip::tcp;
  const auto colon = endpoint.rfind(':');
  std::string host = endpoint.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host, error);
  int port = 0;
  if (colon != std::string::npos)
    port = std::atoi(endpoint.c_str() + colon + 1);  // NOLINT(cert-err34-c)
  if (error || port < 1 || port > 65535) {
    return fail(ErrorCode::config, "'{}' is no address:port", endpoint);
  }
  auto acceptor = std::make_shared<Protocol::acceptor>(state_->context);
  const Protocol::endpoint local(address, static_cast<std::uint16_t>(port));
  acceptor->open(local.protocol(), error);
  if (!error) acceptor->set_option(Protocol::acceptor::reuse_address(true), error);
  if (!error) acceptor->bind(local, error);
  if (!error) acceptor->listen(16, error);
  if (error) return system_error(error.value(), fmt::format("listen on {}", endpoint));
  state_->closers.emplace_back([acceptor] {
    boost::system::error_code ignored;
    acceptor->close(ignored);
  });
  asio::co_spawn(state_->context, state_->accept<Protocol>(acceptor, std::move(handler)),
                 asio::detached);
  return ok();
}

}  // namespace understudy
