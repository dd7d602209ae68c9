// Goal: whatever an agent was doing when it died, the next one finds out what is true, and while
// that is unclear nobody speaks. Method: the real programs, killed at a named step
// (base/fault_point.h); checking clients judge. Not tested here: crashes of the kernel, disks that
// lie.
#include <boost/json.hpp>
#include <fstream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Recovery : public ProtectedGuest {
 protected:
  /// Waits until the agent of `host` has killed itself at its fault point.
  void expect_agent_dies(HostId host) {
    auto ended = scene->agent(host).wait(20s);
    ASSERT_OK(ended);
    EXPECT_EQ(ended.value(), 128 + SIGKILL);
  }
  [[nodiscard]] std::filesystem::path record(HostId host) const {
    return scene->folder() / std::string(name_of(host)) / "lib" / "domains" / "web1.domain.json";
  }
  std::string trouble(HostId host) {
    auto listed = scene->understudy_json(host, {"repair", "web1"});
    return listed ? text_at(listed.value().as_object(), "trouble") : listed.error().message();
  }
};

TEST_F(Recovery,
       promotion_cut_off_before_the_domain_ran_leaves_the_old_copy_mute_until_a_person_says) {
  SceneOptions options = options_from_environment();
  options.fault_points[1] = "promote.stored=kill";
  ASSERT_NO_FATAL_FAILURE(play(options));
  auto hung = scene->hang(HostId::a);
  ASSERT_OK(hung);
  mark(hung.value());
  ASSERT_NO_FATAL_FAILURE(expect_agent_dies(HostId::b));
  ASSERT_OK(scene->start_agent(HostId::b));
  auto cut_off = scene->wait_for_state(HostId::b, "failed", 10s);
  ASSERT_OK(cut_off);
  EXPECT_EQ(number_at(cut_off.value(), "generation"), 2);
  EXPECT_EQ(trouble(HostId::b), "promotion_cut_off");
  EXPECT_TRUE(scene->processes(HostId::b, "qemu-system").empty());

  // The old primary wakes up. It hears of generation 2, which nobody runs: its copy may be the last
  // one in the world, and may not be the newest. It keeps it, and keeps quiet.
  ASSERT_OK(scene->resume(HostId::a));
  const auto newer = [this](const json::object&) {
    return trouble(HostId::a) == "newer_copy_lost";
  };
  ASSERT_OK(scene->wait_for(HostId::a, "newer_copy_lost", 20s, newer));
  EXPECT_TRUE(silent_for(1s));
  ASSERT_OK(scene->understudy_checked(HostId::a, {"solo", "web1", "--yes"}));
  const auto solo = Clock::now();
  ASSERT_OK(scene->wait_for(
      HostId::a, "a generation above all that was ever known", 20s,
      [](const json::object& domain) { return number_at(domain, "generation") == 3; }));
  expect_everyone_goes_on(solo);
  expect_nothing_lost();
}

TEST_F(Recovery, promotion_cut_off_after_the_domain_ran_is_finished_by_the_next_agent) {
  SceneOptions options = options_from_environment();
  options.fault_points[1] = "promote.resumed=kill";
  ASSERT_NO_FATAL_FAILURE(play(options));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_NO_FATAL_FAILURE(expect_agent_dies(HostId::b));
  ASSERT_OK(scene->start_agent(HostId::b));
  auto domain = scene->wait_for_state(HostId::b, "running", 10s);
  ASSERT_OK(domain);
  EXPECT_EQ(number_at(domain.value(), "generation"), 2);
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Recovery, agent_that_dies_while_the_guest_is_paused_lets_it_go_on_behind_a_closed_gate) {
  SceneOptions options = options_from_environment();
  options.deadline = 10s;  // The backup is to wait for the agent's return.
  options.fault_points[0] = "checkpoint.sealed=kill@100";
  ASSERT_NO_FATAL_FAILURE(play(options));
  ASSERT_NO_FATAL_FAILURE(expect_agent_dies(HostId::a));
  EXPECT_TRUE(silent_for(1s)) << "nobody is there to release anything";
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  EXPECT_EQ(text_at(scene->domain(HostId::b).value(), "role"), "backup");
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Recovery, agent_of_the_backup_that_dies_within_a_checkpoint_is_a_backup_again) {
  SceneOptions options = options_from_environment();
  options.fault_points[1] = "checkpoint.whole=kill@50";
  ASSERT_NO_FATAL_FAILURE(play(options));
  ASSERT_NO_FATAL_FAILURE(expect_agent_dies(HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::a, "backup_lost", 10s));
  EXPECT_EQ(trouble(HostId::a), "backup_lost");
  ASSERT_OK(scene->start_agent(HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Recovery, records_that_cannot_be_trusted_err_on_the_mute_side) {
  SceneOptions options = options_from_environment();
  options.deadline = 10s;
  ASSERT_NO_FATAL_FAILURE(open(options));
  std::filesystem::copy_file(record(HostId::a), scene->folder() / "unprotected");
  ASSERT_OK(scene->protect());
  scene->kill_agent(HostId::a);
  ASSERT_OK(scene->agent(HostId::a).wait(5s));
  // Somebody restores yesterday's file: 'runs here and speaks freely'.
  std::filesystem::copy_file(scene->folder() / "unprotected", record(HostId::a),
                             std::filesystem::copy_options::overwrite_existing);
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->wait_for_state(HostId::a, "failed", 10s));
  EXPECT_EQ(trouble(HostId::a), "record_older");
  EXPECT_TRUE(silent_for(1s));
  scene->kill_agent(HostId::a);
  ASSERT_OK(scene->agent(HostId::a).wait(5s));
  std::filesystem::remove(record(HostId::a));
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->wait_for_state(HostId::a, "failed", 10s));
  EXPECT_EQ(trouble(HostId::a), "record_lost");
  EXPECT_TRUE(silent_for(1s));
  // The operator's way out: the backup holds all that was ever said.
  ASSERT_OK(scene->understudy_checked(HostId::b, {"promote", "web1", "--force", "--yes"}));
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
