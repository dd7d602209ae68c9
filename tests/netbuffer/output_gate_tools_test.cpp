// The gate under the tools that people use: ping, TCP streams, VLAN devices, large segments. The
// caches start empty, so ARP and neighbour discovery pass through the gate as well.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "netbuffer/output_gate.h"
#include "stage.h"

namespace understudy {
namespace {

using stage::output_of;
using stage::Process;
using stage::run;

class OutputGateTools : public stage::Stage {
 protected:
  /// Sends `mib` of random octets from the guest to the peer over TCP, and compares.
  void stream(const std::string& guest_address, int mib) {
    const std::string base = fmt::format("/tmp/understudy-gate-{}", ::getpid());
    const std::string in = base + ".in";
    const std::string out = base + ".out";
    ASSERT_EQ(run(fmt::format("head -c {}M /dev/urandom > {}", mib, in)), 0);
    {
      Process server(fmt::format("nc -l -N -s {} -p 4321 < {}", guest_address, in),
                     *guest_namespace_);
      // The client tries again until the server listens.
      Process client(fmt::format("sh -c \"for i in \\$(seq 200); do nc -d {} 4321 > {}; "
                                 "test -s {} && exit 0; sleep 0.05; done; exit 1\"",
                                 guest_address, out, out),
                     *peer_namespace_);
      EXPECT_TRUE(checkpoint_until([&] { return client.ended().has_value(); }));
      EXPECT_EQ(client.ended(), 0);
    }
    EXPECT_EQ(run(fmt::format("cmp {} {}", in, out)), 0);
    ::unlink(in.c_str());
    ::unlink(out.c_str());
  }
};

TEST_F(OutputGateTools, PingIsAnsweredAfterCheckpointsOnly) {
  give_addresses();
  close_gate();
  for (const char* const address : {"192.0.2.1", "2001:db8::1"}) {
    Process ping(fmt::format("ping -q -c 1 -W 1 {} > /dev/null", address), *peer_namespace_);
    ASSERT_TRUE(wait_until([&] { return ping.ended().has_value(); }));
    EXPECT_NE(ping.ended(), 0) << "no checkpoint, no answer, not even to ARP";
  }
  ASSERT_TRUE(gate_->drop_held());
  // The peer starts afresh, rather than in the middle of giving up on the address.
  ASSERT_EQ(run("ip neigh flush dev eth0", peer_namespace_.get()), 0);
  for (const char* const address : {"192.0.2.1", "2001:db8::1"}) {
    Process ping(fmt::format("ping -q -c 5 -i 0.02 -W 5 {} > /dev/null", address),
                 *peer_namespace_);
    ASSERT_TRUE(checkpoint_until([&] { return ping.ended().has_value(); }));
    EXPECT_EQ(ping.ended(), 0) << address;
  }
  EXPECT_GT(gate_->counters().other.released.frames, 0U) << "ARP went through the gate";
}

TEST_F(OutputGateTools, FragmentsPass) {
  give_addresses();
  close_gate();
  for (const char* const address : {"192.0.2.1", "2001:db8::1"}) {
    Process ping(fmt::format("ping -q -c 2 -i 0.02 -s 9000 -W 5 {} > /dev/null", address),
                 *peer_namespace_);
    ASSERT_TRUE(checkpoint_until([&] { return ping.ended().has_value(); }));
    EXPECT_EQ(ping.ended(), 0) << address;
  }
}

TEST_F(OutputGateTools, TcpStreamOfLargeSegmentsArrivesUnharmed) {
  give_addresses();
  close_gate();
  stream("192.0.2.1", 8);
  EXPECT_EQ(gate_->counters().total().dropped.frames, 0U);
}

TEST_F(OutputGateTools, TcpStreamOverAVlanOfTheGuestsOwnArrivesUnharmed) {
  if (run("ip link add link br0 name vlan7 type vlan id 7") != 0) {
    GTEST_SKIP() << "this kernel has no VLAN devices";
  }
  give_addresses();
  for (int i = 1; i <= 2; ++i) {
    ASSERT_EQ(run(fmt::format("ip link add link eth0 name vlan7 type vlan id 7 && "
                              "ip link set vlan7 up && ip addr add 198.51.100.{}/24 dev vlan7",
                              i),
                  i == 1 ? guest_namespace_.get() : peer_namespace_.get()),
              0);
  }
  close_gate();
  stream("198.51.100.1", 2);
  EXPECT_GT(gate_->counters().other.released.bytes, 2U << 20) << "held here, not in the queue";
}

TEST_F(OutputGateTools, VlanFilteringBridgePutsArpIntoTheDomainsVlan) {
  if (run("ip link set br0 type bridge vlan_filtering 1") != 0) {
    GTEST_SKIP() << "this kernel's bridges do not filter VLANs";
  }
  ASSERT_EQ(run("for p in tap0 peer0; do bridge vlan del dev $p vid 1 && "
                "bridge vlan add dev $p vid 7 pvid untagged; done"),
            0);
  give_addresses();
  close_gate();
  Process ping("ping -q -c 1 -W 5 192.0.2.1 > /dev/null", *peer_namespace_);
  ASSERT_TRUE(checkpoint_until([&] { return ping.ended().has_value(); }));
  EXPECT_EQ(ping.ended(), 0);
}

TEST_F(OutputGateTools, BridgeKeepsItsAddressMtuAndForwardingTable) {
  give_addresses();
  ASSERT_EQ(run("ip link set peer0 mtu 9000 && ip link set tap0 mtu 9000"), 0);
  const std::string before = output_of("ip -o link show br0");
  close_gate();
  EXPECT_EQ(output_of("ip -o link show br0"), before);
  Process ping("ping -q -c 1 -W 5 192.0.2.1 > /dev/null", *peer_namespace_);
  ASSERT_TRUE(checkpoint_until([&] { return ping.ended().has_value(); }));
  EXPECT_EQ(ping.ended(), 0);
  EXPECT_THAT(output_of("bridge fdb show br br0 dynamic"),
              testing::HasSubstr(fmt::format("{} dev tap0", stage::kGuestMac)))
      << "the guest's address stays with its own port";
}

}  // namespace
}  // namespace understudy
