// Pairing over real links: two hosts that do not know each other, a token, and those who try
// without.
#include "transport/pairing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/transport/two_hosts.h"

namespace understudy::transport {
namespace {

using testing::HasSubstr;

// Two strangers; B listens and answers pairing as an agent does.
struct Strangers : TwoHosts {
  std::shared_ptr<PairingDesk> desk =
      std::make_shared<PairingDesk>(PairingSettings{.tries_max = 2});
  std::vector<Result<Peer>> answers;
  std::unique_ptr<Listener> listener;

  Strangers() {
    (void)a.peers->remove("hostB");
    (void)b.peers->remove("hostA");
    listener = Listener::open(
                   io.get_executor(), {"127.0.0.1", 0}, b, desk,
                   [this](std::unique_ptr<Link> link) -> Task<void> {
                     PairingOffer offer{b.name, {}, listener->endpoint().port};
                     answers.push_back(co_await answer_pairing(std::move(link), b, offer, desk));
                   })
                   .value();
  }
  PairingToken token() {
    return desk
        ->issue(std::chrono::steady_clock::now(), b.identity->fingerprint(), listener->endpoint())
        .value();
  }
  Result<Peer> pair(const PairingToken& token) {
    return run(pair_with(io.get_executor(), a, {a.name, {{"192.0.2.1", 7411}}, 7411}, token));
  }
  void expect_strangers() {
    EXPECT_TRUE(a.peers->all().empty());
    EXPECT_TRUE(b.peers->all().empty());
  }
};

TEST(Pairing, with_the_token_both_hosts_store_each_other_and_can_talk) {
  Strangers hosts;
  const auto paired = hosts.pair(hosts.token());
  ASSERT_TRUE(paired) << paired.error().message();
  EXPECT_EQ(paired.value().name, "hostB");
  hosts.run_until([&] { return !hosts.answers.empty(); });
  ASSERT_TRUE(hosts.answers[0]) << hosts.answers[0].error().message();

  const Peer* const at_a = hosts.a.peers->find("hostB");
  ASSERT_NE(at_a, nullptr);
  EXPECT_EQ(at_a->fingerprint, hosts.b.identity->fingerprint());
  ASSERT_EQ(at_a->addresses.size(), 1U);
  EXPECT_EQ(at_a->addresses[0].remote, hosts.listener->endpoint());
  const Peer* const at_b = hosts.b.peers->find("hostA");
  ASSERT_NE(at_b, nullptr);
  EXPECT_EQ(at_b->fingerprint, hosts.a.identity->fingerprint());
  EXPECT_EQ(at_b->addresses[0].remote.text(), "192.0.2.1:7411");

  Connector connector(hosts.io.get_executor(), hosts.a);
  EXPECT_TRUE(hosts.run(connector.connect("hostB", LinkPurpose::control)));
}

TEST(Pairing, a_used_token_is_refused) {
  Strangers hosts;
  const auto token = hosts.token();
  ASSERT_TRUE(hosts.pair(token));
  hosts.run_until([&] { return !hosts.answers.empty(); });
  // Both as the host that is known by now, and as a stranger who has picked the token up.
  const auto again = hosts.pair(token);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), ErrorCode::not_authorized);
  hosts.a = make_host("hostE");
  const auto stranger = hosts.pair(token);
  ASSERT_FALSE(stranger);
  EXPECT_EQ(stranger.error().code(), ErrorCode::not_authorized);
  EXPECT_THAT(stranger.error().message(), HasSubstr("used, expired"));
  EXPECT_EQ(hosts.b.peers->all().size(), 1U);
}

TEST(Pairing, an_expired_token_is_refused) {
  Strangers hosts;
  // A second token keeps the door open, so that the refusal comes from the desk.
  const auto expired = hosts.desk
                           ->issue(std::chrono::steady_clock::now() - std::chrono::hours(1),
                                   hosts.b.identity->fingerprint(), hosts.listener->endpoint())
                           .value();
  const auto closed = hosts.pair(expired);
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().code(), ErrorCode::not_authorized);
  hosts.token();
  const auto refused = hosts.pair(expired);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::not_authorized);
  hosts.expect_strangers();
}

TEST(Pairing, a_wrong_secret_is_refused_counted_and_withdraws_the_token) {
  Strangers hosts;
  const auto token = hosts.token();
  auto wrong = token;
  wrong.secret[3] ^= 1;
  for (int i = 0; i < 2; ++i) {
    const auto refused = hosts.pair(wrong);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::not_authorized);
  }
  // Two wrong tries were the limit: now even the right one is no good.
  const auto late = hosts.pair(token);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), ErrorCode::not_authorized);
  hosts.expect_strangers();
}

TEST(Pairing, a_wrong_try_below_the_limit_leaves_the_token_good) {
  Strangers hosts;
  const auto token = hosts.token();
  auto wrong = token;
  wrong.secret[3] ^= 1;
  EXPECT_FALSE(hosts.pair(wrong));
  EXPECT_TRUE(hosts.pair(token));
}

TEST(Pairing, a_host_with_another_certificate_than_the_token_says_hears_nothing_from_us) {
  Strangers hosts;
  auto token = hosts.token();
  token.fingerprint.octets[0] ^= 1;
  const auto refused = hosts.pair(token);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(hosts.answers.empty());
  hosts.expect_strangers();
}

TEST(Pairing, a_man_in_the_middle_who_forwards_a_claim_gets_nothing) {
  // Eve has lured A to her own listener (as if A had a token with her certificate), and replays A's
  // claim to B over her own TLS session: the proof is bound to A's session, so B refuses.
  Strangers hosts;
  const auto token = hosts.token();
  const auto eve = TlsIdentity::generate().value();
  LocalHost eves = make_host("hostE");
  eves.identity = eve;
  Octets stolen;
  const auto trap_desk = std::make_shared<PairingDesk>();
  ASSERT_TRUE(
      trap_desk->issue(std::chrono::steady_clock::now(), eve->fingerprint(), {"127.0.0.1", 1}));
  const auto trap = Listener::open(hosts.io.get_executor(), {"127.0.0.1", 0}, eves, trap_desk,
                                   [&](std::unique_ptr<Link> link) -> Task<void> {
                                     auto frame = co_await link->receive();
                                     if (frame) stolen = frame.value().payload;
                                   })
                        .value();
  auto lured = token;
  lured.fingerprint = eve->fingerprint();
  lured.endpoint = trap->endpoint();
  EXPECT_FALSE(hosts.pair(lured));
  ASSERT_FALSE(stolen.empty());

  RudePeer forwarded(hosts, hosts.listener->endpoint(), eve);
  ASSERT_TRUE(forwarded.shake());
  forwarded.hello(LinkPurpose::pairing);
  ASSERT_TRUE(forwarded.hear());
  forwarded.say(FrameType::pairing, stolen);
  const auto heard = forwarded.hear();
  ASSERT_TRUE(heard) << heard.error().message();
  EXPECT_EQ(heard.value().type, FrameType::refusal);
  hosts.expect_strangers();
}

TEST(Pairing, malformed_claims_are_refused_and_store_nothing) {
  for (const std::string& claim : {std::string(), std::string(1, '\x01'), std::string(40, '\x01'),
                                   std::string(41, '\x01'), std::string(3000, '\x02')}) {
    Strangers hosts;
    hosts.token();
    RudePeer peer(hosts, hosts.listener->endpoint(), TlsIdentity::generate().value());
    ASSERT_TRUE(peer.shake());
    peer.hello(LinkPurpose::pairing);
    ASSERT_TRUE(peer.hear());
    peer.say(FrameType::pairing, octets(claim));
    const auto heard = peer.hear();
    ASSERT_TRUE(heard) << heard.error().message();
    EXPECT_EQ(heard.value().type, FrameType::refusal);
    hosts.expect_strangers();
  }
}

TEST(Pairing, a_name_that_is_taken_is_refused_and_the_token_stays_good) {
  Strangers hosts;
  const auto token = hosts.token();
  Fingerprint other;
  other.octets.fill(7);
  ASSERT_TRUE(hosts.b.peers->put({"hostA", other, {}}));
  const auto refused = hosts.pair(token);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::exists);
  EXPECT_TRUE(hosts.a.peers->all().empty());
  ASSERT_TRUE(hosts.b.peers->remove("hostA"));
  EXPECT_TRUE(hosts.pair(token));
}

TEST(Pairing, two_hosts_of_the_same_name_and_a_host_with_itself_are_refused) {
  Strangers hosts;
  hosts.a.name = "hostB";
  const auto same = hosts.pair(hosts.token());
  ASSERT_FALSE(same);
  EXPECT_EQ(same.error().code(), ErrorCode::exists);
  hosts.a = hosts.b;
  const auto itself = hosts.pair(hosts.token());
  ASSERT_FALSE(itself);
  EXPECT_EQ(itself.error().code(), ErrorCode::usage);
}

TEST(Pairing, anew_after_one_side_forgot_mends_it) {
  Strangers hosts;
  ASSERT_TRUE(hosts.pair(hosts.token()));
  ASSERT_TRUE(hosts.a.peers->remove("hostB"));
  EXPECT_TRUE(hosts.pair(hosts.token()));
  EXPECT_EQ(hosts.b.peers->all().size(), 1U);
  EXPECT_EQ(hosts.a.peers->all().size(), 1U);
}

}  // namespace
}  // namespace understudy::transport
