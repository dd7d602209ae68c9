// The backup's decisions one by one. The interplay of both sides is tests/sim's.
#include "checkpoint/epoch_backup.h"

#include <gtest/gtest.h>

#include <vector>

namespace understudy {
namespace {

using Backup = EpochBackup;

Instant at(int ms) {
  return Instant{} + std::chrono::hours(1) + std::chrono::milliseconds(ms);
}

template <typename T>
std::vector<T> all(const Backup::Actions& actions) {
  std::vector<T> found;
  for (const auto& action : actions) {
    if (const T* one = std::get_if<T>(&action)) found.push_back(*one);
  }
  return found;
}
template <typename T>
bool has(const Backup::Actions& actions) {
  return !all<T>(actions).empty();
}

constexpr ProtectionId kProtection{77};
constexpr Generation kGeneration{3};

class EpochBackupTest : public ::testing::Test {
 protected:
  Backup::Actions begin(std::uint64_t epoch, std::uint64_t base) {
    return backup.on_begin(kProtection, kGeneration, EpochId{epoch}, EpochId{base});
  }
  Backup::Actions whole(std::uint64_t epoch) { return backup.on_whole(at(0), EpochId{epoch}); }
  void expect_refused(const Backup::Actions& actions, Backup::Refusal reason) {
    ASSERT_EQ(all<Backup::Refuse>(actions).size(), 1U);
    EXPECT_EQ(all<Backup::Refuse>(actions)[0].reason, reason);
    EXPECT_FALSE(has<Backup::Acknowledge>(actions));
    EXPECT_FALSE(has<Backup::Stage>(actions));
  }
  void make_ready() {
    begin(1, 0);
    whole(1);
    backup.on_applied(EpochId{1});
    ASSERT_EQ(backup.state(), Backup::State::ready);
  }

  Backup backup{kProtection, kGeneration};
};

TEST_F(EpochBackupTest, acknowledges_what_is_whole_and_applies_afterwards) {
  EXPECT_TRUE(all<Backup::Stage>(begin(1, 0)).at(0).in_place);
  EXPECT_FALSE(backup.on_promote_decided()) << "promotable before the first whole checkpoint";
  const auto actions = whole(1);
  ASSERT_TRUE(std::holds_alternative<Backup::Acknowledge>(actions.at(0)));
  EXPECT_EQ(std::get<Backup::Acknowledge>(actions[0]).epoch, EpochId{1});
  EXPECT_TRUE(has<Backup::Apply>(actions));
  EXPECT_FALSE(backup.all_applied());
  EXPECT_FALSE(all<Backup::Stage>(begin(2, 1)).at(0).in_place);
}

TEST_F(EpochBackupTest, applies_one_epoch_at_a_time_in_order) {
  make_ready();
  begin(2, 1);
  EXPECT_TRUE(has<Backup::Apply>(whole(2)));
  begin(3, 2);
  EXPECT_FALSE(has<Backup::Apply>(whole(3)));
  EXPECT_EQ(all<Backup::Apply>(backup.on_applied(EpochId{2})).at(0).epoch, EpochId{3});
  backup.on_applied(EpochId{3});
  EXPECT_TRUE(backup.all_applied());
}

TEST_F(EpochBackupTest, checkpoint_upon_another_base_would_be_a_mixture_and_is_refused) {
  make_ready();
  expect_refused(begin(3, 2), Backup::Refusal::wrong_base);
  EXPECT_EQ(backup.committed(), EpochId{1});
}

TEST_F(EpochBackupTest, old_epoch_foreign_protection_and_old_generation_are_refused) {
  make_ready();
  expect_refused(begin(1, 1), Backup::Refusal::old_epoch);
  expect_refused(backup.on_begin(ProtectionId{78}, kGeneration, EpochId{2}, EpochId{1}),
                 Backup::Refusal::other_protection);
  expect_refused(backup.on_begin(kProtection, Generation{2}, EpochId{2}, EpochId{1}),
                 Backup::Refusal::old_generation);
  expect_refused(whole(2), Backup::Refusal::out_of_order);
}

TEST_F(EpochBackupTest, link_broken_in_the_middle_keeps_the_last_commit) {
  make_ready();
  begin(2, 1);
  EXPECT_EQ(all<Backup::DropStaged>(backup.on_link_down()).at(0).epoch, EpochId{2});
  EXPECT_EQ(backup.committed(), EpochId{1});
  EXPECT_EQ(backup.state(), Backup::State::ready);
  expect_refused(whole(2), Backup::Refusal::out_of_order);
}

TEST_F(EpochBackupTest, full_copy_voids_the_image_until_it_is_whole) {
  make_ready();
  begin(5, 0);
  EXPECT_EQ(backup.state(), Backup::State::incomplete);
  EXPECT_EQ(backup.view().committed, EpochId{0});
  backup.on_link_down();
  EXPECT_FALSE(backup.on_promote_decided());
  begin(6, 0);
  whole(6);
  EXPECT_TRUE(backup.on_promote_decided());
}

TEST_F(EpochBackupTest, full_copy_during_an_apply_forgets_the_apply) {
  make_ready();
  begin(2, 1);
  whole(2);
  begin(3, 2);
  whole(3);
  EXPECT_EQ(all<Backup::DropStaged>(begin(4, 0)).at(0).epoch, EpochId{3});
  EXPECT_TRUE(backup.on_applied(EpochId{2}).empty());
  whole(4);
  EXPECT_EQ(backup.applied(), EpochId{0});
  backup.on_applied(EpochId{4});
  EXPECT_TRUE(backup.all_applied());
}

TEST_F(EpochBackupTest, link_broken_in_a_complete_copy_drops_what_is_open_of_it) {
  begin(1, 0);
  EXPECT_EQ(all<Backup::DropStaged>(backup.on_link_down()).at(0).epoch, EpochId{1});
  EXPECT_EQ(backup.state(), Backup::State::incomplete);
  begin(2, 0);
  EXPECT_TRUE(has<Backup::Acknowledge>(whole(2)));
}

TEST_F(EpochBackupTest, new_begin_replaces_one_whose_capture_failed) {
  make_ready();
  begin(2, 1);
  const auto actions = begin(3, 1);
  EXPECT_EQ(all<Backup::DropStaged>(actions).at(0).epoch, EpochId{2});
  EXPECT_TRUE(has<Backup::Acknowledge>(whole(3)));
}

TEST_F(EpochBackupTest, after_the_decision_to_promote_nothing_is_acknowledged_any_more) {
  make_ready();
  begin(2, 1);
  ASSERT_TRUE(backup.on_promote_decided());
  expect_refused(whole(2), Backup::Refusal::promotion_decided);
  expect_refused(begin(3, 1), Backup::Refusal::promotion_decided);
  expect_refused(backup.on_unprotect(kProtection, kGeneration), Backup::Refusal::promotion_decided);
  EXPECT_EQ(backup.view().role, PeerRole::promoting);
  EXPECT_EQ(backup.committed(), EpochId{1});
  backup.on_promoted(Generation{4});
  expect_refused(begin(3, 1), Backup::Refusal::promotion_decided);
  EXPECT_EQ(backup.view().role, PeerRole::running);
  EXPECT_EQ(backup.view().generation, Generation{4});
}

TEST_F(EpochBackupTest, apply_goes_on_while_promoting) {
  make_ready();
  begin(2, 1);
  whole(2);
  begin(3, 2);
  whole(3);
  ASSERT_TRUE(backup.on_promote_decided());
  EXPECT_TRUE(has<Backup::Apply>(backup.on_applied(EpochId{2})));
  backup.on_applied(EpochId{3});
  EXPECT_TRUE(backup.all_applied());
}

TEST_F(EpochBackupTest, primary_that_went_solo_makes_the_image_unusable) {
  make_ready();
  EXPECT_TRUE(backup.on_peer_generation(kGeneration).empty());
  EXPECT_TRUE(has<Backup::DiscardImage>(backup.on_peer_generation(Generation{4})));
  EXPECT_FALSE(backup.on_promote_decided());
  expect_refused(begin(2, 1), Backup::Refusal::nothing_held);
}

TEST_F(EpochBackupTest, unprotect_is_confirmed_as_often_as_it_is_asked) {
  make_ready();
  EXPECT_TRUE(has<Backup::DiscardImage>(backup.on_unprotect(kProtection, kGeneration)));
  EXPECT_TRUE(has<Backup::DiscardImage>(backup.on_unprotect(kProtection, kGeneration)));
  EXPECT_EQ(backup.view().role, PeerRole::none);
}

}  // namespace
}  // namespace understudy
