// Goal: a planned move to the warm backup is no failure: the domain goes to and fro under traffic,
// every connection lives on, exactly one host speaks at a time, and after each move it is protected
// from its new place to its old one without anybody asking. Method: the scene; `understudy move` as
// an operator types it. Not tested here: what happens when something breaks at a step of a move
// (move_steps_test.cpp; the decisions in tests/sim).
#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <iostream>

#include "tests/end_to_end/protected_guest.h"

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

TEST_F(Move, in_replay_mode_too) {
  ASSERT_NO_FATAL_FAILURE(
      play(options_from_environment(), Protection{.mode = "replay", .interval = "1s"}));
  ASSERT_NO_FATAL_FAILURE(move_to_and_fro(2));
}

TEST_F(Move, what_cannot_be_moved_is_refused_by_name) {
  ASSERT_NO_FATAL_FAILURE(open());
  auto unprotected = scene->understudy(HostId::a, {"move", "web1"});
  ASSERT_OK(unprotected);
  EXPECT_EQ(unprotected.value().status, 64) << unprotected.value().err;
  ASSERT_OK(scene->protect());
  auto elsewhere = scene->understudy(HostId::a, {"move", "web1", "--to", "hostC"});
  ASSERT_OK(elsewhere);
  EXPECT_EQ(elsewhere.value().status, 64) << elsewhere.value().err;
  EXPECT_NE(elsewhere.value().err.find("hostB"), std::string::npos) << elsewhere.value().err;
  auto tried = scene->understudy(HostId::a, {"move", "web1", "--dry-run"});
  ASSERT_OK(tried);
  EXPECT_EQ(tried.value().status, 0) << tried.value().err;
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
