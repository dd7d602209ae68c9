// Goal: an agent may be killed, or stop for a while, before every step of protecting, of a
// checkpoint and of a promotion; afterwards the domain is protected again, exactly one host has
// spoken at a time and nothing that a client was told is lost. Method: the real programs with a
// fault point armed (base/fault_point.h), one guest for the whole sweep; clients and a capture of
// the wire judge. Not tested here: faults of the network's bytes (tests/transport), hosts that die
// at a step (tests/sim).
#include <boost/json.hpp>
#include <csignal>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class Steps : public ProtectedGuest {
 protected:
  static SceneOptions patient() {
    SceneOptions options = options_from_environment();
    options.deadline = 20s;  // The other host is to wait for the agent's return.
    return options;
  }
  void restart_armed(HostId host, const std::string& fault) {
    scene->kill_agent(host);
    ASSERT_OK(scene->agent(host).wait(5s));
    scene->arm(host, fault);
    ASSERT_OK(scene->start_agent(host));
  }
  void expect_dies_by_itself(HostId host, const std::string& point) {
    auto ended = scene->agent(host).wait(30s);
    ASSERT_TRUE(ended.has_value()) << point << " was never reached";
    ASSERT_EQ(ended.value(), 128 + SIGKILL) << point;
  }
  /// Waits until the old copy is destroyed and its host has put it out of its mind.
  void expect_gone_from(HostId host) {
    const auto gone = [&] {
      auto domain = scene->domain(host);
      return scene->processes(host, "qemu-system").empty() && !domain &&
             domain.error().code() == ErrorCode::no_such;
    };
    const auto end = Clock::now() + 20s;
    while (!gone() && Clock::now() < end) std::this_thread::sleep_for(20ms);
    ASSERT_TRUE(gone()) << "the old copy lives";
  }
  /// Waits until the agent has stopped itself.
  void expect_stops_by_itself(HostId host, const std::string& point) {
    const auto end = Clock::now() + 30s;
    while (Clock::now() < end) {
      const auto state = scene->state_of(scene->agent(host).pid());
      if (state == 'T') return;
      std::this_thread::sleep_for(20ms);
    }
    FAIL() << point << " was never reached";
  }
};

const std::vector<std::string> kPrimarySteps = {
    "protect.link_up",     "protect.gate_closed", "checkpoint.paused",  "checkpoint.sealed",
    "checkpoint.captured", "checkpoint.sent",     "checkpoint.released"};
const std::vector<std::string> kBackupSteps = {"checkpoint.whole", "checkpoint.acknowledged",
                                               "checkpoint.applied"};

TEST_F(Steps, agent_killed_before_each_step_of_protecting_and_of_a_checkpoint) {
  ASSERT_NO_FATAL_FAILURE(play(patient()));
  const auto sweep = [&](HostId host, const std::string& point) {
    SCOPED_TRACE(point);
    // The gate of a domain that was protected is taken over at the start: once is enough there.
    const std::string times = point.starts_with("protect.") ? "" : "@3";
    ASSERT_NO_FATAL_FAILURE(restart_armed(host, point + "=kill" + times));
    ASSERT_NO_FATAL_FAILURE(expect_dies_by_itself(host, point));
    ASSERT_OK(scene->start_agent(host));
    ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
    expect_everyone_goes_on(Clock::now());
  };
  for (const auto& point : kPrimarySteps) ASSERT_NO_FATAL_FAILURE(sweep(HostId::a, point));
  for (const auto& point : kBackupSteps) ASSERT_NO_FATAL_FAILURE(sweep(HostId::b, point));
  expect_nothing_lost();
  expect_voices("A");
}

TEST_F(Steps, agent_stopped_before_each_step_of_a_checkpoint_goes_on) {
  ASSERT_NO_FATAL_FAILURE(play(patient()));
  const auto sweep = [&](HostId host, const std::string& point) {
    SCOPED_TRACE(point);
    ASSERT_NO_FATAL_FAILURE(restart_armed(host, point + "=stop@10"));
    ASSERT_NO_FATAL_FAILURE(expect_stops_by_itself(host, point));
    std::this_thread::sleep_for(700ms);
    scene->agent(host).signal(SIGCONT);
    ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
    expect_everyone_goes_on(Clock::now());
  };
  for (const auto& point : kPrimarySteps) {
    if (point.starts_with("checkpoint.")) {
      ASSERT_NO_FATAL_FAILURE(sweep(HostId::a, point));
    }
  }
  for (const auto& point : kBackupSteps) ASSERT_NO_FATAL_FAILURE(sweep(HostId::b, point));
  expect_nothing_lost();
  expect_voices("A");
}

TEST_F(Steps, promotion_stopped_before_each_step_still_ends_in_one_voice) {
  // The backup's agent hangs in the middle of its promotion while the old primary wakes up again.
  const std::vector<std::string> points = {"promote.decided", "promote.stored", "promote.applied",
                                           "promote.resumed", "promote.recorded"};
  SceneOptions options = options_from_environment();
  options.fault_points[1] = points[0] + "=stop";
  ASSERT_NO_FATAL_FAILURE(play(options));
  std::string turns = "A";
  HostId primary = HostId::a;
  for (std::size_t index = 0; index < points.size(); ++index) {
    SCOPED_TRACE(points[index]);
    const HostId backup = other(primary);
    ASSERT_OK(scene->hang(primary));
    ASSERT_NO_FATAL_FAILURE(expect_stops_by_itself(backup, points[index]));
    ASSERT_OK(scene->resume(primary));
    std::this_thread::sleep_for(700ms);
    scene->agent(backup).signal(SIGCONT);
    ASSERT_OK(scene->wait_for_state(backup, "running", 20s));
    turns += backup == HostId::a ? 'A' : 'B';
    ASSERT_NO_FATAL_FAILURE(expect_gone_from(primary));
    expect_everyone_goes_on(Clock::now());
    if (index + 1 == points.size()) break;
    // And back, with the next step armed at the host that is the backup now.
    ASSERT_NO_FATAL_FAILURE(restart_armed(primary, points[index + 1] + "=stop"));
    ASSERT_OK(scene->protect({}, {}, backup));
    expect_everyone_goes_on(Clock::now());
    primary = backup;
  }
  expect_voices(turns);
  expect_nothing_lost();
}

TEST_F(Steps, everything_stopped_and_continued_again_and_again) {
  // SIGSTOP to agent, guest and all of it: whoever wakes up late stays mute.
  ASSERT_NO_FATAL_FAILURE(play());
  std::string turns = "A";
  HostId primary = HostId::a;
  for (int round = 0; round < 3; ++round) {
    const HostId backup = other(primary);
    auto hung = scene->hang(primary);
    ASSERT_OK(hung);
    ASSERT_OK(scene->wait_for_state(backup, "running", 20s));
    turns += backup == HostId::a ? 'A' : 'B';
    expect_everyone_goes_on(hung.value().steady + 300ms);
    ASSERT_OK(scene->resume(primary));
    ASSERT_NO_FATAL_FAILURE(expect_gone_from(primary));
    ASSERT_OK(scene->protect({}, {}, backup));
    expect_everyone_goes_on(Clock::now());
    primary = backup;
  }
  expect_voices(turns);
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
