// The relay with real frames of every kind, in both directions: nothing passes but what the
// handlers pass, and what they pass is what came.
//
// Not tested here: a real tap with a hypervisor behind it (tests/end_to_end).
#include "netbuffer/frame_relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "stage.h"

namespace understudy {
namespace {

using stage::frame;
using stage::kEveryKind;
using stage::Kind;
using stage::number_of;
using stage::Octets;
using stage::output_of;
using stage::run;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

class FrameRelayTest : public stage::Stage {
 protected:
  void close_relay() {
    auto relay = FrameRelay::close(
        io_.get_executor(), options(),
        {.on_output = [this](std::uint16_t, RelayedFrame seen) { take(outputs_, std::move(seen)); },
         .on_input = [this](std::uint16_t, RelayedFrame seen) { take(inputs_, std::move(seen)); },
         .on_idle = {}});
    if (!relay) throw std::runtime_error(relay.error().message());
    relay_ = std::move(relay.value());
  }
  // Only the test's own frames; whatever else a namespace says is no matter of ours.
  static void take(std::map<std::uint32_t, RelayedFrame>& to, RelayedFrame seen) {
    const Octets octets(seen.frame().begin(), seen.frame().end());
    if (const auto number = number_of(octets)) to[*number] = std::move(seen);
  }
  /// A frame of `kind` from the peer to the guest.
  static Octets to_guest(Kind kind, std::uint32_t number) {
    Octets octets = frame(kind, number);
    std::copy(kPeerMac.octets.begin(), kPeerMac.octets.end(), octets.begin() + 6);
    if (octets[0] != 0xff)
      std::copy(kGuestMac.octets.begin(), kGuestMac.octets.end(), octets.begin());
    return octets;
  }
  /// What `where` has received, of the test's frames, until it has `count` or patience ends.
  std::vector<Octets> gather(stage::Station& where, std::size_t count) {
    std::vector<Octets> all;
    wait_until([&] {
      for (Octets& octets : where.received()) all.push_back(std::move(octets));
      return all.size() >= count;
    });
    return all;
  }
  static constexpr MacAddress kPeerMac = stage::kPeerMac;
  static constexpr MacAddress kGuestMac = stage::kGuestMac;

  std::map<std::uint32_t, RelayedFrame> outputs_;
  std::map<std::uint32_t, RelayedFrame> inputs_;
  std::unique_ptr<FrameRelay> relay_;
};

TEST_F(FrameRelayTest, NothingPassesByItselfInEitherDirection) {
  close_relay();
  for (const Kind kind : kEveryKind) {
    guest_->send(frame(kind, static_cast<std::uint32_t>(kind)));
    peer_->send(to_guest(kind, 100 + static_cast<std::uint32_t>(kind)));
  }
  ASSERT_TRUE(wait_until([&] {
    return outputs_.size() == std::size(kEveryKind) && inputs_.size() == std::size(kEveryKind);
  })) << outputs_.size()
      << " outputs, " << inputs_.size() << " inputs";
  // The relay has seen them all, so whatever was to slip past it has done so by now.
  EXPECT_THAT(guest_->received(), IsEmpty());
  EXPECT_THAT(peer_->received(), IsEmpty());
}

TEST_F(FrameRelayTest, WhatIsPassedOnArrivesOctetByOctet) {
  close_relay();
  std::vector<Octets> to_peer;
  std::vector<Octets> for_guest;
  for (const Kind kind : kEveryKind) {
    to_peer.push_back(frame(kind, static_cast<std::uint32_t>(kind)));
    for_guest.push_back(to_guest(kind, 100 + static_cast<std::uint32_t>(kind)));
    guest_->send(to_peer.back());
    peer_->send(for_guest.back());
  }
  ASSERT_TRUE(wait_until([&] {
    return outputs_.size() == std::size(kEveryKind) && inputs_.size() == std::size(kEveryKind);
  }));
  for (const auto& [number, seen] : outputs_) relay_->to_network(0, seen.octets);
  for (const auto& [number, seen] : inputs_) EXPECT_TRUE(relay_->to_guest(0, seen.octets));
  EXPECT_THAT(gather(*peer_, to_peer.size()), UnorderedElementsAreArray(to_peer));
  EXPECT_THAT(gather(*guest_, for_guest.size()), UnorderedElementsAreArray(for_guest));
}

TEST_F(FrameRelayTest, TheBarrierTakesInWhatTheGuestSentBefore) {
  close_relay();
  for (std::uint32_t number = 0; number < 100; ++number) guest_->send(frame(Kind::ipv4, number));
  ASSERT_TRUE(relay_->take_in_outputs());
  EXPECT_EQ(outputs_.size(), 100U) << "without a turn of the event loop";
}

TEST_F(FrameRelayTest, ARealConversationPassesWithItsOffloads) {
  give_addresses();
  bool pass = true;
  auto relay = FrameRelay::close(io_.get_executor(), options(),
                                 {.on_output =
                                      [&](std::uint16_t, RelayedFrame seen) {
                                        if (pass) relay_->to_network(0, seen.octets);
                                      },
                                  .on_input =
                                      [&](std::uint16_t, RelayedFrame seen) {
                                        if (pass) relay_->to_guest(0, seen.octets);
                                      },
                                  .on_idle = {}});
  ASSERT_TRUE(relay) << relay.error().message();
  relay_ = std::move(relay.value());
  for (const char* const address : {"192.0.2.2", "2001:db8::2"}) {
    const bool six = std::string_view(address).find(':') != std::string_view::npos;
    stage::Process server(fmt::format("nc {} -l -p 5001 | cksum > /tmp/understudy-relay-{}",
                                      six ? "-6" : "-4", ::getpid()),
                          *peer_namespace_);
    ASSERT_TRUE(
        wait_until([&] { return run("ss -tln | grep -q 5001", peer_namespace_.get()) == 0; }));
    stage::Process client(fmt::format("head -c 20000000 /dev/zero | nc -N {} 5001", address),
                          *guest_namespace_);
    ASSERT_TRUE(wait_until([&] { return server.ended().has_value(); })) << address;
    EXPECT_EQ(output_of(fmt::format("cat /tmp/understudy-relay-{}", ::getpid())),
              output_of("head -c 20000000 /dev/zero | cksum"));
    run(fmt::format("rm -f /tmp/understudy-relay-{}", ::getpid()));
  }
  const auto learned = relay_->learned_addresses();
  ASSERT_EQ(learned.size(), 1U);
  EXPECT_GE(learned[0].addresses.size(), 2U);
}

TEST_F(FrameRelayTest, OpenedTheBridgeCarriesFramesAgain) {
  close_relay();
  ASSERT_TRUE(relay_->open());
  relay_.reset();
  guest_->send(frame(Kind::ipv4, 1));
  peer_->send(to_guest(Kind::ipv4, 2));
  EXPECT_EQ(gather(*peer_, 1).size(), 1U);
  EXPECT_EQ(gather(*guest_, 1).size(), 1U);
  EXPECT_EQ(output_of("nft list tables"), "");
}

TEST_F(FrameRelayTest, LetGoItStaysClosedAndAnotherOneTakesOver) {
  close_relay();
  relay_.reset();
  io_.restart();
  io_.poll();
  guest_->send(frame(Kind::ipv4, 1));
  EXPECT_THAT(peer_received(), IsEmpty());
  close_relay();
  guest_->send(frame(Kind::ipv4, 2));
  ASSERT_TRUE(wait_until([&] { return outputs_.contains(2); }));
  EXPECT_FALSE(outputs_.contains(1)) << "dropped while nobody was there";
}

TEST_F(FrameRelayTest, TheTwoGatesOfADeviceExcludeAndReplaceEachOther) {
  close_gate();
  const auto refused = FrameRelay::close(io_.get_executor(), options(), {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::exists);
  gate_.reset();
  io_.restart();
  io_.poll();
  close_relay();
  guest_->send(frame(Kind::ipv4, 1));
  ASSERT_TRUE(wait_until([&] { return outputs_.contains(1); }));
  EXPECT_THAT(peer_->received(), IsEmpty());
  const auto removed = remove_stale_gates([](const GateRecord&) { return true; });
  ASSERT_TRUE(removed);
  EXPECT_THAT(removed.value(), IsEmpty());
}

TEST_F(FrameRelayTest, ATapThatIsNotAttachedYetIsFencedAllTheSame) {
  ASSERT_EQ(run("ip link set tap0 nomaster"), 0);
  close_relay();
  ASSERT_EQ(run("ip link set tap0 master br0"), 0);
  guest_->send(frame(Kind::ipv4, 1));
  peer_->send(to_guest(Kind::arp, 2));
  ASSERT_TRUE(wait_until([&] { return outputs_.contains(1) && inputs_.contains(2); }));
  EXPECT_THAT(guest_->received(), IsEmpty());
  EXPECT_THAT(peer_->received(), IsEmpty());
}

}  // namespace
}  // namespace understudy
