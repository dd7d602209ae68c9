// The agent's configuration: one TOML file, read once at start.
//
// Every key has a default that suits a two-host pair, apart from the host's name. A key that is not
// known is an error with its line, because a silently ignored typo in `deadline` is found out at
// three in the morning. The manual page understudy.toml(5) lists the keys.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/hook_config.h"
#include "agent/probe_config.h"
#include "arbiter/arbiter_config.h"
#include "base/result.h"

namespace understudy {

/// What understudyd reads from its configuration file. Durations are positive; paths are absolute.
struct AgentConfig {
  /// This host's name as its peers know it. Letters, digits, '-', '_' and '.', at most 63.
  std::string name;
  /// Where other hosts reach this one, "address:port", each a path of its own for heartbeats.
  std::vector<std::string> listen_addresses;

  std::filesystem::path runtime_directory = "/run/understudy";
  std::filesystem::path state_directory = "/var/lib/understudy";
  std::filesystem::path control_socket;  ///< Default: runtime_directory/understudyd.sock
  std::string control_group;             ///< Group that may use the socket; empty: root only.

  std::chrono::microseconds heartbeat_interval{50'000};
  /// Silence on all paths for this long means that the peer is dead.
  std::chrono::microseconds deadline{200'000};

  std::string metrics_listen;  ///< "127.0.0.1:9600"; empty: no metrics port. Loopback only.

  std::string hypervisor = "auto";  ///< auto (Xen in a dom0, else QEMU), qemu or xen.

  std::string xen_method = "auto";  ///< auto, cooperative or transparent.
  /// For a Xen guest to answer the request to suspend.
  std::chrono::microseconds xen_suspend_timeout{5'000'000};

  std::string qemu_binary = "qemu-system-x86_64";
  std::filesystem::path memory_directory = "/dev/shm";
  std::string tracking = "auto";  ///< auto, pagemap_scan or full_compare.
  /// The library that hands out QEMU's write tracking; empty: found next to the agent's program.
  std::filesystem::path preload_library;

  std::string log_level = "info";

  std::vector<HookConfig> hooks;
  std::vector<ProbeConfig> probes;
  std::vector<DrillConfig> drills;
  /// The host's own health: below, or above, these it is told as ill.
  std::uint64_t health_memory_mib_min = 128;
  std::uint64_t health_disk_mib_min = 256;
  std::chrono::microseconds health_loop_lag_max{100'000};
  std::uint64_t health_load_percent_max = 0;
  std::uint64_t health_memory_pressure_percent_max = 30;
  /// What an ill host leads to: event, or move (each domain that is protected goes to its backup).
  std::string health_action = "event";

  /// By the peer's name; "default" is for all others.
  std::map<std::string, ArbiterConfig> arbiters;
  /// The arbiter of the pair with `peer`; kind none unless configured.
  [[nodiscard]] const ArbiterConfig& arbiter_for(const std::string& peer) const;

  /// Reads `text`; `file_name` names it in errors ("hostA.toml:7: detection.deadline: …").
  static Result<AgentConfig> from_toml(std::string_view text, std::string_view file_name);
  /// Reads the file at `path`.
  static Result<AgentConfig> from_file(const std::filesystem::path& path);
};

/// "25ms", "2s", "100us", "1.5s", "12h", "7d" as a duration of at most 31 days; an error says what
/// was expected.
Result<std::chrono::microseconds> parse_duration(std::string_view text);

}  // namespace understudy
