// Goal: a planned move to the warm backup is no failure: the domain goes to and fro under traffic,
// every connection lives on, exactly one host speaks at a time, and after each move it is protected
// from its new place to its old one without anybody asking. Method: the scene; `understudy move` as
// an operator types it. Not tested here: what happens when something breaks at a step of a move
// (move_steps_test.cpp; the decisions in tests/sim).
#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <thread>

#include "tests/end_to_end/protected_guest.h"
#include "tests/scene/paced_datagrams.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Move : public ProtectedGuest {
 protected:
  /// Moves the domain away from `from`, and waits until it is protected back to it.
  void move_from(HostId from) {
    ASSERT_OK(scene->understudy_checked(from, {"move", "web1"}, 60s));
    voices_ += from == HostId::a ? 'B' : 'A';
    auto timeline = scene->understudy_json(other(from), {"timeline", "web1"});
    ASSERT_OK(timeline);
    const json::object& told = timeline.value().as_object();
    EXPECT_EQ(text_at(told, "cause"), "handed_over") << json::serialize(told);
    EXPECT_EQ(text_at(told, "outcome"), "promoted") << json::serialize(told);
    stood_ms_.push_back(number_at(told, "stood_ms"));
    expect_everyone_goes_on(Clock::now());
    ASSERT_OK(scene->wait_for_state(other(from), "protected", 60s));
  }

  void move_to_and_fro(int times) {
    HostId primary = HostId::a;
    for (int turn = 1; turn <= times; ++turn) {
      SCOPED_TRACE("move " + std::to_string(turn));
      ASSERT_NO_FATAL_FAILURE(move_from(primary));
      primary = other(primary);
    }
    expect_everyone_goes_on(Clock::now());
    expect_voices(voices_);
    expect_nothing_lost();
    std::ranges::sort(stood_ms_);
    std::cout << times << " moves: the guest stood still for " << stood_ms_[stood_ms_.size() / 2]
              << " ms (median), " << stood_ms_.back() << " ms at worst\n";
  }

  std::string voices_ = "A";
  std::vector<double> stood_ms_;
};

int moves_wanted() {
  const char* asked = std::getenv("UNDERSTUDY_TEST_MOVES");
  return asked != nullptr ? std::atoi(asked) : 5;
}

TEST_F(Move, to_and_fro_under_traffic_nothing_is_lost_and_protection_follows) {
  ASSERT_NO_FATAL_FAILURE(play());
  ASSERT_NO_FATAL_FAILURE(move_to_and_fro(moves_wanted()));
}

// What comes while the guest stands still is sent after it. One datagram may be on the old wire at
// the very moment in which the bridges learn the new one.
TEST_F(Move, datagrams_that_come_meanwhile_are_sent_after_it) {
  constexpr int kMoves = 4;
  ASSERT_NO_FATAL_FAILURE(play());
  PacedDatagrams paced(scene->client_options(1), 100, 64);
  paced.start();
  ASSERT_OK(paced.wait_for_progress(30s));
  ASSERT_NO_FATAL_FAILURE(move_to_and_fro(kMoves));
  paced.stop();
  EXPECT_GT(paced.sent(), 100U * kMoves / 10);
  EXPECT_LE(paced.lost(), static_cast<std::uint64_t>(kMoves))
      << "of " << paced.sent() << " datagrams";
}

TEST_F(Move, in_replay_mode_too) {
  ASSERT_NO_FATAL_FAILURE(
      play(options_from_environment(), Protection{.mode = "replay", .interval = "1s"}));
  ASSERT_NO_FATAL_FAILURE(move_to_and_fro(2));
}

/// To a third host, which has to be copied to first.
class LiveMigration : public Move {
 protected:
  void open_with_three() {
    SceneOptions options = options_from_environment();
    options.hosts = 3;
    ASSERT_NO_FATAL_FAILURE(open(options));
  }
  std::string field_at(HostId host, std::string_view field) {
    auto domain = scene->domain(host);
    return domain ? text_at(domain.value(), field) : domain.error().message();
  }
};

TEST_F(LiveMigration, unprotected_and_protected_domains_go_to_a_third_host) {
  ASSERT_NO_FATAL_FAILURE(open_with_three());
  ASSERT_OK(scene->understudy_checked(HostId::a, {"move", "web1", "--to", "hostC"}, 120s));
  expect_everyone_goes_on(Clock::now());
  EXPECT_EQ(field_at(HostId::c, "state"), "running") << "it was not protected, and is not now";
  ASSERT_OK(scene->understudy_checked(
      HostId::c, {"protect", "web1", "--to", "hostB", "--mode", "replay", "--interval", "1s"},
      120s));
  ASSERT_OK(scene->understudy_checked(HostId::c, {"move", "web1", "--to", "hostA"}, 120s));
  expect_everyone_goes_on(Clock::now());
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 90s));
  EXPECT_EQ(field_at(HostId::a, "mode"), "replay") << "as it was protected before";
  // On a busy machine a host may not be heard for a moment, and the next one be taken.
  auto events = scene->understudy_checked(HostId::a, {"events"});
  ASSERT_OK(events);
  EXPECT_NE(events.value().find("copying all memory to hostB"), std::string::npos)
      << "its old backup is the first that is asked";
  expect_voices("ACA");
  expect_nothing_lost();
}

TEST_F(LiveMigration, target_that_dies_or_is_called_off_leaves_the_domain_where_it_was) {
  ASSERT_NO_FATAL_FAILURE(open_with_three());
  for (const bool dies : {true, false}) {
    std::optional<CommandOutput> answer;
    {
      const std::jthread asked([&] {
        auto moved = scene->understudy(HostId::a, {"move", "web1", "--to", "hostC"}, 120s);
        if (moved) answer = std::move(moved.value());
      });
      ASSERT_OK(scene->wait_for_state(HostId::a, "synchronising", 60s));
      if (dies) {
        ASSERT_OK(scene->kill_host(HostId::c));
      }
      // Without its target it would try on; calling it off ends it in both cases.
      ASSERT_OK(scene->understudy(HostId::a, {"unprotect", "web1"}, 60s));
    }
    ASSERT_TRUE(answer);
    if (answer->status == 0 && !dies) continue;  // It was faster than the word.
    EXPECT_NE(answer->status, 0) << answer->err;
    EXPECT_EQ(field_at(HostId::a, "state"), "running");
    expect_everyone_goes_on(Clock::now());
    if (dies) {
      ASSERT_OK(scene->start_agent(HostId::c));
    }
  }
  expect_everyone_goes_on(Clock::now());
}

TEST_F(Move, what_cannot_be_moved_is_refused_by_name) {
  ASSERT_NO_FATAL_FAILURE(open());
  auto unprotected = scene->understudy(HostId::a, {"move", "web1"});
  ASSERT_OK(unprotected);
  EXPECT_EQ(unprotected.value().status, 64) << unprotected.value().err;
  ASSERT_OK(scene->protect());
  auto elsewhere = scene->understudy(HostId::a, {"move", "web1", "--to", "hostC"});
  ASSERT_OK(elsewhere);
  EXPECT_NE(elsewhere.value().status, 0);
  EXPECT_NE(elsewhere.value().err.find("hostC is not paired"), std::string::npos)
      << elsewhere.value().err;
  EXPECT_NE(condition_of(scene->domain(HostId::a).value(), "Protected"), false)
      << "it is given up for nothing that cannot be";
  auto tried = scene->understudy(HostId::a, {"move", "web1", "--dry-run"});
  ASSERT_OK(tried);
  EXPECT_EQ(tried.value().status, 0) << tried.value().err;
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
