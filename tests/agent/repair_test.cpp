// The ways out of each trouble: there is always one, the first costs nothing but time, and each
// says what it risks.
#include "agent/repair.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/json.hpp>

namespace understudy {
namespace {

constexpr std::array kTroubles = {
    Trouble::record_damaged,    Trouble::record_older,    Trouble::record_lost,
    Trouble::promotion_cut_off, Trouble::domain_failed,   Trouble::retired,
    Trouble::backup_lost,       Trouble::newer_copy_lost, Trouble::split_brain};

TEST(RepairTest, every_trouble_has_ways_out_and_each_names_its_risk) {
  for (const Trouble trouble : kTroubles) {
    const auto choices = repair_choices(trouble, "web1", "hostB");
    EXPECT_GE(choices.size(), 2U) << to_string(trouble);
    for (const auto& choice : choices) {
      EXPECT_FALSE(choice.command.empty()) << to_string(trouble);
      EXPECT_FALSE(choice.what.empty()) << to_string(trouble);
      EXPECT_FALSE(choice.risk.empty()) << to_string(trouble);
      if (!choice.name.empty()) {
        EXPECT_NE(choice.command.find(choice.name), std::string::npos);
      }
    }
  }
  EXPECT_TRUE(repair_choices(Trouble::none, "web1", "hostB").empty());
}

TEST(RepairTest, only_an_older_record_can_be_trusted) {
  for (const Trouble trouble : kTroubles) {
    bool trust = false;
    for (const auto& choice : repair_choices(trouble, "web1", "")) trust |= choice.name == "trust";
    EXPECT_EQ(trust, trouble == Trouble::record_older) << to_string(trouble);
  }
}

TEST(RepairTest, names_are_in_the_answer_only_where_the_request_does_it) {
  const auto json = to_json(repair_choices(Trouble::promotion_cut_off, "web1", "hostA"));
  EXPECT_FALSE(json.at(0).as_object().contains("choice"));
  EXPECT_EQ(json.at(1).at("choice").as_string(), "forget");
}

}  // namespace
}  // namespace understudy
