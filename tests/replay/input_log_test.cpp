// The log on the wire and in memory: what is written is read again, what is damaged is refused
// whole, and a commit cuts exactly what its checkpoint contains.
#include "replay/input_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "tests/replay/records.h"

namespace understudy::replay {
namespace {

using test::octets;

constexpr ProtectionId kProtection{7};
constexpr Generation kGeneration{3};

LogBatch batch_of(std::uint64_t first, std::vector<LogContent> contents) {
  LogBatch batch{kProtection, kGeneration, {}};
  for (LogContent& content : contents) {
    batch.records.push_back({LogPosition(first++), std::move(content)});
  }
  return batch;
}

InputRecord input(std::uint8_t name) {
  return {0, ChecksumState::complete, Frame(20, name)};
}

OutputRecord output() {
  OutputRecord record;
  record.flow = {test::v4(1), test::v4(2), 80, 4000, 6};
  return record;
}

std::vector<std::uint64_t> positions(const InputLog& log) {
  std::vector<std::uint64_t> positions;
  for (const auto& record : log.records()) positions.push_back(record.position.value);
  return positions;
}

RC_GTEST_PROP(LogProperty, what_is_written_is_read_again, ()) {
  LogBatch batch{kProtection, kGeneration, {}};
  LogPosition position(*rc::gen::inRange<std::uint64_t>(1, 1'000'000));
  for (int i = *rc::gen::inRange(1, 20); i > 0; --i) {
    batch.records.push_back({position, test::any_content(position)});
    position = position.next();
  }
  const auto payload = encode(batch);
  std::size_t bytes = 40;
  for (const auto& record : batch.records) bytes += encoded_bytes(record.content);
  RC_ASSERT(payload.size() == bytes);
  const auto decoded = decode_log_batch(payload);
  RC_ASSERT(decoded.has_value());
  RC_ASSERT(decoded.value() == batch);

  // Any change of any octet, and any cut, is found.
  auto damaged = payload;
  const auto at = *rc::gen::inRange<std::size_t>(0, payload.size());
  damaged[at] ^= static_cast<std::byte>(*rc::gen::inRange(1, 256));
  RC_ASSERT(!decode_log_batch(damaged).has_value());
  damaged = payload;
  damaged.resize(at);
  RC_ASSERT(!decode_log_batch(damaged).has_value());
}

TEST(LogOctets, of_a_batch_and_of_an_acknowledgement) {
  const auto payload = encode(batch_of(0x0102, {GapRecord{}, input(0xEE)}));
  ASSERT_EQ(payload.size(), 40U + 8 + 8 + 20);
  const std::vector<std::uint8_t> start{1, 0, 0, 0, 2, 0, 0, 0,  //
                                        7, 0, 0, 0, 0, 0, 0, 0,  //
                                        3, 0, 0, 0, 0, 0, 0, 0,  //
                                        2, 1, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(std::memcmp(payload.data(), start.data(), start.size()), 0);
  const std::vector<std::uint8_t> records{4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 0xEE};
  EXPECT_EQ(std::memcmp(payload.data() + 40, records.data(), records.size()), 0);

  const LogAcknowledged acknowledged{kProtection, kGeneration, LogPosition(9)};
  const auto octets = encode(acknowledged);
  ASSERT_EQ(octets.size(), 32U);
  EXPECT_EQ(decode_log_acknowledged(octets).value(), acknowledged);
  for (std::size_t bytes = 0; bytes < 32; ++bytes) {
    EXPECT_FALSE(decode_log_acknowledged(std::span(octets).first(bytes)).has_value());
  }
}

TEST(LogOctets, another_version_is_named_as_such) {
  auto payload = encode(batch_of(1, {GapRecord{}}));
  payload[0] = std::byte{2};
  EXPECT_EQ(decode_log_batch(payload).error().code(), ErrorCode::protocol);
  auto acknowledged = encode(LogAcknowledged{kProtection, kGeneration, LogPosition(9)});
  acknowledged[1] = std::byte{1};
  EXPECT_EQ(decode_log_acknowledged(acknowledged).error().code(), ErrorCode::protocol);
}

TEST(InputLog, positions_follow_one_another_and_limits_hold) {
  InputLog log({.bytes_max = 1000, .records_max = 3});
  EXPECT_EQ(log.append(GapRecord{}).value(), LogPosition(1));
  EXPECT_EQ(log.append(input(1)).value(), LogPosition(2));
  EXPECT_EQ(log.bytes(), 8U + 28 + 2 * kRecordOverheadBytes);
  EXPECT_EQ(log.append(InputRecord{0, {}, Frame(2000)}).error().code(), ErrorCode::no_resources);
  EXPECT_EQ(log.append(input(2)).value(), LogPosition(3));
  EXPECT_FALSE(log.append(input(3)).has_value());
  EXPECT_EQ(log.last_position(), LogPosition(3)) << "a refused record takes no position";
  log.clear();
  EXPECT_EQ(log.append(input(3)).value(), LogPosition(4)) << "positions are never used again";
}

TEST(InputLog, a_commit_cuts_what_its_checkpoint_contains_and_nothing_else) {
  InputLog log({});
  (void)log.append(GapRecord{});                                 // 1
  (void)log.append(input(2));                                    // 2, delivered
  (void)log.append(output());                                    // 3
  (void)log.append(input(4));                                    // 4, in flight at the pause
  (void)log.append(output());                                    // 5, sent before the pause
  (void)log.append(MarkRecord{EpochId(1), LogPosition(3), {}});  // 6
  (void)log.append(output());                                    // 7, may be the answer to 4
  (void)log.append(input(8));                                    // 8
  (void)log.append(MarkRecord{EpochId(2), LogPosition(8), {}});  // 9
  (void)log.append(input(10));                                   // 10
  EXPECT_EQ(log.cut(EpochId(3)).error().code(), ErrorCode::no_such);
  ASSERT_TRUE(log.cut(EpochId(1)).has_value());
  EXPECT_EQ(positions(log), (std::vector<std::uint64_t>{4, 7, 8, 9, 10}));
  EXPECT_EQ(log.inputs(), 3U);
  ASSERT_TRUE(log.cut(EpochId(2)).has_value());
  EXPECT_EQ(positions(log), (std::vector<std::uint64_t>{10}));
  EXPECT_EQ(log.bytes(), 28U + kRecordOverheadBytes);
}

RC_GTEST_PROP(LogProperty, a_cut_keeps_every_input_not_delivered_and_every_output_after_the_mark,
              ()) {
  InputLog log({});
  std::vector<LogRecord> all;
  std::vector<MarkRecord> marks;
  LogPosition delivered;
  for (int i = *rc::gen::inRange(1, 60); i > 0; --i) {
    const LogPosition next = log.last_position().next();
    LogContent content = test::any_content(next);
    if (auto* mark = std::get_if<MarkRecord>(&content)) {
      delivered = LogPosition(*rc::gen::inRange<std::uint64_t>(delivered.value, next.value));
      mark->delivered = delivered;
      mark->epoch = EpochId(marks.size() + 1);
      marks.push_back(*mark);
    }
    all.push_back({log.append(content).value(), content});
  }
  if (marks.empty()) return;
  const auto cut_at = *rc::gen::inRange<std::size_t>(0, marks.size());
  // Skipping marks, as where several epochs are committed by one acknowledgement.
  RC_ASSERT(log.cut(marks[cut_at].epoch).has_value());
  std::vector<LogRecord> expected;
  LogPosition mark_position;
  for (const auto& record : all) {
    const auto* mark = std::get_if<MarkRecord>(&record.content);
    if (mark != nullptr && mark->epoch == marks[cut_at].epoch) mark_position = record.position;
  }
  std::size_t bytes = 0;
  for (const auto& record : all) {
    const bool comes_in = std::holds_alternative<InputRecord>(record.content) ||
                          std::holds_alternative<GapRecord>(record.content);
    const bool left =
        comes_in ? record.position > marks[cut_at].delivered : record.position > mark_position;
    if (!left) continue;
    expected.push_back(record);
    bytes += encoded_bytes(record.content) + kRecordOverheadBytes;
  }
  RC_ASSERT((std::vector<LogRecord>(log.records().begin(), log.records().end()) == expected));
  RC_ASSERT(log.bytes() == bytes);
}

class Backup : public testing::Test {
 protected:
  BackupLog log_{kProtection, kGeneration, {.bytes_max = 10'000, .records_max = 20}};
};

TEST_F(Backup, acknowledges_what_it_has_also_when_it_comes_again) {
  EXPECT_EQ(log_.on_batch(batch_of(5, {GapRecord{}, input(6)})).value().position, LogPosition(6));
  EXPECT_EQ(log_.on_batch(batch_of(6, {input(6), input(7)})).value().position, LogPosition(7));
  EXPECT_EQ(log_.on_batch(batch_of(5, {GapRecord{}})).value().position, LogPosition(7));
  EXPECT_EQ(log_.log().records().size(), 3U);
}

TEST_F(Backup, refuses_holes_strangers_the_past_and_too_much) {
  EXPECT_EQ(log_.on_batch(batch_of(1, {input(1)})).error().code(), ErrorCode::protocol);
  ASSERT_TRUE(log_.on_batch(batch_of(1, {GapRecord{}})).has_value());
  EXPECT_EQ(log_.on_batch(batch_of(3, {input(1)})).error().code(), ErrorCode::bad_data);
  auto batch = batch_of(2, {input(2)});
  batch.protection = ProtectionId(8);
  EXPECT_EQ(log_.on_batch(batch).error().code(), ErrorCode::protocol);
  batch.protection = kProtection;
  batch.generation = Generation(2);
  EXPECT_EQ(log_.on_batch(batch).error().code(), ErrorCode::protocol);
  EXPECT_EQ(log_.on_batch(batch_of(2, std::vector<LogContent>(20, input(1)))).error().code(),
            ErrorCode::no_resources);
  EXPECT_EQ(log_.last_position(), LogPosition(1));
}

TEST_F(Backup, is_deaf_after_the_decision_to_promote) {
  ASSERT_TRUE(log_.on_batch(batch_of(1, {GapRecord{}, input(2)})).has_value());
  log_.on_promote_decided();
  EXPECT_FALSE(log_.on_batch(batch_of(3, {input(3)})).has_value());
}

TEST_F(Backup, gives_what_follows_the_committed_mark_up_to_the_first_gap) {
  const std::vector<std::byte> translations{std::byte{1}};
  ASSERT_TRUE(log_.on_batch(batch_of(1, {GapRecord{}, input(2),
                                         MarkRecord{EpochId(4), LogPosition(1), translations},
                                         output(), MarkRecord{EpochId(5), LogPosition(4), {}},
                                         input(6), GapRecord{}, input(8)}))
                  .has_value());
  ASSERT_TRUE(log_.on_committed(EpochId(4)));
  log_.on_promote_decided();
  const auto replayable = log_.take();
  std::vector<std::uint64_t> positions;
  for (const auto& record : replayable.records) positions.push_back(record.position.value);
  EXPECT_EQ(positions, (std::vector<std::uint64_t>{2, 4, 6}));
  EXPECT_EQ(replayable.translations, translations);
  EXPECT_TRUE(replayable.ended_by_gap);
}

TEST_F(Backup, a_gap_that_was_not_cut_leaves_nothing_to_replay) {
  ASSERT_TRUE(log_.on_batch(batch_of(1, {GapRecord{}, input(2),
                                         MarkRecord{EpochId(4), LogPosition(0), {}}, input(4)}))
                  .has_value());
  ASSERT_TRUE(log_.on_committed(EpochId(4)));
  log_.on_promote_decided();
  EXPECT_TRUE(log_.take().records.empty());
}

TEST_F(Backup, a_commit_without_a_mark_ends_the_log_that_was) {
  ASSERT_TRUE(log_.on_batch(batch_of(1, {GapRecord{}, MarkRecord{EpochId(4), LogPosition(1), {}},
                                         input(3)}))
                  .has_value());
  ASSERT_TRUE(log_.on_committed(EpochId(4)));
  EXPECT_FALSE(log_.on_committed(EpochId(5)));
  EXPECT_EQ(log_.last_position(), LogPosition(3)) << "a log that begins anew goes on from here";
  ASSERT_TRUE(log_.on_batch(batch_of(4, {GapRecord{}})).has_value());
  log_.on_promote_decided();
  EXPECT_TRUE(log_.take().records.empty());
}

}  // namespace
}  // namespace understudy::replay
