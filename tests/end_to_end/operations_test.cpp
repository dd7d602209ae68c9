// Goal: what an operator prepares for the worst day works on it, and does no harm before. Method:
// the scene under traffic; a dry drill, whose copy nobody may hear; a planned drill, there and
// back; a hook that hears of it. Not tested here: what an ill service leads to, a real drill
// (drills_long_test.cpp), the decisions (tests/failover/health_test.cpp), DNS (tests/dns).
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

TEST_F(Operations, drills_dry_and_planned_are_heard_by_a_hook_and_by_no_client) {
  const std::string heard = "/tmp/understudy-hook-" + std::to_string(::getpid());
  ASSERT_NO_FATAL_FAILURE(play(
      with(probe("icmp") + probe("echo") + probe("http") +
           "[[hook]]\nname = \"tell\"\non = [\"moved\", \"drill_ended\"]\ncommand = [\"/bin/sh\", "
           "\"-c\", \"echo $UNDERSTUDY_EVENT $UNDERSTUDY_DOMAIN $UNDERSTUDY_HOST >>" +
           heard + "\"]\n")));
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

  // There and back, under the same clients.
  auto planned = scene->understudy(
      HostId::a, {"--timeout", "180s", "drill", "web1", "--kind", "planned", "-o", "json"}, 200s);
  ASSERT_OK(planned);
  ASSERT_EQ(planned.value().status, 0) << planned.value().out << planned.value().err;
  std::cout << "planned drill: " << planned.value().out;
  ASSERT_OK(scene->wait_for_state(HostId::a, "protected", 60s));
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABA");
  auto known_there = scene->understudy_json(HostId::b, {"drills", "web1"});
  ASSERT_OK(known_there);
  EXPECT_EQ(known_there.value().at("drills").as_array().size(), 2U);

  std::string told;
  const auto all_told = [&told] {
    return told.find("moved web1 hostB") != std::string::npos &&
           told.find("moved web1 hostA") != std::string::npos &&
           told.find("drill_ended web1 hostA") != std::string::npos;
  };
  for (const auto end = Clock::now() + 20s; Clock::now() < end && !all_told();) {
    std::ifstream file(heard);
    told.assign(std::istreambuf_iterator<char>(file), {});
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_TRUE(all_told()) << told;
  std::filesystem::remove(heard);
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
