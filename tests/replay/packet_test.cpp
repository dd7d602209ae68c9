// Frames read and changed: what is said about each unusual one in packet.h, and that checksums are
// right after any change. Damage is tried exhaustively on small frames and at random on others.
#include "replay/packet.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/replay/frames.h"

namespace understudy::replay {
namespace {

using test::octets;

TcpSegment full_segment(bool six = false) {
  TcpSegment segment{.source_mac = test::kGuestMac,
                     .destination_mac = test::kClientMac,
                     .source = six ? test::v6(1) : test::v4(1),
                     .destination = six ? test::v6(2) : test::v4(2),
                     .source_port = 80,
                     .destination_port = 40'000,
                     .payload = octets("what a client wants to know")};
  segment.header.sequence = 0xFFFFFFF0;
  segment.header.acknowledgement = 77;
  segment.header.flags = kAck | kPsh;
  segment.header.window = 512;
  segment.header.timestamps = TcpTimestamps{1000, 2000};
  segment.header.sack = {SackBlock{100, 200}, SackBlock{300, 400}};
  segment.header.sack_count = 2;
  return segment;
}

TEST(Packet, tcp_with_all_its_options_is_read_back) {
  for (const bool six : {false, true}) {
    const Frame frame = build_tcp(full_segment(six));
    const Packet packet = parse(frame);
    ASSERT_EQ(packet.kind, FrameKind::tcp);
    EXPECT_EQ(packet.v6, six);
    EXPECT_EQ(packet.source, six ? test::v6(1) : test::v4(1));
    EXPECT_EQ(packet.destination_port, 40'000);
    EXPECT_EQ(packet.tcp.sequence, 0xFFFFFFF0);
    EXPECT_EQ(packet.tcp.acknowledgement, 77U);
    EXPECT_EQ(packet.tcp.window, 512);
    EXPECT_EQ(packet.tcp.timestamps, (TcpTimestamps{1000, 2000}));
    ASSERT_EQ(packet.tcp.sack_count, 2U);
    EXPECT_EQ(packet.tcp.sack[1], (SackBlock{300, 400}));
    EXPECT_EQ(packet.payload_bytes, full_segment().payload.size());
    EXPECT_TRUE(transport_checksum_is_right(frame, packet));
    EXPECT_EQ(destination_mac_of(frame), test::kClientMac);
    EXPECT_EQ(source_mac_of(frame), test::kGuestMac);
  }
}

TEST(Packet, options_of_a_syn) {
  TcpSegment segment = full_segment();
  segment.payload = {};
  segment.header = {};
  segment.header.flags = kSyn;
  segment.header.segment_size_max = 1460;
  segment.header.window_scale = 7;
  segment.header.sack_permitted = true;
  segment.header.timestamps = TcpTimestamps{5, 0};
  const Packet packet = parse(build_tcp(segment));
  EXPECT_EQ(packet.tcp.segment_size_max, 1460);
  EXPECT_EQ(packet.tcp.window_scale, 7);
  EXPECT_TRUE(packet.tcp.sack_permitted);
  EXPECT_EQ(packet.sequence_length(), 1U);
}

TEST(Packet, vlan_tags_and_padding_are_skipped_and_kept) {
  Frame frame = build_tcp(full_segment());
  frame.insert(frame.end(), 9, 0xAA);
  frame.insert(frame.begin() + 12, {0x81, 0x00, 0x00, 0x05});
  frame.insert(frame.begin() + 12, {0x88, 0xA8, 0x00, 0x07});
  Packet packet = parse(frame);
  ASSERT_EQ(packet.kind, FrameKind::tcp);
  EXPECT_EQ(packet.payload_bytes, full_segment().payload.size());
  TcpEditor(frame, packet, ChecksumState::complete).set_sequence(5);
  EXPECT_TRUE(transport_checksum_is_right(frame, packet));
  frame.insert(frame.begin() + 12, {0x81, 0x00, 0x00, 0x05});
  EXPECT_EQ(parse(frame).kind, FrameKind::not_ip) << "three tags are not looked behind";
}

TEST(Packet, fragments_are_told_and_not_looked_into) {
  Frame frame = build_tcp(full_segment());
  frame[20] |= 0x20;  // More fragments.
  EXPECT_EQ(parse(frame).kind, FrameKind::fragment);
  frame[20] = 0;
  frame[21] = 3;  // An offset.
  EXPECT_EQ(parse(frame).kind, FrameKind::fragment);
  const std::vector<std::uint8_t> fragment_header{17, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4};
  EXPECT_EQ(parse(test::ip_frame(test::v6(1), test::v6(2), 44, fragment_header)).kind,
            FrameKind::fragment);
}

TEST(Packet, ip_options_and_extension_headers_are_skipped) {
  Frame frame = build_tcp(full_segment());
  frame.insert(frame.begin() + 34, {1, 1, 1, 0});
  frame[14] = 0x46;
  frame[17] = static_cast<std::uint8_t>(frame[17] + 4);
  Packet packet = parse(frame);
  ASSERT_EQ(packet.kind, FrameKind::tcp);
  EXPECT_TRUE(transport_checksum_is_right(frame, packet));

  const Frame inner = test::udp_frame(test::v6(1), 53, test::v6(2), 5353, octets("answer"));
  std::vector<std::uint8_t> chain{60, 0, 1, 4, 0, 0, 0, 0,  //
                                  17, 0, 1, 4, 0, 0, 0, 0};
  chain.insert(chain.end(), inner.begin() + 54, inner.end());
  packet = parse(test::ip_frame(test::v6(1), test::v6(2), 0, chain));
  ASSERT_EQ(packet.kind, FrameKind::udp);
  EXPECT_EQ(packet.source_port, 53);
  EXPECT_EQ(packet.payload_bytes, 6U);

  std::vector<std::uint8_t> endless;
  for (int i = 0; i < 20; ++i) endless.insert(endless.end(), {0, 0, 1, 4, 0, 0, 0, 0});
  EXPECT_EQ(parse(test::ip_frame(test::v6(1), test::v6(2), 0, endless)).kind, FrameKind::malformed);
  EXPECT_EQ(parse(test::ip_frame(test::v6(1), test::v6(2), 50, endless)).kind, FrameKind::other_ip);
}

TEST(Packet, echo_and_other_control_messages) {
  for (const bool six : {false, true}) {
    const IpAddress from = six ? test::v6(2) : test::v4(2);
    const IpAddress to = six ? test::v6(1) : test::v4(1);
    Frame frame = test::echo_frame(from, to, true, 0x1234, octets("01 data"));
    const Packet packet = parse(frame);
    ASSERT_EQ(packet.kind, FrameKind::echo);
    EXPECT_TRUE(packet.echo_request);
    EXPECT_EQ(packet.source_port, 0x1234);
    EXPECT_TRUE(transport_checksum_is_right(frame, packet));
    frame[packet.transport_at] = six ? 135 : 3;
    EXPECT_EQ(parse(frame).kind, FrameKind::control);
  }
}

TEST(Packet, no_octet_beyond_any_length_is_read) {
  // Every prefix, and every value of every octet of the headers, in buffers of exactly that size:
  // AddressSanitizer sees a read too far.
  for (const Frame& whole : {build_tcp(full_segment()), build_tcp(full_segment(true)),
                             test::udp_frame(test::v4(1), 1, test::v4(2), 2, octets("x")),
                             test::echo_frame(test::v6(1), test::v6(2), true, 1, octets("xy"))}) {
    for (std::size_t bytes = 0; bytes <= whole.size(); ++bytes) {
      const Frame part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes));
      const Packet packet = parse(part);
      if (packet.in_a_flow()) {
        ASSERT_LE(packet.payload_at + packet.payload_bytes, part.size());
      }
    }
    for (std::size_t at = 12; at < whole.size(); ++at) {
      for (int value = 0; value < 256; ++value) {
        Frame damaged = whole;
        damaged[at] = static_cast<std::uint8_t>(value);
        const Packet packet = parse(damaged);
        if (!packet.in_a_flow()) continue;
        ASSERT_LE(packet.payload_at + packet.payload_bytes, damaged.size());
        complete_checksums(damaged, packet, false);
        ASSERT_TRUE(transport_checksum_is_right(damaged, packet));
      }
    }
  }
}

TEST(Packet, options_that_run_over_their_end_are_malformed) {
  Frame frame = build_tcp(full_segment());
  const std::size_t options_at = parse(frame).transport_at + 20;
  frame[options_at] = 8;
  frame[options_at + 1] = 60;
  EXPECT_EQ(parse(frame).kind, FrameKind::malformed);
  frame[options_at + 1] = 1;
  EXPECT_EQ(parse(frame).kind, FrameKind::malformed);
}

RC_GTEST_PROP(PacketProperty, any_change_keeps_the_checksum_right, ()) {
  TcpSegment segment = full_segment(*rc::gen::arbitrary<bool>());
  const auto payload = *rc::gen::arbitrary<std::vector<std::uint8_t>>();
  segment.payload = payload;
  Frame frame = build_tcp(segment);
  Packet packet = parse(frame);
  if (*rc::gen::arbitrary<bool>()) {
    // Options at an odd place: the padding moves behind them.
    const std::size_t options_at = packet.transport_at + 20;
    const auto options = frame.begin() + static_cast<std::ptrdiff_t>(options_at);
    std::rotate(options, options + 1, options + 12);
    packet = parse(frame);
    complete_checksums(frame, packet);
  }
  TcpEditor editor(frame, packet, ChecksumState::complete);
  editor.set_sequence(*rc::gen::arbitrary<std::uint32_t>());
  editor.set_acknowledgement(*rc::gen::arbitrary<std::uint32_t>());
  editor.set_timestamps(
      {*rc::gen::arbitrary<std::uint32_t>(), *rc::gen::arbitrary<std::uint32_t>()});
  editor.set_sack(1, {*rc::gen::arbitrary<std::uint32_t>(), *rc::gen::arbitrary<std::uint32_t>()});
  RC_ASSERT(transport_checksum_is_right(frame, packet));
  const Packet again = parse(frame);
  RC_ASSERT(again.tcp.sequence == packet.tcp.sequence);
  RC_ASSERT(again.tcp.timestamps == packet.tcp.timestamps);
  RC_ASSERT(again.tcp.sack[1] == packet.tcp.sack[1]);
}

TEST(Packet, a_partial_checksum_is_left_alone_and_completed_on_demand) {
  Frame frame = build_tcp(full_segment());
  Packet packet = parse(frame);
  frame[packet.transport_at + 16] = 0x12;
  frame[packet.transport_at + 17] = 0x34;
  TcpEditor(frame, packet, ChecksumState::partial).set_sequence(99);
  EXPECT_EQ(frame[packet.transport_at + 16], 0x12);
  EXPECT_EQ(frame[packet.transport_at + 17], 0x34);
  complete_checksums(frame, packet);
  EXPECT_TRUE(transport_checksum_is_right(frame, packet));
}

TEST(Packet, an_absent_udp_checksum_stays_absent) {
  Frame frame = test::udp_frame(test::v4(1), 1, test::v4(2), 2, octets("x"));
  const Packet packet = parse(frame);
  frame[packet.transport_at + 6] = frame[packet.transport_at + 7] = 0;
  complete_checksums(frame, packet);
  EXPECT_EQ(frame[packet.transport_at + 6], 0);
  EXPECT_EQ(frame[packet.transport_at + 7], 0);
}

RC_GTEST_PROP(PacketProperty, a_split_segment_carries_the_same_stream, ()) {
  TcpSegment segment = full_segment(*rc::gen::arbitrary<bool>());
  const auto payload = *rc::gen::arbitrary<std::vector<std::uint8_t>>();
  segment.payload = payload;
  segment.header.flags |= kFin;
  const auto payload_max = *rc::gen::inRange<std::size_t>(1, 40);
  std::vector<std::uint8_t> stream;
  std::uint32_t next = segment.header.sequence;
  const auto parts = split_tcp(build_tcp(segment), payload_max);
  for (const Frame& part : parts) {
    const Packet packet = parse(part);
    RC_ASSERT(packet.kind == FrameKind::tcp);
    RC_ASSERT(packet.tcp.sequence == next);
    RC_ASSERT(packet.payload_bytes <= payload_max);
    RC_ASSERT(transport_checksum_is_right(part, packet));
    RC_ASSERT(packet.tcp.has(kFin) == (&part == &parts.back()));
    const auto content = payload_of(part, packet);
    stream.insert(stream.end(), content.begin(), content.end());
    next += static_cast<std::uint32_t>(content.size());
  }
  RC_ASSERT(stream == payload);
}

}  // namespace
}  // namespace understudy::replay
