// Which pages: runs of guest pages, the form in which hypervisors report dirty memory and in which
// it is captured.
//
// A run costs 16 octets however long it is; a guest that writes a buffer dirties pages that lie
// side by side, so runs are both the smallest form and the one that can be copied fastest. A bitmap
// was the alternative: its size follows the memory, not the work done.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace understudy {

/// `count` pages that follow one another, from `first` on. `count` is at least 1 in a DirtySet.
struct PageRange {
  PageNumber first;
  std::uint64_t count = 0;

  /// The first page after the range.
  [[nodiscard]] constexpr PageNumber end() const { return PageNumber(first.value + count); }
  constexpr auto operator<=>(const PageRange&) const = default;
};

/// The pages that were written since the last question: ranges in rising order that neither overlap
/// nor are empty. Ranges that touch may stay apart.
using DirtySet = std::vector<PageRange>;

/// How many pages `ranges` hold together.
[[nodiscard]] constexpr std::uint64_t page_count(std::span<const PageRange> ranges) {
  std::uint64_t pages = 0;
  for (const PageRange& range : ranges) pages += range.count;
  return pages;
}

/// Whether `ranges` keep the promise of DirtySet and lie within `memory_pages` pages of memory.
[[nodiscard]] constexpr bool is_well_formed(std::span<const PageRange> ranges,
                                            std::uint64_t memory_pages) {
  std::uint64_t next_free = 0;
  for (const PageRange& range : ranges) {
    if (range.count == 0 || range.first.value < next_free || range.first.value > memory_pages ||
        range.count > memory_pages - range.first.value) {
      return false;
    }
    next_free = range.first.value + range.count;
  }
  return true;
}

}  // namespace understudy
