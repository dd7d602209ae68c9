// Translation of sequence numbers, acknowledgements, SACK blocks and timestamps, there and back,
// and its way through a mark.
#include "replay/translator.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/replay/frames.h"

namespace understudy::replay {
namespace {

using namespace std::chrono_literals;

const FlowKey kFlow{test::v4(1), test::v4(2), 80, 4000, 6};

Frame from_guest(TcpHeader header) {
  return build_tcp({.source = kFlow.guest,
                    .destination = kFlow.client,
                    .source_port = kFlow.guest_port,
                    .destination_port = kFlow.client_port,
                    .header = header,
                    .payload = test::octets("octets")});
}

Frame from_client(TcpHeader header) {
  return build_tcp({.source = kFlow.client,
                    .destination = kFlow.guest,
                    .source_port = kFlow.client_port,
                    .destination_port = kFlow.guest_port,
                    .header = header});
}

Packet sent(Translator& translator, Frame frame, Instant now = {}) {
  Packet packet = parse(frame);
  translator.to_network(now, frame, packet, ChecksumState::complete);
  EXPECT_TRUE(transport_checksum_is_right(frame, parse(frame)));
  return parse(frame);
}

Packet received(Translator& translator, Frame frame, Instant now = {}) {
  Packet packet = parse(frame);
  translator.to_guest(now, frame, packet, ChecksumState::complete);
  EXPECT_TRUE(transport_checksum_is_right(frame, parse(frame)));
  return parse(frame);
}

RC_GTEST_PROP(TranslatorProperty,
              what_the_client_says_of_the_guests_numbers_comes_back_as_they_were, ()) {
  Translation translation;
  translation.sequence_delta = *rc::gen::arbitrary<std::uint32_t>();
  translation.timestamp_delta = *rc::gen::arbitrary<std::uint32_t>();
  Translator translator;
  translator.set(kFlow, translation);
  TcpHeader said;
  said.flags = kAck;
  said.sequence = *rc::gen::arbitrary<std::uint32_t>();
  said.acknowledgement = *rc::gen::arbitrary<std::uint32_t>();
  said.timestamps = TcpTimestamps{*rc::gen::arbitrary<std::uint32_t>(), 7};
  const Packet heard = sent(translator, from_guest(said));
  RC_ASSERT(heard.tcp.acknowledgement == said.acknowledgement);
  RC_ASSERT(heard.tcp.timestamps->echo == 7U);
  RC_ASSERT(heard.tcp.sequence == said.sequence + translation.sequence_delta);

  TcpHeader answer;
  answer.flags = kAck;
  answer.sequence = 99;
  answer.acknowledgement = heard.tcp.sequence;
  answer.timestamps = TcpTimestamps{55, heard.tcp.timestamps->value};
  answer.sack[0] = {heard.tcp.sequence + 10, heard.tcp.sequence + 20};
  answer.sack_count = 1;
  const Packet back = received(translator, from_client(answer));
  RC_ASSERT(back.tcp.sequence == 99U);
  RC_ASSERT(back.tcp.acknowledgement == said.sequence);
  RC_ASSERT((back.tcp.sack[0] == SackBlock{said.sequence + 10, said.sequence + 20}));
  RC_ASSERT((back.tcp.timestamps == TcpTimestamps{55, said.timestamps->value}));
}

TEST(Translator, other_flows_and_other_protocols_pass_as_they_are) {
  Translator translator;
  translator.set(kFlow, {.sequence_delta = 5});
  Frame frame = test::udp_frame(test::v4(2), 4000, test::v4(1), 80, test::octets("x"));
  const Frame before = frame;
  Packet packet = parse(frame);
  EXPECT_FALSE(translator.to_guest({}, frame, packet, ChecksumState::complete));
  EXPECT_EQ(frame, before);
}

TEST(Translator, the_first_segment_settles_the_clock) {
  Translator translator;
  translator.set(kFlow, {.timestamp_floor = 5000});
  TcpHeader header;
  header.timestamps = TcpTimestamps{1000, 0};
  EXPECT_EQ(sent(translator, from_guest(header)).tcp.timestamps->value, 5000U);
  header.timestamps->value = 1200;
  EXPECT_EQ(sent(translator, from_guest(header)).tcp.timestamps->value, 5200U);
  // A clock that is ahead already needs no translation at all.
  translator.set(kFlow, {.timestamp_floor = 500});
  EXPECT_EQ(sent(translator, from_guest(header)).tcp.timestamps->value, 1200U);
  EXPECT_TRUE(translator.empty());
}

TEST(Translator, ports_used_again_begin_without_translation) {
  Translator translator;
  translator.set(kFlow, {.sequence_delta = 5, .guest_base = 101});
  TcpHeader header;
  header.flags = kSyn | kAck;
  header.sequence = 100;
  EXPECT_EQ(sent(translator, from_guest(header)).tcp.sequence, 105U) << "the same one, repeated";
  header.sequence = 9000;
  EXPECT_EQ(sent(translator, from_guest(header)).tcp.sequence, 9000U);
  EXPECT_TRUE(translator.empty());
}

TEST(Translator, a_connection_that_has_ended_lingers_and_goes) {
  Translator translator;
  translator.set(kFlow, {.sequence_delta = 5});
  TcpHeader header;
  header.flags = kFin | kAck;
  sent(translator, from_guest(header), Instant{} + 1s);
  translator.on_tick(Instant{} + 1h);
  EXPECT_FALSE(translator.empty()) << "only one side has ended";
  received(translator, from_client(header), Instant{} + 1h);
  translator.on_tick(Instant{} + 1h + 119s);
  EXPECT_FALSE(translator.empty());
  translator.on_tick(Instant{} + 1h + 120s);
  EXPECT_TRUE(translator.empty());
}

TEST(Translator, there_is_room_for_so_many_and_no_more) {
  Translator translator;
  FlowKey flow = kFlow;
  for (std::size_t i = 0; i < kTranslationsMax; ++i) {
    flow.client_port = static_cast<std::uint16_t>(i);
    ASSERT_TRUE(translator.set(flow, {.sequence_delta = 1}));
  }
  flow.client_port = 60'000;
  EXPECT_FALSE(translator.set(flow, {.sequence_delta = 1}));
  flow.client_port = 1;
  EXPECT_TRUE(translator.set(flow, {.sequence_delta = 2}));
  EXPECT_LE(translator.encode().size(), std::size_t{1} << 20);
}

RC_GTEST_PROP(TranslatorProperty, a_mark_carries_them_and_damage_is_found, ()) {
  Translator translator;
  for (int i = *rc::gen::inRange(1, 8); i > 0; --i) {
    const bool six = *rc::gen::arbitrary<bool>();
    Translation translation;
    translation.sequence_delta = *rc::gen::inRange<std::uint32_t>(1, 0xFFFFFFFF);
    translation.timestamp_delta = *rc::gen::arbitrary<std::uint32_t>();
    translation.guest_base = *rc::gen::arbitrary<std::uint32_t>();
    if (*rc::gen::arbitrary<bool>()) translation.timestamp_floor = 7;
    translation.guest_ended = *rc::gen::arbitrary<bool>();
    const auto port = *rc::gen::arbitrary<std::uint16_t>();
    translator.set({six ? test::v6(1) : test::v4(1), six ? test::v6(2) : test::v4(2), 80, port, 6},
                   translation);
  }
  auto octets = translator.encode();
  const auto decoded = Translator::decode(octets);
  RC_ASSERT(decoded.has_value());
  RC_ASSERT((decoded.value() == translator));
  RC_ASSERT(decoded.value().encode() == octets);
  const auto at = *rc::gen::inRange<std::size_t>(0, octets.size());
  octets[at] ^= static_cast<std::byte>(*rc::gen::inRange(1, 256));
  RC_ASSERT(!Translator::decode(octets).has_value());
  octets.resize(at);
  RC_ASSERT(at == 0 || !Translator::decode(octets).has_value());
}

}  // namespace
}  // namespace understudy::replay
