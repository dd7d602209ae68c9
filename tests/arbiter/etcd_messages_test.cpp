// What is said to etcd, and what its answers mean. The answers were taken from a real etcd 3.4.
#include "arbiter/etcd_messages.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy::etcd {
namespace {

constexpr std::string_view kHeader =
    R"("header":{"cluster_id":"1484","member_id":"1027","revision":"7","raft_term":"2"})";

Read read_of(std::optional<Holding> holding) {
  return {std::move(holding), 5, 7};
}

TEST(EtcdMessages, only_an_unclaimed_key_can_be_claimed) {
  const Generation wanted(4);
  EXPECT_EQ(judge(read_of(Holding{Generation(3), "hostA", false}), "hostB", wanted, 0).judgement,
            Judgement::claim);
  EXPECT_EQ(judge(read_of(Holding{Generation(4), "hostA", true}), "hostB", wanted, 0).judgement,
            Judgement::refused);
  EXPECT_EQ(
      judge(read_of(Holding{Generation(4), "hostA", true}), "hostB", Generation(5), 0).judgement,
      Judgement::refused)
      << "one grant within a protection, whatever the generation";
}

TEST(EtcdMessages, own_grant_whose_answer_was_lost_is_found_again) {
  EXPECT_EQ(
      judge(read_of(Holding{Generation(4), "hostB", true}), "hostB", Generation(4), 0).judgement,
      Judgement::granted);
  EXPECT_EQ(
      judge(read_of(Holding{Generation(5), "hostB", true}), "hostB", Generation(4), 0).judgement,
      Judgement::refused);
}

TEST(EtcdMessages, empty_etcd_grants_nothing) {
  const Judged judged = judge(read_of(std::nullopt), "hostB", Generation(4), 0);
  EXPECT_EQ(judged.judgement, Judgement::refused);
  EXPECT_NE(judged.reason.find("lost its data"), std::string::npos);
}

TEST(EtcdMessages, etcd_that_went_back_in_time_grants_nothing) {
  EXPECT_EQ(
      judge(read_of(Holding{Generation(3), "hostA", false}), "hostB", Generation(4), 8).judgement,
      Judgement::refused);
}

TEST(EtcdMessages, generation_that_is_not_above_is_refused) {
  EXPECT_EQ(
      judge(read_of(Holding{Generation(3), "hostA", false}), "hostB", Generation(3), 0).judgement,
      Judgement::refused);
}

TEST(EtcdMessages, answers_of_a_real_etcd_are_read) {
  const auto missing = read_answer(fmt::format("{{{}}}", kHeader));
  ASSERT_TRUE(missing);
  EXPECT_FALSE(missing.value().holding);
  EXPECT_EQ(missing.value().header_revision, 7U);
  // {"generation":3,"holder":"hostA","claimed":false}
  const auto found = read_answer(fmt::format(
      R"({{{},"kvs":[{{"key":"Zm9v","create_revision":"2","mod_revision":"5","version":"1","value":"eyJnZW5lcmF0aW9uIjozLCJob2xkZXIiOiJob3N0QSIsImNsYWltZWQiOmZhbHNlfQ=="}}],"count":"1"}})",
      kHeader));
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(found.value().holding, (Holding{Generation(3), "hostA", false}));
  EXPECT_EQ(found.value().revision, 5U);
  EXPECT_TRUE(transaction_answer(fmt::format(R"({{{},"succeeded":true}})", kHeader)).value());
  EXPECT_FALSE(transaction_answer(fmt::format("{{{}}}", kHeader)).value());
  EXPECT_EQ(lease_answer(fmt::format(R"({{{},"ID":"7587","TTL":"10"}})", kHeader)).value(), "7587");
}

TEST(EtcdMessages, foreign_and_broken_answers_are_errors) {
  for (const std::string_view body :
       {"", "[]", "{}", R"({"error":"etcdserver: no leader","code":14})", R"({"header":1})"}) {
    EXPECT_FALSE(read_answer(body)) << body;
    EXPECT_FALSE(lease_answer(body)) << body;
  }
  EXPECT_FALSE(
      read_answer(fmt::format(R"({{{},"kvs":[{{"mod_revision":"5","value":"Zm9v"}}]}})", kHeader)))
      << "somebody else's value";
}

TEST(EtcdMessages, requests_name_the_key_of_the_protection) {
  EXPECT_EQ(key_of("/understudy/", "web1", ProtectionId(255)), "/understudy/web1/00000000000000ff");
  for (const std::string& request :
       {begin_request("k", {Generation(1), "hostA", false}),
        claim_request("k", 5, {Generation(2), "hostB", true}, "99"), read_request("k"),
        clear_request("/understudy/", "web1"), lease_request(std::chrono::seconds(4))}) {
    boost::system::error_code error;
    EXPECT_TRUE(boost::json::parse(request, error).is_object()) << request;
  }
}

}  // namespace
}  // namespace understudy::etcd
