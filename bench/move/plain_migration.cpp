#include "bench/move/plain_migration.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/unique_fd.h"

namespace understudy::bench {
namespace {

using namespace std::chrono_literals;
using scene::Clock;
using scene::HostId;

constexpr std::uint16_t kMigrationPort = 4444;

/// Reads one line of the monitor; events pass by.
Result<std::string> read_answer(int monitor) {
  std::string line;
  for (;;) {
    char octet = 0;
    const ssize_t got = ::read(monitor, &octet, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return fail(ErrorCode::unavailable, "QEMU's monitor has closed");
    if (octet != '\n') {
      line += octet;
      continue;
    }
    if (line.find("\"event\"") == std::string::npos) return line;
    line.clear();
  }
}

Result<void> write_line(int monitor, const std::string& line) {
  if (::send(monitor, line.data(), line.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(line.size())) {
    return system_error(errno, "QEMU's monitor");
  }
  return ok();
}

}  // namespace

std::filesystem::path PlainGuest::monitor(HostId host) const {
  return scene_->folder() / fmt::format("plain-{}.monitor", scene::name_of(host));
}

Result<scene::Process> PlainGuest::launch(HostId host, bool incoming) {
  const std::string& network = scene_->host_namespace(host);
  // What an earlier run of the same guest has left.
  (void)scene::run_command({"ip", "-n", network, "link", "del", "plain0"}, 10s);
  BOOST_OUTCOME_TRY(
      scene::run_checked({"ip", "-n", network, "tuntap", "add", "dev", "plain0", "mode", "tap"}));
  BOOST_OUTCOME_TRY(
      scene::run_checked({"ip", "-n", network, "link", "set", "plain0", "master", "br0", "up"}));
  std::filesystem::remove(monitor(host));
  const auto& options = scene_->options();
  std::vector<std::string> command = {
      "qemu-system-x86_64",
      "-accel",
      "tcg",
      "-machine",
      "q35,sata=off,smbus=off",
      "-smp",
      fmt::format("{}", options.vcpus),
      "-m",
      fmt::format("{}M", options.memory_mib),
      "-no-user-config",
      "-nodefaults",
      "-display",
      "none",
      "-kernel",
      (options.guest_directory / "vmlinuz").string(),
      "-initrd",
      (options.guest_directory / options.initramfs).string(),
      "-append",
      scene_->guest_command_line(),
      "-netdev",
      "tap,id=net0,ifname=plain0,script=no,downscript=no",
      "-device",
      fmt::format("virtio-net-pci,netdev=net0,mac={},romfile=", scene::guest_mac),
      "-serial",
      fmt::format("file:{}", (scene_->folder() / "plain.console").string()),
      "-qmp",
      fmt::format("unix:{},server=on,wait=off", monitor(host).string())};
  if (incoming) {
    command.insert(
        command.end(),
        {"-incoming",
         fmt::format("tcp:{}:{}", host == HostId::a ? "10.88.0.1" : "10.88.0.2", kMigrationPort)});
  }
  return scene::Process::spawn(
      command, {.network_namespace = network, .log = scene_->folder() / "plain.log"});
}

Result<PlainGuest> PlainGuest::start(scene::Scene& scene) {
  PlainGuest guest(scene);
  BOOST_OUTCOME_TRY(guest.qemu_, guest.launch(HostId::a, false));
  const auto end = Clock::now() + 180s;
  for (;;) {
    // A connection made before its services are there fails, and the next one is tried.
    scene::EchoTraffic probe(scene.client_options(1));
    probe.start();
    const auto answered = probe.wait_for_progress(2s);
    probe.abandon();
    if (answered) return guest;
    if (Clock::now() > end) return answered.error().in("wait for the plain guest");
  }
}

Result<std::string> PlainGuest::tell(HostId host, const std::string& command) const {
  UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.valid()) return system_error(errno, "socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = monitor(host).string();
  if (path.size() >= sizeof address.sun_path) return fail(ErrorCode::usage, "{}: too long", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto end = Clock::now() + 10s;
  while (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
         0) {
    if (Clock::now() > end) return system_error(errno, "connect to QEMU's monitor");
    std::this_thread::sleep_for(10ms);
  }
  BOOST_OUTCOME_TRY(read_answer(connection.get()));  // the greeting
  BOOST_OUTCOME_TRY(write_line(connection.get(), R"({"execute":"qmp_capabilities"})"));
  BOOST_OUTCOME_TRY(read_answer(connection.get()));
  BOOST_OUTCOME_TRY(write_line(connection.get(), command));
  BOOST_OUTCOME_TRY(const std::string answer, read_answer(connection.get()));
  if (answer.find("\"error\"") != std::string::npos) {
    return fail(ErrorCode::failed, "QEMU says {} to {}", answer, command);
  }
  return answer;
}

Result<void> PlainGuest::move() {
  const HostId target = scene::other(host_);
  BOOST_OUTCOME_TRY(scene::Process incoming, launch(target, true));
  BOOST_OUTCOME_TRY(tell(target, R"({"execute":"query-status"})"));
  BOOST_OUTCOME_TRY(
      tell(host_, R"({"execute":"migrate-set-parameters","arguments":{"max-bandwidth":0}})"));
  BOOST_OUTCOME_TRY(
      tell(host_, fmt::format(R"({{"execute":"migrate","arguments":{{"uri":"tcp:{}:{}"}}}})",
                              target == HostId::a ? "10.88.0.1" : "10.88.0.2", kMigrationPort)));
  const auto end = Clock::now() + 120s;
  for (;;) {
    BOOST_OUTCOME_TRY(const std::string told, tell(host_, R"({"execute":"query-migrate"})"));
    if (told.find("\"status\": \"completed\"") != std::string::npos) break;
    if (told.find("\"status\": \"failed\"") != std::string::npos || Clock::now() > end) {
      return fail(ErrorCode::failed, "QEMU's migration: {}", told);
    }
    std::this_thread::sleep_for(20ms);
  }
  qemu_ = std::move(incoming);  // ends the old one
  host_ = target;
  return ok();
}

}  // namespace understudy::bench
