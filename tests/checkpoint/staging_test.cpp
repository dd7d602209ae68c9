// The arena is bounded, chunks come back, and the copy takes exactly the pages of the dirty set.
#include "checkpoint/staging.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

TEST(DirtySet, disorder_overlap_emptiness_and_excess_are_seen) {
  const auto well_formed = [](const DirtySet& set) { return is_well_formed(set, 100); };
  EXPECT_TRUE(well_formed({}));
  EXPECT_TRUE(well_formed({{0, 100}}));
  EXPECT_TRUE(well_formed({{0, 1}, {1, 1}, {99, 1}}));
  EXPECT_FALSE(well_formed({{5, 1}, {4, 1}}));
  EXPECT_FALSE(well_formed({{4, 2}, {5, 1}}));
  EXPECT_FALSE(well_formed({{4, 0}}));
  EXPECT_FALSE(well_formed({{100, 1}}));
  EXPECT_FALSE(well_formed({{99, 2}}));
  EXPECT_FALSE(well_formed({{1, ~std::uint64_t{0}}}));
}

TEST(DirtyCursor, cuts_long_runs_and_keeps_short_ones) {
  const DirtySet dirty{{2, 3}, {10, 300}};
  DirtyCursor cursor(dirty);
  EXPECT_EQ(cursor.pages_left(), 303U);
  EXPECT_EQ(cursor.take(256), (PageRange{2, 3}));
  EXPECT_EQ(cursor.take(253), (PageRange{10, 253}));
  EXPECT_EQ(cursor.take(256), (PageRange{263, 47}));
  EXPECT_EQ(cursor.pages_left(), 0U);
  EXPECT_EQ(cursor.take(256).count, 0U);
}

TEST(StagingChunk, holds_a_copy_and_not_the_memory_itself) {
  test::Memory memory(8);
  memory.change(3, test::Write::random, 3);
  memory.change(7, test::Write::random, 7);
  const test::Memory before = memory;
  StagingArena arena = StagingArena::create(1).value();
  std::optional<StagingChunk> chunk = arena.try_acquire();
  ASSERT_TRUE(chunk);
  const DirtySet dirty{{3, 1}, {7, 1}};
  DirtyCursor cursor(dirty);
  EXPECT_EQ(chunk->fill(memory.bytes(), cursor), 2U);
  memory.change(3, test::Write::zero, 0);  // The domain runs on.
  ASSERT_EQ(chunk->pages().size(), 2U);
  EXPECT_EQ(chunk->pages()[0].page, PageNumber(3));
  EXPECT_EQ(chunk->pages()[1].page, PageNumber(7));
  for (const StagedPage& page : chunk->pages()) {
    EXPECT_EQ(
        std::memcmp(page.content, before.bytes().data() + page.page.value * kPageBytes, kPageBytes),
        0);
  }
}

TEST(StagingArena, a_dirty_set_larger_than_the_arena_finds_it_empty_and_not_grown) {
  test::Memory memory(3 * kBatchPagesMax);
  const DirtySet dirty{{0, 3 * kBatchPagesMax}};
  DirtyCursor cursor(dirty);
  StagingArena arena = StagingArena::create(2).value();
  std::vector<StagingChunk> held;
  while (std::optional<StagingChunk> chunk = arena.try_acquire()) {
    EXPECT_EQ(chunk->fill(memory.bytes(), cursor), kBatchPagesMax);
    held.push_back(std::move(*chunk));
  }
  EXPECT_EQ(held.size(), 2U);
  EXPECT_EQ(arena.chunks_free(), 0U);
  EXPECT_EQ(cursor.pages_left(), kBatchPagesMax);
  held.pop_back();
  EXPECT_EQ(arena.chunks_free(), 1U);
  EXPECT_TRUE(arena.try_acquire());
}

TEST(StagingChunk, outlives_its_arena) {
  test::Memory memory(1);
  memory.change(0, test::Write::random, 1);
  std::optional<StagingChunk> chunk;
  {
    StagingArena arena = StagingArena::create(1).value();
    chunk = arena.try_acquire();
  }
  const DirtySet dirty{{0, 1}};
  DirtyCursor cursor(dirty);
  EXPECT_EQ(chunk->fill(memory.bytes(), cursor), 1U);
  EXPECT_EQ(std::memcmp(chunk->pages()[0].content, memory.page(0), kPageBytes), 0);
}

}  // namespace
}  // namespace understudy
