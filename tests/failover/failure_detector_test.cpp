// When is a peer dead? Interval 50 ms, deadline 200 ms, times in milliseconds.
#include "failover/failure_detector.h"

#include <gtest/gtest.h>

#include <optional>

namespace understudy {
namespace {

using Verdict = FailureDetector::Verdict;

Instant at(int ms) {
  return Instant{} + std::chrono::hours(1) + std::chrono::milliseconds(ms);
}

FailureDetector::Config with_paths(std::size_t paths) {
  FailureDetector::Config config;
  config.paths = paths;
  return config;
}

/// Ticks at every `step` from `from` on; the time of the first tick that says `verdict`.
std::optional<int> tick_until(FailureDetector& detector, Verdict verdict, int from, int to,
                              int step = 10) {
  for (int ms = from; ms <= to; ms += step) {
    detector.on_tick(at(ms));
    if (detector.verdict() == verdict) return ms;
  }
  return std::nullopt;
}

TEST(FailureDetector, silence_for_the_deadline_is_death) {
  FailureDetector detector(with_paths(1), at(0));
  detector.on_heartbeat(0, at(30));
  EXPECT_EQ(tick_until(detector, Verdict::suspected, 40, 400), 130);
  EXPECT_EQ(tick_until(detector, Verdict::dead, 140, 400), 230);
  EXPECT_EQ(detector.last_sign_of_life(), at(30));
}

TEST(FailureDetector, change_is_told_once_with_the_last_sign_of_life) {
  FailureDetector detector(with_paths(1), at(0));
  detector.on_heartbeat(0, at(50));
  detector.on_tick(at(150));
  detector.on_tick(at(200));
  const auto change = detector.on_tick(at(250));
  ASSERT_TRUE(change);
  EXPECT_EQ(change->verdict, Verdict::dead);
  EXPECT_EQ(change->last_sign_of_life, at(50));
  EXPECT_FALSE(detector.on_tick(at(300)));
}

TEST(FailureDetector, one_speaking_path_is_life) {
  FailureDetector detector(with_paths(2), at(0));
  for (int ms = 0; ms <= 1000; ms += 50) {
    detector.on_heartbeat(1, at(ms));
    detector.on_tick(at(ms));
    EXPECT_EQ(detector.verdict(), Verdict::alive);
  }
  EXPECT_FALSE(detector.path_alive(0));
  EXPECT_TRUE(detector.path_alive(1));
  EXPECT_TRUE(tick_until(detector, Verdict::dead, 1010, 1300));
}

TEST(FailureDetector, peer_that_never_speaks_is_dead_one_deadline_after_the_start) {
  FailureDetector detector(with_paths(1), at(0));
  EXPECT_EQ(tick_until(detector, Verdict::dead, 10, 400), 200);
}

TEST(FailureDetector, own_stall_is_not_the_peers_death) {
  FailureDetector detector(with_paths(1), at(0));
  detector.on_heartbeat(0, at(0));
  detector.on_tick(at(50));
  // SIGSTOP at 50 ms, SIGCONT at 900 ms; the timer fires before the sockets are read.
  EXPECT_FALSE(detector.on_tick(at(900)));
  EXPECT_EQ(detector.verdict(), Verdict::alive);
  EXPECT_EQ(detector.stalls(), 1U);
  // A healthy peer is read right afterwards …
  FailureDetector healthy = detector;
  healthy.on_heartbeat(0, at(905));
  EXPECT_EQ(tick_until(healthy, Verdict::dead, 910, 1100), std::nullopt);
  // … a dead one is found one deadline after the stall.
  EXPECT_EQ(tick_until(detector, Verdict::dead, 910, 1300), 1100);
  EXPECT_EQ(detector.last_sign_of_life(), at(0));
}

TEST(FailureDetector, stall_does_not_bring_a_dead_peer_back) {
  FailureDetector detector(with_paths(1), at(0));
  ASSERT_TRUE(tick_until(detector, Verdict::dead, 10, 400));
  EXPECT_FALSE(detector.on_tick(at(5000)));
  EXPECT_EQ(detector.verdict(), Verdict::dead);
  const auto change = detector.on_heartbeat(0, at(5010));
  ASSERT_TRUE(change);
  EXPECT_EQ(change->verdict, Verdict::alive);
}

TEST(FailureDetector, next_deadline_never_lets_a_death_wait) {
  FailureDetector detector(with_paths(1), at(0));
  detector.on_heartbeat(0, at(20));
  detector.on_tick(at(190));
  EXPECT_EQ(detector.next_deadline(), at(220 + 20)) << "a late tick starts a new waiting period";
  FailureDetector regular(with_paths(1), at(0));
  regular.on_heartbeat(0, at(20));
  for (const int ms : {50, 100, 150, 200}) regular.on_tick(at(ms));
  EXPECT_EQ(regular.next_deadline(), at(220));
}

}  // namespace
}  // namespace understudy
