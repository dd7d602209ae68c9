// What the configuration says about one hook ([[hook]] in understudy.toml).
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace understudy {

/// One [[hook]] table.
struct HookConfig {
  std::string name;                  ///< Unique among the hooks of this host.
  std::vector<std::string> on;       ///< Kinds of events; at least one. "*": every kind.
  std::vector<std::string> domains;  ///< Only events of these; empty: of all, and of the host.
  std::vector<std::string> command;  ///< Program and arguments.
  std::chrono::microseconds timeout{30'000'000};  ///< 100 ms to 10 min.
};

/// Every kind of event that an agent may record (docs/api.md lists them too), for refusing a typo
/// in `on`.
bool is_event_kind(std::string_view kind);
/// The known kind that is most like `kind`; empty if none is.
std::string event_kind_like(std::string_view kind);

}  // namespace understudy
