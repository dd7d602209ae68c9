// What agents say to each other survives the way, and nonsense is refused.

#include "agent/protection_messages.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

std::span<const std::byte> octets(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(ProtectionMessagesTest, BeginSurvives) {
  const ProtectionBegin begin{"web1",  ProtectionId(5), Generation(2), "qemu",
                              "remus", 25'000,          "etcd",        {{"name", "web1"}}};
  auto read = decode_protection_begin(encode(begin));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read.value().domain, "web1");
  EXPECT_EQ(read.value().protection, begin.protection);
  EXPECT_EQ(read.value().generation, begin.generation);
  EXPECT_EQ(read.value().config, begin.config);
}

TEST(ProtectionMessagesTest, RefusalKeepsItsCodeAndTheRole) {
  ProtectionReply reply;
  reply.refusal = fail(ErrorCode::exists, "it runs here");
  reply.view.role = PeerRole::running;
  reply.view.generation = Generation(7);
  auto read = decode_protection_reply(encode(reply));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_FALSE(read.value().accepted);
  EXPECT_EQ(read.value().refusal->code(), ErrorCode::exists);
  EXPECT_EQ(read.value().view.role, PeerRole::running);
  EXPECT_EQ(read.value().view.generation, Generation(7));
}

TEST(ProtectionMessagesTest, HeartbeatNewsSurvive) {
  HeartbeatNews news{123, 99, {{"web1", ProtectionId(5), Generation(1), PeerRole::holding}}};
  auto read = decode_heartbeat_news(encode(news));
  ASSERT_TRUE(read);
  EXPECT_EQ(read.value().echo_ns, 99U);
  ASSERT_EQ(read.value().domains.size(), 1U);
  EXPECT_EQ(read.value().domains[0].role, PeerRole::holding);
}

TEST(ProtectionMessagesTest, NonsenseIsRefused) {
  for (
      const auto* text :
      {"", "{", "[]", "{}", R"({"domain":7})",
       R"({"domain":"a","protection":0,"generation":0,"hypervisor":"q","mode":"r","interval_us":1,"config":{}})",
       R"({"kind":"explode","protection":1,"reason":""})"}) {
    EXPECT_FALSE(decode_protection_begin(octets(text))) << text;
    EXPECT_FALSE(decode_protection_reply(octets(text))) << text;
    EXPECT_FALSE(decode_protection_end(octets(text))) << text;
    EXPECT_FALSE(decode_heartbeat_news(octets(text))) << text;
  }
}

TEST(ProtectionMessagesTest, AddressesOfEachInterfaceSurviveAndGarbageEndsThem) {
  const std::vector<std::vector<IpAddress>> interfaces = {
      {IpAddress::parse("10.0.0.1").value(), IpAddress::parse("fd00::1").value()},
      {},
      {IpAddress::parse("10.0.0.2").value()}};
  auto encoded = encode_addresses(interfaces);
  EXPECT_EQ(decode_addresses(encoded), interfaces);
  for (std::size_t bytes = 0; bytes < encoded.size(); ++bytes) {
    (void)decode_addresses(std::span(encoded).first(bytes));  // No crash, no overrun.
  }
  EXPECT_TRUE(decode_addresses({}).empty());
}

}  // namespace
}  // namespace understudy
