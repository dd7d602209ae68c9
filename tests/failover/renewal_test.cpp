// Goal: the next backup is the right one of the list, at the right time, and the reason is told
// where there is none. Method: the decision alone, with a clock made of numbers.
#include "failover/renewal.h"

#include <gtest/gtest.h>

namespace understudy {
namespace {

using namespace std::chrono_literals;

Instant at(std::chrono::milliseconds time) {
  return Instant{} + 1h + time;
}

std::vector<Renewal::Host> four(bool a = true, bool b = true, bool c = true, bool d = true) {
  return {{"hostA", true, a}, {"hostB", true, b}, {"hostC", true, c}, {"hostD", true, d}};
}

TEST(RenewalTest, the_one_behind_the_lost_host_is_next_and_the_lost_one_last) {
  Renewal renewal;
  // B has promoted, A is lost: B itself is skipped.
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostB", "hostA").host, "hostC");
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostC", "hostB").host, "hostD");
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostD", "hostC").host, "hostA");
  EXPECT_EQ(renewal.choose(at(0ms), four(true, true, false, false), "hostB", "hostA").host,
            "hostA");
  // A has lost its backup B.
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostA", "hostB").host, "hostC");
}

TEST(RenewalTest, a_lost_host_that_left_the_list_begins_at_its_head) {
  Renewal renewal;
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostA", "hostX").host, "hostB");
  EXPECT_EQ(renewal.choose(at(0ms), four(), "hostA", "").host, "hostB");
}

TEST(RenewalTest, none_that_fits_is_a_reason_that_names_each) {
  Renewal renewal;
  std::vector<Renewal::Host> ring = four(false, true, false, true);
  ring[3].paired = false;
  const auto choice = renewal.choose(at(0ms), ring, "hostB", "hostA");
  EXPECT_FALSE(choice.protect);
  EXPECT_EQ(choice.host, "hostC");
  EXPECT_EQ(choice.reason,
            "hostC is not heard; hostD is not paired with hostB; hostA is not heard");
  EXPECT_EQ(choice.again, kNever);
  EXPECT_EQ(renewal.choose(at(0ms), {{"hostB", true, true}}, "hostB", "").reason,
            "no other host is in its list");
  EXPECT_FALSE(renewal.choose(at(0ms), {}, "hostB", "").protect);
}

TEST(RenewalTest, who_refused_is_left_alone_twice_as_long_each_time) {
  Renewal renewal({.back_off_first = 1s, .back_off_most = 3s});
  const auto ring = four(false, true, true, false);
  const auto asked = [&](std::chrono::milliseconds time) {
    return renewal.choose(at(time), ring, "hostB", "hostA");
  };
  renewal.on_refused(at(0ms), "hostC", "memory: 1 GiB is free");
  EXPECT_FALSE(asked(999ms).protect);
  EXPECT_EQ(asked(999ms).reason,
            "hostC refused: memory: 1 GiB is free; hostD is not heard; hostA is not heard");
  EXPECT_EQ(asked(999ms).again, at(1s));
  EXPECT_TRUE(asked(1s).protect);
  renewal.on_refused(at(1s), "hostC", "memory");
  EXPECT_FALSE(asked(2999ms).protect);
  EXPECT_TRUE(asked(3s).protect);
  renewal.on_refused(at(3s), "hostC", "memory");  // At the most.
  EXPECT_FALSE(asked(5999ms).protect);
  EXPECT_TRUE(asked(6s).protect);
  renewal.on_protected("hostC");
  renewal.on_refused(at(7s), "hostC", "memory");
  EXPECT_TRUE(asked(8s).protect);
}

TEST(RenewalTest, while_one_is_left_alone_the_next_gets_its_turn) {
  Renewal renewal;
  renewal.on_refused(at(0ms), "hostC", "memory");
  EXPECT_EQ(renewal.choose(at(1ms), four(), "hostB", "hostA").host, "hostD");
}

TEST(RenewalTest, who_was_silent_and_is_back_is_tried_at_once) {
  Renewal renewal;
  renewal.on_refused(at(0ms), "hostC", "memory");
  EXPECT_FALSE(renewal.choose(at(1ms), four(false, true, true, false), "hostB", "hostA").protect);
  EXPECT_FALSE(renewal.choose(at(2ms), four(false, true, false, false), "hostB", "hostA").protect);
  EXPECT_EQ(renewal.choose(at(3ms), four(false, true, true, false), "hostB", "hostA").host,
            "hostC");
}

}  // namespace
}  // namespace understudy
