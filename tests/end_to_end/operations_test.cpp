// Goal: what an operator prepares for the worst day works on it, and does no harm before. Method:
// the scene under traffic; a dry drill, whose copy nobody may hear; probes of the guest, which must
// not take a closed gate for an ill service; a planned drill; a hook that is run at a promotion.
// Not tested here: the decisions (tests/failover/health_test.cpp), DNS (tests/agent).
#include <boost/json.hpp>
#include <fstream>
#include <iostream>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Operations : public ProtectedGuest {
 protected:
  static SceneOptions with(const std::string& toml) {
    SceneOptions options = options_from_environment();
    options.agent_toml = toml;
    return options;
  }
};

std::string probe(const std::string& kind, const std::string& more = "") {
  return "[[probe]]\ndomain = \"web1\"\nkind = \"" + kind + "\"\naddress = \"" +
         std::string(guest_address) +
         "\"\ninterval = \"300ms\"\ntimeout = \"2s\"\ngrace = \"1s\"\n" + more;
}

TEST_F(Operations, dry_drill_boots_the_last_commit_where_nobody_hears_it) {
  ASSERT_NO_FATAL_FAILURE(play(with(probe("icmp") + probe("echo") + probe("http"))));
  // Asked on the primary; the backup holds it.
  auto drilled =
      scene->understudy(HostId::a, {"--timeout", "150s", "drill", "web1", "-o", "json"}, 180s);
  ASSERT_OK(drilled);
  ASSERT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
  const json::object report = json::parse(drilled.value().out).as_object();
  EXPECT_EQ(text_at(report, "outcome"), "passed");
  EXPECT_EQ(text_at(report, "host"), "hostB");
  EXPECT_EQ(report.at("checks").as_array().size(), 4U);
  std::cout << "dry drill: " << json::serialize(report.at("phases")) << '\n';

  // The copy is gone, protection goes on, and every frame with the guest's address came from A.
  EXPECT_EQ(scene->processes(HostId::b, "qemu-system").size(), 1U);
  auto domain = scene->domain(HostId::a);
  ASSERT_OK(domain);
  EXPECT_EQ(text_at(domain.value(), "state"), "protected");
  EXPECT_EQ(condition_of(domain.value(), "ServiceHealthy"), std::optional(true));
  expect_everyone_goes_on(Clock::now());
  expect_voices("A");
  // Both hosts have the report.
  for (const HostId host : {HostId::a, HostId::b}) {
    auto reports = scene->understudy_json(host, {"drills", "web1"});
    ASSERT_OK(reports);
    EXPECT_EQ(reports.value().at("drills").as_array().size(), 1U);
  }
  auto page = scene->understudy_checked(HostId::a, {"drills", "-o", "html"});
  ASSERT_OK(page);
  EXPECT_NE(page.value().find("web1"), std::string::npos);
  if (const char* keep = std::getenv("UNDERSTUDY_TEST_PAGE"); keep != nullptr)
    std::ofstream(keep) << page.value();
  expect_nothing_lost();
}

TEST_F(Operations, closed_gate_is_not_an_ill_service_and_a_hook_hears_of_the_promotion) {
  const std::string heard = "/tmp/understudy-hook-" + std::to_string(::getpid());
  ASSERT_NO_FATAL_FAILURE(play(
      with(probe("echo", "failures = 2\n") +
           "[[hook]]\nname = \"tell\"\non = [\"promoted\"]\ncommand = [\"/bin/sh\", \"-c\", \"env "
           ">" +
           heard + "\"]\n")));
  const auto healthy = [](const json::object& domain) {
    return condition_of(domain, "ServiceHealthy") == std::optional(true);
  };
  ASSERT_OK(scene->wait_for(HostId::a, "a healthy service", 30s, healthy));
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
  auto events = scene->understudy_checked(HostId::a, {"events", "web1", "-o", "json"});
  ASSERT_OK(events);
  EXPECT_EQ(events.value().find("service_unhealthy"), std::string::npos) << events.value();

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
  EXPECT_NE(told.find("UNDERSTUDY_ADDRESSES=" + std::string(guest_address)), std::string::npos)
      << told;
  std::filesystem::remove(heard);
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
