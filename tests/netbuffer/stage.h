// The stage of the gate's tests: a host with a bridge, a guest behind a port, a peer behind
// another.
//
//     guest namespace          host namespace (this thread)            peer namespace
//        eth0 ───────────── tap0 ┤ br0 ├ peer0 ───────────────────────── eth0
//        192.0.2.1              (192.0.2.254)                             192.0.2.2
//        2001:db8::1                                                      2001:db8::2
//
// A veth pair stands in for the tap: for the bridge there is no difference. Namespaces have no
// names and live as long as a child process of ours, which dies with us, so nothing is left behind
// however a test ends.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "netbuffer/output_gate.h"

namespace understudy::stage {

using Octets = std::vector<std::uint8_t>;

inline constexpr MacAddress kGuestMac{{0x52, 0x54, 0, 0, 0, 1}};
inline constexpr MacAddress kPeerMac{{0x52, 0x54, 0, 0, 0, 2}};

/// A network namespace of its own, held open by a child process.
class Namespace {
 public:
  Namespace();
  ~Namespace();
  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

/// Runs a shell command in the host namespace, or in `where`; returns its exit status. Output goes
/// to the test's.
int run(const std::string& command, const Namespace* where = nullptr);
/// The same, and returns what it wrote.
std::string output_of(const std::string& command, const Namespace* where = nullptr);

/// A process in a namespace, killed (by its id) with this object.
class Process {
 public:
  Process(const std::string& command, const Namespace& where);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  /// The exit status once it has ended, without waiting.
  std::optional<int> ended();

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

/// Sends and receives whole frames on a device of a namespace.
class Station {
 public:
  /// With `offload_header`, every frame sent and received is preceded by the ten octets of a
  /// virtio_net_hdr, as a hypervisor hands it over.
  Station(const Namespace& where, const std::string& device, bool offload_header = false);
  void send(const Octets& frame);
  /// Every frame that came in, VLAN tag in place, since the last call, that carries the test's mark
  /// (see `frame`).
  std::vector<Octets> received();

 private:
  UniqueFd socket_;
  std::size_t header_bytes_ = 0;
};

/// A frame with a recognisable body that ends in `number`. `type_and_payload` begins at the
/// ethertype; IP headers are made for 0x0800 and 0x86dd.
enum class Kind { ipv4, ipv6, arp, vlan_ipv4, vlan_arp, double_vlan, unknown, llc, mpls };
inline constexpr Kind kEveryKind[] = {Kind::ipv4,      Kind::ipv6,     Kind::arp,
                                      Kind::vlan_ipv4, Kind::vlan_arp, Kind::double_vlan,
                                      Kind::unknown,   Kind::llc,      Kind::mpls};
Octets frame(Kind kind, std::uint32_t number, std::size_t body_bytes = 64);
/// The number of a frame made by `frame`; nothing for all others.
std::optional<std::uint32_t> number_of(const Octets& frame);
std::vector<std::uint32_t> numbers_of(const std::vector<Octets>& frames);

/// The fixture. Each test gets fresh namespaces.
class Stage : public testing::Test {
 protected:
  void SetUp() override;

  /// Gives guest and peer their addresses; without, the devices are silent.
  void give_addresses();
  GateOptions options() const;
  /// Closes the gate of the guest.
  void close_gate(GateLimits limits = {});
  /// Runs the event loop until `condition` holds; false after ten seconds.
  bool wait_until(const std::function<bool()>& condition);
  /// Runs the event loop until the gate holds `ip` and `other` frames.
  testing::AssertionResult holds(std::uint64_t ip, std::uint64_t other);
  /// What the peer has received by the time at which nothing more is on its way: frames that never
  /// met the gate (canaries, numbered from 0xf0000001 and seen by the guest too) show that.
  std::vector<Octets> peer_received();
  /// Runs the event loop and makes checkpoints, each sealed and released, until `condition` holds.
  bool checkpoint_until(const std::function<bool()>& condition,
                        std::chrono::milliseconds interval = std::chrono::milliseconds(5));

  boost::asio::io_context io_;
  std::unique_ptr<Namespace> guest_namespace_;
  std::unique_ptr<Namespace> peer_namespace_;
  std::unique_ptr<Station> guest_;
  std::unique_ptr<Station> peer_;
  std::unique_ptr<OutputGate> gate_;
  EpochId epoch_;

 private:
  std::uint32_t canary_ = 0xf0000000;
};

}  // namespace understudy::stage
