// HTTP/1.1 over a unix socket, without any idea of what is served: requests in, answers out.
#pragma once

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// A request as the routes see it. `path` is without the query; query values are percent-decoded.
struct HttpRequest {
  std::string method;
  std::string path;
  std::map<std::string, std::string> query;
  std::string body;
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string body;
};

using HttpHandler = std::function<Task<HttpResponse>(HttpRequest)>;

/// Serves on a unix socket (control API) and, if asked, on a loopback port (metrics). A body is at
/// most 1 MiB, a connection may idle for 60 s, at most 64 connections at a time: what is above is
/// turned away.
class HttpServer {
 public:
  explicit HttpServer(boost::asio::io_context& context);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Listens on the unix socket at `path`, replacing a stale one (nobody listens there any more; a
  /// live one is an error: another agent runs). Mode 0660, owned by `group` if that is not empty.
  Result<void> listen_unix(const std::filesystem::path& path, const std::string& group,
                           HttpHandler handler);
  /// Listens on "address:port".
  Result<void> listen_tcp(const std::string& endpoint, HttpHandler handler);
  /// Stops accepting and ends the connections. Idempotent.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace understudy
