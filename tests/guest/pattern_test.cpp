// Goal: filling and checking by words gives what the definition of one byte says, wherever a block
// begins and ends, and finds each wrong byte.
#include "tests/guest/pattern.h"

#include <gtest/gtest.h>

#include <string>

namespace understudy::guest {
namespace {

TEST(Pattern, blocks_at_every_offset_are_what_single_bytes_are) {
  for (std::uint64_t position = 0; position < 24; ++position) {
    for (std::size_t size = 0; size < 40; ++size) {
      std::string block(size, '\0');
      fill_pattern(5, position, block);
      for (std::size_t i = 0; i < size; ++i) {
        ASSERT_EQ(static_cast<std::uint8_t>(block[i]), pattern_byte(5, position + i));
      }
      EXPECT_EQ(count_wrong(5, position, block), 0U);
    }
  }
}

TEST(Pattern, each_wrong_byte_is_counted) {
  for (std::uint64_t position = 0; position < 9; ++position) {
    std::string block(40, '\0');
    fill_pattern(5, position, block);
    for (std::size_t i = 0; i < block.size(); ++i) {
      block[i] = static_cast<char>(block[i] ^ 1);
      EXPECT_EQ(count_wrong(5, position, block), i + 1);
    }
  }
}

}  // namespace
}  // namespace understudy::guest
