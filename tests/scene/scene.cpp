#include "tests/scene/scene.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/scene/json_fields.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;
namespace fs = std::filesystem;

const fs::path scenes_folder = "/run/understudy-scene";

constexpr std::array all_hosts = {HostId::a, HostId::b, HostId::c, HostId::d};
static_assert(all_hosts.size() == hosts_max);

char letter(HostId host) {
  return static_cast<char>('a' + static_cast<int>(host));
}
int digit(HostId host) {
  return 1 + static_cast<int>(host);
}

std::string namespace_name(const std::string& tag, std::string_view part) {
  return fmt::format("us-{}-{}", tag, part);
}

fs::path memory_folder(const std::string& tag, HostId host) {
  return fmt::format("/dev/shm/us-{}-{}", tag, letter(host));
}

/// Where cgroup v2 is mounted, empty if nowhere.
fs::path cgroup_mount() {
  std::ifstream mounts("/proc/mounts");
  std::string line;
  while (std::getline(mounts, line)) {
    std::istringstream words(line);
    std::string device;
    std::string path;
    std::string type;
    words >> device >> path >> type;
    if (type == "cgroup2") {
      return path;
    }
  }
  return {};
}

fs::path cgroup_path(const std::string& tag, HostId host) {
  const fs::path mount = cgroup_mount();
  return mount.empty() ? mount : mount / fmt::format("us-{}-{}", tag, letter(host));
}

Result<void> write_file(const fs::path& path, std::string_view text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? Result<void>(ok()) : system_error(errno, path.string());
}

bool file_contains(const fs::path& path, std::string_view text) {
  std::ifstream file(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  return content.find(text) != std::string::npos;
}

std::string last_lines(const fs::path& path, std::size_t count) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  std::string line;
  while (std::getline(file, line)) {
    lines.push_back(line);
  }
  if (lines.size() > count) {
    lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(count));
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

std::string command_line_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/cmdline", pid));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::ranges::replace(text, '\0', ' ');
  return text;
}

/// Drops what leaves by these devices, from now on: on the way out of the device, the last place,
/// below bridge and routes, where a frame can get lost. One transaction, so that all go at once.
/// `what` is a match in nft's language; empty: everything.
Result<void> drop_output(const std::string& where, const std::vector<std::string>& devices,
                         const std::vector<std::string>& what = {""}) {
  std::string rules = "add table netdev scene_cut; ";
  for (const std::string& device : devices) {
    rules += fmt::format(
        "add chain netdev scene_cut {0} {{ type filter hook egress device {0} priority 0; }}; ",
        device);
    for (const std::string& match : what) {
      rules += fmt::format("add rule netdev scene_cut {} {} drop; ", device, match);
    }
  }
  BOOST_OUTCOME_TRY(run_checked({"nft", rules}, 10s, where));
  return ok();
}

/// Who made the scene: pid and its start time, so that a reused pid is not mistaken for it.
std::string identity_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) {
    return {};
  }
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) {
    fields >> field;
  }
  return fmt::format("{} {}", pid, field);
}

/// Removing a cgroup works only once its last process has been reaped, which is not always by us.
void remove_cgroup(const fs::path& path) {
  if (path.empty() || !fs::exists(path)) {
    return;
  }
  (void)write_file(path / "cgroup.kill", "1");
  std::error_code error;
  for (int i = 0; i < 200 && !fs::remove(path, error); ++i) {
    std::this_thread::sleep_for(10ms);
  }
}

}  // namespace

std::string_view name_of(HostId host) {
  constexpr std::array<std::string_view, hosts_max> names = {"hostA", "hostB", "hostC", "hostD"};
  return names[static_cast<std::size_t>(host)];
}

SceneOptions options_from_environment() {
  SceneOptions options;
  if (const char* directory = std::getenv("UNDERSTUDY_BUILD_DIR")) {
    options.build_directory = directory;
  } else {
    // A test program lies somewhere below the build directory.
    fs::path place = fs::read_symlink("/proc/self/exe").parent_path();
    while (place.has_relative_path() && !fs::exists(place / "agent" / "understudyd")) {
      place = place.parent_path();
    }
    options.build_directory = place;
  }
  const char* guest = std::getenv("UNDERSTUDY_GUEST_DIR");
  options.guest_directory = guest != nullptr ? fs::path(guest) : options.build_directory / "guest";
  return options;
}

// --- setting up and taking down ------------------------------------------------------------------

Scene::Scene(SceneOptions options) : options_(std::move(options)) {
  if (options_.tag.empty()) {
    options_.tag = fmt::format("p{}", getpid());
  }
  folder_ = scenes_folder / options_.tag;
}

Result<std::unique_ptr<Scene>> Scene::build(SceneOptions options) {
  std::unique_ptr<Scene> scene(new Scene(std::move(options)));
  const SceneOptions& wanted = scene->options_;
  const auto fine = [](char character) {
    return std::isalnum(static_cast<unsigned char>(character)) != 0;
  };
  if (wanted.tag.size() > 20 || !std::ranges::all_of(wanted.tag, fine)) {
    scene->kept_ = true;  // nothing of ours to take down
    return fail(ErrorCode::usage, "scene tag '{}': expected at most 20 letters and digits",
                wanted.tag);
  }
  if (wanted.hosts < 2 || wanted.hosts > hosts_max) {
    scene->kept_ = true;
    return fail(ErrorCode::usage, "a scene has 2 to {} hosts, not {}", hosts_max, wanted.hosts);
  }
  for (const fs::path& needed :
       {wanted.build_directory / "agent" / "understudyd",
        wanted.build_directory / "cli" / "understudy", wanted.guest_directory / "vmlinuz",
        wanted.guest_directory / wanted.initramfs}) {
    if (!fs::exists(needed)) {
      return fail(ErrorCode::no_such, "{}: not there; build it first", needed.string());
    }
  }
  if (in_use(wanted.tag)) {
    scene->kept_ = true;
    return fail(ErrorCode::exists, "a scene '{}' is being played by another process right now",
                wanted.tag);
  }
  BOOST_OUTCOME_TRY(clean(wanted.tag));
  std::error_code error;
  fs::create_directories(scene->folder_, error);
  if (error) {
    return system_error(error.value(), scene->folder_.string());
  }
  BOOST_OUTCOME_TRY(write_file(scene->folder_ / "owner", identity_of(getpid())));
  BOOST_OUTCOME_TRY(scene->make_networks());
  BOOST_OUTCOME_TRY(scene->wait_for_networks());
  if (wanted.before_agents) {
    BOOST_OUTCOME_TRY(const std::string toml, wanted.before_agents(scene->client_.name()));
    scene->options_.agent_toml += toml;
  }
  for (const HostId host : scene->hosts()) {
    BOOST_OUTCOME_TRY(scene->make_host(host));
    BOOST_OUTCOME_TRY(scene->start_agent(host));
  }
  BOOST_OUTCOME_TRY(scene->pair());
  return scene;
}

Scene::~Scene() {
  if (kept_) {
    return;
  }
  for (Host& host : hosts_) {
    host.network.release();  // clean() does it all, in one order
  }
  client_.release();
  (void)clean(options_.tag);
}

bool Scene::in_use(const std::string& tag) {
  std::ifstream file(scenes_folder / tag / "owner");
  std::string identity;
  std::getline(file, identity);
  const pid_t pid = static_cast<pid_t>(std::strtol(identity.c_str(), nullptr, 10));
  return pid > 0 && pid != getpid() && identity_of(pid) == identity;
}

void Scene::keep() {
  kept_ = true;
  for (Host& host : hosts_) {
    host.network.release();
    host.agent.release();
  }
  client_.release();
}

Result<void> Scene::clean(const std::string& tag) {
  // Kill everything first, networks and files after: nobody is left who could make new ones.
  for (const std::string_view part : {"a", "b", "c", "d", "client"}) {
    BOOST_OUTCOME_TRY(signal_all_in(namespace_name(tag, part), SIGKILL));
  }
  for (const HostId host : all_hosts) {
    remove_cgroup(cgroup_path(tag, host));
  }
  for (const std::string_view part : {"a", "b", "c", "d", "client"}) {
    BOOST_OUTCOME_TRY(delete_network_namespace(namespace_name(tag, part)));
  }
  std::error_code error;
  for (const HostId host : all_hosts) {
    fs::remove_all(memory_folder(tag, host), error);
  }
  fs::remove_all(scenes_folder / tag, error);
  return ok();
}

std::vector<std::string> Scene::standing() {
  std::vector<std::string> tags;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(scenes_folder, error)) {
    tags.push_back(entry.path().filename());
  }
  return tags;
}

char Scene::state_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto end = text.rfind(')');
  return end == std::string::npos || end + 2 >= text.size() ? '\0' : text[end + 2];
}

std::string Scene::namespace_of(const std::string& tag, HostId host) {
  return namespace_name(tag, std::string(1, letter(host)));
}

Result<void> Scene::make_networks() {
  BOOST_OUTCOME_TRY(client_, NetworkNamespace::create(namespace_name(options_.tag, "client")));
  BOOST_OUTCOME_TRY(
      client_.ip("link add lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
  BOOST_OUTCOME_TRY(client_.ip("link set lan up"));
  BOOST_OUTCOME_TRY(client_.ip("addr add 10.77.0.100/24 dev lan"));
  BOOST_OUTCOME_TRY(client_.ip("addr add fd77::100/64 dev lan nodad"));
  for (const HostId host : hosts()) {
    NetworkNamespace& network = at(host).network;
    BOOST_OUTCOME_TRY(network, NetworkNamespace::create(namespace_of(options_.tag, host)));
    BOOST_OUTCOME_TRY(
        network.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
    BOOST_OUTCOME_TRY(network.ip(fmt::format("link add up0 type veth peer name port-{} netns {}",
                                             letter(host), client_.name())));
    BOOST_OUTCOME_TRY(network.ip("link set up0 master br0 up"));
    BOOST_OUTCOME_TRY(network.ip("link set br0 up"));
    BOOST_OUTCOME_TRY(network.ip(fmt::format("addr add 10.77.0.{}/24 dev br0", digit(host))));
    BOOST_OUTCOME_TRY(client_.ip(fmt::format("link set port-{} master lan up", letter(host))));
  }
  BOOST_OUTCOME_TRY(join_replication_networks());
  for (const HostId host : hosts()) {
    BOOST_OUTCOME_TRY(
        at(host).network.ip(fmt::format("addr add 10.88.0.{}/24 dev repl", digit(host))));
    BOOST_OUTCOME_TRY(at(host).network.ip("link set repl up"));
  }
  return ok();
}

// Two hosts by a wire. More by a switch, which stands in the client's namespace because that one
// outlives every host; it has no address there.
Result<void> Scene::join_replication_networks() {
  if (options_.hosts == 2) {
    return at(HostId::a).network.ip(fmt::format("link add repl type veth peer name repl netns {}",
                                                at(HostId::b).network.name()));
  }
  BOOST_OUTCOME_TRY(
      client_.ip("link add switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
  BOOST_OUTCOME_TRY(client_.ip("link set switch up"));
  for (const HostId host : hosts()) {
    BOOST_OUTCOME_TRY(at(host).network.ip(fmt::format(
        "link add repl type veth peer name repl-{} netns {}", letter(host), client_.name())));
    BOOST_OUTCOME_TRY(client_.ip(fmt::format("link set repl-{} master switch up", letter(host))));
  }
  return ok();
}

Result<void> Scene::wait_for_networks() const {
  // The kernel may take a second to notice that a link is up; until then a bridge drops everything.
  const auto ping = [](const std::string& from, const std::string& address) {
    return run_checked({"ping", "-q", "-c", "1", "-i", "0.05", "-w", "10", address}, 15s, from);
  };
  for (const HostId host : hosts()) {
    BOOST_OUTCOME_TRY(ping(client_.name(), fmt::format("10.77.0.{}", digit(host))));
    if (host == HostId::a) continue;
    BOOST_OUTCOME_TRY(ping(host_namespace(HostId::a), fmt::format("10.88.0.{}", digit(host))));
  }
  return ok();
}

Result<void> Scene::make_host(HostId host) {
  Host& it = at(host);
  it.folder = folder_ / name_of(host);
  it.memory = memory_folder(options_.tag, host);
  std::error_code error;
  for (const fs::path& path : {it.folder / "run", it.folder / "lib", it.memory}) {
    if (!fs::create_directories(path, error)) {
      return system_error(error.value(), path.string());
    }
  }
  it.cgroup = cgroup_path(options_.tag, host);
  if (!it.cgroup.empty() && !fs::create_directory(it.cgroup, error)) {
    it.cgroup.clear();  // read-only, or not delegated: kill_host() does without
  }
  return write_agent_config(host);
}

Result<void> Scene::write_agent_config(HostId host) {
  const Host& it = at(host);
  return write_file(
      it.folder / "understudy.toml",
      fmt::format(R"(name = "{}"
runtime_directory = "{}"
state_directory = "{}"

[listen]
addresses = ["10.88.0.{}:7420", "10.77.0.{}:7420"]

[detection]
heartbeat_interval = "{}ms"
deadline = "{}ms"

[qemu]
memory_directory = "{}"
tracking = "{}"

[log]
level = "{}"

[metrics]
listen = "127.0.0.1:9600"
{})",
                  name_of(host), (it.folder / "run").string(), (it.folder / "lib").string(),
                  digit(host), digit(host), options_.heartbeat_interval.count(),
                  options_.deadline.count(), it.memory.string(), options_.tracking,
                  options_.log_level, options_.agent_toml));
}

// --- agents --------------------------------------------------------------------------------------

std::filesystem::path Scene::control_socket(HostId host) const {
  return hosts_[static_cast<std::size_t>(host)].folder / "run" / "understudyd.sock";
}

Result<void> Scene::start_agent(HostId host) {
  Host& it = at(host);
  std::vector<std::string> command = {(options_.build_directory / "agent" / "understudyd").string(),
                                      "--config", (it.folder / "understudy.toml").string()};
  if (!options_.capabilities.empty()) {
    const std::string set = fmt::format("-all,+{}", fmt::join(options_.capabilities, ",+"));
    command.insert(command.begin(),
                   {"setpriv", "--no-new-privs", "--bounding-set", set, "--inh-caps=-all"});
  }
  std::string& fault = options_.fault_points[static_cast<std::size_t>(host)];
  if (!fault.empty())
    command.insert(command.begin(), {"env", "UNDERSTUDY_FAULT_POINT=" + std::exchange(fault, {})});
  BOOST_OUTCOME_TRY(it.agent, Process::spawn(command, {.network_namespace = it.network.name(),
                                                       .log = it.folder / "understudyd.log",
                                                       .cgroup = it.cgroup}));
  return wait_for_agent(host);
}

Result<void> Scene::wait_for_agent(HostId host) {
  const auto end = Clock::now() + 20s;
  while (true) {
    if (!at(host).agent.running()) {
      return fail(ErrorCode::failed, "understudyd on {} has ended; its log says:\n{}",
                  name_of(host), last_lines(at(host).folder / "understudyd.log", 10));
    }
    auto answer = understudy(host, {"status", "-o", "json"}, 10s);
    // Its exit status may say that a domain is not well; an answer is an answer.
    if (answer && answer.value().out.starts_with("{")) {
      return ok();
    }
    if (Clock::now() > end) {
      return fail(ErrorCode::timed_out, "understudyd on {} does not answer; its log says:\n{}",
                  name_of(host), last_lines(at(host).folder / "understudyd.log", 10));
    }
    std::this_thread::sleep_for(20ms);
  }
}

Result<void> Scene::stop_agent(HostId host) {
  at(host).agent.signal(SIGTERM);
  BOOST_OUTCOME_TRY(at(host).agent.wait(20s));
  return ok();
}

Instant Scene::kill_agent(HostId host) {
  const Instant moment = Instant::now();
  at(host).agent.signal(SIGKILL);
  return moment;
}

Result<void> Scene::pair() {
  for (const HostId one : hosts()) {
    for (const HostId another : hosts()) {
      if (another <= one) continue;
      BOOST_OUTCOME_TRY(std::string token, understudy_checked(one, {"pair", "create-token"}));
      token.erase(token.find_last_not_of(" \n") + 1);
      BOOST_OUTCOME_TRY(understudy_checked(another, {"pair", "join", token}));
    }
  }
  return ok();
}

Result<CommandOutput> Scene::understudy(HostId host, const std::vector<std::string>& arguments,
                                        std::chrono::milliseconds limit) {
  std::vector<std::string> command = {(options_.build_directory / "cli" / "understudy").string(),
                                      "--socket", control_socket(host).string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_command(command, limit);
}

Result<std::string> Scene::understudy_checked(HostId host,
                                              const std::vector<std::string>& arguments,
                                              std::chrono::milliseconds limit) {
  BOOST_OUTCOME_TRY(auto output, understudy(host, arguments, limit));
  if (output.status != 0) {
    return fail(ErrorCode::failed, "'understudy {}' on {} ended with status {}: {}{}",
                fmt::join(arguments, " "), name_of(host), output.status, output.err, output.out);
  }
  return std::move(output.out);
}

Result<json::value> Scene::understudy_json(HostId host, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"-o", "json"});
  BOOST_OUTCOME_TRY(const auto output, understudy(host, arguments));
  boost::system::error_code error;
  json::value value = json::parse(output.out, error);
  if (error) {
    return fail(ErrorCode::bad_data, "'understudy {}' on {} (status {}) gave no JSON: {}{}",
                fmt::join(arguments, " "), name_of(host), output.status, output.out, output.err);
  }
  return value;
}

Result<json::object> Scene::domain(HostId host, const std::string& name) {
  BOOST_OUTCOME_TRY(const json::value status, understudy_json(host, {"status"}));
  if (const auto* whole = status.if_object()) {
    const auto* domains = whole->if_contains("domains");
    if (domains != nullptr && domains->is_array()) {
      for (const json::value& entry : domains->get_array()) {
        if (entry.is_object() && text_at(entry.get_object(), "name") == name) {
          return entry.get_object();
        }
      }
      return fail(ErrorCode::no_such, "{} has no domain {}", name_of(host), name);
    }
  }
  return fail(ErrorCode::bad_data, "status of {} has no domains: {}", name_of(host),
              json::serialize(status));
}

Result<json::object> Scene::wait_for(HostId host, const std::string& what,
                                     std::chrono::milliseconds limit,
                                     const std::function<bool(const json::object&)>& condition,
                                     const std::string& name) {
  const auto end = Clock::now() + limit;
  std::string seen;
  while (true) {
    if (auto object = domain(host, name)) {
      if (condition(object.value())) {
        return std::move(object.value());
      }
      seen = json::serialize(object.value());
    } else {
      seen = object.error().message();
    }
    if (Clock::now() > end) {
      return fail(ErrorCode::timed_out, "waited {} ms for {} on {}; last seen: {}", limit.count(),
                  what, name_of(host), seen);
    }
    std::this_thread::sleep_for(20ms);
  }
}

Result<json::object> Scene::wait_for_state(HostId host, const std::string& state,
                                           std::chrono::milliseconds limit) {
  return wait_for(host, "state " + state, limit,
                  [&](const json::object& object) { return text_at(object, "state") == state; });
}

// --- the guest -----------------------------------------------------------------------------------

std::string Scene::guest_command_line() const {
  // no_timer_check: on a busy machine the emulated timer ticks so unsteadily that the kernel takes
  // it for broken while it boots.
  return fmt::format(
      "console=ttyS0 quiet panic=-1 no_timer_check understudy.address={}/24 "
      "understudy.address6={}/64 {}",
      guest_address, guest_address_6, options_.guest_parameters);
}

Result<void> Scene::start_guest(HostId host) {
  const std::size_t ready_before = [&] {
    std::error_code error;
    const auto size = fs::file_size(console_log(), error);
    return error ? 0 : size;
  }();
  BOOST_OUTCOME_TRY(write_file(
      domain_file(), fmt::format(R"(name = "web1"
memory = "{} MiB"
vcpus = {}
kernel = "{}"
initrd = "{}"
command_line = "{}"
console_log = "{}"

[[nic]]
bridge = "br0"
mac = "{}"
)",
                                 options_.memory_mib, options_.vcpus,
                                 (options_.guest_directory / "vmlinuz").string(),
                                 (options_.guest_directory / options_.initramfs).string(),
                                 guest_command_line(), console_log().string(), guest_mac)));
  BOOST_OUTCOME_TRY(understudy_checked(host, {"domain", "start", domain_file().string()}));
  const auto end = Clock::now() + 120s;  // five seconds on an idle machine
  std::error_code error;
  while (fs::file_size(console_log(), error) <= ready_before || error ||
         !file_contains(console_log(), "READY")) {
    if (Clock::now() > end) {
      return fail(ErrorCode::timed_out, "the guest is not ready after 120 s; its console says:\n{}",
                  last_lines(console_log(), 20));
    }
    std::this_thread::sleep_for(50ms);
  }
  return ok();
}

Result<void> Scene::protect(const Protection& protection,
                            const std::function<void(const json::object&)>& progress,
                            HostId primary) {
  const std::string to =
      protection.to.empty() ? std::string(name_of(other(primary))) : protection.to;
  std::vector<std::string> command = {
      "protect",           "web1",     "--to", to, "--mode", protection.mode, "--interval",
      protection.interval, "--no-wait"};
  for (const std::string& port : protection.ports) {
    command.insert(command.end(), {"--port", port});
  }
  command.insert(command.end(), protection.more.begin(), protection.more.end());
  BOOST_OUTCOME_TRY(const auto begun, understudy(primary, command));
  // After a promotion the agent may have been faster.
  if (begun.status != 0 && begun.err.find("already") == std::string::npos &&
      begun.err.find("another request is at work") == std::string::npos) {
    return fail(ErrorCode::failed, "'understudy {}' on {} ended with status {}: {}{}",
                fmt::join(command, " "), name_of(primary), begun.status, begun.err, begun.out);
  }
  std::string last_state;
  BOOST_OUTCOME_TRY(
      wait_for(primary, "protection (or its failure)", 120s, [&](const json::object& object) {
        if (progress) {
          progress(object);
        }
        last_state = text_at(object, "state");
        return last_state == "protected" || last_state == "failed" ||
               (last_state == "running" && begun.status == 0);
      }));
  if (last_state == "protected" && protection.mode == "replay") {
    BOOST_OUTCOME_TRY(
        wait_for(primary, "output to go with the log", 60s, [](const json::object& object) {
          return text_at(object_at(object, "replay"), "state") == "replay";
        }));
  }
  if (last_state != "protected") {
    auto events = understudy(primary, {"events"});
    return fail(ErrorCode::failed, "protection ended in state '{}'; the agent's events:\n{}",
                last_state, events ? events.value().out : "");
  }
  return ok();
}

// --- what goes wrong -----------------------------------------------------------------------------

Result<Instant> Scene::kill_host(HostId host) {
  Host& it = at(host);
  const Instant moment = Instant::now();
  if (!it.cgroup.empty()) {
    (void)write_file(it.cgroup / "cgroup.kill", "1");
  }
  // Whoever was born outside the cgroup, and all of them where there is none.
  BOOST_OUTCOME_TRY(signal_all_in(it.network.name(), SIGKILL));
  it.agent = {};
  return moment;
}

Result<Instant> Scene::power_off(HostId host) {
  const Instant moment = Instant::now();
  BOOST_OUTCOME_TRY(drop_output(at(host).network.name(), {"repl", "up0"}));
  BOOST_OUTCOME_TRY(kill_host(host));
  return moment;
}

Result<Instant> Scene::hang(HostId host) {
  const Instant moment = Instant::now();
  BOOST_OUTCOME_TRY(signal_all_in(at(host).network.name(), SIGSTOP));
  return moment;
}

Result<void> Scene::resume(HostId host) {
  return signal_all_in(at(host).network.name(), SIGCONT);
}

Result<Instant> Scene::cut(HostId from, Network network) {
  const Instant moment = Instant::now();
  const bool replication = network == Network::replication;
  std::vector<std::string> matches;
  for (const HostId host : hosts()) {
    if (host == from) continue;
    const std::string address = fmt::format("10.{}.0.{}", replication ? 88 : 77, digit(host));
    matches.push_back("ip daddr " + address);
    matches.push_back("arp daddr ip " + address);
  }
  BOOST_OUTCOME_TRY(drop_output(at(from).network.name(), {replication ? "repl" : "up0"}, matches));
  return moment;
}

Result<void> Scene::heal(HostId host) {
  BOOST_OUTCOME_TRY(
      run_checked({"nft", "add table netdev scene_cut; delete table netdev scene_cut"}, 10s,
                  at(host).network.name()));
  return ok();
}

std::vector<pid_t> Scene::processes(HostId host, const std::string& part) {
  std::vector<pid_t> found = processes_in(at(host).network.name());
  std::erase_if(found,
                [&](pid_t pid) { return command_line_of(pid).find(part) == std::string::npos; });
  return found;
}

// --- the rest ------------------------------------------------------------------------------------

std::vector<HostId> Scene::hosts() const {
  return {all_hosts.begin(), all_hosts.begin() + static_cast<std::ptrdiff_t>(options_.hosts)};
}

ClientOptions Scene::client_options(unsigned connections) const {
  return {.network_namespace = client_.name(),
          .address = std::string(guest_address),
          .connections = connections};
}

Result<Process> Scene::start_client(const std::vector<std::string>& command,
                                    const std::string& log) {
  return Process::spawn(command,
                        {.network_namespace = client_.name(), .log = folder_ / log, .cgroup = {}});
}

std::string Scene::logs(std::size_t lines) const {
  std::string text;
  for (const HostId host : hosts()) {
    text += fmt::format("--- understudyd on {}, last lines:\n{}\n", name_of(host),
                        last_lines(folder_ / name_of(host) / "understudyd.log", lines));
  }
  return text;
}

}  // namespace understudy::scene
