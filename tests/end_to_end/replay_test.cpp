// Goal: in replay mode answers leave at once, and a host's death loses none of them. Method: as in
// survival_test.cpp; checkpoints are rare or held back, so that what survives survives by the log.
#include <boost/json.hpp>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Replay : public ProtectedGuest {
 protected:
  /// Scene, guest, clients, and a protection in replay mode whose output goes with the log.
  void play_replay(const std::string& interval, const std::vector<std::string>& more = {}) {
    ASSERT_NO_FATAL_FAILURE(open());
    protect_replay(HostId::a, interval, more);
  }
  void protect_replay(HostId primary, const std::string& interval,
                      const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {
        "protect", "web1",   "--to",       std::string(name_of(other(primary))),
        "--mode",  "replay", "--interval", interval};
    command.insert(command.end(), more.begin(), more.end());
    ASSERT_OK(scene->understudy_checked(primary, command, 60s));
    ASSERT_OK(
        scene->wait_for(primary, "output to go with the log", 30s, [](const json::object& domain) {
          const auto* replay = domain.if_contains("replay");
          return replay != nullptr && replay->is_object() &&
                 text_at(replay->get_object(), "state") == "replay";
        }));
    const auto begun = Clock::now();
    expect_everyone_goes_on(begun + 500ms, 30s);
  }
};

TEST_F(Replay, host_killed_between_checkpoints_loses_nothing) {
  ASSERT_NO_FATAL_FAILURE(play_replay("2s"));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 10s));
  auto timeline = scene->understudy_json(HostId::b, {"timeline", "web1"});
  ASSERT_OK(timeline);
  std::cout << json::serialize(timeline.value()) << "\n";
  EXPECT_EQ(text_at(timeline.value().as_object(), "outcome"), "promoted");
  expect_nothing_lost();
}

TEST_F(Replay, DISABLED_latency) {
  ASSERT_NO_FATAL_FAILURE({
    auto built = Scene::build(options_from_environment());
    ASSERT_OK(built);
    scene = std::move(built.value());
    ASSERT_OK(scene->start_guest());
  });
  std::uint32_t next_client = 0;
  const auto measure = [&](const std::string& what, unsigned connections) {
    const auto cpu = [&](HostId host, const std::string& part) {
      std::string line;
      for (pid_t pid : scene->processes(host, part)) {
        std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
        std::string text((std::istreambuf_iterator<char>(file)), {});
        std::istringstream fields(text.substr(text.rfind(')') + 2));
        std::string field;
        for (int i = 0; i < 13; ++i) {
          fields >> field;
          if (i >= 11) line += field + " ";
        }
      }
      return line;
    };
    const auto show = [&] {
      std::cout << "  cpu A agent " << cpu(HostId::a, "understudyd") << " A qemu "
                << cpu(HostId::a, "qemu-system") << " B agent " << cpu(HostId::b, "understudyd")
                << "\n";
    };
    show();
    LedgerTraffic traffic(scene->client_options(connections), next_client);
    next_client += connections;
    traffic.start();
    std::this_thread::sleep_for(3s);
    show();
    traffic.stop();
    std::vector<double> ms;
    for (const auto& receipt : traffic.receipts())
      ms.push_back(
          std::chrono::duration<double, std::milli>(receipt.received - receipt.sent).count());
    std::sort(ms.begin(), ms.end());
    if (ms.empty()) return;
    std::cout << what << " " << connections << ": n " << ms.size() << " p50 " << ms[ms.size() / 2]
              << " p99 " << ms[ms.size() * 99 / 100] << " max " << ms.back() << std::endl;
  };
  measure("unprotected", 1);
  measure("unprotected", 16);
  ASSERT_OK(scene->understudy_checked(
      HostId::a, {"protect", "web1", "--to", "hostB", "--mode", "replay", "--interval", "1s"},
      60s));
  std::this_thread::sleep_for(2s);
  measure("replay", 1);
  measure("replay", 16);
  auto domain = scene->domain(HostId::a);
  std::cout << json::serialize(domain.value()) << std::endl;
  ASSERT_OK(scene->understudy_checked(
      HostId::a, {"set", "web1", "--mode", "remus", "--interval", "25ms"}, 60s));
  std::this_thread::sleep_for(1s);
  measure("remus", 1);
  measure("remus", 16);
  ASSERT_OK(scene->understudy_checked(
      HostId::a, {"set", "web1", "--mode", "replay", "--interval", "5s"}, 60s));
  std::this_thread::sleep_for(6s);
  measure("replay 5s", 1);
  std::cout << scene->logs();
}

}  // namespace
}  // namespace understudy::scene
