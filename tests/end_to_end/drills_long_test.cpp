// Goal: the two kinds of drill that clients may notice: there and back without an outage that
// breaks anything, and the kill of the primary. Method: the scene under traffic.
#include <boost/json.hpp>
#include <iostream>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

class Drills : public ProtectedGuest {};

TEST_F(Drills, planned_drill_goes_there_and_back_under_traffic) {
  ASSERT_NO_FATAL_FAILURE(play());
  auto drilled = scene->understudy(
      HostId::a, {"--timeout", "300s", "drill", "web1", "--kind", "planned", "-o", "json"}, 320s);
  ASSERT_OK(drilled);
  ASSERT_EQ(drilled.value().status, 0) << drilled.value().out << drilled.value().err;
  std::cout << drilled.value().out;
  auto domain = scene->wait_for_state(HostId::a, "protected", 60s);
  ASSERT_OK(domain);
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABA");
  expect_nothing_lost();
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

}  // namespace
}  // namespace understudy::scene
