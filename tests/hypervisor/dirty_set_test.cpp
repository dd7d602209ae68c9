// Goal: sets of pages as ranges keep their promises. Method: against a plain std::set of pages.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <set>

#include "hypervisor/domain.h"

namespace understudy {
namespace {

DirtySet ranges_of(const std::set<std::uint64_t>& pages) {
  DirtySet set;
  for (const std::uint64_t page : pages) {
    if (!set.empty() && set.back().first + set.back().count == page) {
      ++set.back().count;
    } else {
      set.push_back({page, 1});
    }
  }
  return set;
}

TEST(DirtySetTest, PageLostOrInventedByAUnionIsFound) {
  EXPECT_TRUE(rc::check("merge is the union of the pages, as few ranges as possible", [] {
    const auto some =
        rc::gen::container<std::set<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(0, 200));
    const std::set<std::uint64_t> left = *some;
    const std::set<std::uint64_t> right = *some;
    std::set<std::uint64_t> both = left;
    both.insert(right.begin(), right.end());
    const DirtySet merged = merge(ranges_of(left), ranges_of(right));
    RC_ASSERT(merged == ranges_of(both));
    RC_ASSERT(count_pages(merged) == both.size());
  }));
}

TEST(DirtySetTest, EmptySetsAreNothing) {
  EXPECT_EQ(count_pages({}), 0u);
  EXPECT_TRUE(merge({}, {}).empty());
}

}  // namespace
}  // namespace understudy
