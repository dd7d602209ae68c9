// Goal: what a user may say about ports is understood, and everything else refused by name.
#include "agent/replay_options.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

namespace json = boost::json;
using replay::OnDivergence;
using replay::PortPolicy;

TEST(ReplayOptions, come_back_as_they_were_written) {
  ReplayOptions options;
  options.policies.ports = {
      {80, PortPolicy::replay}, {5432, PortPolicy::remus}, {9, PortPolicy::open}};
  options.on_divergence = OnDivergence::tolerate;
  const auto read = replay_options_from(to_json(options));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read.value().policies.ports, options.policies.ports);
  EXPECT_EQ(read.value().policies.standard, PortPolicy::replay);
  EXPECT_EQ(read.value().on_divergence, OnDivergence::tolerate);
}

TEST(ReplayOptions, nothing_said_is_the_defaults) {
  const auto read = replay_options_from(nullptr);
  ASSERT_TRUE(read);
  EXPECT_TRUE(read.value().policies.ports.empty());
  EXPECT_EQ(read.value().on_divergence, OnDivergence::reset);
}

TEST(ReplayOptions, whatever_else_is_said_is_refused_by_name) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"ports": {"0": "remus"}})", "port '0'"},
      {R"({"ports": {"65536": "remus"}})", "port '65536'"},
      {R"({"ports": {"http": "remus"}})", "port 'http'"},
      {R"({"ports": {"80": "fast"}})", "port 80"},
      {R"({"ports": {"80": 1}})", "port 80"},
      {R"({"ports": []})", "ports"},
      {R"({"on_divergence": "ignore"})", "on_divergence"},
      {R"({"on_divergance": "reset"})", "on_divergance"},
      {R"([])", "object"},
  };
  for (const auto& [text, named] : cases) {
    const auto read = replay_options_from(json::parse(text));
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code(), ErrorCode::usage) << text;
    EXPECT_NE(read.error().message().find(named), std::string::npos) << read.error().message();
  }
}

TEST(ReplayOptions, there_are_two_modes) {
  EXPECT_TRUE(is_mode("remus"));
  EXPECT_TRUE(is_mode("replay"));
  EXPECT_FALSE(is_mode("colo"));
  EXPECT_FALSE(is_mode(""));
}

}  // namespace
}  // namespace understudy
