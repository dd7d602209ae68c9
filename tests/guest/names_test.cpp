// Goal: the register of names keeps its word: one serial number for each request, the same reply
// to the same question. Not tested here: the socket.
#include "tests/guest/names.h"

#include <gtest/gtest.h>

namespace understudy::guest {
namespace {

std::string without_check(const std::string& reply) {
  return reply.substr(0, reply.rfind(' '));
}

TEST(Names, each_new_request_gets_the_next_number_and_a_repeated_one_the_same_reply) {
  Names names("boot");
  const std::string first = names.answer("N 1 1 77");
  EXPECT_EQ(without_check(first), "N 1 1 77 1 boot");
  EXPECT_EQ(without_check(names.answer("N 2 1 78")), "N 2 1 78 2 boot");
  EXPECT_EQ(names.answer("N 1 1 77"), first);
  EXPECT_EQ(without_check(names.answer("N 1 2 79")), "N 1 2 79 3 boot");
  EXPECT_EQ(without_check(names.answer("S")), "S 3 1 boot");
}

TEST(Names, a_repetition_with_another_nonce_hears_the_first_one) {
  Names names("boot");
  (void)names.answer("N 1 1 77");
  EXPECT_EQ(without_check(names.answer("N 1 1 99")), "N 1 1 77 1 boot");
}

TEST(Names, a_request_older_than_what_is_remembered_is_refused) {
  Names names("boot");
  (void)names.answer("N 1 1 77");
  (void)names.answer("N 1 65 78");
  EXPECT_EQ(without_check(names.answer("N 1 1 77")), "E forgotten");
}

TEST(Names, malformed_requests_change_nothing) {
  Names names("boot");
  for (const std::string_view request : {"", "N", "N 1 1", "N 1 0 5", "N 1024 1 5", "N -1 1 5",
                                         "N 1 1 5 6", "N 1 1 5 ", "X 1 1 5", "N 1 1 5\n", "?"}) {
    EXPECT_TRUE(names.answer(request).starts_with("E ")) << request;
  }
  EXPECT_EQ(without_check(names.answer("S")), "S 0 0 boot");
}

TEST(Names, the_check_value_covers_the_text) {
  Names names("boot");
  const std::string reply = names.answer("N 1 1 77");
  std::array<char, 24> check = {};
  std::snprintf(check.data(), check.size(), "%016llx",
                static_cast<unsigned long long>(line_check(without_check(reply))));
  EXPECT_EQ(reply.substr(reply.rfind(' ') + 1), check.data());
}

}  // namespace
}  // namespace understudy::guest
