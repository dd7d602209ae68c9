// Goal: drills and probes where they are put to the test: the kill of the primary, drills that are
// taken back in the middle, a disk that is full, a gate that is closed, a service that its host
// cannot reach. Method: the scene under traffic.
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Drills : public ProtectedGuest {
 protected:
  static SceneOptions with(const std::string& toml) {
    SceneOptions options = options_from_environment();
    options.agent_toml = toml;
    return options;
  }
  /// How many events of `kind` the host has recorded of the domain.
  std::size_t events_of(HostId host, const std::string& kind) {
    auto told = scene->understudy_checked(host, {"events", "web1", "-o", "json"});
    EXPECT_TRUE(told) << told.error().message();
    std::size_t count = 0;
    const std::string wanted = "\"kind\":\"" + kind + "\"";
    for (std::size_t at = 0; told && (at = told.value().find(wanted, at)) != std::string::npos;
         ++at)
      ++count;
    return count;
  }
  static bool healthy(const json::object& domain) {
    return condition_of(domain, "ServiceHealthy") == std::optional(true);
  }
  static std::string state_of_probe(const json::object& domain, const std::string& name) {
    const auto* probes = domain.if_contains("probes");
    if (probes == nullptr) return "absent";
    for (const auto& probe : probes->as_array()) {
      if (text_at(probe.as_object(), "name") == name) return text_at(probe.as_object(), "state");
    }
    return "absent";
  }
};

std::string probe(const std::string& kind, const std::string& more = "") {
  return "[[probe]]\ndomain = \"web1\"\nkind = \"" + kind + "\"\naddress = \"" +
         std::string(guest_address) +
         "\"\ninterval = \"300ms\"\ntimeout = \"2s\"\ngrace = \"1s\"\nfailures = 2\n" + more;
}

TEST_F(Drills, real_drill_asks_first_and_kills_the_primary) {
  ASSERT_NO_FATAL_FAILURE(play());
  const std::vector<std::string> command = {"--timeout", "120s", "drill", "web1",
                                            "--kind",    "real", "-o",    "json"};
  auto refused = scene->understudy(HostId::a, command, 150s);
  ASSERT_OK(refused);
  EXPECT_EQ(refused.value().status, static_cast<int>(ErrorCode::needs_force));
  auto agreed = command;
  agreed.emplace_back("--yes");
  const auto before = Clock::now();
  auto drilled = scene->understudy(HostId::a, agreed, 150s);
  ASSERT_OK(drilled);
  ASSERT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
  std::cout << drilled.value().out;
  expect_everyone_goes_on(before);
  expect_nothing_lost();
}

TEST_F(Drills, closed_gate_is_not_an_ill_service_and_a_hook_hears_of_the_promotion) {
  const std::string heard = "/tmp/understudy-hook-" + std::to_string(::getpid());
  ASSERT_NO_FATAL_FAILURE(play(
      with(probe("echo") +
           "[[hook]]\nname = \"tell\"\non = [\"promoted\"]\ncommand = [\"/bin/sh\", \"-c\", \"env "
           ">" +
           heard + "\"]\n")));
  ASSERT_OK(scene->wait_for(HostId::a, "a healthy service", 30s, healthy));
  const std::size_t before = events_of(HostId::a, "service_unhealthy");  // While it booted.
  // The backup is lost: output is held, so probes fail, and that is no fault of the service's.
  ASSERT_OK(scene->hang(HostId::b));
  ASSERT_OK(
      scene->wait_for(HostId::a, "answers that are held", 30s, [](const json::object& domain) {
        return reason_at(domain, "ServiceHealthy") == "OutputHeld";
      }));
  std::this_thread::sleep_for(6s);  // More than two failures would take.
  auto held = scene->domain(HostId::a);
  ASSERT_OK(held);
  EXPECT_EQ(reason_at(held.value(), "ServiceHealthy"), "OutputHeld");
  ASSERT_OK(scene->resume(HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  ASSERT_OK(scene->wait_for(HostId::a, "a healthy service", 30s, healthy));
  EXPECT_EQ(events_of(HostId::a, "service_unhealthy"), before);

  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  std::string told;
  for (const auto end = Clock::now() + 20s; Clock::now() < end && told.empty();) {
    std::ifstream file(heard);
    told.assign(std::istreambuf_iterator<char>(file), {});
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_NE(told.find("UNDERSTUDY_EVENT=promoted"), std::string::npos) << told;
  EXPECT_NE(told.find("UNDERSTUDY_DOMAIN=web1"), std::string::npos);
  EXPECT_NE(told.find("UNDERSTUDY_HOST=hostB"), std::string::npos);
  EXPECT_NE(told.find("UNDERSTUDY_PEER=hostA"), std::string::npos);
  const std::string addresses =
      told.substr(std::min(told.find("UNDERSTUDY_ADDRESSES="), told.size()));
  EXPECT_NE(addresses.substr(0, addresses.find('\n')).find(guest_address), std::string::npos)
      << told;
  std::filesystem::remove(heard);
  expect_nothing_lost();
}

TEST_F(Drills, service_that_its_host_cannot_reach_is_moved_and_one_that_never_answered_is_not) {
  // Nobody listens at the second one's port, on either host.
  ASSERT_NO_FATAL_FAILURE(
      play(with(probe("echo", "action = \"move\"\n") +
                probe("tcp", "name = \"nobody\"\nport = 9\naction = \"move\"\n"))));
  ASSERT_OK(
      scene->wait_for(HostId::a, "both probes' verdicts", 60s, [](const json::object& domain) {
        return state_of_probe(domain, "echo") == "healthy" &&
               state_of_probe(domain, "nobody") == "unhealthy";
      }));
  EXPECT_EQ(
      scene->domain(HostId::a) ? reason_at(scene->domain(HostId::a).value(), "ServiceHealthy") : "",
      "ProbeFailing");
  EXPECT_EQ(events_of(HostId::a, "move_started"), 0U);
  // The host, not the guest: it has no way to the service's address any more.
  ASSERT_OK(run_checked({"ip", "route", "add", "unreachable", std::string(guest_address) + "/32"},
                        10s, scene->host_namespace(HostId::a)));
  ASSERT_OK(scene->wait_for(HostId::b, "the service, well", 90s, [](const json::object& domain) {
    return state_of_probe(domain, "echo") == "healthy";
  }));
  ASSERT_OK(scene->wait_for_state(HostId::b, "protected", 60s));
  std::this_thread::sleep_for(5s);  // It stays, though the other probe fails here, too.
  EXPECT_EQ(events_of(HostId::a, "move_started"), 1U);
  EXPECT_EQ(events_of(HostId::b, "move_started"), 0U);
  expect_everyone_goes_on(Clock::now());
  expect_voices("AB");
  expect_nothing_lost();
}

TEST_F(Drills, drill_that_is_taken_back_leaves_nothing) {
  // A question that is never answered keeps the dry drill waiting.
  ASSERT_NO_FATAL_FAILURE(play(with(probe("tcp", "port = 9\n"))));
  // Ctrl-C after so many seconds.
  const auto drilled = [this](const std::string& kind, const std::string& seconds) {
    return run_command({"timeout", "--foreground", "--signal=INT", "--preserve-status", seconds,
                        (scene->options().build_directory / "cli/understudy").string(), "--socket",
                        scene->control_socket(HostId::a).string(), "drill", "web1", "--kind", kind},
                       180s);
  };
  auto dry = drilled("dry", "4");
  ASSERT_OK(dry);
  EXPECT_EQ(dry.value().status, 130) << dry.value().out << dry.value().err;
  EXPECT_EQ(scene->processes(HostId::b, "qemu-system").size(), 1U);
  EXPECT_NE(dry.value().out.find("cancelled"), std::string::npos)
      << dry.value().out << dry.value().err;
  auto planned = drilled("planned", "0.3");
  ASSERT_OK(planned);
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  auto reports = scene->understudy_json(HostId::a, {"drills", "web1"});
  ASSERT_OK(reports);
  for (const auto& report : reports.value().at("drills").as_array())
    EXPECT_EQ(text_at(report.as_object(), "outcome"), "cancelled") << json::serialize(report);
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABA");
  expect_nothing_lost();
}

TEST_F(Drills, dry_and_planned_in_replay_mode) {
  ASSERT_NO_FATAL_FAILURE(play(with(probe("icmp")), {.mode = "replay"}));
  for (const char* const kind : {"dry", "planned"}) {
    auto drilled =
        scene->understudy(HostId::a, {"--timeout", "180s", "drill", "web1", "--kind", kind}, 200s);
    ASSERT_OK(drilled);
    EXPECT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
    std::cout << drilled.value().out;
  }
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABA");
  expect_nothing_lost();
}

TEST_F(Drills, host_that_becomes_ill_hands_its_domain_over) {
  ASSERT_NO_FATAL_FAILURE(
      play(with("[health]\ndisk_mib_min = 64\nmemory_mib_min = 0\nloop_lag_max = \"1h\"\n"
                "memory_pressure_percent_max = 0\naction = \"move\"\n")));
  // Only host A finds little room where it keeps its state.
  const std::string agent = fmt::format("{}", scene->processes(HostId::a, "understudyd").at(0));
  const std::string state = (scene->folder() / "hostA" / "lib").string();
  const std::string small = (scene->folder() / "small").string();
  ASSERT_OK(run_checked(
      {"nsenter", "--target", agent, "--mount", "sh", "-c",
       fmt::format("mkdir {1} && mount -t tmpfs -o size=16m small {1} && cp -a {0}/. {1} && "
                   "mount --bind {1} {0}",
                   state, small)}));
  auto moved = scene->wait_for_state(HostId::b, "protected", 90s);
  const auto told = scene->understudy_checked(HostId::a, {"events", "-o", "json"});
  const auto status = scene->understudy_checked(HostId::a, {"status"});
  ASSERT_OK(run_checked({"nsenter", "--target", agent, "--mount", "umount", "-l", state, small}));
  ASSERT_OK(moved);
  ASSERT_OK(told);
  EXPECT_NE(told.value().find("host_unhealthy"), std::string::npos);
  ASSERT_OK(status);
  EXPECT_NE(status.value().find("! hostA: disk"), std::string::npos) << status.value();
  EXPECT_EQ(events_of(HostId::b, "move_started"), 0U);
  expect_everyone_goes_on(Clock::now());
  expect_voices("AB");
  expect_nothing_lost();
}

TEST_F(Drills, report_on_a_full_disk_is_told_and_says_so_itself) {
  ASSERT_NO_FATAL_FAILURE(play(with(probe("icmp"))));
  // Where host A keeps reports there is room for a folder, and for nothing in it.
  const auto state = scene->folder() / "hostA" / "lib" / "drills";
  ASSERT_OK(run_checked({"mkdir", "-p", state.string()}));
  ASSERT_OK(run_checked(
      {"nsenter", fmt::format("--target={}", scene->processes(HostId::a, "understudyd").at(0)),
       "--mount", "mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "full", state.string()}));
  auto drilled = scene->understudy(HostId::a, {"--timeout", "150s", "drill", "web1"}, 180s);
  ASSERT_OK(run_checked(
      {"nsenter", fmt::format("--target={}", scene->processes(HostId::a, "understudyd").at(0)),
       "--mount", "umount", state.string()}));
  ASSERT_OK(drilled);
  EXPECT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
  EXPECT_NE(drilled.value().out.find("not kept on hostA"), std::string::npos)
      << drilled.value().out;
  // The other host, which held it, has it on its disk.
  EXPECT_FALSE(std::filesystem::is_empty(scene->folder() / "hostB" / "lib" / "drills"));
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
