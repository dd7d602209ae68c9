// Goal: a domain goes home when its home is well and not before, and does not go to and fro.
// Method: the decision alone, with a clock made of numbers.
#include "failover/failback.h"

#include <gtest/gtest.h>

namespace understudy {
namespace {

using namespace std::chrono_literals;

Instant at(std::chrono::seconds time) {
  return Instant{} + 1h + time;
}

const Failback::Config when_healthy{.mode = FailbackMode::when_healthy,
                                    .delay = 300s,
                                    .minimum_stay = 600s,
                                    .longest_stay = 86400s};
const Failback::Facts well{
    .runs_here = true, .home_is_here = false, .home_heard = true, .protected_here = true};

TEST(FailbackTest, home_is_well_for_the_delay_and_the_stay_is_over) {
  Failback failback;
  EXPECT_EQ(failback.advise(at(0s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(599s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(600s), when_healthy, well), Failback::Advice::move);
}

TEST(FailbackTest, a_home_that_falls_silent_begins_its_delay_anew) {
  Failback failback;
  Failback::Facts silent = well;
  silent.home_heard = false;
  EXPECT_EQ(failback.advise(at(0s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(500s), when_healthy, silent), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(501s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(800s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(801s), when_healthy, well), Failback::Advice::move);
}

TEST(FailbackTest, never_and_manual_move_nothing) {
  Failback failback;
  Failback::Config config = when_healthy;
  config.mode = FailbackMode::manual;
  EXPECT_EQ(failback.advise(at(0s), config, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(600s), config, well), Failback::Advice::possible);
  config.mode = FailbackMode::never;
  EXPECT_EQ(failback.advise(at(9000s), config, well), Failback::Advice::stay);
}

TEST(FailbackTest, not_from_home_and_not_while_unprotected) {
  Failback failback;
  Failback::Facts facts = well;
  facts.protected_here = false;
  (void)failback.advise(at(0s), when_healthy, facts);
  EXPECT_EQ(failback.advise(at(9000s), when_healthy, facts), Failback::Advice::stay);
  facts = well;
  facts.home_is_here = true;
  EXPECT_EQ(failback.advise(at(9001s), when_healthy, facts), Failback::Advice::stay);
}

TEST(FailbackTest, a_failed_move_is_tried_again_after_another_stay) {
  Failback failback;
  (void)failback.advise(at(0s), when_healthy, well);
  EXPECT_EQ(failback.advise(at(600s), when_healthy, well), Failback::Advice::move);
  failback.on_move_failed(at(601s));
  EXPECT_EQ(failback.advise(at(1200s), when_healthy, well), Failback::Advice::stay);
  EXPECT_EQ(failback.advise(at(1201s), when_healthy, well), Failback::Advice::move);
}

// The domain comes back here 60 s after each return home.
TEST(FailbackTest, no_ping_pong_with_a_home_that_dies_under_it) {
  Failback failback;
  Failback::Facts away = well;
  away.runs_here = false;
  auto now = 0s;
  auto last_stay = 0s;
  for (int round = 0; round < 8; ++round) {
    const auto came = now;
    while (failback.advise(at(now), when_healthy, well) != Failback::Advice::move) now += 1s;
    EXPECT_GE(now - came, round == 0 ? 600s : 2 * last_stay) << "round " << round;
    last_stay = now - came;
    failback.on_moved(at(now));
    (void)failback.advise(at(now + 1s), when_healthy, away);
    now += 60s;
  }
  // A return that lasted makes it all good.
  now += 3 * last_stay;
  (void)failback.advise(at(now), when_healthy, well);
  EXPECT_EQ(failback.stay(when_healthy), 600s);
}

TEST(FailbackTest, words) {
  EXPECT_EQ(failback_mode_from("when-healthy").value(), FailbackMode::when_healthy);
  EXPECT_FALSE(failback_mode_from("always"));
}

}  // namespace
}  // namespace understudy
