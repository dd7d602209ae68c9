// Which 64-octet lines of a page differ: the inner loop of every checkpoint.
//
// A page is 64 lines of 64 octets, so one 64-bit word says which of them changed. Guests that write
// a counter or a list node dirty a whole page for the sake of one line; sending lines instead of
// pages is most of what makes a checkpoint small.
//
// Three implementations (SSE2, AVX2, AVX-512) and a portable one do the same; the best that the
// processor offers is chosen once at run time, so one binary serves all hosts. Finer grain (octets,
// as in XBZRLE) was the alternative: it costs a second pass and saves little that lz4 does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace understudy {

/// Octets in a line: a cache line, and the grain of differences on the wire.
inline constexpr std::size_t kLineBytes = 64;
/// Lines in a page: as many as a 64-bit word has bits.
inline constexpr std::size_t kLinesPerPage = kPageBytes / kLineBytes;
static_assert(kLinesPerPage == 64);

/// One way to compare pages. Both functions are pure, take pages of kPageBytes octets at any
/// alignment, and may run on any number of threads.
struct PageComparer {
  /// For logs and benchmarks: "avx512", "avx2", "sse2" or "portable".
  std::string_view name;
  /// Bit i is set when octets [64·i, 64·i+64) of `left` and `right` differ.
  std::uint64_t (*changed_lines)(const std::byte* left, const std::byte* right);
  /// Whether all octets of `page` are zero.
  bool (*is_zero_page)(const std::byte* page);
};

/// The fastest comparer that this processor can run; chosen at the first call.
const PageComparer& page_comparer();

/// Every comparer that this processor can run, portable first: for tests that hold them against
/// each other and for benchmarks.
std::vector<const PageComparer*> available_page_comparers();

/// kPageBytes of zeros.
const std::byte* zero_page();

}  // namespace understudy
