// Health: when a service is told as ill, when as well, and when it is time to act.

#include "failover/health.h"

#include <gtest/gtest.h>

namespace understudy {
namespace {

using namespace std::chrono_literals;
using Outcome = Health::Outcome;
using State = Health::State;

class HealthTest : public testing::Test {
 protected:
  std::optional<Health::Change> tell(Outcome outcome) {
    now_ += 1s;
    return health_.on_outcome(now_, outcome);
  }
  Health::Moment now_{1h};
  Health health_{{.failures = 3, .successes = 2, .grace = 10s, .acts_max = 2}, Health::Moment(1h)};
};

TEST_F(HealthTest, first_answer_is_enough_and_failures_do_not_count_in_the_grace_period) {
  for (int second = 1; second < 9; ++second) EXPECT_EQ(tell(Outcome::failed), std::nullopt);
  EXPECT_EQ(health_.state(), State::unknown);
  const Health::Change well{State::unknown, State::healthy, false};
  EXPECT_EQ(tell(Outcome::passed), well);
}

TEST_F(HealthTest, ill_after_three_failures_in_a_row_and_well_after_two_answers) {
  now_ += 20s;
  tell(Outcome::passed);
  tell(Outcome::failed);
  tell(Outcome::failed);
  EXPECT_EQ(tell(Outcome::passed), std::nullopt);  // The row is broken.
  tell(Outcome::failed);
  EXPECT_EQ(tell(Outcome::failed), std::nullopt);
  const Health::Change ill{State::healthy, State::unhealthy, true};
  EXPECT_EQ(tell(Outcome::failed), ill);
  EXPECT_EQ(tell(Outcome::failed), std::nullopt);  // Once for each illness.
  EXPECT_EQ(tell(Outcome::passed), std::nullopt);
  const Health::Change well{State::unhealthy, State::healthy, false};
  EXPECT_EQ(tell(Outcome::passed), well);
}

TEST_F(HealthTest, answers_held_in_the_gate_neither_count_nor_heal) {
  now_ += 20s;
  tell(Outcome::passed);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(tell(Outcome::held), std::nullopt);
  EXPECT_EQ(health_.state(), State::healthy);
  EXPECT_TRUE(health_.held());
  tell(Outcome::failed);
  tell(Outcome::failed);
  tell(Outcome::held);
  EXPECT_EQ(health_.state(), State::healthy);
  EXPECT_EQ(tell(Outcome::failed)->to, State::unhealthy);
}

TEST_F(HealthTest, restarts_that_do_not_help_end) {
  now_ += 20s;
  const auto fail_for_long = [this] {
    int acts = 0;
    for (int i = 0; i < 30; ++i) {
      const auto change = tell(Outcome::failed);
      if (change && change->act) ++acts;
    }
    return acts;
  };
  EXPECT_EQ(fail_for_long(), 1);
  health_.on_begun(now_);
  EXPECT_EQ(fail_for_long(), 1);
  health_.on_begun(now_);
  EXPECT_EQ(fail_for_long(), 0);
}

TEST_F(HealthTest, service_that_was_never_well_here_is_not_moved_on) {
  Health moved({.failures = 1, .successes = 1, .grace = 1s, .acts_only_after_well = true}, now_);
  now_ += 10s;
  const Health::Change ill{State::unknown, State::unhealthy, false};
  EXPECT_EQ(moved.on_outcome(now_, Outcome::failed), ill);
  EXPECT_EQ(moved.on_outcome(now_, Outcome::failed), std::nullopt);
  moved.on_outcome(now_, Outcome::passed);
  EXPECT_TRUE(moved.on_outcome(now_, Outcome::failed)->act);
  // It runs somewhere else, and here again, as ill as before.
  moved.on_begun(now_);
  now_ += 10s;
  EXPECT_EQ(moved.on_outcome(now_, Outcome::failed), std::nullopt);
}

TEST(HostHealthTest, load_and_pressure_are_judged_where_a_limit_is_set) {
  HostHealth health({.load_percent_max = 0, .memory_pressure_percent_max = 20, .readings = 1});
  const HostHealth::Reading well{.memory_bytes = 1ULL << 40U, .disk_bytes = 1ULL << 40U};
  HostHealth::Reading ill = well;
  ill.load_percent = 100'000;
  EXPECT_TRUE(health.on_reading(ill).empty());
  ill.memory_pressure_percent = 21;
  const std::vector<HostHealth::Change> change = {{HostHealth::Check::memory_pressure, false}};
  EXPECT_EQ(health.on_reading(ill), change);
  EXPECT_FALSE(health.healthy(HostHealth::Check::memory_pressure));
}

TEST(HostHealthTest, threshold_has_hysteresis_and_one_reading_is_noise) {
  HostHealth health({.memory_bytes_min = 100, .disk_bytes_min = 0, .readings = 2});
  EXPECT_TRUE(health.on_reading({.memory_bytes = 99}).empty());
  EXPECT_TRUE(health.on_reading({.memory_bytes = 200}).empty());
  EXPECT_TRUE(health.on_reading({.memory_bytes = 99}).empty());
  const std::vector<HostHealth::Change> ill = {{HostHealth::Check::memory, false}};
  EXPECT_EQ(health.on_reading({.memory_bytes = 99}), ill);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(health.on_reading({.memory_bytes = 110}).empty());
  EXPECT_FALSE(health.healthy());
  health.on_reading({.memory_bytes = 125});
  const std::vector<HostHealth::Change> well = {{HostHealth::Check::memory, true}};
  EXPECT_EQ(health.on_reading({.memory_bytes = 125}), well);
}

}  // namespace
}  // namespace understudy
