// Requests to the agent: HTTP over its unix socket, as docs/api.md describes.
//
// One connection for each request. A command makes a handful of them, and a fresh connection needs
// no thought about an agent that was restarted between two polls. Every request is bounded in time
// and ends at once on Ctrl-C; one that was sent but not answered is `timed_out`, because its
// outcome is unknown then.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::cli {

/// An answer in 2xx: its text as it came, for `-o json`, and what it says.
struct Reply {
  std::string body;
  boost::json::object json;
};

/// How long an answer may take: the agent's own promise (docs/api.md, "time limits") and a little
/// more.
enum class Patience {
  short_while,      ///< 12 s: the agent answers by itself.
  asks_other_host,  ///< 35 s: the agent has to ask its peer.
  copies_memory,    ///< An hour: a domain's memory goes over the link.
};

/// Speaks to one agent. Cheap to copy.
class ApiClient {
 public:
  struct Settings {
    std::string socket_path;
    /// Overrides every Patience.
    std::optional<std::chrono::milliseconds> timeout;
    /// When this becomes readable, a request ends with `failed` ("interrupted"); -1 for none.
    int cancel_descriptor = -1;
  };

  explicit ApiClient(Settings settings) : settings_(std::move(settings)) {}

  /// The same client, whose requests end when `descriptor` becomes readable.
  [[nodiscard]] ApiClient cancelled_by(int descriptor) const;
  /// The same client with `timeout` for each request.
  [[nodiscard]] ApiClient with_timeout(std::chrono::milliseconds timeout) const;

  // Errors of all requests: what the agent answered, code and message; unavailable when it is not
  // running (the message says how to start it); permission when the socket may not be opened;
  // timed_out; protocol when the answer is not what docs/api.md promises.

  [[nodiscard]] Result<Reply> get(std::string_view target,
                                  Patience patience = Patience::short_while) const;
  [[nodiscard]] Result<Reply> post(std::string_view target, const boost::json::object& body,
                                   Patience patience = Patience::short_while) const;
  [[nodiscard]] Result<Reply> remove(std::string_view target,
                                     Patience patience = Patience::short_while) const;
  /// A body that is not JSON (metrics).
  [[nodiscard]] Result<std::string> get_text(std::string_view target) const;

  [[nodiscard]] const std::string& socket_path() const { return settings_.socket_path; }

 private:
  Settings settings_;
};

}  // namespace understudy::cli
