// The mirror: what the backup is known to hold, kept on the primary.
//
// Encoding needs the old content of each dirty page to send only the lines that changed. The mirror
// is a copy of the domain's memory as it was last *encoded for sending*. It starts as all zeros,
// which is what the backup's image starts as, and every encoded page moves both forward.
//
// Awkward cases:
// - The mirror runs ahead of the backup: a page is in the mirror as soon as it is encoded, before
// it
//   is sent. When a checkpoint is given up half-way (link lost), nobody knows what the backup
//   holds: reset() the mirror and synchronise from scratch.
// - Zero pages must cost nothing. Reading an untouched anonymous page would map the shared zero
// page
//   and build page tables, and huge pages would populate 2 MiB at a touch. So a bit for each page
//   says whether the mirror holds content at all; where it does not, the page is zero and the
//   mapping is never touched; huge pages are refused. A page that becomes zero again is given back
//   to the kernel.
// - A primary short of memory can keep the bits alone (Keep::zero_bits): pages known to be zero are
//   still compared, all others are sent whole.
//
// Not taken: reading the old content back from the backup (a round trip in each epoch), or hashes
// of lines (half the comparisons' memory traffic, but an equal hash is a hope and not a proof).
//
// Threads: workers may use different pages of one mirror at the same time. One page belongs to one
// worker at a time; CheckpointCapture sees to that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"
#include "base/mapping.h"
#include "base/result.h"

namespace understudy {

/// What the backup holds, page by page. Not movable: workers keep references to it.
class Mirror {
 public:
  /// What is remembered of a page that is not zero.
  enum class Keep {
    copies,     ///< Its content: up to the size of the domain's memory.
    zero_bits,  ///< Only that it is not known to be zero: one bit a page.
  };

  /// A mirror of `memory_pages` pages that are all zero. no_resources when the address space or the
  /// bits cannot be had.
  static Result<std::shared_ptr<Mirror>> create(std::uint64_t memory_pages,
                                                Keep keep = Keep::copies);

  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  [[nodiscard]] std::uint64_t memory_pages() const { return memory_pages_; }
  [[nodiscard]] Keep keep() const { return keep_; }

  /// The page's content as the backup knows it (zero_page() for a zero page), or null when it is
  /// not known. Valid until the page is next written here.
  [[nodiscard]] const std::byte* known_content(PageNumber page) const;
  /// Whether the backup is known to hold zeros there.
  [[nodiscard]] bool known_zero(PageNumber page) const;

  /// The backup is to hold `content` (kPageBytes, not all zero); `changed_lines` says which lines
  /// differ from known_content(), all ones when that is null.
  void store(PageNumber page, const std::byte* content, std::uint64_t changed_lines);
  /// The backup is to hold zeros in `page`. Its memory is given back by release().
  void store_zero(PageNumber page);
  /// Gives the memory behind `pages` back to the kernel. Each must have been stored as zero by the
  /// same worker within the same batch (a page that got content in between would lose it). Rising
  /// order makes it one system call for each run.
  void release(std::span<const PageNumber> pages);

  /// All pages are zero again, all memory given back. No worker may be at work.
  void reset();
  /// Octets of memory that hold content now.
  [[nodiscard]] std::uint64_t resident_bytes() const;

 private:
  Mirror(Mapping copies, std::uint64_t memory_pages, Keep keep,
         std::unique_ptr<std::atomic<std::uint64_t>[]> not_zero);

  [[nodiscard]] std::byte* slot(PageNumber page) {
    return copies_.bytes().data() + page.value * kPageBytes;
  }

  Mapping copies_;  // Invalid with Keep::zero_bits.
  std::uint64_t memory_pages_;
  Keep keep_;
  // One bit a page: it may be other than zero, and then copies_ holds its content.
  std::unique_ptr<std::atomic<std::uint64_t>[]> not_zero_;
};

}  // namespace understudy
