// May the backup promote, and what in which order? Times in milliseconds.
#include "failover/promotion.h"

#include <gtest/gtest.h>

#include <vector>

namespace understudy {
namespace {

using Cause = Promotion::Cause;
using Phase = Promotion::Phase;
using Refusal = Promotion::Refusal;

Instant at(int ms) {
  return Instant{} + std::chrono::hours(1) + std::chrono::milliseconds(ms);
}

template <typename T>
std::vector<T> all(const Promotion::Actions& actions) {
  std::vector<T> found;
  for (const auto& action : actions) {
    if (const T* one = std::get_if<T>(&action)) found.push_back(*one);
  }
  return found;
}
template <typename T>
bool has(const Promotion::Actions& actions) {
  return !all<T>(actions).empty();
}

/// An arbiter that says what the test wants.
class Scripted final : public Arbiter {
 public:
  Answer ask(const Claim& claim) override {
    asked.push_back(claim);
    return answer;
  }
  [[nodiscard]] std::string_view name() const override { return "scripted"; }

  Answer answer = Answer::granted;
  std::vector<Claim> asked;
};

class PromotionTest : public ::testing::Test {
 protected:
  static Promotion::Config config() {
    Promotion::Config config;
    config.domain = "web1";
    return config;
  }
  /// Epoch 1 committed at `ms`, applied or not.
  void commit(int ms, bool applied = true) {
    backup.on_begin(ProtectionId{77}, Generation{3}, EpochId{1}, EpochId{0});
    backup.on_whole(at(ms), EpochId{1});
    if (applied) backup.on_applied(EpochId{1});
  }
  void expect_refused(const Promotion::Actions& actions, Refusal refusal) {
    ASSERT_EQ(all<Promotion::Refused>(actions).size(), 1U);
    EXPECT_EQ(all<Promotion::Refused>(actions)[0].refusal, refusal);
    EXPECT_FALSE(has<Promotion::PersistGeneration>(actions));
  }

  EpochBackup backup{ProtectionId{77}, Generation{3}};
  Scripted arbiter;
  Promotion promotion{config(), backup, arbiter};
};

TEST_F(PromotionTest, phases_come_in_order_and_leave_their_times) {
  commit(0);
  const auto decided = promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  EXPECT_EQ(all<Promotion::PersistGeneration>(decided).at(0).generation, Generation{4});
  EXPECT_EQ(backup.state(), EpochBackup::State::promoting) << "deaf from the decision on";
  EXPECT_FALSE(has<Promotion::ResumeDomain>(promotion.on_tick(at(211))));
  const auto persisted = promotion.on_generation_persisted(at(212));
  EXPECT_EQ(all<Promotion::ResumeDomain>(persisted).at(0).epoch, EpochId{1});
  const auto resumed = promotion.on_resumed(at(220));
  EXPECT_TRUE(has<Promotion::OpenGate>(resumed));
  EXPECT_TRUE(has<Promotion::Announce>(resumed));
  EXPECT_EQ(backup.generation(), Generation{4});
  promotion.on_announced(at(221));
  promotion.on_done(at(300));
  EXPECT_EQ(promotion.phase(), Phase::done);
  const PromotionTimeline& timeline = promotion.timeline();
  EXPECT_EQ(timeline.last_sign_of_life, at(5));
  EXPECT_EQ(timeline.decided, at(210));
  EXPECT_EQ(timeline.generation_persisted, at(212));
  EXPECT_EQ(timeline.last_epoch_applied, at(210));
  EXPECT_EQ(timeline.domain_resumed, at(220));
  EXPECT_EQ(timeline.announced, at(221));
  EXPECT_EQ(timeline.done, at(300));
}

TEST_F(PromotionTest, last_commit_is_in_the_image_before_the_domain_runs) {
  commit(0, false);
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  EXPECT_FALSE(has<Promotion::ResumeDomain>(promotion.on_generation_persisted(at(212))));
  backup.on_applied(EpochId{1});
  EXPECT_TRUE(has<Promotion::ResumeDomain>(promotion.on_applied(at(215))));
  EXPECT_EQ(promotion.timeline().last_epoch_applied, at(215));
}

TEST_F(PromotionTest, hand_over_waits_for_no_lease_and_asks_nobody) {
  commit(0);
  arbiter.answer = Arbiter::Answer::refused;
  EXPECT_TRUE(
      has<Promotion::PersistGeneration>(promotion.on_wanted(at(1), Cause::handed_over, at(1))));
  EXPECT_TRUE(arbiter.asked.empty());
  EXPECT_TRUE(has<Promotion::ResumeDomain>(promotion.on_generation_persisted(at(2))));
}

TEST_F(PromotionTest, incomplete_image_is_an_event_not_a_promotion) {
  backup.on_begin(ProtectionId{77}, Generation{3}, EpochId{1}, EpochId{0});
  expect_refused(promotion.on_wanted(at(210), Cause::primary_dead, at(0)),
                 Refusal::image_incomplete);
  EXPECT_EQ(backup.state(), EpochBackup::State::incomplete);
}

TEST_F(PromotionTest, second_wish_is_refused_by_name) {
  commit(0);
  promotion.on_wanted(at(210), Cause::primary_dead, at(0));
  expect_refused(promotion.on_wanted(at(220), Cause::operator_word, at(0)),
                 Refusal::already_promoted);
}

TEST_F(PromotionTest, forbidden_automatic_promotion_leaves_the_operators) {
  commit(0);
  auto manual = config();
  manual.automatic = false;
  Promotion by_hand{manual, backup, arbiter};
  expect_refused(by_hand.on_wanted(at(210), Cause::primary_dead, at(0)), Refusal::forbidden);
  EXPECT_EQ(backup.state(), EpochBackup::State::ready) << "it still serves";
  EXPECT_TRUE(
      has<Promotion::PersistGeneration>(by_hand.on_wanted(at(220), Cause::operator_word, at(0))));
}

TEST_F(PromotionTest, arbiter_that_refuses_leaves_the_backup_serving) {
  commit(0);
  arbiter.answer = Arbiter::Answer::refused;
  expect_refused(promotion.on_wanted(at(210), Cause::primary_dead, at(0)), Refusal::not_authorised);
  EXPECT_EQ(backup.state(), EpochBackup::State::ready);
  ASSERT_EQ(arbiter.asked.size(), 1U);
  EXPECT_EQ(arbiter.asked[0].generation, Generation{4});
  EXPECT_EQ(arbiter.asked[0].claimant, Arbiter::Claimant::backup);
}

TEST_F(PromotionTest, arbiter_that_thinks_delays_the_decision_and_the_silence_counts_anew) {
  commit(0);
  arbiter.answer = Arbiter::Answer::pending;
  EXPECT_TRUE(promotion.on_wanted(at(210), Cause::primary_dead, at(5)).empty());
  EXPECT_EQ(backup.state(), EpochBackup::State::ready);
  promotion.on_arbiter(at(1000), Arbiter::Answer::granted, at(950));
  promotion.on_generation_persisted(at(1001));
  EXPECT_EQ(promotion.next_deadline(), at(1150));
  EXPECT_TRUE(has<Promotion::ResumeDomain>(promotion.on_tick(at(1150))));
}

TEST_F(PromotionTest, failed_promotion_does_not_ask_the_arbiter_again) {
  // Found by the simulator: the grant was there, the disk was full, the arbiter lost its data.
  commit(0);
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  promotion.on_failed(at(220));
  arbiter.answer = Arbiter::Answer::refused;
  EXPECT_TRUE(
      has<Promotion::PersistGeneration>(promotion.on_wanted(at(300), Cause::primary_dead, at(5))));
  EXPECT_EQ(arbiter.asked.size(), 1U);
}

TEST_F(PromotionTest, operators_word_stands_in_for_an_arbiter_that_does_not_answer) {
  commit(0);
  arbiter.answer = Arbiter::Answer::pending;
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  EXPECT_TRUE(has<Promotion::PersistGeneration>(
      promotion.on_wanted(at(5000), Cause::operator_word, at(5))));
}

TEST_F(PromotionTest, primary_heard_while_the_arbiter_thinks_ends_the_wish) {
  commit(0);
  arbiter.answer = Arbiter::Answer::pending;
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  promotion.on_primary_heard(at(230), PeerRole::running);
  EXPECT_TRUE(promotion.on_arbiter(at(240), Arbiter::Answer::granted, at(230)).empty());
  EXPECT_EQ(backup.state(), EpochBackup::State::ready);
}

TEST_F(PromotionTest, promotion_by_hand_waits_until_the_primarys_lease_has_run_out) {
  commit(990);
  promotion.on_wanted(at(1000), Cause::operator_word, at(980));
  EXPECT_FALSE(has<Promotion::ResumeDomain>(promotion.on_generation_persisted(at(1002))));
  // Counted from our last acknowledgement, which is newer than the last heartbeat.
  EXPECT_EQ(promotion.next_deadline(), at(1190));
  EXPECT_FALSE(has<Promotion::ResumeDomain>(promotion.on_tick(at(1189))));
  EXPECT_TRUE(has<Promotion::ResumeDomain>(promotion.on_tick(at(1190))));
}

TEST_F(PromotionTest, primary_host_back_without_the_domain_is_a_reason_to_promote) {
  commit(0);
  EXPECT_TRUE(promotion.on_primary_heard(at(10), PeerRole::running).empty());
  EXPECT_TRUE(
      has<Promotion::PersistGeneration>(promotion.on_primary_heard(at(120), PeerRole::none)));
  EXPECT_TRUE(promotion.on_primary_heard(at(170), PeerRole::none).empty()) << "wanted once";
  promotion.on_generation_persisted(at(122));
  EXPECT_EQ(promotion.next_deadline(), at(320))
      << "the word may be old, so the lease is waited for";
}

TEST_F(PromotionTest, generation_that_cannot_be_written_resumes_nothing_and_is_tried_again) {
  commit(0);
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  promotion.on_failed(at(215));
  EXPECT_EQ(promotion.phase(), Phase::failed);
  EXPECT_EQ(backup.state(), EpochBackup::State::promoting) << "deaf all the same";
  EXPECT_TRUE(promotion.on_generation_persisted(at(216)).empty());
  EXPECT_EQ(promotion.next_deadline(), at(715));
  EXPECT_TRUE(has<Promotion::PersistGeneration>(promotion.on_tick(at(715))));
  EXPECT_TRUE(has<Promotion::ResumeDomain>(promotion.on_generation_persisted(at(717))));
}

TEST_F(PromotionTest, primary_heard_to_run_solo_ends_the_promotion_before_it_speaks) {
  commit(0);
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  backup.on_peer_generation(Generation{4});
  expect_refused(promotion.on_generation_persisted(at(215)), Refusal::nothing_held);
  EXPECT_EQ(promotion.phase(), Phase::failed);
  EXPECT_EQ(promotion.next_deadline(), kNever);
}

TEST_F(PromotionTest, solo_heard_between_resume_and_gate_keeps_the_gate_closed) {
  commit(0);
  promotion.on_wanted(at(210), Cause::primary_dead, at(5));
  promotion.on_generation_persisted(at(215));
  backup.on_peer_generation(Generation{4});
  const auto actions = promotion.on_resumed(at(220));
  EXPECT_FALSE(has<Promotion::OpenGate>(actions));
  expect_refused(actions, Refusal::nothing_held);
}

TEST(NoArbiter, backup_may_promote_and_primary_never_goes_solo_by_itself) {
  NoArbiter arbiter;
  const ProtectionId protection{77};
  EXPECT_EQ(arbiter.ask({"web1", protection, Generation{4}, Arbiter::Claimant::backup}),
            Arbiter::Answer::granted);
  EXPECT_EQ(arbiter.ask({"web1", protection, Generation{4}, Arbiter::Claimant::primary}),
            Arbiter::Answer::refused);
}

}  // namespace
}  // namespace understudy
