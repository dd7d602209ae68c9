// Goal: a list of hosts is what people asked for, whatever a user, a file or another host sends.
#include "agent/renewal_policy.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

using Hosts = std::vector<std::string>;

TEST(RenewalPolicyTest, first_names_this_host_and_each_other_once) {
  const auto policy = first_policy("hostA", {"hostB", "hostC", "hostB", "hostA"});
  EXPECT_EQ(policy.hosts, (Hosts{"hostA", "hostB", "hostC"}));
  EXPECT_EQ(policy.home, "hostA");
  EXPECT_EQ(policy.failback.mode, FailbackMode::never);
}

TEST(RenewalPolicyTest, changes) {
  const auto policy = first_policy("hostA", {"hostB"});
  EXPECT_EQ(changed(policy, {.add_hosts = {"hostC"}}, "hostB").value().hosts,
            (Hosts{"hostA", "hostB", "hostC"}));
  EXPECT_EQ(changed(policy, {.remove_hosts = {"hostA"}}, "hostB").value().hosts, (Hosts{"hostB"}));
  // The list anew on another host: home stays where it was.
  const auto anew = changed(policy, {.to = {"hostD", "hostA"}}, "hostB").value();
  EXPECT_EQ(anew.hosts, (Hosts{"hostB", "hostD", "hostA"}));
  EXPECT_EQ(anew.home, "hostA");
  EXPECT_FALSE(changed(policy, {.remove_hosts = {"hostB"}}, "hostB"));
  EXPECT_FALSE(changed(policy, {.remove_hosts = {"hostX"}}, "hostB"));
  EXPECT_FALSE(changed(policy, {.add_hosts = {""}}, "hostB"));
  EXPECT_FALSE(changed(policy, {.failback = "sometimes"}, "hostB"));
  Hosts many;
  for (int number = 0; number < 100; ++number) many.push_back("host" + std::to_string(number));
  EXPECT_FALSE(changed(policy, {.to = many}, "hostB"));
  const auto timed =
      changed(policy, {.failback = "manual", .failback_delay_s = 5, .minimum_stay_s = 7}, "hostB");
  EXPECT_EQ(timed.value().failback.mode, FailbackMode::manual);
  EXPECT_EQ(timed.value().failback.delay, std::chrono::seconds(5));
  EXPECT_EQ(timed.value().failback.minimum_stay, std::chrono::seconds(7));
}

TEST(RenewalPolicyTest, reads_what_it_writes_and_nothing_else) {
  const auto policy = first_policy("hostA", {"hostB"});
  const auto read = renewal_policy_from(to_json(policy));
  ASSERT_TRUE(read);
  EXPECT_EQ(read.value().hosts, policy.hosts);
  EXPECT_EQ(read.value().home, "hostA");
  EXPECT_TRUE(renewal_policy_from(nullptr).value().hosts.empty());
  for (const char* const text :
       {"1", "[]", "{}", R"({"hosts": "hostA"})", R"({"hosts": [1]})",
        R"({"hosts": ["a"], "home": 1})", R"({"hosts": ["a"], "home": "a", "failback": "often"})",
        R"({"hosts": ["a"], "home": "a", "failback": "never", "failback_delay_s": -1,
            "minimum_stay_s": 1})",
        R"({"hosts": ["a"], "home": "a", "failback": "never", "failback_delay_s": 1e300,
            "minimum_stay_s": 1})",
        R"({"hosts": [""], "home": "a", "failback": "never", "failback_delay_s": 1,
            "minimum_stay_s": 1})"}) {
    EXPECT_FALSE(renewal_policy_from(boost::json::parse(text))) << text;
  }
}

}  // namespace
}  // namespace understudy
