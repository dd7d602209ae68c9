// The scene: two hosts (or up to four), a client, a guest, and ways to make things go wrong.
//
//      client ──── lan (bridge) ──┬── up0 ─ br0 ─ guest's interface      host A  10.77.0.1
//   10.77.0.100                   └── up0 ─ br0                          host B  10.77.0.2
//                                      repl ════════ repl                10.88.0.1, 10.88.0.2
//
// Where there are more than two, a switch joins their replication networks; each is paired with
// each.
//
// Each host and the client is a network namespace of this machine; nothing is made outside them.
// Agents and the command line are the real programs, run as a user would run them. Addresses and
// names inside the namespaces are always the same; the namespaces' own names carry the scene's tag,
// so that several scenes can stand side by side. What a scene needs on disk lies in one folder,
// /run/understudy-scene/TAG, and what a broken-off run left is taken down by clean().
//
// Not a virtual machine for each host, because the death of a host is what its peers see of it:
// silence from its addresses, all at once. That a kernel dies too is a matter for the lab.
#pragma once

#include <array>
#include <boost/json/value.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "tests/scene/network_namespace.h"
#include "tests/scene/process.h"
#include "tests/scene/traffic.h"

namespace understudy::scene {

enum class HostId { a, b, c, d };
constexpr std::size_t hosts_max = 4;
/// "hostA", "hostB" …, as the agents call themselves.
std::string_view name_of(HostId host);
/// Of a scene with two.
constexpr HostId other(HostId host) {
  return host == HostId::a ? HostId::b : HostId::a;
}

/// The networks that join the hosts.
enum class Network { replication, client };

constexpr std::string_view guest_address = "10.77.0.10";
constexpr std::string_view guest_address_6 = "fd77::10";
constexpr std::string_view guest_mac = "52:54:00:77:00:10";

/// What `understudy protect` is told.
struct Protection {
  std::string mode = "remus";
  std::string interval = "25ms";
  std::vector<std::string> ports = {};  ///< Each for `--port`: "80=replay".
  std::vector<std::string> more = {};   ///< Further words, as they are: "--on-divergence", "reset".
  std::string to = {};                  ///< For `--to`; empty: the other one of two hosts.
};

/// How the scene is set up. The defaults are the demo's.
struct SceneOptions {
  std::string tag;                         ///< Letters and digits; empty: "p" and our pid.
  std::size_t hosts = 2;                   ///< Two to hosts_max.
  std::filesystem::path build_directory;   ///< Where agent/understudyd and cli/understudy are.
  std::filesystem::path guest_directory;   ///< Where vmlinuz and the initramfs are.
  std::string initramfs = "initramfs.gz";  ///< Or "initramfs-redis.gz".
  std::chrono::milliseconds heartbeat_interval{50};
  std::chrono::milliseconds deadline{200};
  std::string tracking = "auto";  ///< The agents' qemu.tracking.
  std::string log_level = "info";
  std::string agent_toml;  ///< Appended to all agents' files.
  /// base/fault_point.h: armed at the next start of the agent of host A, B …; not at later ones.
  std::array<std::string, hosts_max> fault_points;
  /// The capabilities that the agents get, as setpriv names them ("net_admin"); empty: all.
  std::vector<std::string> capabilities;
  /// Called with the client's namespace when the networks stand; what it returns is appended to
  /// all agents' files, too.
  std::function<Result<std::string>(const std::string&)> before_agents;
  unsigned vcpus = 1;
  unsigned memory_mib = 256;
  std::string guest_parameters;  ///< Further parameters for the guest's kernel.
};

/// Build directory and guest as the environment (UNDERSTUDY_BUILD_DIR, UNDERSTUDY_GUEST_DIR) or the
/// place of the running program tells: for tests.
SceneOptions options_from_environment();

/// A scene, set up. Destruction takes everything down: processes, namespaces, memory files, folder.
class Scene {
 public:
  /// Hosts, networks, agents that answer, paired hosts. No guest yet.
  static Result<std::unique_ptr<Scene>> build(SceneOptions options);
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;
  ~Scene();

  /// Takes down what a scene of this tag has left behind, whoever made it. Never touches a process
  /// outside the scene's own namespaces.
  static Result<void> clean(const std::string& tag);
  /// The tags of all scenes on this machine.
  static std::vector<std::string> standing();
  /// True if the process that made the scene is another one, and still lives.
  static bool in_use(const std::string& tag);

  /// --- agents and their command line

  Result<void> start_agent(HostId host);
  /// Arms a fault point (base/fault_point.h) for the next start of this host's agent.
  void arm(HostId host, std::string fault) {
    options_.fault_points[static_cast<std::size_t>(host)] = std::move(fault);
  }
  /// The letter of /proc/PID/stat: 'R', 'S', 'T' (stopped) …; 0 if there is no such process.
  static char state_of(pid_t pid);
  /// Asks it to end (SIGTERM) and waits.
  Result<void> stop_agent(HostId host);
  /// SIGKILL to the agent alone; its guests live on.
  Instant kill_agent(HostId host);
  [[nodiscard]] Process& agent(HostId host) { return at(host).agent; }
  /// Makes the hosts know each other. build() has done this.
  Result<void> pair();

  /// Runs `understudy ARGUMENTS` on `host`; its outputs and status.
  Result<CommandOutput> understudy(HostId host, const std::vector<std::string>& arguments,
                                   std::chrono::milliseconds limit = std::chrono::seconds(30));
  /// The same where only success will do: its stdout.
  Result<std::string> understudy_checked(
      HostId host, const std::vector<std::string>& arguments,
      std::chrono::milliseconds limit = std::chrono::seconds(30));
  /// `understudy ARGUMENTS -o json`, read.
  Result<boost::json::value> understudy_json(HostId host, std::vector<std::string> arguments);
  /// The domain object of `domain` on `host` (docs/api.md). no_such if the host does not have it.
  Result<boost::json::object> domain(HostId host, const std::string& name = "web1");
  /// Asks for the domain object until `condition` holds. The error says what was seen last.
  Result<boost::json::object> wait_for(
      HostId host, const std::string& what, std::chrono::milliseconds limit,
      const std::function<bool(const boost::json::object&)>& condition,
      const std::string& name = "web1");
  /// wait_for the state with this name.
  Result<boost::json::object> wait_for_state(HostId host, const std::string& state,
                                             std::chrono::milliseconds limit);

  /// --- the guest

  /// Writes the domain's file, starts it on `host` and waits until its services answer.
  Result<void> start_guest(HostId host = HostId::a);
  /// What its kernel is told.
  [[nodiscard]] std::string guest_command_line() const;
  /// Protects it to the other host (or to `protection.to`) and waits until checkpoints commit, and
  /// in replay mode until output goes with the log. `progress` is called with the domain object
  /// meanwhile.
  Result<void> protect(const Protection& protection = {},
                       const std::function<void(const boost::json::object&)>& progress = {},
                       HostId primary = HostId::a);
  [[nodiscard]] std::filesystem::path domain_file() const { return folder_ / "web1.toml"; }
  [[nodiscard]] std::filesystem::path console_log() const { return folder_ / "web1.console"; }

  /// --- what goes wrong. Each returns the moment of the fault, taken just before it.

  /// SIGKILL to every process of the host at once (by its cgroup where the kernel has cgroup v2,
  /// else one by one until none is left).
  Result<Instant> kill_host(HostId host);
  /// Power failure: first its networks fall silent, so that not even a reset gets out, then the
  /// kill.
  Result<Instant> power_off(HostId host);
  /// SIGSTOP to every process of the host; `resume` lets them go on.
  Result<Instant> hang(HostId host);
  Result<void> resume(HostId host);
  /// Drops silently whatever the host `from` sends to the other hosts over `network`; its guest
  /// still reaches the clients: the worst kind of partition. Both directions: cut it on both hosts.
  Result<Instant> cut(HostId from, Network network);
  /// Undoes all cuts of this host.
  Result<void> heal(HostId host);
  /// The processes of the host; those whose command line contains `part`.
  std::vector<pid_t> processes(HostId host, const std::string& part = {});

  /// --- the rest

  /// All hosts of this scene.
  [[nodiscard]] std::vector<HostId> hosts() const;
  [[nodiscard]] const std::string& host_namespace(HostId host) const {
    return hosts_[static_cast<std::size_t>(host)].network.name();
  }
  /// The namespace that the host of a scene with this tag has, or will have.
  static std::string namespace_of(const std::string& tag, HostId host);
  [[nodiscard]] const std::string& client_namespace() const { return client_.name(); }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] const SceneOptions& options() const { return options_; }
  [[nodiscard]] std::filesystem::path control_socket(HostId host) const;
  /// What clients need to reach the guest.
  [[nodiscard]] ClientOptions client_options(unsigned connections) const;
  /// Starts a program of the client's, its output to `log` in the scene's folder.
  Result<Process> start_client(const std::vector<std::string>& command, const std::string& log);
  /// The last lines of the agents' logs, for the report of a failure.
  [[nodiscard]] std::string logs(std::size_t lines = 40) const;
  /// Leaves everything standing for exploring by hand; clean(tag) takes it down.
  void keep();

 private:
  struct Host {
    NetworkNamespace network;
    std::filesystem::path folder;
    std::filesystem::path memory;  ///< For the guests' memory: a folder in /dev/shm.
    std::filesystem::path cgroup;  ///< Empty: no cgroup v2 that we may use.
    Process agent;
  };

  explicit Scene(SceneOptions options);
  Host& at(HostId host) { return hosts_[static_cast<std::size_t>(host)]; }
  Result<void> make_networks();
  Result<void> join_replication_networks();
  [[nodiscard]] Result<void> wait_for_networks() const;
  Result<void> make_host(HostId host);
  Result<void> write_agent_config(HostId host);
  Result<void> wait_for_agent(HostId host);

  SceneOptions options_;
  std::filesystem::path folder_;
  NetworkNamespace client_;
  std::array<Host, hosts_max> hosts_;  ///< The first `options.hosts` of them.
  bool kept_ = false;
};

}  // namespace understudy::scene
