// Every comparer against a plain loop, at every alignment that vectors care about. A wrong bit here
// is a line that the backup never gets, so all single octets are tried, not a sample.
#include "checkpoint/changed_lines.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace understudy {
namespace {

class ChangedLines : public testing::TestWithParam<const PageComparer*> {};

TEST_P(ChangedLines, a_single_octet_anywhere_sets_exactly_its_line) {
  for (const std::size_t offset : {0U, 1U, 16U, 31U}) {
    std::vector<std::byte> left(kPageBytes + offset, std::byte{0x5A});
    std::vector<std::byte> right = left;
    for (std::size_t at = 0; at < kPageBytes; ++at) {
      right[offset + at] = std::byte{0x5B};
      EXPECT_EQ(GetParam()->changed_lines(left.data() + offset, right.data() + offset),
                std::uint64_t{1} << (at / kLineBytes))
          << "octet " << at;
      right[offset + at] = std::byte{0x5A};
    }
    EXPECT_EQ(GetParam()->changed_lines(left.data() + offset, right.data() + offset), 0U);
  }
}

TEST_P(ChangedLines, a_single_bit_anywhere_makes_a_page_not_zero) {
  std::vector<std::byte> page(kPageBytes + 1);
  EXPECT_TRUE(GetParam()->is_zero_page(page.data() + 1));
  for (std::size_t at = 0; at < kPageBytes; ++at) {
    page[1 + at] = static_cast<std::byte>(1U << (at % 8));
    EXPECT_FALSE(GetParam()->is_zero_page(page.data() + 1)) << "octet " << at;
    page[1 + at] = std::byte{0};
  }
}

TEST_P(ChangedLines, agrees_with_the_portable_one_on_random_pages) {
  const PageComparer& portable = *available_page_comparers().front();
  std::mt19937_64 random(1);
  std::vector<std::byte> left(kPageBytes);
  std::vector<std::byte> right(kPageBytes);
  for (int round = 0; round < 2000; ++round) {
    for (std::byte& octet : left) octet = static_cast<std::byte>(random());
    right = left;
    for (std::uint64_t writes = random() % 100; writes > 0; --writes) {
      right[random() % kPageBytes] = static_cast<std::byte>(random());
    }
    ASSERT_EQ(GetParam()->changed_lines(left.data(), right.data()),
              portable.changed_lines(left.data(), right.data()));
    ASSERT_EQ(GetParam()->is_zero_page(left.data()), portable.is_zero_page(left.data()));
  }
}

TEST_P(ChangedLines, all_lines_differ) {
  const std::vector<std::byte> ones(kPageBytes, std::byte{0xFF});
  EXPECT_EQ(GetParam()->changed_lines(ones.data(), zero_page()), ~std::uint64_t{0});
}

INSTANTIATE_TEST_SUITE_P(Comparers, ChangedLines, testing::ValuesIn(available_page_comparers()),
                         [](const auto& instance) { return std::string(instance.param->name); });

TEST(PageComparer, the_chosen_one_is_available) {
  bool found = false;
  for (const PageComparer* comparer : available_page_comparers()) {
    found = found || comparer == &page_comparer();
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace understudy
