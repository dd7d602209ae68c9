// Goal: the scene's faults are real faults, and nothing is left behind. Method: agents and command
// line are replaced by stubs, so that only the scene itself is looked at. Not tested here: the true
// programs (tests/end_to_end).
#include "tests/scene/scene.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <thread>

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class SceneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = fs::temp_directory_path() / ("us-scene-test-" + std::to_string(getpid()));
    fs::create_directories(folder / "agent");
    fs::create_directories(folder / "cli");
    // An agent that has children, one of which has run away from its session.
    script(folder / "agent" / "understudyd", "setsid sleep 1000 & sleep 1000 & exec sleep 1000");
    script(
        folder / "cli" / "understudy",
        "case \"$*\" in *status*) echo '{\"domains\":[{\"name\":\"web1\",\"state\":\"running\"}]}'"
        ";; *token*) echo TOKEN;; esac");
    std::ofstream(folder / "vmlinuz") << "x";
    std::ofstream(folder / "initramfs.gz") << "x";
  }

  void TearDown() override { fs::remove_all(folder); }

  static void script(const fs::path& path, const std::string& text) {
    std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
    chmod(path.c_str(), 0755);
  }

  [[nodiscard]] std::unique_ptr<Scene> build() const {
    auto scene = Scene::build({.tag = {}, .build_directory = folder, .guest_directory = folder});
    EXPECT_TRUE(scene) << scene.error().message();
    // The fake agents start their children a moment after the scene has them.
    const auto end = Clock::now() + 10s;
    const auto complete = [&](HostId host) {
      return scene.value()->processes(host, "sleep").size() >= 3;
    };
    while (scene && !(complete(HostId::a) && complete(HostId::b)) && Clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    return scene ? std::move(scene.value()) : nullptr;
  }

  /// True if `address` answers within the limit; asks again and again.
  static bool pings(const std::string& from, const std::string& address, int limit_s = 5) {
    auto output = run_command(
        {"ping", "-c", "1", "-i", "0.2", "-w", std::to_string(limit_s), address}, 10s, from);
    return output && output.value().status == 0;
  }

  fs::path folder;
};

TEST_F(SceneTest, hosts_reach_each_other_and_the_client_on_all_networks) {
  const auto scene = build();
  ASSERT_TRUE(scene);
  EXPECT_TRUE(pings(scene->client_namespace(), "10.77.0.1"));
  EXPECT_TRUE(pings(scene->client_namespace(), "10.77.0.2"));
  EXPECT_TRUE(pings(scene->host_namespace(HostId::a), "10.88.0.2"));
  EXPECT_TRUE(pings(scene->host_namespace(HostId::b), "10.77.0.1"));
  EXPECT_FALSE(pings(scene->client_namespace(), "10.88.0.1", 1))
      << "replication is a net of its own";
}

TEST_F(SceneTest, kill_takes_every_process_of_one_host_and_none_of_the_other) {
  const auto scene = build();
  ASSERT_TRUE(scene);
  EXPECT_EQ(scene->processes(HostId::a).size(), 3U);
  auto killed = scene->kill_host(HostId::a);
  ASSERT_TRUE(killed) << killed.error().message();
  EXPECT_TRUE(scene->processes(HostId::a).empty());
  EXPECT_EQ(scene->processes(HostId::b).size(), 3U);
}

TEST_F(SceneTest, cut_silences_one_direction_of_one_network_until_healed) {
  const auto scene = build();
  ASSERT_TRUE(scene);
  ASSERT_TRUE(scene->cut(HostId::a, Network::replication));
  EXPECT_FALSE(pings(scene->host_namespace(HostId::a), "10.88.0.2", 1));
  EXPECT_TRUE(pings(scene->host_namespace(HostId::a), "10.77.0.2")) << "the other net works";
  ASSERT_TRUE(scene->cut(HostId::a, Network::client));
  EXPECT_FALSE(pings(scene->host_namespace(HostId::a), "10.77.0.2", 1));
  EXPECT_TRUE(pings(scene->client_namespace(), "10.77.0.2"));
  EXPECT_TRUE(pings(scene->client_namespace(), "10.77.0.1")) << "clients still reach the host";
  ASSERT_TRUE(scene->heal(HostId::a));
  EXPECT_TRUE(pings(scene->host_namespace(HostId::a), "10.88.0.2"));
  EXPECT_TRUE(pings(scene->host_namespace(HostId::a), "10.77.0.2"));
}

TEST_F(SceneTest, hang_stops_every_process_and_resume_lets_them_go_on) {
  const auto scene = build();
  ASSERT_TRUE(scene);
  const auto stopped = [&] {
    std::size_t count = 0;
    for (const pid_t pid : scene->processes(HostId::a)) {
      std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
      std::string text((std::istreambuf_iterator<char>(file)), {});
      count += static_cast<std::size_t>(text.find(") T ") != std::string::npos);
    }
    return count;
  };
  ASSERT_TRUE(scene->hang(HostId::a));
  const auto end = Clock::now() + 5s;
  while (stopped() < 3 && Clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(stopped(), 3U);
  ASSERT_TRUE(scene->resume(HostId::a));
  while (stopped() > 0 && Clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(stopped(), 0U);
}

TEST_F(SceneTest, destruction_leaves_no_namespace_no_file_no_process) {
  auto scene = build();
  ASSERT_TRUE(scene);
  const std::string tag = scene->options().tag;
  const std::vector<pid_t> processes = scene->processes(HostId::a);
  scene.reset();
  EXPECT_FALSE(fs::exists("/run/netns/us-" + tag + "-a"));
  EXPECT_FALSE(fs::exists("/run/netns/us-" + tag + "-client"));
  EXPECT_FALSE(fs::exists("/run/understudy-scene/" + tag));
  EXPECT_FALSE(fs::exists("/dev/shm/us-" + tag + "-a"));
  for (const pid_t pid : processes) {
    EXPECT_FALSE(fs::exists("/proc/" + std::to_string(pid) + "/ns/net"))
        << "process " << pid << " lives";
  }
}

TEST_F(SceneTest, clean_takes_down_what_a_killed_run_left) {
  std::array<int, 2> ready = {};
  ASSERT_EQ(pipe(ready.data()), 0);
  const pid_t player = fork();
  if (player == 0) {
    const auto scene = build();
    const char done = scene ? 'y' : 'n';
    (void)!write(ready[1], &done, 1);
    pause();
  }
  char done = 0;
  ASSERT_EQ(read(ready[0], &done, 1), 1);
  ASSERT_EQ(done, 'y');
  const std::string tag = "p" + std::to_string(player);
  EXPECT_TRUE(Scene::in_use(tag));
  auto second = Scene::build({.tag = tag, .build_directory = folder, .guest_directory = folder});
  EXPECT_FALSE(second) << "a scene that is being played must not be taken down by another";
  kill(player, SIGKILL);
  waitpid(player, nullptr, 0);
  EXPECT_FALSE(Scene::in_use(tag));
  EXPECT_TRUE(fs::exists("/run/netns/us-" + tag + "-a"));
  auto cleaned = Scene::clean(tag);
  ASSERT_TRUE(cleaned) << cleaned.error().message();
  EXPECT_FALSE(fs::exists("/run/netns/us-" + tag + "-a"));
  EXPECT_FALSE(fs::exists("/run/understudy-scene/" + tag));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(SceneTest, missing_program_is_named) {
  fs::remove(folder / "cli" / "understudy");
  auto scene = Scene::build({.tag = {}, .build_directory = folder, .guest_directory = folder});
  ASSERT_FALSE(scene);
  EXPECT_NE(scene.error().message().find("cli/understudy: not there"), std::string::npos);
}

TEST_F(SceneTest, agent_that_does_not_start_is_reported_with_its_last_words) {
  script(folder / "agent" / "understudyd", "echo 'hostA.toml:3: no such key' >&2; exit 78");
  script(folder / "cli" / "understudy", "exit 69");
  auto scene = Scene::build({.tag = {}, .build_directory = folder, .guest_directory = folder});
  ASSERT_FALSE(scene);
  EXPECT_NE(scene.error().message().find("no such key"), std::string::npos)
      << scene.error().message();
}

}  // namespace
}  // namespace understudy::scene
