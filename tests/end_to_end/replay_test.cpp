// Goal: in replay mode an answer that left is kept although no checkpoint has seen it, and modes
// change under a running protection. Method: as in survival_test.cpp; with an epoch of ten seconds
// everything between two looks at the number of commits happened without one. The bulk of kills is
// in replay_stories_test.cpp.
#include <boost/json.hpp>
#include <iostream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"
#include "tests/scene/replay_fields.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class ReplayMode : public ProtectedGuest {
 protected:
  double committed_epoch() {
    auto domain = scene->domain(HostId::a);
    return domain ? number_at(domain.value(), "committed_epoch") : -1;
  }
  void wait_for_replay() {
    ASSERT_OK(scene->wait_for(HostId::a, "output to go with the log", 30s,
                              [](const json::object& domain) {
                                return text_at(object_at(domain, "replay"), "state") == "replay";
                              }));
  }
  void kill_and_go_on() {
    auto killed = scene->kill_host(HostId::a);
    ASSERT_OK(killed);
    mark(killed.value());
    expect_everyone_goes_on(killed.value().steady + 100ms);
    ASSERT_OK(scene->wait_for_state(HostId::b, "running", 10s));
  }
};

TEST_F(ReplayMode, answers_that_left_after_the_last_checkpoint_hold_after_a_promotion) {
  ASSERT_NO_FATAL_FAILURE(
      play(options_from_environment(), Protection{.mode = "replay", .interval = "10s"}));
  const double commits = committed_epoch();
  const std::uint64_t acknowledged = ledger->operations();
  expect_everyone_goes_on(Clock::now());
  std::this_thread::sleep_for(1s);
  EXPECT_GT(ledger->operations(), acknowledged + 10) << "answers wait for something";
  ASSERT_EQ(committed_epoch(), commits) << "a checkpoint came in between: nothing is shown";
  ASSERT_NO_FATAL_FAILURE(kill_and_go_on());
  auto timeline = scene->understudy_json(HostId::b, {"timeline", "web1"});
  ASSERT_OK(timeline);
  const auto replayed = replay_outcome_of(timeline.value().as_object());
  ASSERT_TRUE(replayed) << json::serialize(timeline.value());
  EXPECT_GT(replayed->inputs, 10U);
  EXPECT_EQ(replayed->flows_diverged, 0U);
  expect_nothing_lost();
}

TEST_F(ReplayMode, modes_and_ports_change_under_a_running_protection) {
  ASSERT_NO_FATAL_FAILURE(play());
  const auto set = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"set", "web1"});
    return scene->understudy_checked(HostId::a, words);
  };
  ASSERT_OK(set({"--mode", "replay", "--interval", "1s"}));
  ASSERT_NO_FATAL_FAILURE(wait_for_replay());
  expect_everyone_goes_on(Clock::now());
  // The ledger waits for commits from here on, the others do not.
  ASSERT_OK(set({"--port", "9000=remus", "--interval", "500ms"}));
  expect_everyone_goes_on(Clock::now());
  ASSERT_OK(set({"--mode", "remus", "--interval", "25ms"}));
  expect_everyone_goes_on(Clock::now() + 300ms);
  ASSERT_OK(set({"--mode", "replay", "--interval", "2s"}));
  ASSERT_NO_FATAL_FAILURE(wait_for_replay());
  expect_everyone_goes_on(Clock::now());
  auto domain = scene->domain(HostId::a);
  ASSERT_OK(domain);
  EXPECT_EQ(text_at(domain.value(), "mode"), "replay");
  EXPECT_EQ(text_at(object_at(object_at(domain.value(), "replay_options"), "ports"), "9000"),
            "remus");
  auto refused = scene->understudy(HostId::a, {"set", "web1", "--port", "http=remus"});
  ASSERT_OK(refused);
  EXPECT_EQ(refused.value().status, 64);
  ASSERT_NO_FATAL_FAILURE(kill_and_go_on());
  expect_nothing_lost();
}

TEST_F(ReplayMode, unprotected_again_the_bridge_carries_the_frames) {
  ASSERT_NO_FATAL_FAILURE(
      play(options_from_environment(), Protection{.mode = "replay", .interval = "1s"}));
  ASSERT_OK(scene->understudy_checked(HostId::a, {"unprotect", "web1"}));
  ASSERT_OK(scene->wait_for(HostId::a, "the gate to open", 10s, [](const json::object& domain) {
    return text_at(domain, "state") == "running" && !domain.contains("replay");
  }));
  expect_everyone_goes_on(Clock::now() + 200ms);
  // The agent is not needed any more.
  scene->kill_agent(HostId::a);
  expect_everyone_goes_on(Clock::now() + 200ms);
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
