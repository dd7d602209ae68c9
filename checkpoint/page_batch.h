// Page batches: up to 256 pages on their way to the backup.
//
// Each page travels in the smallest of three forms: zero (nothing but its number), lines (a bitmap
// and the 64-octet lines that differ from what the backup holds) or raw. A page that equals the
// mirror is left out; that is how the full compare works on kernels that cannot name dirty pages.
// Then lz4 goes over the whole body, and is kept if that is smaller: numbers and bitmaps shrink
// with the rest, and lz4 finds what pages have in common. Octet by octet:
// docs/protocol-checkpoint.md.
//
// Lines carry their new content, not the difference (XOR) to the old one, although XOR would
// compress better: content can be applied twice without harm, and does not depend on what the image
// held before, so an apply that was cut short is simply repeated.
//
// A batch is judged as a whole before any of it is used: checksum, sizes, order, page numbers and
// the length of every part. Limits are checked before memory is taken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/changed_lines.h"
#include "checkpoint/mirror.h"

namespace understudy {

/// Pages that a batch (and a staging chunk) holds at most: 1 MiB of guest memory.
inline constexpr std::size_t kBatchPagesMax = 256;
/// Octets before the body.
inline constexpr std::size_t kBatchHeaderBytes = 32;
/// Octets of a body before compression, at most: number and content of 256 raw pages.
inline constexpr std::size_t kBatchPlainBytesMax = kBatchPagesMax * (8 + kPageBytes);
/// Octets of a whole batch, at most: a body is never larger than its plain form.
inline constexpr std::size_t kBatchBytesMax = kBatchHeaderBytes + kBatchPlainBytesMax;

/// A page as it was when the domain stood still. Does not own the content.
struct StagedPage {
  PageNumber page;
  const std::byte* content = nullptr;  ///< kPageBytes octets.
};

/// What encoding did, summed up over batches.
struct EncodeStatistics {
  std::uint64_t pages_in = 0;         ///< Pages given to the encoder.
  std::uint64_t pages_unchanged = 0;  ///< Equal to the mirror, left out.
  std::uint64_t pages_zero = 0;       ///< Sent as zero.
  std::uint64_t pages_lines = 0;      ///< Sent as changed lines.
  std::uint64_t pages_raw = 0;        ///< Sent whole.
  std::uint64_t lines = 0;            ///< Lines sent in pages_lines pages.
  std::uint64_t plain_bytes = 0;      ///< Octets of all batches before lz4, headers included.
  std::uint64_t encoded_bytes = 0;    ///< Octets of all batches as they are sent.

  EncodeStatistics& operator+=(const EncodeStatistics& other);
  /// Pages that are in batches.
  [[nodiscard]] std::uint64_t pages_sent() const { return pages_zero + pages_lines + pages_raw; }
};

/// Makes batches. One for each worker: it reuses its buffers (about 2 MiB).
class PageBatchEncoder {
 public:
  explicit PageBatchEncoder(const PageComparer& comparer = page_comparer());
  ~PageBatchEncoder();
  PageBatchEncoder(PageBatchEncoder&&) noexcept;
  PageBatchEncoder& operator=(PageBatchEncoder&&) noexcept;

  /// Encodes at most kBatchPagesMax `pages` (page numbers strictly rising, within the mirror) of
  /// checkpoint `epoch` against `mirror`, and brings the mirror up to date. Empty when every page
  /// equals the mirror. The span is valid until the next call.
  std::span<const std::byte> encode(EpochId epoch, std::span<const StagedPage> pages,
                                    Mirror& mirror);

  /// Sums over all calls since the last take_statistics().
  EncodeStatistics take_statistics() { return std::exchange(statistics_, {}); }

 private:
  struct Buffers;

  const PageComparer* comparer_;
  std::unique_ptr<Buffers> buffers_;
  EncodeStatistics statistics_;
};

/// In which form a page travels. The values are those of the wire.
enum class PageForm : std::uint8_t { zero = 0, lines = 1, raw = 2 };

/// One page of a batch that was found valid. `content` points into the decoder's buffer or the
/// batch, whichever holds the plain body.
struct DecodedPage {
  PageNumber page;
  PageForm form = PageForm::zero;
  std::uint64_t lines = 0;             ///< Form lines: which; otherwise 0.
  const std::byte* content = nullptr;  ///< Form raw: a page; form lines: the lines, one after
                                       ///< another; form zero: null.
};

/// The head of a valid batch.
struct BatchHeader {
  EpochId epoch;
  std::uint32_t pages = 0;
  std::uint64_t checksum = 0;  ///< xxh3 over head and body; goes into the checkpoint's chain.
};

/// Reads batches from the wire. Reuses its buffer (about 1 MiB). Never trusts a number in the
/// batch.
class PageBatchDecoder {
 public:
  /// Judges `batch` for a memory of `memory_pages` pages. Afterwards header() and pages() describe
  /// it; they are valid until the next call and as long as `batch` is. protocol for a version or
  /// flags that we do not know, bad_data for everything else that is wrong.
  Result<void> decode(std::span<const std::byte> batch, std::uint64_t memory_pages);

  [[nodiscard]] const BatchHeader& header() const { return header_; }
  /// Strictly rising by page number.
  [[nodiscard]] std::span<const DecodedPage> pages() const { return pages_; }

 private:
  BatchHeader header_;
  std::vector<DecodedPage> pages_;
  std::vector<std::byte> plain_;
};

/// Writes one decoded page to `target` (kPageBytes octets).
void apply_page(const DecodedPage& page, std::byte* target);

/// Decodes `batch` and writes its pages to `image` (whole pages). Writes nothing unless the whole
/// batch is valid. For tests and tools; BackupImage does better with holes.
Result<void> apply_batch(std::span<const std::byte> batch, std::span<std::byte> image);

/// The checksums of a checkpoint's batches in the order in which they are sent, in one number. Both
/// sides build it; checkpoint_end carries the sender's. A batch that is lost, doubled, altered or
/// out of order shows.
class BatchChain {
 public:
  /// Takes in the next batch, which must be valid (its checksum is read, not computed again).
  void add(std::span<const std::byte> batch);
  /// Takes in the next batch by its checksum.
  void add(std::uint64_t checksum);
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0;
};

}  // namespace understudy
