// Thousands of small failovers in replay mode, each from a seed.
//
// Goal: whatever breaks and wherever, no client reads a mixture of two executions, nothing that was
// acknowledged is forgotten, and no connection hangs. Method: tests/replay/world.h. A failing seed
// is printed and replays exactly: UNDERSTUDY_SIM_SEED=<seed> replay_sim_test --gtest_filter=<test>
// runs that one alone and tells its story.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/replay/world.h"

namespace understudy::replay::test {
namespace {

/// Runs `make(seed)` for as many seeds as UNDERSTUDY_SIM_SEEDS says, or `count`.
template <typename Make>
std::array<std::uint64_t, kReached> sweep_seeds(std::uint64_t count, const Make& make) {
  std::array<std::uint64_t, kReached> reached{};
  if (const char* seed = std::getenv("UNDERSTUDY_SIM_SEED")) {
    Options options = make(std::strtoull(seed, nullptr, 0));
    options.trace = true;
    EXPECT_EQ(run(options).violation, "");
    return reached;
  }
  if (const char* asked = std::getenv("UNDERSTUDY_SIM_SEEDS")) {
    count = std::strtoull(asked, nullptr, 0);
  }
  std::uint64_t bad = 0;
  std::uint64_t resets = 0;
  std::uint64_t replay_ms = 0;
  std::uint64_t log_ms = 0;
  for (std::uint64_t seed = 1; seed <= count && bad < 5; ++seed) {
    const Outcome outcome = run(make(seed));
    if (!outcome.violation.empty()) {
      ++bad;
      ADD_FAILURE() << "UNDERSTUDY_SIM_SEED=" << seed << ": " << outcome.violation;
    }
    resets += outcome.resets;
    replay_ms += outcome.replay_ms;
    log_ms += outcome.log_ms;
    for (std::size_t i = 0; i < kReached; ++i) reached[i] += outcome.reached[i] > 0 ? 1 : 0;
  }
  for (std::size_t i = 0; i < kReached; ++i) {
    fmt::print("{:>6} schedules reached {}\n", reached[i], name_of(static_cast<Reached>(i)));
  }
  fmt::print("{:>6} connections reset; replays of {} ms took {} ms\n", resets, log_ms, replay_ms);
  return reached;
}

TEST(ReplaySchedules, crashes_at_random_steps_lose_nothing_and_mix_nothing) {
  const auto reached = sweep_seeds(1000, [](std::uint64_t seed) {
    return Options{.seed = seed,
                   .jumbled = seed % 7 == 0,
                   .random_service = seed % 5 == 0,
                   .small_log = seed % 11 == 0,
                   .six = seed % 4 == 3,
                   .leaky_tap = seed % 3 == 0};
  });
  if (std::getenv("UNDERSTUDY_SIM_SEED") != nullptr) return;
  for (std::size_t i = 0; i < kReached; ++i) {
    EXPECT_GT(reached[i], 0U) << "never reached: " << name_of(static_cast<Reached>(i));
  }
}

// A guest that does the same again on the same inputs: then no client may notice anything.
TEST(ReplaySchedules, with_a_guest_that_repeats_itself_nothing_diverges) {
  sweep_seeds(1000,
              [](std::uint64_t seed) { return Options{.seed = seed, .must_not_diverge = true}; });
}

TEST(ReplaySchedules, a_seed_replays_exactly) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(run({.seed = seed}).digest, run({.seed = seed}).digest);
  }
}

// One schedule, crashed at its first, second, third … step.
TEST(ReplaySweep, a_crash_at_every_step) {
  for (const std::uint64_t seed : {3, 4}) {
    const std::uint64_t steps = 900;
    for (std::uint64_t step = 0; step < steps; ++step) {
      const Outcome outcome = run({.seed = seed, .crash_at = step});
      ASSERT_EQ(outcome.violation, "") << "seed " << seed << ", crash at step " << step;
    }
  }
}

void expect_found(Canary canary, bool random_service) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    const Outcome outcome = run({.seed = seed, .canary = canary, .random_service = random_service});
    if (outcome.violation.empty()) continue;
    fmt::print("found at seed {}: {}\n", seed, outcome.violation);
    return;
  }
  FAIL() << "the checker is blind: nothing was found";
}

TEST(ReplayCanary, release_before_the_digest_is_acknowledged_is_found) {
  expect_found(Canary::release_before_acknowledged, false);
}
TEST(ReplayCanary, a_cut_of_one_too_many_is_found) {
  expect_found(Canary::cut_one_too_many, false);
}
TEST(ReplayCanary, frames_in_flight_counted_as_delivered_are_found) {
  expect_found(Canary::count_in_flight_as_delivered, false);
}
TEST(ReplayCanary, no_comparison_is_found) {
  expect_found(Canary::no_comparison, true);
}

}  // namespace
}  // namespace understudy::replay::test
