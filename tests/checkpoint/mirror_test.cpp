// The mirror's promise about memory (zero pages cost nothing, also when they are asked for) and its
// promise about content. What workers do to it in parallel is in capture_test.
#include "checkpoint/mirror.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>

#include "checkpoint/changed_lines.h"
#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

constexpr std::uint64_t kAllLines = ~std::uint64_t{0};

/// Pages of the mirror that the kernel has in memory. Page 0 must hold content: its address is the
/// mirror's.
std::size_t resident_pages(const Mirror& mirror) {
  const std::byte* start = mirror.known_content(PageNumber(0));
  EXPECT_NE(start, zero_page());
  std::vector<unsigned char> resident(mirror.memory_pages());
  EXPECT_EQ(
      ::mincore(const_cast<std::byte*>(start), mirror.memory_pages() * kPageBytes, resident.data()),
      0);
  std::size_t pages = 0;
  for (const unsigned char flags : resident) pages += flags & 1U;
  return pages;
}

TEST(Mirror, starts_as_zeros) {
  const auto mirror = Mirror::create(1000).value();
  EXPECT_TRUE(mirror->known_zero(PageNumber(999)));
  EXPECT_EQ(mirror->known_content(PageNumber(999)), zero_page());
  EXPECT_EQ(mirror->resident_bytes(), 0U);
}

TEST(Mirror, asking_for_zero_pages_populates_nothing) {
  const auto mirror = Mirror::create(4096).value();
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  mirror->store(PageNumber(0), memory.page(0), kAllLines);
  unsigned sum = 0;
  for (std::uint64_t page = 1; page < 4096; ++page) {
    sum += std::to_integer<unsigned>(mirror->known_content(PageNumber(page))[7]);
  }
  EXPECT_EQ(sum, 0U);
  EXPECT_EQ(resident_pages(*mirror), 1U);
  EXPECT_EQ(mirror->resident_bytes(), kPageBytes);
}

TEST(Mirror, one_page_populates_one_page_and_no_huge_one) {
  const auto mirror = Mirror::create(8192).value();
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  mirror->store(PageNumber(0), memory.page(0), kAllLines);
  for (std::uint64_t page = 1; page < 8192; page += 512) {
    mirror->store(PageNumber(page), memory.page(0), kAllLines);
  }
  EXPECT_EQ(resident_pages(*mirror), 1U + 16U);
}

TEST(Mirror, pages_that_become_zero_again_are_given_back) {
  const auto mirror = Mirror::create(64).value();
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  for (std::uint64_t page = 0; page < 64; ++page) {
    mirror->store(PageNumber(page), memory.page(0), kAllLines);
  }
  EXPECT_EQ(resident_pages(*mirror), 64U);
  const std::array<PageNumber, 4> zeroed{PageNumber(3), PageNumber(4), PageNumber(5),
                                         PageNumber(63)};
  for (const PageNumber page : zeroed) mirror->store_zero(page);
  mirror->release(zeroed);
  EXPECT_EQ(resident_pages(*mirror), 60U);
  EXPECT_EQ(mirror->known_content(PageNumber(4)), zero_page());
}

TEST(Mirror, old_content_behind_a_zero_page_does_not_come_back) {
  const auto mirror = Mirror::create(1).value();
  test::Memory old_content(1);
  old_content.change(0, test::Write::random, 1);
  mirror->store(PageNumber(0), old_content.page(0), kAllLines);
  mirror->store_zero(PageNumber(0));  // Not released: the kernel still has the old octets.
  test::Memory sparse(1);
  sparse.page(0)[100] = std::byte{1};
  mirror->store(PageNumber(0), sparse.page(0), std::uint64_t{1} << 1);
  EXPECT_EQ(std::memcmp(mirror->known_content(PageNumber(0)), sparse.page(0), kPageBytes), 0);
}

TEST(Mirror, reset_forgets_everything) {
  const auto mirror = Mirror::create(8).value();
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  mirror->store(PageNumber(5), memory.page(0), kAllLines);
  mirror->reset();
  EXPECT_TRUE(mirror->known_zero(PageNumber(5)));
  EXPECT_EQ(mirror->resident_bytes(), 0U);
}

TEST(Mirror, without_copies_it_still_knows_zero_pages) {
  const auto mirror = Mirror::create(8, Mirror::Keep::zero_bits).value();
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  EXPECT_EQ(mirror->known_content(PageNumber(1)), zero_page());
  mirror->store(PageNumber(1), memory.page(0), kAllLines);
  EXPECT_EQ(mirror->known_content(PageNumber(1)), nullptr);
  EXPECT_FALSE(mirror->known_zero(PageNumber(1)));
  EXPECT_EQ(mirror->resident_bytes(), 0U);
  mirror->store_zero(PageNumber(1));
  EXPECT_EQ(mirror->known_content(PageNumber(1)), zero_page());
}

}  // namespace
}  // namespace understudy
