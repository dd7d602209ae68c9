// The gate with real frames of every kind: what stays, what goes, and in which order.
//
// Not tested here: frames that a real hypervisor hands over through a tap (the veth pair that
// stands in for it takes the same way into the bridge), and several CPUs sending at once.
#include "netbuffer/output_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "netbuffer/frame_capture.h"
#include "stage.h"

namespace understudy {
namespace {

using stage::frame;
using stage::kEveryKind;
using stage::kGuestMac;
using stage::Kind;
using stage::kPeerMac;
using stage::numbers_of;
using stage::Octets;
using stage::output_of;
using stage::run;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

class OutputGateTest : public stage::Stage {};

TEST_F(OutputGateTest, WithoutAGateEveryKindOfFrameArrives) {
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, static_cast<std::uint32_t>(kind)));
  EXPECT_EQ(peer_received().size(), std::size(kEveryKind))
      << "otherwise the other tests say little";
}

TEST_F(OutputGateTest, NoKindOfFrameLeavesBeforeItsRelease) {
  close_gate();
  std::vector<Octets> sent;
  for (const Kind kind : kEveryKind) {
    sent.push_back(frame(kind, static_cast<std::uint32_t>(kind)));
    guest_->send(sent.back());
  }
  ASSERT_TRUE(holds(2, sent.size() - 2));
  EXPECT_THAT(peer_received(), IsEmpty()) << "held only";
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  EXPECT_EQ(gate_->counters().total().sealed.frames, sent.size());
  EXPECT_THAT(peer_received(), IsEmpty()) << "sealed, but not acknowledged";
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(peer_received(), UnorderedElementsAreArray(sent)) << "octet by octet";
  EXPECT_EQ(gate_->counters().total().released.frames, sent.size());
  EXPECT_EQ(gate_->counters().total().held, Traffic{});
}

TEST_F(OutputGateTest, ReleasedFramesDoNotReturnToTheGuest) {
  close_gate();
  guest_->send(frame(Kind::arp, 1));
  ASSERT_TRUE(holds(0, 1));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(1));
  // The canaries of peer_received reached the guest too: whatever came before them is here by now.
  std::vector<std::uint32_t> seen;
  ASSERT_TRUE(wait_until([&] {
    for (const std::uint32_t number : numbers_of(guest_->received())) seen.push_back(number);
    return !seen.empty();
  }));
  for (const std::uint32_t number : seen) EXPECT_GT(number, 0xf0000000) << "only canaries";
}

TEST_F(OutputGateTest, WhatCameForAGuestThatHasLeftIsSentAfterItUnderAnAddressOfOurs) {
  close_gate();
  // The guest is announced behind the peer's port.
  Octets announcement = frame(Kind::unknown, 1);
  std::fill_n(announcement.begin(), 6, 0xff);
  std::ranges::copy(kGuestMac.octets, announcement.begin() + 6);
  peer_->send(announcement);
  Octets late = frame(Kind::ipv4, 2);
  std::ranges::copy(kGuestMac.octets, late.begin());
  std::ranges::copy(kPeerMac.octets, late.begin() + 6);
  const auto behind_header = [](const Octets& octets) {
    Octets whole(netbuffer::CapturedFrame::kHeaderBytes, 0);
    whole.insert(whole.end(), octets.begin(), octets.end());
    return whole;
  };
  ASSERT_TRUE(gate_->pass_on(0, behind_header(late)));
  ASSERT_TRUE(gate_->pass_on(0, behind_header(frame(Kind::ipv4, 3)))) << "not for the guest";
  ASSERT_TRUE(gate_->pass_on(0, Octets(3))) << "no frame at all";
  EXPECT_FALSE(gate_->pass_on(1, behind_header(late))) << "there is one interface";
  const auto seen = peer_received();
  ASSERT_THAT(numbers_of(seen), ElementsAre(2));
  EXPECT_EQ(Octets(seen[0].begin(), seen[0].begin() + 6),
            Octets(kGuestMac.octets.begin(), kGuestMac.octets.end()));
  EXPECT_EQ(seen[0][6], 0xfe) << "the bridge must not take the peer to be here";
  EXPECT_EQ(Octets(seen[0].begin() + 12, seen[0].end()), Octets(late.begin() + 12, late.end()));
}

TEST_F(OutputGateTest, FramesAfterTheBarrierStayHeld) {
  close_gate();
  for (const Kind kind : {Kind::ipv4, Kind::ipv6, Kind::unknown}) {
    const std::uint32_t base = 100 * static_cast<std::uint32_t>(kind);
    for (std::uint32_t i = 0; i < 5; ++i) guest_->send(frame(kind, base + i));
  }
  ASSERT_TRUE(holds(10, 5));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  for (const Kind kind : {Kind::ipv4, Kind::ipv6, Kind::unknown}) {
    guest_->send(frame(kind, 9000 + static_cast<std::uint32_t>(kind)));
  }
  ASSERT_TRUE(holds(12, 6));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  const auto numbers = numbers_of(peer_received());
  EXPECT_EQ(numbers.size(), 15U);
  for (const std::uint32_t number : numbers) EXPECT_LT(number, 9000U);
  EXPECT_TRUE(holds(2, 1));
  ASSERT_TRUE(gate_->seal(EpochId(2)));
  ASSERT_TRUE(gate_->release(EpochId(2)));
  EXPECT_EQ(peer_received().size(), 3U);
}

TEST_F(OutputGateTest, OrderIsKeptOverManyEpochsAcknowledgedInBulk) {
  close_gate();
  std::vector<std::uint32_t> expected(500);
  std::iota(expected.begin(), expected.end(), 0);
  for (const std::uint32_t number : expected) {
    guest_->send(frame(number % 2 == 0 ? Kind::ipv4 : Kind::ipv6, number));
    if (number % 10 != 9) continue;
    ASSERT_TRUE(holds(number + 1, 0));
    ASSERT_TRUE(gate_->seal(EpochId(number / 10 + 1)));
  }
  ASSERT_TRUE(gate_->release(EpochId(20)));
  ASSERT_TRUE(gate_->release(EpochId(10))) << "late: nothing more to do";
  EXPECT_EQ(gate_->counters().ip.released.frames, 200U);
  ASSERT_TRUE(gate_->release(EpochId(50)));
  EXPECT_EQ(numbers_of(peer_received()), expected);
}

TEST_F(OutputGateTest, WrongEpochsAreRefusedAndChangeNothing) {
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  ASSERT_TRUE(gate_->seal(EpochId(4)));
  for (const std::uint64_t epoch : {4, 3, 0}) {
    const auto sealed = gate_->seal(EpochId(epoch));
    ASSERT_FALSE(sealed);
    EXPECT_EQ(sealed.error().code(), ErrorCode::protocol);
  }
  const auto released = gate_->release(EpochId(5));
  ASSERT_FALSE(released);
  EXPECT_EQ(released.error().code(), ErrorCode::protocol);
  EXPECT_THAT(peer_received(), IsEmpty());
  ASSERT_TRUE(gate_->release(EpochId(3))) << "before the sealed one: nothing";
  EXPECT_THAT(peer_received(), IsEmpty());
  ASSERT_TRUE(gate_->release(EpochId(4)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(1));
}

TEST_F(OutputGateTest, SupersededPrimaryGivesUpWhatItHolds) {
  close_gate();
  guest_->send(frame(Kind::ipv4, 1));
  guest_->send(frame(Kind::arp, 2));
  ASSERT_TRUE(holds(1, 1));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  guest_->send(frame(Kind::ipv6, 3));
  ASSERT_TRUE(holds(2, 1));
  ASSERT_TRUE(gate_->drop_held());
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(peer_received(), IsEmpty());
  EXPECT_EQ(gate_->counters().total().dropped.frames, 3U);
  guest_->send(frame(Kind::ipv4, 4));
  EXPECT_TRUE(holds(1, 0)) << "still closed";
}

TEST_F(OutputGateTest, OpeningLetsHeldFramesOutInOrderAndLeavesNothingBehind) {
  close_gate();
  std::vector<std::uint32_t> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  for (const std::uint32_t number : expected) {
    guest_->send(frame(Kind::ipv4, number));
    if (number == 50) {
      ASSERT_TRUE(holds(51, 0));
      ASSERT_TRUE(gate_->seal(EpochId(1)));
    }
  }
  guest_->send(frame(Kind::arp, 777));
  ASSERT_TRUE(holds(100, 1));
  ASSERT_TRUE(gate_->open());
  expected.insert(expected.begin(), 777);
  EXPECT_EQ(numbers_of(peer_received()), expected);
  EXPECT_EQ(output_of("nft list tables"), "");
  for (const Kind kind : kEveryKind) guest_->send(frame(kind, 1000));
  EXPECT_EQ(peer_received().size(), std::size(kEveryKind)) << "and everything flows, once";
  gate_.reset();
  EXPECT_NE(run("ip link show us-inject0 2>/dev/null"), 0);
  EXPECT_THAT(output_of("cat /proc/thread-self/net/netfilter/nfnetlink_queue"), IsEmpty());
}

// A guest with a VLAN interface of its own hands over segments larger than any frame, their
// checksums unfinished. They must go on exactly as they would have without a gate.
TEST_F(OutputGateTest, LargeTaggedSegmentsGoOnAsTheyCame) {
  constexpr std::uint8_t kNeedsChecksum = 1;
  constexpr std::uint8_t kTcpV4 = 1;
  constexpr std::uint16_t kHeaders = 14 + 4 + 20 + 20;
  const std::array<std::uint16_t, 4> places = {kHeaders, 1400, 14 + 4 + 20, 16};
  Octets segment = {kNeedsChecksum, kTcpV4};
  for (const std::uint16_t place : places) {
    segment.push_back(static_cast<std::uint8_t>(place));
    segment.push_back(static_cast<std::uint8_t>(place >> 8));
  }
  Octets tcp = frame(Kind::vlan_ipv4, 42, 9000);
  tcp[18 + 9] = 6;  // TCP instead of UDP; the IP header's checksum moves by the difference.
  tcp[18 + 11] = static_cast<std::uint8_t>(tcp[18 + 11] + 11);
  // The body begins where UDP's header would have ended: its beginning, by which the frame is
  // recognised, moves out of the way of TCP's.
  std::copy_n(tcp.begin() + 18 + 20 + 8, 32, tcp.begin() + 18 + 20 + 100);
  tcp[18 + 20 + 12] = 5 << 4;  // The header is five words long.
  segment.insert(segment.end(), tcp.begin(), tcp.end());

  stage::Station guest(*guest_namespace_, "eth0", true);
  stage::Station peer(*peer_namespace_, "eth0", true);
  const auto arrived = [&] {
    std::vector<Octets> frames;
    EXPECT_TRUE(wait_until([&] {
      for (Octets& got : peer.received()) frames.push_back(std::move(got));
      return !frames.empty();
    }));
    return frames;
  };
  guest.send(segment);
  const auto without_gate = arrived();
  ASSERT_EQ(without_gate.size(), 1U) << "the stand-in for the tap passes large segments";
  ASSERT_GT(without_gate[0].size(), 9000U);

  close_gate();
  guest.send(segment);
  ASSERT_TRUE(holds(0, 1));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_EQ(arrived(), without_gate);
}

TEST_F(OutputGateTest, FramesAreCountedByKindAndSize) {
  close_gate();
  const Octets packet = frame(Kind::ipv4, 1, 1000);
  const Octets tagged = frame(Kind::vlan_ipv4, 2, 500);
  guest_->send(packet);
  guest_->send(tagged);
  ASSERT_TRUE(holds(1, 1));
  EXPECT_EQ(gate_->counters().ip.held.bytes, packet.size() - 14) << "the IP packet";
  EXPECT_EQ(gate_->counters().other.held.bytes, tagged.size()) << "the frame with its tag";
}

TEST_F(OutputGateTest, AtTheLimitOfFramesTheNewestAreDroppedAndCounted) {
  GateLimits limits;
  limits.ip_frames_max = 10;
  limits.other_frames_max = 4;
  close_gate(limits);
  for (std::uint32_t i = 0; i < 25; ++i) {
    guest_->send(frame(Kind::ipv4, i));
    guest_->send(frame(Kind::unknown, 100 + i));
  }
  ASSERT_TRUE(wait_until([&] { return gate_->counters().total().dropped.frames == 15 + 21; }));
  ASSERT_TRUE(holds(10, 4));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(numbers_of(peer_received()),
              ElementsAre(100, 101, 102, 103, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_F(OutputGateTest, AtTheLimitOfBytesTheNewestAreDroppedAndCounted) {
  GateLimits limits;
  limits.ip_bytes_max = 5000;
  limits.other_bytes_max = 2500;
  close_gate(limits);
  for (std::uint32_t i = 0; i < 10; ++i) {
    guest_->send(frame(Kind::ipv4, i, 1000));
    guest_->send(frame(Kind::unknown, 100 + i, 1000));
  }
  ASSERT_TRUE(wait_until([&] { return gate_->counters().total().dropped.frames == 6 + 8; }));
  EXPECT_TRUE(holds(4, 2));
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  ASSERT_TRUE(gate_->release(EpochId(1)));
  EXPECT_THAT(numbers_of(peer_received()), ElementsAre(100, 101, 0, 1, 2, 3));
  guest_->send(frame(Kind::ipv4, 50, 1000));
  EXPECT_TRUE(holds(1, 0)) << "there is room again";
}

TEST_F(OutputGateTest, GuestsAddressesAreLearntWhileItsFramesAreHeld) {
  close_gate();
  guest_->send(frame(Kind::ipv6, 1));
  ASSERT_TRUE(holds(1, 0));
  guest_->send(frame(Kind::arp, 2));
  guest_->send(frame(Kind::ipv4, 3));
  Octets foreign = frame(Kind::ipv4, 4);
  foreign[11] = 0x77;  // A station behind the guest: not the guest's own address.
  foreign[29] = 0x09;
  guest_->send(foreign);
  ASSERT_TRUE(wait_until([&] { return gate_->counters().other.held.frames == 1; }));
  const auto learned = gate_->learned_addresses();
  ASSERT_EQ(learned.size(), 1U);
  EXPECT_EQ(learned[0].device, "tap0");
  EXPECT_EQ(learned[0].mac, stage::kGuestMac);
  EXPECT_THAT(learned[0].addresses,
              testing::UnorderedElementsAre(IpAddress::parse("2001:db8::1").value(),
                                            IpAddress::parse("192.0.2.1").value()));
}

TEST_F(OutputGateTest, TwoDomainsOnOneBridgeDoNotMix) {
  ASSERT_EQ(run("ip link add tap1 type veth peer name other1 && ip link set tap1 addrgenmode none "
                "master br0 up && "
                "ip link set other1 addrgenmode none up"),
            0);
  close_gate();
  auto second =
      OutputGate::close(io_.get_executor(), {"db1", {{"tap1", "br0", stage::kPeerMac}}, {}});
  ASSERT_TRUE(second) << second.error().message();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(holds(1, 0));
  EXPECT_EQ(second.value()->counters().total().held.frames, 0U);
  ASSERT_TRUE(second.value()->seal(EpochId(1)));
  ASSERT_TRUE(second.value()->release(EpochId(1)));
  EXPECT_THAT(peer_received(), IsEmpty());
  ASSERT_TRUE(second.value()->open());
  guest_->send(frame(Kind::ipv4, 2));
  ASSERT_TRUE(wait_until([&] { return gate_->counters().ip.held.frames == 2; })) << "still closed";
}

TEST_F(OutputGateTest, HoldsAndReleasesTenThousandFrames) {
  close_gate();
  constexpr std::uint32_t kFrames = 10000;
  std::vector<std::uint32_t> expected(kFrames);
  std::iota(expected.begin(), expected.end(), 0);
  for (const std::uint32_t number : expected) {
    guest_->send(frame(Kind::ipv4, number));
    // So that the stand-in for the tap (a veth queue) does not overflow on a busy machine.
    if (number % 500 == 499) {
      ASSERT_TRUE(holds(number + 1, 0));
    }
  }
  // The veth behind the bridge queues what it is sent in bulk, and drops beyond a thousand or so if
  // the machine is busy. The kernel counts that, and it is not the gate's doing.
  const auto overflows = [] { return output_of("awk '{print $2}' /proc/net/softnet_stat"); };
  const std::string overflows_before = overflows();
  const auto time_us = [](const auto& step) {
    const auto start = std::chrono::steady_clock::now();
    step();
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 start)
        .count();
  };
  const auto seal_us = time_us([&] { ASSERT_TRUE(gate_->seal(EpochId(1))); });
  const auto release_us = time_us([&] { ASSERT_TRUE(gate_->release(EpochId(1))); });
  const auto arrived = numbers_of(peer_received());
  if (overflows() == overflows_before) {
    EXPECT_EQ(arrived, expected);
  } else {
    EXPECT_TRUE(std::is_sorted(arrived.begin(), arrived.end()));
  }
  RecordProperty("seal_us", static_cast<int>(seal_us));
  RecordProperty("release_us", static_cast<int>(release_us));
  fmt::print("10,000 frames: seal {} us, release {} us ({:.2f} us a frame)\n", seal_us, release_us,
             static_cast<double>(release_us) / kFrames);
}

TEST_F(OutputGateTest, SealTakesInFramesThatNobodyHasReadYet) {
  close_gate();
  constexpr std::uint32_t kFrames = 100;
  for (std::uint32_t i = 0; i < kFrames; ++i) guest_->send(frame(Kind::ipv4, i));
  // The event loop does not run: the notifications stay in the socket.
  const auto queued = [] {
    return output_of("awk '{print $3}' /proc/thread-self/net/netfilter/nfnetlink_queue");
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (queued() != "100\n" && std::chrono::steady_clock::now() < deadline) {
  }
  ASSERT_EQ(gate_->counters().ip.held.frames, 0U);
  ASSERT_TRUE(gate_->seal(EpochId(1)));
  EXPECT_EQ(gate_->counters().ip.sealed.frames, kFrames);
}

}  // namespace
}  // namespace understudy
