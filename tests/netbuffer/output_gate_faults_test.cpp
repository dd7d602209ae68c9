// The gate when something is wrong: a process that dies, rules that others change, devices that are
// not what they should be. Closed is the state without us, and nothing that is not ours is touched.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "netbuffer/gate_rules.h"
#include "netbuffer/output_gate.h"
#include "stage.h"

namespace understudy {
namespace {

using stage::frame;
using stage::kEveryKind;
using stage::Kind;
using stage::numbers_of;
using stage::output_of;
using stage::run;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class OutputGateFaults : public stage::Stage {
 protected:
  /// Closes the gate in a child process, lets it hold a frame of each family, and kills it with
  /// SIGKILL.
  void close_in_a_process_that_is_killed() {
    std::array<int, 2> ready{};
    ASSERT_EQ(::pipe(ready.data()), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      boost::asio::io_context io;
      auto gate = OutputGate::close(io.get_executor(), options());
      const char done = gate ? 'y' : 'n';
      if (::write(ready[1], &done, 1) != 1) ::_exit(1);
      while (true) io.run_for(std::chrono::seconds(1));
    }
    char done = 'n';
    ASSERT_EQ(::read(ready[0], &done, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    ASSERT_EQ(done, 'y');
    guest_->send(frame(Kind::ipv4, 1));
    guest_->send(frame(Kind::arp, 2));
    EXPECT_THAT(peer_received(), IsEmpty());
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  }
};

TEST_F(OutputGateFaults, KilledHolderLeavesTheGateClosedForEveryKind) {
  close_in_a_process_that_is_killed();
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 100));
  EXPECT_THAT(peer_received(), IsEmpty())
      << "nothing leaves, and nothing that was held leaves late";
}

TEST_F(OutputGateFaults, NextStartTakesOverTheGateOfAKilledHolder) {
  close_in_a_process_that_is_killed();
  guest_->send(frame(Kind::ipv4, 3));
  close_gate();
  guest_->send(frame(Kind::ipv4, 4));
  guest_->send(frame(Kind::arp, 5));
  ASSERT_TRUE(holds(1, 1));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(5, 4)) << "3 met a closed gate";
  ASSERT_TRUE(gate_->open());
  EXPECT_EQ(output_of("nft list tables"), "");
}

TEST_F(OutputGateFaults, NextStartRemovesStaleGatesAndOnlyOurs) {
  close_in_a_process_that_is_killed();
  // The last one has our name, but not our comment.
  ASSERT_EQ(run("nft add table ip foreign && nft add table bridge foreign && "
                "nft add table ip understudy-eth7"),
            0);
  std::vector<GateRecord> asked;
  auto kept = remove_stale_gates([&](const GateRecord& gate) {
    asked.push_back(gate);
    return true;
  });
  ASSERT_TRUE(kept);
  EXPECT_THAT(kept.value(), IsEmpty());
  for (const GateRecord& gate : asked) EXPECT_EQ(gate, (GateRecord{"web1", "tap0"}));
  EXPECT_FALSE(asked.empty());
  guest_->send(frame(Kind::ipv4, 10));
  EXPECT_THAT(peer_received(), IsEmpty()) << "a kept gate stays closed";

  auto removed = remove_stale_gates([](const GateRecord& gate) { return gate.domain != "web1"; });
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_THAT(removed.value(), ElementsAre(GateRecord{"web1", "tap0"}));
  EXPECT_EQ(output_of("nft list tables"),
            "table ip foreign\ntable bridge foreign\ntable ip understudy-eth7\n");
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 11));
  EXPECT_EQ(peer_received().size(), std::size(kEveryKind));
}

TEST_F(OutputGateFaults, DestroyedGateStaysClosed) {
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  gate_.reset();
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 2));
  EXPECT_THAT(peer_received(), IsEmpty());
  close_gate();
  guest_->send(frame(Kind::ipv4, 3));
  EXPECT_TRUE(holds(1, 0)) << "and can be held again";
}

TEST_F(OutputGateFaults, BridgeThatNoLongerCallsIptablesIsFenced) {
  // The sysctl for all bridges would do as well; without it only the bridge's own option is left.
  ASSERT_EQ(run("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables && "
                "echo 0 > /proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            0);
  close_gate();
  ASSERT_EQ(run("ip link set br0 type bridge nf_call_iptables 0 nf_call_ip6tables 0"), 0);
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 1));
  EXPECT_THAT(peer_received(), IsEmpty());
  ASSERT_EQ(run("ip link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 1"), 0);
  const std::uint64_t other = std::size(kEveryKind) - 2;
  ASSERT_TRUE(holds(0, other));
  guest_->send(frame(Kind::ipv4, 2));
  ASSERT_TRUE(holds(1, other));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  const auto numbers = numbers_of(peer_received());
  EXPECT_EQ(numbers.back(), 2U);
}

TEST_F(OutputGateFaults, PortThatLeavesTheBridgeIsFenced) {
  close_gate();
  ASSERT_EQ(run("ip link add br1 type bridge && ip link set br1 addrgenmode none up && "
                "ip link set tap0 master br1 && ip link set peer0 master br1"),
            0);
  ASSERT_TRUE(wait_until([] {
    return output_of("bridge link show dev tap0").find("forwarding") != std::string::npos;
  }));
  guest_->send(frame(Kind::ipv4, 1));
  guest_->send(frame(Kind::unknown, 2));
  ASSERT_EQ(run("ip link set peer0 master br0"), 0);
  ASSERT_TRUE(wait_until([] {
    return output_of("bridge link show dev peer0").find("forwarding") != std::string::npos;
  }));
  EXPECT_THAT(peer_received(), IsEmpty());
}

TEST_F(OutputGateFaults, MarksThatOthersSetInBetweenDoNotMatter) {
  ASSERT_EQ(run("nft add table ip foreign && nft add chain ip foreign pre "
                "\"{ type filter hook prerouting priority -150; }\" && "
                "nft add rule ip foreign pre meta mark set 0x42 && "
                "nft add table bridge foreign && nft add chain bridge foreign post "
                "\"{ type filter hook forward priority 100; }\" && "
                "nft add rule bridge foreign post meta mark 0x42 counter accept && "
                "nft add rule bridge foreign post ether type ip counter drop"),
            0);
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(1))
      << "neither does their mark stop our frames, nor do we lose their mark";
}

TEST_F(OutputGateFaults, FramesThatTheKernelThrewAwayAreCountedAsDropped) {
  ASSERT_EQ(run("nft add table ip foreign && nft add chain ip foreign pre "
                "\"{ type filter hook prerouting priority 0; }\""),
            0);
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  guest_->send(frame(Kind::ipv6, 2));
  ASSERT_TRUE(holds(2, 0));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  // When a base chain goes, the kernel drops everything queued in the namespace.
  ASSERT_EQ(run("nft delete table ip foreign"), 0);
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(peer_received(), IsEmpty());
  ASSERT_TRUE(wait_until([&] { return gate_->counters().ip.dropped.frames == 2; }));
  EXPECT_EQ(gate_->counters().ip.released, Traffic{});
  guest_->send(frame(Kind::ipv4, 3));
  ASSERT_TRUE(holds(1, 0));
  ASSERT_TRUE(gate_->seal(EpochId(2)));
  ASSERT_TRUE(gate_->release(EpochId(2)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(3)) << "the gate goes on";
}

TEST_F(OutputGateFaults, SecondGateForTheSameDeviceIsRefused) {
  close_gate();
  const auto second = OutputGate::close(io_.get_executor(), options());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::exists);
  EXPECT_THAT(second.error().message(), HasSubstr("tap0"));
  guest_->send(frame(Kind::ipv4, 1));
  EXPECT_TRUE(holds(1, 0)) << "the first one is not disturbed";
}

TEST_F(OutputGateFaults, QueueNumberThatAnotherProgramHasIsPassedOver) {
  close_gate();
  const std::string first =
      output_of("awk '{print $1}' /proc/thread-self/net/netfilter/nfnetlink_queue");
  // tap0's number, wanted again: a device whose index leads to the same number.
  const unsigned index = static_cast<unsigned>(std::stoul(first));
  // The far end has no addresses, so that it says nothing by itself.
  ASSERT_EQ(run(fmt::format("ip link add tap1 index {} type veth peer name other1 && "
                            "sysctl -qw net.ipv6.conf.other1.disable_ipv6=1 && "
                            "ip link set tap1 master br0 up && ip link set other1 up",
                            index)),
            0);
  auto second =
      OutputGate::close(io_.get_executor(), {"db1", {{"tap1", "br0", stage::kPeerMac}}, {}});
  ASSERT_TRUE(second) << second.error().message();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  EXPECT_EQ(second.value()->counters().total().held.frames, 0U);
}

TEST_F(OutputGateFaults, WhatCannotBeClosedIsNamedAndLeavesNothing) {
  ASSERT_EQ(run("ip link add lonely type veth peer name other && "
                "ip link add br1 type bridge && ip link add us9 type veth peer name us8 && "
                "ip link set us9 master br1"),
            0);
  struct Case {
    std::vector<GateInterface> interfaces;
    ErrorCode code;
    std::string named;
  };
  const GateInterface good{"tap0", "br0", stage::kGuestMac};
  for (const Case& wrong : std::vector<Case>{
           {{good, {"tap9", "br0", stage::kGuestMac}}, ErrorCode::no_such, "'tap9'"},
           {{good, {"", "br0", stage::kGuestMac}}, ErrorCode::no_such, "''"},
           {{good, {std::string(100, 'x'), "br0", stage::kGuestMac}}, ErrorCode::no_such, "xxx"},
           {{good, {"us9", "br9", stage::kGuestMac}}, ErrorCode::no_such, "'br9'"},
           {{good, {"lonely", "br0", stage::kGuestMac}}, ErrorCode::config, "'lonely'"},
           {{good, {"us9", "br0", stage::kGuestMac}}, ErrorCode::config, "'us9'"},
           {{good, good}, ErrorCode::exists, "tap0"}}) {
    const auto gate = OutputGate::close(io_.get_executor(), {"web1", wrong.interfaces, {}});
    ASSERT_FALSE(gate) << wrong.named;
    EXPECT_EQ(gate.error().code(), wrong.code) << gate.error().message();
    EXPECT_THAT(gate.error().message(), HasSubstr(wrong.named));
    EXPECT_THAT(gate.error().message(), HasSubstr("web1"));
    EXPECT_EQ(output_of("nft list tables"), "");
    EXPECT_THAT(output_of("ip -br link"), Not(HasSubstr("us-inject")));
    EXPECT_EQ(output_of("cat /proc/thread-self/net/netfilter/nfnetlink_queue"), "");
  }
  guest_->send(frame(Kind::ipv4, 1));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(1)) << "the guest was not touched";
}

TEST_F(OutputGateFaults, ProbingTouchesNothing) {
  const auto probed = probe_gate();
  EXPECT_TRUE(probed) << probed.error().message();
  EXPECT_EQ(output_of("nft list tables"), "");
  EXPECT_EQ(output_of("cat /proc/thread-self/net/netfilter/nfnetlink_queue"), "");
}

TEST_F(OutputGateFaults, TaggedFramesSentToIptablesAreRefused) {
  ASSERT_EQ(run("echo 1 > /proc/sys/net/bridge/bridge-nf-filter-vlan-tagged"), 0);
  const auto gate = OutputGate::close(io_.get_executor(), options());
  ASSERT_FALSE(gate);
  EXPECT_EQ(gate.error().code(), ErrorCode::config);
  EXPECT_THAT(gate.error().message(), HasSubstr("bridge-nf-filter-vlan-tagged"));
}

TEST_F(OutputGateFaults, WithoutPermissionNothingIsDone) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> nothing{};
    if (::syscall(SYS_capset, &header, nothing.data()) != 0) ::_exit(2);
    const auto gate = OutputGate::close(io_.get_executor(), options());
    if (gate) ::_exit(3);
    ::_exit(gate.error().code() == ErrorCode::permission ? 0 : 4);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(output_of("nft list tables"), "");
}

TEST_F(OutputGateFaults, TapThatVanishesAndComesBackMeetsAClosedGate) {
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  ASSERT_EQ(run("ip link del tap0"), 0);
  ASSERT_TRUE(gate_->seal(EpochId(1))) << "a domain that is gone is no reason to fail";
  ASSERT_EQ(run(fmt::format("ip link add tap0 type veth peer name eth0 address {} netns {} && "
                            "ip link set tap0 addrgenmode none master br0 up",
                            stage::kGuestMac, guest_namespace_->pid())),
            0);
  ASSERT_EQ(run("ip link set eth0 addrgenmode none && ip link set eth0 up", guest_namespace_.get()),
            0);
  ASSERT_TRUE(wait_until([] {
    return output_of("bridge link show dev tap0").find("forwarding") != std::string::npos;
  }));
  guest_ = std::make_unique<stage::Station>(*guest_namespace_, "eth0");
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 2));
  EXPECT_THAT(peer_received(), IsEmpty());
  EXPECT_TRUE(gate_->open());
  EXPECT_EQ(output_of("nft list tables"), "");
}

TEST_F(OutputGateFaults, RulesThatSomebodyRemovedAreNoObstacleToOpening) {
  close_gate();
  ASSERT_EQ(run("nft delete table ip6 understudy-tap0"), 0);
  ASSERT_TRUE(gate_->open());
  EXPECT_EQ(output_of("nft list tables"), "");
}

TEST_F(OutputGateFaults, TheRulesCanBeReadWithNft) {
  close_gate();
  const std::string listing = output_of("nft list ruleset");
  EXPECT_THAT(listing, HasSubstr("table bridge understudy-tap0"));
  EXPECT_THAT(listing, HasSubstr("understudy gate of domain web1"));
  EXPECT_THAT(listing, Not(HasSubstr("bypass")));
}

}  // namespace
}  // namespace understudy
