// The agent's configuration: what is read, and what a typo gets.

#include "agent/config.h"

#include <gtest/gtest.h>

namespace understudy {
namespace {

constexpr std::string_view kSmallest = "name = \"hostA\"\n";

std::string message_of(std::string_view text) {
  auto config = AgentConfig::from_toml(text, "hostA.toml");
  return config ? "accepted" : config.error().message();
}

TEST(AgentConfigTest, NameAloneGivesDefaults) {
  auto config = AgentConfig::from_toml(kSmallest, "hostA.toml");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().name, "hostA");
  EXPECT_EQ(config.value().heartbeat_interval, std::chrono::milliseconds(50));
  EXPECT_EQ(config.value().deadline, std::chrono::milliseconds(200));
  EXPECT_EQ(config.value().control_socket, "/run/understudy/understudyd.sock");
}

TEST(AgentConfigTest, EverythingIsRead) {
  auto config = AgentConfig::from_toml(R"(
name = "hostB"
runtime_directory = "/run/b"
[listen]
addresses = ["10.0.0.2:7700", "[fd00::2]:7700"]
[detection]
heartbeat_interval = "20ms"
deadline = "1.5s"
[metrics]
listen = "127.0.0.1:9600"
[qemu]
tracking = "full_compare"
)",
                                       "hostB.toml");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().listen_addresses.size(), 2U);
  EXPECT_EQ(config.value().deadline, std::chrono::milliseconds(1500));
  EXPECT_EQ(config.value().tracking, "full_compare");
  EXPECT_EQ(config.value().control_socket, "/run/b/understudyd.sock");
}

TEST(AgentConfigTest, TypoInKeyIsNamedWithItsLine) {
  const std::string message = message_of("name = \"a\"\n[detection]\ndead_line = \"200ms\"\n");
  EXPECT_NE(message.find("hostA.toml:3"), std::string::npos) << message;
  EXPECT_NE(message.find("detection.dead_line"), std::string::npos) << message;
}

TEST(AgentConfigTest, BrokenTomlIsNamedWithItsLine) {
  EXPECT_NE(message_of("name = \"a\"\nlisten = [\n").find("hostA.toml:"), std::string::npos);
}

TEST(AgentConfigTest, UmlautInANameIsRefusedAndInACommentIsNot) {
  EXPECT_NE(message_of("name = \"h\u00f6st\"").find("ASCII"), std::string::npos);
  EXPECT_EQ(message_of("# H\u00f6st\nname = \"host\""), "accepted");
}

TEST(AgentConfigTest, NonsenseIsRefused) {
  EXPECT_NE(message_of("").find("name"), std::string::npos);
  EXPECT_NE(message_of("name = \"a b\"").find("name"), std::string::npos);
  EXPECT_NE(message_of("name = 7").find("string"), std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[detection]\ndeadline=\"60ms\"").find("twice"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[detection]\ndeadline=\"200\"").find("duration"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[metrics]\nlisten=\"0.0.0.0:9600\"").find("loopback"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\nruntime_directory=\"run\"").find("absolute"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[qemu]\ntracking=\"magic\"").find("one of"), std::string::npos);
}

TEST(AgentConfigTest, ArbiterIsOfAPairAndDefaultOfAllOthers) {
  const auto config = AgentConfig::from_toml(R"(name = "a"
[arbiter.hostB]
kind = "etcd"
endpoints = ["10.0.0.9:2379"]
ca_file = "/etc/ca.pem"
[arbiter.default]
kind = "fence"
command = ["fence_ipmilan", "--ip=10.0.0.3"]
solo_after = "5s"
)",
                                             "a.toml");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().arbiter_for("hostB").kind, "etcd");
  EXPECT_EQ(config.value().arbiter_for("hostC").kind, "fence");
  EXPECT_EQ(config.value().arbiter_for("hostC").solo_after, std::chrono::seconds(5));
  EXPECT_EQ(AgentConfig().arbiter_for("hostB").kind, "none");
}

TEST(AgentConfigTest, ArbiterThatCannotWorkIsRefusedWithItsLine) {
  EXPECT_NE(message_of("name=\"a\"\n[arbiter.b]\nkind=\"etcd\"").find("endpoints"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[arbiter.b]\nkind=\"fence\"").find("command"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[arbiter.b]\nkind=\"zookeeper\"").find("one of"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[arbiter.b]\nkeind=\"etcd\"").find("no such key"),
            std::string::npos);
  EXPECT_NE(message_of("name=\"a\"\n[arbiter]\nkind=\"etcd\"").find("section"), std::string::npos);
}

TEST(DurationTest, UnitsAndErrors) {
  EXPECT_EQ(parse_duration("25ms").value(), std::chrono::milliseconds(25));
  EXPECT_EQ(parse_duration("1.5s").value(), std::chrono::milliseconds(1500));
  EXPECT_EQ(parse_duration("100us").value(), std::chrono::microseconds(100));
  for (const auto* wrong : {"", "25", "ms", "25 ms", "-1s", "nan s", "1e999s", "25msx"}) {
    EXPECT_FALSE(parse_duration(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace understudy
