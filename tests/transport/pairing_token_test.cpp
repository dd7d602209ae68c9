// Tokens and the desk that keeps them, under a clock of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/pairing.h"

namespace understudy::transport {
namespace {

using std::chrono::seconds;

const PairingDesk::Time kStart{seconds(1000)};
const Endpoint kHere{"192.0.2.2", 7411};

Fingerprint own() {
  Fingerprint made;
  made.octets.fill(0xb);
  return made;
}

TEST(PairingToken, is_one_word_and_reads_back) {
  PairingDesk desk;
  const auto token = desk.issue(kStart, own(), {"2001:db8::2", 7411}).value();
  const std::string text = token.text();
  EXPECT_EQ(text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                   "0123456789-_."),
            std::string::npos);
  const auto read = PairingToken::parse("  " + text + "\n");
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read.value().id, token.id);
  EXPECT_EQ(read.value().secret, token.secret);
  EXPECT_EQ(read.value().fingerprint, own());
  EXPECT_EQ(read.value().endpoint, token.endpoint);
}

TEST(PairingToken, mistyped_in_any_place_or_cut_off_it_is_refused) {
  PairingDesk desk;
  const std::string text = desk.issue(kStart, own(), kHere).value().text();
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    std::string wrong = text;
    wrong[i] = wrong[i] == 'x' ? 'y' : 'x';
    EXPECT_FALSE(PairingToken::parse(wrong)) << i;
    EXPECT_FALSE(PairingToken::parse(text.substr(0, i))) << i;
  }
  EXPECT_FALSE(PairingToken::parse(text + "A"));
  EXPECT_FALSE(PairingToken::parse(std::string(1000, 'x')));
}

TEST(PairingDesk, a_token_works_until_it_ends) {
  PairingDesk desk({.validity = seconds(60)});
  EXPECT_FALSE(desk.open(kStart));
  const auto token = desk.issue(kStart, own(), kHere).value();
  EXPECT_TRUE(desk.open(kStart + seconds(59)));
  EXPECT_EQ(desk.secret(kStart + seconds(59), token.id).value(), token.secret);
  EXPECT_FALSE(desk.open(kStart + seconds(60)));
  EXPECT_FALSE(desk.secret(kStart + seconds(60), token.id));
  EXPECT_FALSE(desk.redeem(kStart + seconds(60), token.id));
}

TEST(PairingDesk, a_token_works_once) {
  PairingDesk desk;
  const auto token = desk.issue(kStart, own(), kHere).value();
  EXPECT_TRUE(desk.redeem(kStart, token.id));
  EXPECT_FALSE(desk.redeem(kStart, token.id));
  EXPECT_FALSE(desk.secret(kStart, token.id));
  EXPECT_FALSE(desk.open(kStart));
}

TEST(PairingDesk, wrong_proofs_withdraw_the_token_that_they_were_for_and_no_other) {
  PairingDesk desk({.tries_max = 3});
  const auto tried = desk.issue(kStart, own(), kHere).value();
  const auto other = desk.issue(kStart, own(), kHere).value();
  desk.wrong_proof(tried.id);
  desk.wrong_proof(tried.id);
  EXPECT_TRUE(desk.secret(kStart, tried.id));
  desk.wrong_proof(tried.id);
  EXPECT_FALSE(desk.secret(kStart, tried.id));
  EXPECT_TRUE(desk.secret(kStart, other.id));
}

TEST(PairingDesk, unknown_used_and_expired_tokens_are_refused_in_the_same_words) {
  PairingDesk desk({.validity = seconds(60)});
  const auto used = desk.issue(kStart, own(), kHere).value();
  desk.redeem(kStart, used.id);
  const auto expired = desk.issue(kStart, own(), kHere).value();
  const std::string unknown_text = desk.secret(kStart, {}).error().message();
  EXPECT_EQ(desk.secret(kStart, used.id).error().message(), unknown_text);
  EXPECT_EQ(desk.secret(kStart + seconds(61), expired.id).error().message(), unknown_text);
}

TEST(PairingDesk, the_number_of_pending_tokens_is_bounded_and_ends_make_room) {
  PairingDesk desk({.validity = seconds(60), .pending_max = 2});
  ASSERT_TRUE(desk.issue(kStart, own(), kHere));
  ASSERT_TRUE(desk.issue(kStart, own(), kHere));
  const auto third = desk.issue(kStart, own(), kHere);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code(), ErrorCode::try_again);
  EXPECT_TRUE(desk.issue(kStart + seconds(60), own(), kHere));
  desk.withdraw_all();
  EXPECT_FALSE(desk.open(kStart + seconds(60)));
}

}  // namespace
}  // namespace understudy::transport
