// Goal: a real Linux guest under real traffic survives every way in which its host can go, and its
// clients cannot tell, apart from a moment's silence. Method: the scene; checking clients judge.
// Not tested here: the death of a kernel (a namespace shares ours), Xen, disks.
#include <algorithm>
#include <boost/json.hpp>
#include <cctype>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Survival : public ProtectedGuest {};

TEST_F(Survival, host_killed_under_traffic_loses_nothing) {
  ASSERT_NO_FATAL_FAILURE(play());
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  auto domain = scene->wait_for_state(HostId::b, "running", 10s);
  ASSERT_OK(domain);
  EXPECT_EQ(number_at(domain.value(), "generation"), 2);
  auto timeline = scene->understudy_json(HostId::b, {"timeline", "web1"});
  ASSERT_OK(timeline);
  EXPECT_EQ(text_at(timeline.value().as_object(), "outcome"), "promoted");
  EXPECT_GT(number_at(timeline.value().as_object(), "detect_ms"), 0);
  expect_nothing_lost();
}

TEST_F(Survival, host_without_power_loses_nothing) {
  // No reset, no carrier change: silence alone must suffice.
  ASSERT_NO_FATAL_FAILURE(play());
  auto killed = scene->power_off(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  expect_nothing_lost();
}

TEST_F(Survival, guest_with_two_processors_survives) {
  SceneOptions options = options_from_environment();
  options.vcpus = 2;
  ASSERT_NO_FATAL_FAILURE(play(options));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  expect_nothing_lost();
}

TEST_F(Survival, full_compare_instead_of_write_tracking_survives_and_says_so) {
  SceneOptions options = options_from_environment();
  options.tracking = "full_compare";
  ASSERT_NO_FATAL_FAILURE(play(options, {.interval = "200ms"}));
  auto domain = scene->domain(HostId::a);
  ASSERT_OK(domain);
  EXPECT_EQ(text_at(domain.value(), "tracking"), "full_compare");
  EXPECT_EQ(condition_of(domain.value(), "FastTracking"), std::optional(false));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  expect_nothing_lost();
}

TEST_F(Survival, agent_killed_alone_leaves_the_guest_mute_and_the_backup_takes_over) {
  // The guest on A lives on and talks; its gate must hold every frame, for ever.
  ASSERT_NO_FATAL_FAILURE(play());
  const Instant killed = scene->kill_agent(HostId::a);
  mark(killed);
  expect_everyone_goes_on(killed.steady + 100ms);
  std::this_thread::sleep_for(2s);  // time for a second voice to be heard, if there were one
  expect_nothing_lost();
}

TEST_F(Survival, agent_that_returns_without_its_guest_says_so_and_the_backup_takes_over) {
  // Back before anybody would have called the host dead: silence alone would not promote here.
  SceneOptions options = options_from_environment();
  options.deadline = 8s;
  ASSERT_NO_FATAL_FAILURE(play(options));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->start_agent(HostId::a));
  auto domain = scene->wait_for_state(HostId::b, "running", 30s);
  ASSERT_OK(domain);
  auto timeline = scene->understudy_json(HostId::b, {"timeline", "web1"});
  ASSERT_OK(timeline);
  EXPECT_EQ(text_at(timeline.value().as_object(), "cause"), "primary_gone");
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Survival, host_that_hangs_and_wakes_up_after_promotion_stays_mute) {
  ASSERT_NO_FATAL_FAILURE(play());
  auto hung = scene->hang(HostId::a);
  ASSERT_OK(hung);
  mark(hung.value());
  expect_everyone_goes_on(hung.value().steady + 100ms);
  ASSERT_OK(scene->resume(HostId::a));
  // The old copy is destroyed as soon as the hosts hear each other.
  auto superseded =
      scene->wait_for(HostId::a, "the old copy's end", 20s, [this](const json::object& domain) {
        const std::string state = text_at(domain, "state");
        return (state == "superseded" || state == "stopped") &&
               scene->processes(HostId::a, "qemu-system").empty();
      });
  if (!superseded) {
    // It may be gone from the list altogether, which is as good.
    auto domain = scene->domain(HostId::a);
    EXPECT_TRUE(!domain && domain.error().code() == ErrorCode::no_such)
        << superseded.error().message();
    EXPECT_TRUE(scene->processes(HostId::a, "qemu-system").empty());
  }
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Survival, partition_of_all_paths_promotes_once_and_healing_ends_the_old_copy) {
  ASSERT_NO_FATAL_FAILURE(play());
  // The hosts do not hear each other any more, but the guest on A still reaches every client: only
  // its gate keeps it from being the second voice.
  ASSERT_OK(scene->cut(HostId::b, Network::replication));
  ASSERT_OK(scene->cut(HostId::b, Network::client));
  ASSERT_OK(scene->cut(HostId::a, Network::replication));
  auto cut = scene->cut(HostId::a, Network::client);
  ASSERT_OK(cut);
  mark(cut.value());
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  expect_everyone_goes_on(cut.value().steady + 100ms);
  std::this_thread::sleep_for(2s);  // time for a second voice to be heard, if there were one
  ASSERT_OK(scene->heal(HostId::a));
  ASSERT_OK(scene->heal(HostId::b));
  const auto end = Clock::now() + 20s;
  while (!scene->processes(HostId::a, "qemu-system").empty() && Clock::now() < end) {
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_TRUE(scene->processes(HostId::a, "qemu-system").empty()) << "the old copy lives";
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Survival, one_cut_path_of_two_promotes_nobody) {
  // Heartbeats go on over the client network: the backup knows that the primary lives. Whether
  // checkpoints find another way or the output stops, there must be one voice.
  ASSERT_NO_FATAL_FAILURE(play());
  ASSERT_OK(scene->cut(HostId::a, Network::replication));
  ASSERT_OK(scene->cut(HostId::b, Network::replication));
  std::this_thread::sleep_for(1500ms);
  auto backup = scene->domain(HostId::b);
  ASSERT_OK(backup);
  EXPECT_EQ(text_at(backup.value(), "role"), "backup");
  ASSERT_OK(scene->heal(HostId::a));
  ASSERT_OK(scene->heal(HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Survival, backup_killed_holds_the_output_says_so_and_solo_opens) {
  ASSERT_NO_FATAL_FAILURE(play());
  auto killed = scene->kill_host(HostId::b);
  ASSERT_OK(killed);
  auto lost = scene->wait_for_state(HostId::a, "backup_lost", 10s);
  ASSERT_OK(lost);
  EXPECT_EQ(condition_of(lost.value(), "OutputFlowing"), std::optional(false));
  EXPECT_EQ(condition_of(lost.value(), "Protected"), std::optional(false));
  EXPECT_TRUE(silent_for(1s)) << "output left without a commit";
  ASSERT_OK(scene->understudy_checked(HostId::a, {"solo", "web1", "--yes"}));
  const auto solo = Clock::now();
  ASSERT_OK(scene->wait_for_state(HostId::a, "solo", 5s));
  expect_everyone_goes_on(solo);
  expect_nothing_lost();
}

TEST_F(Survival, capabilities_of_the_unit_suffice_for_a_drill_and_a_takeover) {
  // The set is read out of the unit, so that the two cannot part.
  SceneOptions options = options_from_environment();
  std::ifstream unit(options.build_directory / "understudy.service");
  for (std::string line; std::getline(unit, line);) {
    if (!line.starts_with("CapabilityBoundingSet=")) continue;
    std::istringstream words(line.substr(line.find('=') + 1));
    for (std::string word; words >> word;) {
      std::string name = word.substr(4);
      std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
      options.capabilities.push_back(name);
    }
  }
  ASSERT_FALSE(options.capabilities.empty());
  ASSERT_NO_FATAL_FAILURE(play(options));
  auto domain = scene->domain(HostId::a);
  ASSERT_OK(domain);
  EXPECT_EQ(text_at(domain.value(), "tracking"), "pagemap_scan") << "not by a weaker way";
  auto drilled = scene->understudy(HostId::a, {"--timeout", "150s", "drill", "web1"}, 180s);
  ASSERT_OK(drilled);
  EXPECT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->protect({}, {}, HostId::b));
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Survival, unprotected_guest_dies_with_its_host) {
  // The canary: without protection the same kill must be noticed, or the tests above prove nothing.
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_OK(scene->kill_host(HostId::a));
  EXPECT_TRUE(silent_for(2s));
}

}  // namespace
}  // namespace understudy::scene
