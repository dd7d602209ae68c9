// Goal: whoever's agent dies at whatever step of a move, afterwards exactly one host runs the
// domain, protected again, nothing that a client was told is lost, and no two hosts have spoken at
// a time. Method: as in steps_test.cpp: fault points, one guest for the whole sweep. Left out: an
// agent that dies after 'generation stored' and before the domain runs; there a person decides
// (recovery_test.cpp).
#include <boost/json.hpp>
#include <csignal>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class MoveSteps : public ProtectedGuest {
 protected:
  static SceneOptions patient() {
    SceneOptions options = options_from_environment();
    options.deadline = 20s;  // The other host is to wait for the agent's return.
    return options;
  }
  /// Waits until one host runs the domain, protected.
  void find_primary() {
    const auto end = Clock::now() + 120s;
    for (; Clock::now() < end; std::this_thread::sleep_for(100ms)) {
      for (const HostId host : {HostId::a, HostId::b}) {
        auto domain = scene->domain(host);
        if (!domain || text_at(domain.value(), "state") != "protected") continue;
        if (host != primary_) voices_ += host == HostId::a ? 'A' : 'B';
        primary_ = host;
        return;
      }
    }
    FAIL() << "nobody runs it protected\n" << scene->logs();
  }
  void die_at(HostId host, const std::string& point) {
    SCOPED_TRACE(point);
    scene->kill_agent(host);
    ASSERT_OK(scene->agent(host).wait(5s));
    scene->arm(host, point + "=kill");
    ASSERT_OK(scene->start_agent(host));
    ASSERT_NO_FATAL_FAILURE(find_primary());
    // Its answer depends on what dies, and may be long in coming.
    const std::jthread asked([this, from = primary_] {
      (void)scene->understudy(from, {"move", "web1"}, 60s);
    });
    auto ended = scene->agent(host).wait(30s);
    ASSERT_TRUE(ended.has_value()) << "was never reached";
    ASSERT_EQ(ended.value(), 128 + SIGKILL);
    ASSERT_OK(scene->start_agent(host));
    ASSERT_NO_FATAL_FAILURE(find_primary());
    expect_everyone_goes_on(Clock::now(), 60s);
  }

  HostId primary_ = HostId::a;
  std::string voices_ = "A";
};

TEST_F(MoveSteps, agent_killed_at_each_step_of_a_move) {
  ASSERT_NO_FATAL_FAILURE(play(patient()));
  for (const std::string point : {"move.captured", "move.yielded", "move.said"})
    ASSERT_NO_FATAL_FAILURE(die_at(primary_, point));
  for (const std::string point : {"move.heard", "promote.decided", "promote.resumed"})
    ASSERT_NO_FATAL_FAILURE(die_at(other(primary_), point));
  expect_voices(voices_);
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
