// Conditions: `since` moves with the status and with nothing else.

#include "agent/conditions.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <thread>

namespace understudy {
namespace {

TEST(ConditionsTest, SinceIsTheLastChangeOfStatus) {
  Conditions conditions;
  conditions.set("Protected", false, "Synchronising", "0 of 10");
  const auto first = conditions.to_json()[0].at("since");
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  conditions.set("Protected", false, "Synchronising", "5 of 10");
  EXPECT_EQ(conditions.to_json()[0].at("since"), first);
  EXPECT_EQ(conditions.to_json()[0].at("message"), "5 of 10");
  conditions.set("Protected", true, "Committing", "done");
  EXPECT_NE(conditions.to_json()[0].at("since"), first);
}

TEST(ConditionsTest, UnknownIsNullAndRemovedIsGone) {
  Conditions conditions;
  conditions.set("BackupReachable", {}, "NeverSeen", "");
  EXPECT_TRUE(conditions.to_json()[0].at("status").is_null());
  conditions.remove("BackupReachable");
  EXPECT_TRUE(conditions.to_json().empty());
}

}  // namespace
}  // namespace understudy
