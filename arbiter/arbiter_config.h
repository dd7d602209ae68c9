// Which arbiter a pair of hosts has, as the agent's configuration tells.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace understudy {

/// One `[arbiter.PEER]` section of understudy.toml(5). Both hosts of a pair need the same `kind`.
struct ArbiterConfig {
  std::string kind = "none";  ///< none, etcd or fence.
  /// How long a primary has been without its backup before it asks for the right to speak alone:
  /// long enough for a backup that wants to promote to be there first.
  std::chrono::microseconds solo_after{3'000'000};
  /// For one attempt: an exchange with etcd, or a run of the fence command.
  std::chrono::microseconds timeout{2'000'000};

  // etcd
  std::vector<std::string>
      endpoints;  ///< "address:port"; addresses are numbers: no resolver hangs.
  std::filesystem::path ca_file;
  std::filesystem::path certificate_file;
  std::filesystem::path key_file;
  std::string prefix = "/understudy/";

  // fence
  std::vector<std::string> command;    ///< A fence agent with its options, none of them secret.
  std::filesystem::path options_file;  ///< Further `name=value` lines for its stdin; mode 0600.
};

}  // namespace understudy
