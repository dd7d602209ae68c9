// Outputs placed in their streams: however a stream is cut into segments, and whatever is sent
// again, the records tile it, and their digests are those of its octets.
#include "replay/flow_table.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/replay/frames.h"

namespace understudy::replay {
namespace {

using test::octets;

struct Guest {
  std::uint32_t base = 0;

  Frame segment(std::uint64_t offset, std::span<const std::uint8_t> payload,
                std::uint8_t flags = kAck) const {
    TcpSegment segment{.source = test::v4(1),
                       .destination = test::v4(2),
                       .source_port = 80,
                       .destination_port = 4000,
                       .payload = payload};
    segment.header.flags = flags;
    segment.header.sequence = sequence_of(offset, base) - ((flags & kSyn) != 0 ? 1U : 0U);
    segment.header.acknowledgement = 5;
    return build_tcp(segment);
  }
};

OutputRecord describe(FlowTable& table, const Frame& frame) {
  return table.on_output({}, parse(frame), frame).value();
}

RC_GTEST_PROP(FlowTableProperty, records_tile_the_stream_however_it_is_cut, ()) {
  const Guest guest{*rc::gen::arbitrary<std::uint32_t>()};
  const auto stream = *rc::gen::nonEmpty(rc::gen::arbitrary<std::vector<std::uint8_t>>());
  FlowTable table(10);
  OutputRecord record = describe(table, guest.segment(0, {}, kSyn | kAck));
  RC_ASSERT(record.flags & OutputRecord::opens);
  std::size_t tiled = 0;
  for (int segments = 0; segments < 50 && tiled < stream.size(); ++segments) {
    // A segment from anywhere before the edge to anywhere.
    const auto from = *rc::gen::inRange<std::size_t>(0, tiled + 1);
    const auto to = *rc::gen::inRange<std::size_t>(from, stream.size() + 1);
    record = describe(table, guest.segment(from, std::span(stream).subspan(from, to - from)));
    RC_ASSERT(record.offset == tiled);
    RC_ASSERT(record.length == (to > tiled ? to - tiled : 0));
    RC_ASSERT(record.sequence_base == guest.base);
    if (record.length > 0) {
      RC_ASSERT(record.digest == digest_of(std::span(stream).subspan(tiled, record.length)));
    }
    tiled += record.length;
  }
}

TEST(FlowTable, offsets_go_on_where_sequence_numbers_wrap) {
  EXPECT_EQ(offset_of(5, 0xFFFFFFFB, 0), 10);
  EXPECT_EQ(offset_of(0xFFFFFFF0, 0xFFFFFFFB, 0), -11);
  const std::uint64_t far = (std::uint64_t{7} << 32) + 3;
  EXPECT_EQ(offset_of(sequence_of(far, 99), 99, far - 1'000'000), static_cast<std::int64_t>(far));
}

TEST(FlowTable, a_flow_that_was_there_before_begins_where_it_is_first_seen) {
  FlowTable table(10);
  const Guest guest{1000};
  OutputRecord record = describe(table, guest.segment(500, octets("abc")));
  EXPECT_EQ(record.offset, 0U);
  EXPECT_EQ(record.sequence_base, 1500U);
  record = describe(table, guest.segment(400, octets("sent again, before the beginning")));
  EXPECT_EQ(record.length, 0U);
  record = describe(table, guest.segment(510, octets("behind a hole")));
  EXPECT_EQ(record.offset, 10U) << "the hole lies in the checkpoint";
}

TEST(FlowTable, acknowledgements_count_only_for_what_was_sent) {
  FlowTable table(10);
  const Guest guest{1000};
  const Frame sent = guest.segment(0, octets("0123456789"));
  describe(table, sent);
  const FlowKey key = flow_of(parse(sent), Direction::from_guest);
  const auto acknowledge = [&](std::uint32_t number) {
    TcpSegment segment{.source = test::v4(2),
                       .destination = test::v4(1),
                       .source_port = 4000,
                       .destination_port = 80};
    segment.header.flags = kAck;
    segment.header.acknowledgement = number;
    table.on_input({}, parse(build_tcp(segment)));
    return table.find(key)->acknowledged_to;
  };
  EXPECT_EQ(acknowledge(1004), 4U);
  EXPECT_EQ(acknowledge(1011), 4U) << "of what was never sent";
  EXPECT_EQ(acknowledge(1002), 4U) << "old";
  EXPECT_EQ(acknowledge(1010), 10U);
}

TEST(FlowTable, only_the_first_fin_ends_and_it_counts_as_sent) {
  FlowTable table(10);
  const Guest guest{1000};
  describe(table, guest.segment(0, octets("abc")));
  OutputRecord record = describe(table, guest.segment(3, octets("d"), kAck | kFin));
  EXPECT_TRUE(record.flags & OutputRecord::ends);
  EXPECT_EQ(record.offset + record.length, 4U);
  record = describe(table, guest.segment(3, octets("d"), kAck | kFin));
  EXPECT_FALSE(record.flags & OutputRecord::ends);
  EXPECT_EQ(record.offset, 5U);

  // Sent before we looked, and repeated since.
  FlowTable later(10);
  describe(later, guest.segment(5, {}));
  record = describe(later, guest.segment(4, {}, kAck | kFin));
  EXPECT_FALSE(record.flags & OutputRecord::ends);
  EXPECT_EQ(record.offset, 0U);
}

TEST(FlowTable, ports_used_again_begin_a_new_stream) {
  FlowTable table(10);
  describe(table, Guest{1000}.segment(0, {}, kSyn | kAck));
  describe(table, Guest{1000}.segment(0, octets("old"), kAck | kFin));
  const OutputRecord again = describe(table, Guest{9000}.segment(0, {}, kSyn | kAck));
  EXPECT_EQ(again.sequence_base, 9000U);
  EXPECT_EQ(again.offset, 0U);
}

TEST(FlowTable, a_full_table_describes_nothing_until_flows_have_ended) {
  using namespace std::chrono_literals;
  FlowTable table(1);
  const Frame first = Guest{1}.segment(0, octets("x"));
  describe(table, first);
  Frame second = build_tcp({.source = test::v4(1), .destination = test::v4(3), .source_port = 80});
  EXPECT_FALSE(table.on_output(Instant{} + 10s, parse(second), second).has_value());
  describe(table, Guest{1}.segment(1, {}, kRst));
  EXPECT_TRUE(table.on_output(Instant{} + 20s, parse(second), second).has_value());
}

}  // namespace
}  // namespace understudy::replay
