// The release rule, decision by decision, and as a property over random histories: nothing leaves
// that the backup could not make again.
#include "replay/release_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "tests/replay/frames.h"

namespace understudy::replay {
namespace {

using namespace std::chrono_literals;
using test::octets;
using testing::ElementsAre;
using testing::IsEmpty;

Frame request(std::uint16_t port = 80, std::string_view text = "request") {
  return test::udp_frame(test::v4(2), 4000, test::v4(1), port, octets(text));
}

Frame answer(std::uint16_t port = 80, std::string_view text = "answer") {
  return test::udp_frame(test::v4(1), port, test::v4(2), 4000, octets(text));
}

ReleaseRule::Config config() {
  ReleaseRule::Config config;
  config.protection = ProtectionId(7);
  config.generation = Generation(1);
  config.policies.ports = {{5432, PortPolicy::remus}, {9000, PortPolicy::open}};
  return config;
}

std::vector<std::uint32_t> released(const ReleaseRule::Actions& actions) {
  std::vector<std::uint32_t> ids;
  for (const auto& action : actions) {
    if (const auto* release = std::get_if<ReleaseRule::Release>(&action)) {
      ids.push_back(release->output.packet_id);
    }
  }
  return ids;
}

template <typename Action>
bool asked_for(const ReleaseRule::Actions& actions) {
  return std::ranges::any_of(actions,
                             [](const auto& a) { return std::holds_alternative<Action>(a); });
}

/// A rule in replay mode behind its first commit, and the host around it.
class Rule : public testing::Test {
 protected:
  explicit Rule(const ReleaseRule::Config& with = config()) : rule_(with) {}

  void protect() {
    rule_.on_link_up(now_, LogPosition(0));
    rule_.on_delivered(rule_.log().last_position());
    commit(EpochId(1));
    ASSERT_EQ(rule_.state(), ReleaseRule::State::logging);
  }
  void commit(EpochId epoch) {
    ASSERT_TRUE(rule_.on_paused(now_, epoch, {}).has_value());
    acknowledge();
    rule_.on_epoch_released(now_, epoch);
  }
  void send() {
    while (auto batch = rule_.take_unsent(now_, 100'000)) on_wire_ = batch->records.back().position;
  }
  std::vector<std::uint32_t> acknowledge() {
    send();
    return released(rule_.on_log_acknowledged(now_, {ProtectionId(7), Generation(1), on_wire_}));
  }
  void let_in(const Frame& frame) {
    ASSERT_TRUE(rule_.on_input(now_, 0, frame, ChecksumState::complete).let_in);
  }
  std::vector<std::uint32_t> output(std::uint32_t id, const Frame& frame) {
    return released(rule_.on_output(now_, {0, id}, frame));
  }

  ReleaseRule rule_;
  Instant now_ = Instant{} + 1h;
  LogPosition on_wire_;
};

TEST_F(Rule, output_waits_for_its_digest_and_every_input_before_it) {
  protect();
  let_in(request());
  send();
  const LogPosition input = rule_.log().last_position();
  EXPECT_THAT(output(1, answer()), IsEmpty());
  const auto actions = rule_.on_log_acknowledged(now_, {ProtectionId(7), Generation(1), input});
  EXPECT_THAT(released(actions), IsEmpty()) << "the digest is not acknowledged";
  EXPECT_THAT(acknowledge(), ElementsAre(1));
}

TEST_F(Rule, no_checkpoint_is_needed_and_a_commit_is_enough_as_well) {
  protect();
  let_in(request());
  output(1, answer());
  EXPECT_THAT(acknowledge(), ElementsAre(1));
  let_in(request());
  output(2, answer());
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(2), {}).has_value());
  output(3, answer());
  EXPECT_THAT(released(rule_.on_epoch_released(now_, EpochId(2))), ElementsAre(2));
}

TEST_F(Rule, each_port_gets_what_it_was_promised) {
  protect();
  EXPECT_THAT(output(1, answer(5432)), IsEmpty());
  EXPECT_THAT(output(2, answer(9000)), ElementsAre(2));
  EXPECT_THAT(output(3, answer(80)), IsEmpty());
  EXPECT_THAT(acknowledge(), ElementsAre(3)) << "a strict output does not stop others";
  const auto log_before = rule_.log().inputs();
  let_in(request(9000));
  EXPECT_EQ(rule_.log().inputs(), log_before);
  let_in(request(5432));
  EXPECT_EQ(rule_.log().inputs(), log_before + 1);
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(2), {}).has_value());
  EXPECT_THAT(released(rule_.on_epoch_released(now_, EpochId(2))), ElementsAre(1));
}

TEST_F(Rule, what_cannot_be_described_waits_for_the_commit) {
  protect();
  Frame fragment = answer();
  fragment[20] |= 0x20;
  EXPECT_THAT(output(1, fragment), IsEmpty());
  EXPECT_THAT(output(2, test::ip_frame(test::v4(1), test::v4(2), 132, octets("another protocol"))),
              IsEmpty());
  EXPECT_THAT(acknowledge(), IsEmpty());
  // Control messages carry no answer: they wait for the inputs before them only.
  let_in(request());
  Frame control = test::echo_frame(test::v4(1), test::v4(2), true, 1, octets("xy"));
  control[34] = 3;
  EXPECT_THAT(output(3, control), IsEmpty());
  EXPECT_THAT(acknowledge(), ElementsAre(3));
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(2), {}).has_value());
  EXPECT_THAT(released(rule_.on_epoch_released(now_, EpochId(2))), ElementsAre(1, 2));
}

TEST_F(Rule, frames_beyond_an_ip_packet_are_not_let_in) {
  EXPECT_FALSE(rule_.on_input(now_, 0, Frame(kFrameBytesMax + 1), ChecksumState::complete).let_in);
}

TEST_F(Rule, a_lost_link_holds_everything_and_the_next_hello_counts_as_acknowledgement) {
  protect();
  let_in(request());
  output(1, answer());
  send();
  rule_.on_link_down();
  EXPECT_FALSE(asked_for<ReleaseRule::SendLog>(
      rule_.on_input(now_, 0, request(), ChecksumState::complete).actions));
  EXPECT_THAT(output(2, answer()), IsEmpty());
  EXPECT_FALSE(rule_.take_unsent(now_, 1000).has_value());
  EXPECT_THAT(released(rule_.on_log_acknowledged(
                  now_, {ProtectionId(7), Generation(1), rule_.log().last_position()})),
              IsEmpty())
      << "read from a socket that is gone";
  const auto actions = rule_.on_link_up(now_, on_wire_);
  EXPECT_THAT(released(actions), ElementsAre(1));
  EXPECT_TRUE(asked_for<ReleaseRule::SendLog>(actions));
  EXPECT_THAT(acknowledge(), ElementsAre(2));
}

TEST_F(Rule, a_backup_without_a_log_starts_one_with_a_gap) {
  protect();
  let_in(request());
  output(1, answer());
  rule_.on_link_down();
  rule_.on_link_up(now_, LogPosition(0));
  EXPECT_EQ(rule_.state(), ReleaseRule::State::rejoining);
  const auto batch = rule_.take_unsent(now_, 1000);
  ASSERT_TRUE(batch);
  EXPECT_TRUE(std::holds_alternative<GapRecord>(batch->records.front().content));
  on_wire_ = batch->records.back().position;
  EXPECT_THAT(acknowledge(), IsEmpty()) << "what was held before needs a checkpoint";
}

TEST_F(Rule, a_log_of_an_earlier_run_is_followed_and_proves_nothing) {
  BackupLog backup(ProtectionId(7), Generation(1), {});
  protect();
  let_in(request());
  LogBatch before{ProtectionId(7), Generation(1), {}};
  for (const auto& record : rule_.log().records()) before.records.push_back(record);
  before.records.front().content = GapRecord{};
  ASSERT_TRUE(backup.on_batch(before).has_value());
  const LogPosition old = backup.last_position();
  // The primary's agent is another one now.
  rule_ = ReleaseRule(config());
  rule_.on_link_up(now_, old);
  EXPECT_EQ(rule_.state(), ReleaseRule::State::rejoining);
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(8), {}).has_value());
  let_in(request());
  EXPECT_THAT(output(1, answer()), IsEmpty());
  EXPECT_THAT(released(rule_.on_log_acknowledged(now_, {ProtectionId(7), Generation(1), old})),
              IsEmpty());
  while (auto batch = rule_.take_unsent(now_, 100'000)) {
    EXPECT_GT(batch->records.front().position, old);
    ASSERT_TRUE(backup.on_batch(std::move(*batch)).has_value());
  }
  EXPECT_TRUE(backup.on_committed(EpochId(8))) << "its mark was taken for an old one";
}

TEST_F(Rule, the_lease_keeps_old_acknowledgements_from_releasing) {
  protect();
  let_in(request());
  output(1, answer());
  send();
  now_ += 1s;
  EXPECT_THAT(acknowledge(), IsEmpty()) << "sent a second ago: the backup may have promoted since";
  EXPECT_THAT(output(2, answer(9000)), IsEmpty()) << "not even of an open port";
  EXPECT_THAT(released(rule_.on_peer_heard(now_, now_ - 10ms)), ElementsAre(2, 1));
}

TEST_F(Rule, foreign_and_impossible_acknowledgements_are_refused) {
  protect();
  let_in(request());
  output(1, answer());
  send();
  for (const LogAcknowledged wrong :
       {LogAcknowledged{ProtectionId(8), Generation(1), on_wire_},
        LogAcknowledged{ProtectionId(7), Generation(2), on_wire_},
        LogAcknowledged{ProtectionId(7), Generation(1), on_wire_.next()}}) {
    const auto actions = rule_.on_log_acknowledged(now_, wrong);
    EXPECT_THAT(released(actions), IsEmpty());
    EXPECT_TRUE(asked_for<ReleaseRule::Report>(actions));
  }
}

TEST_F(Rule, digests_release_nothing_before_the_gap_is_cut) {
  rule_.on_link_up(now_, LogPosition(0));
  const LogPosition gap = rule_.log().last_position();
  // A frame that was let in before the gap lies in the tap's queue through this pause.
  commit(EpochId(1));
  EXPECT_EQ(rule_.state(), ReleaseRule::State::rejoining);
  output(1, answer());
  EXPECT_THAT(acknowledge(), IsEmpty());
  rule_.on_delivered(gap);
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(2), {}).has_value());
  output(2, answer());
  acknowledge();
  EXPECT_THAT(released(rule_.on_epoch_released(now_, EpochId(2))), ElementsAre(1, 2));
  EXPECT_EQ(rule_.state(), ReleaseRule::State::logging);
}

TEST_F(Rule, before_the_first_pause_the_gate_is_open_and_opens_again_on_demand) {
  rule_.on_link_up(now_, LogPosition(0));
  EXPECT_THAT(output(1, answer()), ElementsAre(1));
  EXPECT_THAT(output(2, answer(5432)), ElementsAre(2));
  protect();
  output(3, answer(5432));
  output(4, answer());
  EXPECT_THAT(released(rule_.on_gate_opened()), ElementsAre(3, 4));
  EXPECT_THAT(output(5, answer()), ElementsAre(5));
}

class SmallLog : public Rule {
 protected:
  static ReleaseRule::Config small() {
    auto with = config();
    with.limits = {.bytes_max = 100'000, .records_max = 1000};
    return with;
  }
  SmallLog() : Rule(small()) {}
};

TEST_F(SmallLog, asks_for_a_checkpoint_at_the_half_and_falls_back_at_the_end) {
  protect();
  int early = 0;
  bool fell_back = false;
  for (int i = 0; i < 600 && !fell_back; ++i) {
    const auto verdict = rule_.on_input(now_, 0, request(80, std::string(200, 'x')), {});
    ASSERT_TRUE(verdict.let_in);
    fell_back = rule_.state() == ReleaseRule::State::fallen_back;
    if (!fell_back && asked_for<ReleaseRule::CheckpointEarly>(verdict.actions)) ++early;
  }
  EXPECT_TRUE(fell_back);
  EXPECT_EQ(early, 1);
  output(1, answer());
  EXPECT_THAT(acknowledge(), IsEmpty()) << "its inputs are not all logged";
  rule_.on_delivered(rule_.log().last_position());
  ASSERT_TRUE(rule_.on_paused(now_, EpochId(2), {}).has_value());
  EXPECT_THAT(released(rule_.on_epoch_released(now_, EpochId(2))), ElementsAre(1));
  EXPECT_EQ(rule_.state(), ReleaseRule::State::fallen_back) << "for a while";
  now_ += 11s;
  rule_.on_tick(now_);
  EXPECT_EQ(rule_.state(), ReleaseRule::State::rejoining);
  acknowledge();
  rule_.on_delivered(rule_.log().last_position());
  commit(EpochId(3));
  EXPECT_EQ(rule_.state(), ReleaseRule::State::logging);
}

TEST_F(SmallLog, time_is_bounded_as_well) {
  protect();
  let_in(request());
  EXPECT_EQ(rule_.next_deadline(), now_ + 15s + 1us);
  now_ = rule_.next_deadline();
  EXPECT_TRUE(asked_for<ReleaseRule::CheckpointEarly>(rule_.on_tick(now_)));
  now_ = rule_.next_deadline();
  rule_.on_tick(now_);
  EXPECT_EQ(rule_.state(), ReleaseRule::State::fallen_back);
}

TEST_F(Rule, memory_of_the_log_is_given_back_by_commits) {
  protect();
  for (int i = 0; i < 100; ++i) let_in(request());
  EXPECT_EQ(rule_.log().inputs(), 100U);
  acknowledge();
  rule_.on_delivered(LogPosition(rule_.log().last_position().value - 5));
  commit(EpochId(2));
  EXPECT_EQ(rule_.log().inputs(), 5U) << "those in flight stay";
}

// The promise, over random histories: whenever an output of a replay port is released, either an
// epoch sealed after it is committed, or the backup has its record and every input let in before
// it since a committed mark, without a gap in between.
RC_GTEST_PROP(ReleaseRuleProperty, nothing_leaves_that_could_not_be_made_again, ()) {
  auto with = config();
  with.limits = {.bytes_max = 40'000, .records_max = 500};
  with.fall_back_for = 1ms;
  ReleaseRule rule(with);
  BackupLog backup(ProtectionId(7), Generation(1), with.limits);
  Instant now = Instant{} + 1h;
  struct Story {
    std::size_t inputs_before;
    std::uint64_t seals_before;
  };
  std::map<std::uint32_t, Story> outputs;
  std::size_t inputs = 0;                          // Let in, logged or not.
  std::map<std::size_t, LogPosition> position_of;  // Of the logged ones, by number.
  std::size_t delivered_inputs = 0;
  std::map<std::uint64_t, std::size_t> inputs_in_epoch;
  std::uint64_t paused = 0;
  std::uint64_t committed = 0;
  std::uint32_t next_output = 1;
  bool link = false;
  bool under_way = false;  // A checkpoint of this connection.

  const auto judge = [&](const ReleaseRule::Actions& actions) {
    for (const std::uint32_t id : released(actions)) {
      const Story& story = outputs.at(id);
      if (paused == 0 || story.seals_before < committed) continue;
      // By the log: each input before it that is not inside the committed checkpoint is there.
      for (std::size_t i = inputs_in_epoch[committed]; i < story.inputs_before; ++i) {
        RC_ASSERT(position_of.contains(i));
        const auto& records = backup.log().records();
        RC_ASSERT(std::ranges::any_of(
            records, [&](const auto& record) { return record.position == position_of[i]; }));
      }
      for (const auto& record : backup.log().records()) {
        RC_ASSERT(!std::holds_alternative<GapRecord>(record.content));
      }
    }
  };
  for (int step = 0; step < 200; ++step) {
    now += std::chrono::microseconds(*rc::gen::inRange(0, 500));
    switch (*rc::gen::inRange(0, 9)) {
      case 0:
      case 1: {
        const auto verdict = rule.on_input(now, 0, request(80, std::string(300, 'x')), {});
        if (rule.state() != ReleaseRule::State::fallen_back) {
          position_of[inputs] = rule.log().last_position();
        }
        ++inputs;
        judge(verdict.actions);
        break;
      }
      case 2: {
        const std::uint32_t id = next_output++;
        outputs[id] = {inputs, paused};
        judge(rule.on_output(now, {0, id}, answer()));
        break;
      }
      case 3:
        delivered_inputs = inputs;
        rule.on_delivered(rule.log().last_position());
        break;
      case 4:
        if (!link || under_way) break;
        under_way = true;
        ++paused;
        inputs_in_epoch[paused] = delivered_inputs;
        RC_ASSERT(rule.on_paused(now, EpochId(paused), {}).has_value());
        break;
      case 5:
        if (!link || !under_way) break;
        under_way = false;
        // The primary sends the mark before the checkpoint's end.
        while (auto batch = rule.take_unsent(now, 500)) {
          RC_ASSERT(backup.on_batch(std::move(*batch)).has_value());
        }
        RC_ASSERT(backup.on_committed(EpochId(paused)));
        committed = paused;
        judge(rule.on_epoch_released(now, EpochId(committed)));
        break;
      case 6:
      case 7:
        if (!link) break;
        if (auto batch = rule.take_unsent(now, 500)) {
          const auto acknowledged = backup.on_batch(std::move(*batch));
          RC_ASSERT(acknowledged.has_value());
          // Sometimes it is lost.
          if (*rc::gen::inRange(0, 4) > 0) {
            judge(rule.on_log_acknowledged(now, acknowledged.value()));
          }
        }
        break;
      case 8:
        if (link) {
          rule.on_link_down();
        } else {
          judge(rule.on_link_up(now, backup.last_position()));
        }
        link = !link;
        under_way = false;
        break;
    }
    judge(rule.on_tick(now));
  }
}

}  // namespace
}  // namespace understudy::replay
