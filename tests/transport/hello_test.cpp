// The first frames of a link, whole, cut short and hostile.
#include "transport/hello.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/octets.h"

namespace understudy::transport {
namespace {

using testing::HasSubstr;

Hello sample() {
  Hello hello;
  hello.purpose = LinkPurpose::bulk;
  hello.boot_id = BootId::random();
  hello.name = "hostA";
  hello.software = "0.1.0";
  return hello;
}

TEST(Hello, arrives_as_it_was_sent_and_ignores_what_later_versions_add) {
  const Hello sent = sample();
  auto payload = encode(sent);
  payload.push_back(std::byte{42});
  const auto got = decode_hello(payload);
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(got.value().purpose, LinkPurpose::bulk);
  EXPECT_EQ(got.value().boot_id, sent.boot_id);
  EXPECT_EQ(got.value().name, "hostA");
  EXPECT_EQ(got.value().software, "0.1.0");
}

TEST(Hello, cut_short_anywhere_it_is_refused) {
  const auto payload = encode(sample());
  for (std::size_t length = 0; length < payload.size(); ++length) {
    EXPECT_FALSE(decode_hello(std::span(payload).first(length))) << length;
  }
  HelloReply reply{1, {}, "hostB", "0.1.0"};
  const auto answered = encode(reply);
  for (std::size_t length = 0; length < answered.size(); ++length) {
    EXPECT_FALSE(decode_hello_reply(std::span(answered).first(length))) << length;
  }
}

TEST(Hello, a_name_that_would_spoil_a_log_is_refused) {
  Hello hello = sample();
  hello.name = "host\x1b[2J";
  const auto got = decode_hello(encode(hello));
  ASSERT_FALSE(got);
  EXPECT_THAT(got.error().message(), HasSubstr("host?[2J"));
}

TEST(Hello, unknown_purposes_are_refused) {
  for (const std::uint16_t purpose : {0, 5, 65535}) {
    Hello hello = sample();
    hello.purpose = LinkPurpose{purpose};
    EXPECT_FALSE(decode_hello(encode(hello))) << purpose;
  }
}

TEST(Hello, the_highest_version_that_both_speak_is_chosen_and_none_is_an_error_with_both_ranges) {
  Hello hello = sample();
  hello.version_highest = 9;
  EXPECT_EQ(agree_on_version(hello).value(), kProtocolVersionHighest);
  hello.version_lowest = 2;
  const auto none = agree_on_version(hello);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), ErrorCode::protocol);
  EXPECT_THAT(none.error().message(), HasSubstr("speaks 2 to 9"));
  hello.version_lowest = 3;
  hello.version_highest = 1;
  EXPECT_FALSE(agree_on_version(hello));
}

TEST(Refusal, carries_its_code_and_a_text_that_is_fit_for_a_terminal) {
  const auto payload = encode_refusal({ErrorCode::exists, "name taken\x07"});
  EXPECT_EQ(decode_refusal(payload).code(), ErrorCode::exists);
  EXPECT_THAT(decode_refusal(payload).message(), HasSubstr("name taken?"));
  // A peer cannot make us report a mistake of our own.
  EXPECT_EQ(decode_refusal(encode_refusal({ErrorCode::internal, "x"})).code(), ErrorCode::failed);
  EXPECT_EQ(decode_refusal({}).code(), ErrorCode::failed);
  EXPECT_EQ(decode_goodbye({}).code(), ErrorCode::unavailable);
}

}  // namespace
}  // namespace understudy::transport
