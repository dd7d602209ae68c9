// Thousands of small ends of the world, each from a seed.
//
// Goal: whatever breaks, no client is told what could be lost, and never do two hosts speak; and
// when everything works again, so does the domain. Method: tests/sim/world.h (a pair of hosts and
// its domain), tests/sim/cluster.h (two to five hosts with several). A failing seed replays
// exactly; it is told with as few faults as are needed to fail.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"

namespace understudy::sim {
namespace {

/// What the environment asks for; `./run sim` sets it.
std::uint64_t number_from(const char* variable, std::uint64_t fallback) {
  const char* asked = std::getenv(variable);
  return asked != nullptr ? std::strtoull(asked, nullptr, 0) : fallback;
}

constexpr std::size_t kStoryLines = 200;

std::string text_of(const Blow& blow) {
  return fmt::format("{} of host {} at {} ms", name_of(blow.fault), blow.host, blow.at / 1000);
}

/// Plays a failing schedule again with as few faults as it needs, and tells how that ends. The
/// schedule itself is replayed by its seed.
template <typename AnyOptions>
void tell_story(const AnyOptions& options) {
  const auto whole = run(options).blows.size();
  AnyOptions again = shortened(options);
  again.trace = true;
  const auto outcome = run(again);
  fmt::print("  shortened from {} faults to {}{}: {}\n", whole, outcome.blows.size(),
             again.no_small_troubles ? ", without small troubles" : "", outcome.violation);
  for (const Blow& blow : outcome.blows) fmt::print("    {}\n", text_of(blow));
  const std::size_t skipped =
      outcome.story.size() > kStoryLines ? outcome.story.size() - kStoryLines : 0;
  if (skipped > 0) fmt::print("  … {} lines before this\n", skipped);
  for (std::size_t line = skipped; line < outcome.story.size(); ++line)
    fmt::print("  {}\n", outcome.story[line]);
}

void expect_good(const Options& options) {
  const Outcome outcome = run(options);
  if (!outcome.violation.empty()) tell_story(options);
  EXPECT_EQ(outcome.violation, "") << "replay: ./run sim --seed " << options.seed << " --seeds 1";
}

// UNDERSTUDY_SIM_SEED: the first seed; UNDERSTUDY_SIM_SEEDS: how many; UNDERSTUDY_SIM_MINUTES:
// until so long has passed, however many that are, half of it with pairs and half with clusters.
template <typename AnyOptions>
void play_seeds(std::uint64_t usually, std::uint64_t enough_to_reach_all) {
  const std::uint64_t first = number_from("UNDERSTUDY_SIM_SEED", 1);
  const std::uint64_t minutes = number_from("UNDERSTUDY_SIM_MINUTES", 0);
  const std::uint64_t wanted =
      number_from("UNDERSTUDY_SIM_SEEDS", minutes > 0 ? ~std::uint64_t{0} - first : usually);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(minutes * 30);
  std::array<std::uint64_t, kReached> reached{};
  std::uint64_t released = 0;
  std::uint64_t played = 0;
  for (; played < wanted; ++played) {
    if (minutes > 0 && std::chrono::steady_clock::now() > end) break;
    AnyOptions options;
    options.seed = first + played;
    const auto outcome = run(options);
    if (!outcome.violation.empty()) tell_story(options);
    ASSERT_EQ(outcome.violation, "") << "replay: ./run sim --seed " << options.seed << " --seeds 1";
    for (std::size_t i = 0; i < kReached; ++i) reached[i] += outcome.reached[i] > 0 ? 1U : 0U;
    released += outcome.released;
  }
  // A branch that no schedule reaches is not tested, whatever the number of schedules.
  for (std::size_t i = 0; i < kReached; ++i) {
    if (played >= enough_to_reach_all) {
      EXPECT_GT(reached[i], 0U) << "never reached: " << name_of(static_cast<Reached>(i));
    }
    fmt::print("{:>6} schedules reached {}\n", reached[i], name_of(static_cast<Reached>(i)));
  }
  fmt::print("{:>6} schedules, {} frames released\n", played, released);
}

TEST(Schedules, random_faults_then_repair_keep_every_promise) {
  play_seeds<Options>(20'000, 10'000);
}

#if defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kClusters = 5'000;
#else
constexpr std::uint64_t kClusters = 20'000;
#endif

// The same with several domains on two to five hosts, whose pairs share hosts, agents, networks and
// the arbiter.
TEST(Clusters, random_faults_then_repair_keep_every_promise) {
  play_seeds<ClusterOptions>(kClusters, 5'000);
}

TEST(Clusters, a_seed_replays_exactly) {
  int other_domains_hit = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    ClusterOptions options;
    options.seed = seed;
    const ClusterOutcome one = run(options);
    EXPECT_EQ(one.trace_digest, run(options).trace_digest);
    // The same with its own faults given instead of drawn.
    options.given = true;
    options.blows = one.blows;
    EXPECT_EQ(one.trace_digest, run(options).trace_digest);
    other_domains_hit += one.domains_hit_by_a_fence_of_another;
  }
  EXPECT_GT(other_domains_hit, 0) << "no fence has killed a host that had other domains, too";
}

// Seeds that have once shown a mistake. (A seed keeps its meaning only as long as the world draws
// the same numbers in the same order; what a mistake teaches for ever stands in a test of its own.)
TEST(Schedules, seeds_that_once_failed) {
  for (const std::uint64_t seed : {19, 142, 271, 3516, 4508, 18998, 54324, 67581}) {
    expect_good({.seed = seed});
  }
}

TEST(Schedules, a_seed_replays_exactly) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    EXPECT_EQ(run(Options{.seed = seed}).trace_digest, run(Options{.seed = seed}).trace_digest);
  }
}

/// Strikes one host before its first, second, third … event, until the schedule ends before that.
void sweep(Fault fault, int host, bool hand_over = false) {
  for (std::uint64_t step = 0;; ++step) {
    const Options options{.random_faults = false,
                          .planned = Options::Planned{fault, host, step},
                          .hand_over = hand_over};
    const Outcome outcome = run(options);
    const bool lost_by_one_fault = outcome.lost && outcome.whole_when_struck;
    if (!outcome.violation.empty() || lost_by_one_fault) tell_story(options);
    ASSERT_FALSE(lost_by_one_fault) << "step " << step << " of host " << host;
    ASSERT_EQ(outcome.violation, "") << "fault before step " << step << " of host " << host;
    if (outcome.steps[static_cast<std::size_t>(host)] <= step || step > 700) break;
  }
}

TEST(Sweep, primary_crashes_before_its_nth_step) {
  sweep(Fault::crash, 0);
}
TEST(Sweep, backup_crashes_before_its_nth_step) {
  sweep(Fault::crash, 1);
}
TEST(Sweep, primary_agent_restarts_before_its_nth_step) {
  sweep(Fault::restart_agent, 0);
}
TEST(Sweep, backup_agent_restarts_before_its_nth_step) {
  sweep(Fault::restart_agent, 1);
}
TEST(Sweep, primary_stalls_before_its_nth_step) {
  sweep(Fault::stall, 0);
}
TEST(Sweep, backup_stalls_before_its_nth_step) {
  sweep(Fault::stall, 1);
}
TEST(Sweep, link_breaks_before_the_primarys_nth_step) {
  sweep(Fault::break_link, 0);
}
TEST(Sweep, link_breaks_before_the_backups_nth_step) {
  sweep(Fault::break_link, 1);
}
TEST(Sweep, primary_isolated_send_only_before_its_nth_step) {
  sweep(Fault::cut_one_way, 1);
}
TEST(Sweep, primary_isolated_receive_only_before_its_nth_step) {
  sweep(Fault::cut_one_way, 0);
}
TEST(Sweep, partition_before_the_primarys_nth_step) {
  sweep(Fault::cut_both_ways, 0);
}
TEST(Sweep, heartbeats_lost_before_the_primarys_nth_step) {
  sweep(Fault::lose_heartbeats, 0);
}

// The same while the domain is handed over: host 0 gives it away, host 1 takes it.
TEST(HandOverSweep, without_a_fault_the_domain_moves) {
  const Outcome outcome = run(Options{.random_faults = false, .hand_over = true});
  EXPECT_EQ(outcome.violation, "");
  EXPECT_EQ(outcome.reached[static_cast<std::size_t>(Reached::handed_over)], 1U);
}
TEST(HandOverSweep, source_crashes_before_its_nth_step) {
  sweep(Fault::crash, 0, true);
}
TEST(HandOverSweep, target_crashes_before_its_nth_step) {
  sweep(Fault::crash, 1, true);
}
TEST(HandOverSweep, sources_agent_restarts_before_its_nth_step) {
  sweep(Fault::restart_agent, 0, true);
}
TEST(HandOverSweep, targets_agent_restarts_before_its_nth_step) {
  sweep(Fault::restart_agent, 1, true);
}
TEST(HandOverSweep, source_stalls_before_its_nth_step) {
  sweep(Fault::stall, 0, true);
}
TEST(HandOverSweep, target_stalls_before_its_nth_step) {
  sweep(Fault::stall, 1, true);
}
TEST(HandOverSweep, link_breaks_before_the_sources_nth_step) {
  sweep(Fault::break_link, 0, true);
}
TEST(HandOverSweep, link_breaks_before_the_targets_nth_step) {
  sweep(Fault::break_link, 1, true);
}
TEST(HandOverSweep, nothing_reaches_the_target_from_the_sources_nth_step_on) {
  sweep(Fault::cut_one_way, 0, true);
}
TEST(HandOverSweep, nothing_reaches_the_source_from_the_targets_nth_step_on) {
  sweep(Fault::cut_one_way, 1, true);
}
TEST(HandOverSweep, partition_before_the_sources_nth_step) {
  sweep(Fault::cut_both_ways, 0, true);
}

/// A wrong rule must be found within the first few thousand of the schedules that every test run
/// plays, and by the checker that is meant for it.
void expect_found(Canary canary, std::string_view by,
                  std::optional<ArbiterKind> arbiter = std::nullopt) {
  for (std::uint64_t seed = 1; seed <= 20'000; ++seed) {
    const Options options{.seed = seed, .canary = canary, .arbiter = arbiter};
    const Outcome outcome = run(options);
    if (outcome.violation.empty()) continue;
    const Options less = shortened(options);
    fmt::print("found at seed {}, with {} faults, shortened to {}: {}\n", seed,
               outcome.blows.size(), less.given ? less.blows.size() : outcome.blows.size(),
               outcome.violation);
    EXPECT_NE(outcome.violation.find(by), std::string::npos) << outcome.violation;
    EXPECT_FALSE(run(less).violation.empty()) << "a shortened schedule goes wrong, too";
    return;
  }
  FAIL() << "the checkers are blind: nothing was found";
}

// A whole cluster sees it, too.
TEST(Canary, old_acknowledgements_trusted_is_found_in_a_cluster) {
  for (std::uint64_t seed = 1; seed <= 6'000; ++seed) {
    ClusterOptions options;
    options.seed = seed;
    options.canary = Canary::trust_old_acknowledgements;
    const ClusterOutcome outcome = run(options);
    if (outcome.violation.empty()) continue;
    const ClusterOptions less = shortened(options);
    fmt::print("found at seed {}, with {} faults, shortened to {}: {}\n", seed,
               outcome.blows.size(), less.blows.size(), outcome.violation);
    EXPECT_NE(outcome.violation.find("two voices"), std::string::npos) << outcome.violation;
    EXPECT_FALSE(run(less).violation.empty());
    return;
  }
  FAIL() << "the checkers are blind: nothing was found";
}

TEST(Canary, release_at_send_is_found) {
  expect_found(Canary::release_when_sent, "before its commit");
}
TEST(Canary, acknowledgement_before_whole_is_found) {
  expect_found(Canary::acknowledge_before_whole, "before its commit");
}
TEST(Canary, acknowledgement_after_the_decision_to_promote_is_found) {
  expect_found(Canary::acknowledge_after_decision, "");
}
TEST(Canary, gate_opened_by_a_timeout_is_found) {
  expect_found(Canary::open_by_timeout, "");
}
TEST(Canary, old_acknowledgements_trusted_is_found) {
  expect_found(Canary::trust_old_acknowledgements, "two voices");
}
TEST(Canary, half_a_checkpoint_in_the_image_is_found) {
  expect_found(Canary::apply_half, "never was");
}
TEST(Canary, generation_forgotten_is_found) {
  expect_found(Canary::forget_generation, "went back");
}
TEST(Canary, unprotect_without_confirmation_is_found) {
  expect_found(Canary::unprotect_unconfirmed, "");
}

TEST(Canary, voice_before_the_generation_is_stored_is_found) {
  expect_found(Canary::speak_before_stored, "");
}
TEST(Canary, trust_in_an_arbiter_that_lost_its_data_is_found) {
  expect_found(Canary::trust_empty_arbiter, "", ArbiterKind::etcd);
}
TEST(Canary, word_that_is_taken_back_by_a_timeout_is_found) {
  expect_found(Canary::speak_after_the_word, "");
}
TEST(Canary, promotion_cut_off_and_forgotten_is_found) {
  expect_found(Canary::cut_off_forgets, "");
}

}  // namespace
}  // namespace understudy::sim
