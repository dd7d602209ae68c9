// Goal: the ledger's replies are such that a lost, repeated or invented one is found. Method: the
// logic alone, line by line. Not tested here: sockets (the scene's tests do that against a guest).
#include "tests/guest/ledger.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <sstream>
#include <vector>

namespace understudy::guest {
namespace {

std::vector<std::string> words(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// True if the line's last word is the check value of what stands before it.
bool check_holds(const std::string& line) {
  const std::size_t cut = line.rfind(' ');
  return line.back() == '\n' &&
         line.substr(cut + 1, 16) == fmt::format("{:016x}", line_check(line.substr(0, cut)));
}

class LedgerTest : public ::testing::Test {
 protected:
  std::string ask(const std::string& line) { return ledger.answer(line, connection); }

  Ledger ledger{"boot-1"};
  LedgerConnection connection;
};

TEST_F(LedgerTest, receipt_tells_number_balances_chain_and_nonce) {
  const std::string line = ask("T 7 1 2 3 50 777");
  Transfer transfer{.client = 7, .sequence = 1, .from = 2, .to = 3, .amount = 50, .nonce = 777};
  EXPECT_TRUE(check_holds(line));
  EXPECT_TRUE(line.starts_with(fmt::format("R 1 7 1 2 3 50 999950 1000050 {:016x} 777 ",
                                           next_chain(ledger_initial_chain, 1, transfer))))
      << line;
}

TEST_F(LedgerTest, repeated_request_gets_the_first_receipt_and_is_not_applied_again) {
  const auto first = words(ask("T 7 1 2 3 50 777"));
  LedgerConnection second_connection;
  const auto second = words(ledger.answer("T 7 1 2 3 50 777", second_connection));
  EXPECT_EQ(second[0], "D");
  EXPECT_TRUE(std::equal(first.begin() + 1, first.end() - 1, second.begin() + 1));
  const auto state = words(ask("S"));
  EXPECT_EQ(state[1], "1");
  EXPECT_EQ(state[4], "1") << "repeated requests are counted";
  EXPECT_EQ(state[5], "0") << "it came on another connection";
}

TEST_F(LedgerTest, repeated_request_on_the_same_connection_is_flagged) {
  ask("T 7 1 2 3 50 777");
  ask("T 7 1 2 3 50 777");
  EXPECT_EQ(words(ask("S"))[5], "1");
}

TEST_F(LedgerTest, sequence_number_reused_for_another_transfer_is_refused) {
  ask("T 7 1 2 3 50 777");
  EXPECT_TRUE(ask("T 7 1 2 3 51 777").starts_with("E conflict"));
  EXPECT_TRUE(ask("T 7 1 2 3 50 778").starts_with("E conflict"));
  EXPECT_EQ(words(ask("S"))[1], "1");
}

TEST_F(LedgerTest, gap_in_the_sequence_is_refused) {
  EXPECT_TRUE(ask("T 7 2 2 3 50 777").starts_with("E sequence"));
  EXPECT_TRUE(ask("T 7 0 2 3 50 777").starts_with("E sequence"));
}

TEST_F(LedgerTest, malformed_requests_change_nothing) {
  for (const char* line :
       {"", "T", "T ", "T 1 1 2 3 50", "T 1 1 2 3 50 7 8", "T 4096 1 2 3 50 7", "T 1 1 1024 3 5 7",
        "T 1 1 2 3 -5 7", "T 1 1 2 3 99999999999 7", "T a", "Q", "Q ", "Q 0", "Q 1", "Q 1 1000",
        "Q x", "s", "T 1 1 2 3 50 99999999999999999999999"}) {
    const std::string reply = ask(line);
    EXPECT_TRUE(reply.starts_with("E ")) << line << " -> " << reply;
    EXPECT_TRUE(check_holds(reply));
  }
  EXPECT_EQ(words(ask("S"))[1], "0");
}

TEST_F(LedgerTest, full_ledger_refuses_and_still_answers) {
  for (std::uint64_t i = 1; i <= ledger_transfers_max; ++i) {
    ask(fmt::format("T 1 {} 2 3 1 {}", i, i));
  }
  EXPECT_TRUE(ask(fmt::format("T 1 {} 2 3 1 1", ledger_transfers_max + 1)).starts_with("E full"));
  EXPECT_EQ(words(ask("S"))[1], std::to_string(ledger_transfers_max));
}

TEST(LedgerProperty, any_history_adds_up_and_can_be_audited) {
  EXPECT_TRUE(rc::check("sum constant, chain reproducible from the entries", [] {
    Ledger ledger("boot-1");
    LedgerConnection connection;
    std::vector<std::uint32_t> sequence(8, 0);
    const auto transfers = *rc::gen::container<std::vector<std::tuple<int, int, int, int>>>(
        rc::gen::tuple(rc::gen::inRange(0, 8), rc::gen::inRange(0, 1024), rc::gen::inRange(0, 1024),
                       rc::gen::inRange(0, 1 << 30)));
    for (const auto& [client, from, to, amount] : transfers) {
      const auto reply =
          ledger.answer(fmt::format("T {} {} {} {} {} {}", client, ++sequence[client], from, to,
                                    amount, std::uint64_t{31} * static_cast<std::uint64_t>(amount)),
                        connection);
      RC_ASSERT(reply[0] == 'R');
    }
    const auto state = words(ledger.answer("S", connection));
    RC_ASSERT(state[1] == std::to_string(transfers.size()));
    RC_ASSERT(state[3] == std::to_string(ledger_accounts * ledger_initial_balance));
    std::uint64_t chain = ledger_initial_chain;
    for (std::uint64_t number = 1; number <= transfers.size(); ++number) {
      const auto entry = words(ledger.answer(fmt::format("Q {}", number), connection));
      const Transfer transfer{.client = static_cast<std::uint32_t>(std::stoul(entry[2])),
                              .sequence = static_cast<std::uint32_t>(std::stoul(entry[3])),
                              .from = static_cast<std::uint16_t>(std::stoul(entry[4])),
                              .to = static_cast<std::uint16_t>(std::stoul(entry[5])),
                              .amount = static_cast<std::uint32_t>(std::stoul(entry[6])),
                              .nonce = std::stoull(entry[8])};
      chain = next_chain(chain, number, transfer);
      RC_ASSERT(entry[7] == fmt::format("{:016x}", chain));
    }
    RC_ASSERT(state[2] == fmt::format("{:016x}", chain));
  }));
}

TEST(Pattern, damage_shift_and_foreign_seed_are_all_found) {
  std::vector<char> bytes(1000);
  fill_pattern(5, 13, bytes);
  EXPECT_EQ(count_wrong(5, 13, bytes), 0U);
  EXPECT_GT(count_wrong(5, 14, bytes), 900U) << "shifted by one";
  EXPECT_GT(count_wrong(6, 13, bytes), 900U) << "another connection's bytes";
  bytes[500] ^= 1;
  EXPECT_EQ(count_wrong(5, 13, bytes), 1U);
  for (std::size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(static_cast<std::uint8_t>(bytes[i]), pattern_byte(5, 13 + i));
  }
}

}  // namespace
}  // namespace understudy::guest
