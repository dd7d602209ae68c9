// Goal: with an arbiter exactly one host goes on whatever is cut, and who goes on alone is
// protected again by itself when it can be. Method: the scene with Debian's etcd-server in the
// client's namespace; or a fence agent that really switches the other host off. Checking clients
// judge, and a capture of the client network. Not tested here: what etcd says to whom
// (tests/arbiter).
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"
#include "tests/scene/etcd_server.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class Arbitration : public ProtectedGuest {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "arbitration-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override {
    ProtectedGuest::TearDown();
    etcd_.reset();
    std::filesystem::remove_all(folder_);
  }
  /// The scene with an etcd beside the client. The agents read where it is when they start, so it
  /// is made with the address that it will have.
  void play_with_etcd() {
    SceneOptions options = options_from_environment();
    options.before_agents = [this](const std::string& client_namespace) -> Result<std::string> {
      BOOST_OUTCOME_TRY(auto etcd,
                        EtcdServer::start(folder_ / "etcd", client_namespace, "10.77.0.100"));
      etcd_.emplace(std::move(etcd));
      return etcd_->toml();
    };
    ASSERT_NO_FATAL_FAILURE(play(options));
  }
  void cut_the_hosts_apart() {
    for (const HostId host : {HostId::a, HostId::b}) {
      ASSERT_OK(scene->cut(host, Network::replication));
      ASSERT_OK(scene->cut(host, Network::client));
    }
  }
  void heal_both() {
    ASSERT_OK(scene->heal(HostId::a));
    ASSERT_OK(scene->heal(HostId::b));
  }
  std::string reason_of(HostId host, const std::string& type) {
    auto domain = scene->domain(host);
    return domain ? reason_at(domain.value(), type) : "";
  }

  std::filesystem::path folder_;
  std::optional<EtcdServer> etcd_;
};

TEST_F(Arbitration, partition_lets_exactly_one_host_speak_and_tells_the_other_why_not) {
  ASSERT_NO_FATAL_FAILURE(play_with_etcd());
  const Instant cut = Instant::now();
  ASSERT_NO_FATAL_FAILURE(cut_the_hosts_apart());
  mark(cut);
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  expect_everyone_goes_on(Clock::now());
  // The old primary asks as well, later, and is told that the right is taken.
  const auto refused = [this](const boost::json::object& domain) {
    return reason_at(domain, "RightToRun") == "ArbiterRefused";
  };
  ASSERT_OK(scene->wait_for(HostId::a, "the arbiter's refusal", 20s, refused));
  ASSERT_NO_FATAL_FAILURE(heal_both());
  const auto end = Clock::now() + 20s;
  while (!scene->processes(HostId::a, "qemu-system").empty() && Clock::now() < end)
    std::this_thread::sleep_for(50ms);
  EXPECT_TRUE(scene->processes(HostId::a, "qemu-system").empty());
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Arbitration, backup_dies_and_the_primary_goes_solo_by_grant_and_is_protected_again) {
  ASSERT_NO_FATAL_FAILURE(play_with_etcd());
  auto killed = scene->kill_host(HostId::b);
  ASSERT_OK(killed);
  mark(killed.value());
  auto solo = scene->wait_for_state(HostId::a, "solo", 20s);
  ASSERT_OK(solo);
  EXPECT_EQ(number_at(solo.value(), "generation"), 2);
  expect_everyone_goes_on(Clock::now());
  ASSERT_OK(scene->start_agent(HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  // And that protection is a whole one: the backup may take over.
  auto lost = scene->kill_host(HostId::a);
  ASSERT_OK(lost);
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Arbitration, unreachable_arbiter_leaves_everybody_mute_and_status_says_so) {
  ASSERT_NO_FATAL_FAILURE(play_with_etcd());
  etcd_->freeze();
  ASSERT_NO_FATAL_FAILURE(cut_the_hosts_apart());
  const auto asking = [](const boost::json::object& domain) {
    return reason_at(domain, "RightToRun") == "AskingArbiter";
  };
  ASSERT_OK(scene->wait_for(HostId::a, "asking", 20s, asking));
  ASSERT_OK(scene->wait_for(HostId::b, "asking", 20s, asking));
  EXPECT_TRUE(silent_for(2s));
  // The hosts meet again before the arbiter is back: everything is as it was.
  ASSERT_NO_FATAL_FAILURE(heal_both());
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  expect_everyone_goes_on(Clock::now());
  etcd_->thaw();
  std::this_thread::sleep_for(4s);  // time for a late answer to do harm
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(Arbitration, fence_switches_the_silent_primary_off_before_the_backup_speaks) {
  // The agent of the primary's host is cut off, its guest is not: the fence must end it.
  SceneOptions options = options_from_environment();
  options.tag = fmt::format("fence{}", ::getpid());
  const auto agent = folder_ / "fence_scene";
  std::ofstream(agent) << "#!/bin/sh\nmark=" << (folder_ / "off").string() << R"sh(
# Options: the namespace of the host that is to be switched off; then the action.
host=$1
case "$2" in
  --action=off)
    touch "$mark"
    for pid in $(ip netns pids "$host"); do kill -KILL "$pid"; done ;;
  --action=status) [ -z "$(ip netns pids "$host")" ] && exit 2; exit 0;;
esac
)sh";
  ::chmod(agent.c_str(), 0755);
  options.agent_toml += fmt::format(R"(
[arbiter.hostA]
kind = "fence"
command = ["{0}", "{1}"]
timeout = "5s"
[arbiter.hostB]
kind = "fence"
command = ["{0}", "{2}"]
timeout = "5s"
)",
                                    agent.string(), Scene::namespace_of(options.tag, HostId::a),
                                    Scene::namespace_of(options.tag, HostId::b));
  ASSERT_NO_FATAL_FAILURE(play(options));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "off")) << "looking is not shooting";
  auto hung = scene->hang(HostId::a);
  ASSERT_OK(hung);
  mark(hung.value());
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 20s));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "off"));
  EXPECT_TRUE(scene->processes(HostId::a, "qemu-system").empty());
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
