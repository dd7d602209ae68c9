#include "checkpoint/page_batch.h"

#include <lz4.h>
#include <xxhash.h>

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "checkpoint/octets.h"
#include "checkpoint/records.h"

namespace understudy {
namespace {

// The head, octet by octet (docs/protocol-checkpoint.md):
//   0 version · 1 flags · 2 pages (2) · 4 body octets (4) · 8 plain octets (4) · 12 reserved (4)
//   16 epoch (8) · 24 checksum (8) · 32 body
constexpr std::size_t kVersionAt = 0;
constexpr std::size_t kFlagsAt = 1;
constexpr std::size_t kPagesAt = 2;
constexpr std::size_t kBodyBytesAt = 4;
constexpr std::size_t kPlainBytesAt = 8;
constexpr std::size_t kReservedAt = 12;
constexpr std::size_t kEpochAt = 16;
constexpr std::size_t kChecksumAt = 24;

constexpr std::uint8_t kFlagLz4 = 1;

// The plain body: an entry for each page (form in the low 8 bits, page number above), a bitmap for
// each page of form lines, then all content; each in the order of the entries.
constexpr std::size_t kEntryBytes = 8;
constexpr std::size_t kBitmapBytes = 8;
constexpr unsigned kFormBits = 8;

/// xxh3 of the body, seeded with the xxh3 of the head that precedes the checksum: one number over
/// both, without a copy.
std::uint64_t checksum_of(std::span<const std::byte> batch) {
  return XXH3_64bits_withSeed(batch.data() + kBatchHeaderBytes, batch.size() - kBatchHeaderBytes,
                              XXH3_64bits(batch.data(), kChecksumAt));
}

std::size_t content_bytes(PageForm form, std::uint64_t lines) {
  switch (form) {
    case PageForm::zero:
      return 0;
    case PageForm::lines:
      return static_cast<std::size_t>(std::popcount(lines)) * kLineBytes;
    case PageForm::raw:
      return kPageBytes;
  }
  return 0;
}

/// Copies the lines of `content` that `lines` names, one after another; where writing went on.
std::byte* gather_lines(std::uint64_t lines, const std::byte* content, std::byte* target) {
  for (std::uint64_t left = lines; left != 0; left &= left - 1) {
    std::memcpy(target, content + static_cast<std::size_t>(std::countr_zero(left)) * kLineBytes,
                kLineBytes);
    target += kLineBytes;
  }
  return target;
}

}  // namespace

EncodeStatistics& EncodeStatistics::operator+=(const EncodeStatistics& other) {
  pages_in += other.pages_in;
  pages_unchanged += other.pages_unchanged;
  pages_zero += other.pages_zero;
  pages_lines += other.pages_lines;
  pages_raw += other.pages_raw;
  lines += other.lines;
  plain_bytes += other.plain_bytes;
  encoded_bytes += other.encoded_bytes;
  return *this;
}

// --- Encoding ----------------------------------------------------------------------------------

struct PageBatchEncoder::Buffers {
  struct Entry {
    PageNumber page;
    PageForm form;
    std::uint64_t lines;
  };
  std::array<Entry, kBatchPagesMax> entries;
  std::array<PageNumber, kBatchPagesMax> zeroed;
  // Content is gathered before the number of pages, and so the length of what precedes it, is
  // known: it starts behind the most that can precede it, and what precedes is put right before it.
  std::vector<std::byte> plain =
      std::vector<std::byte>(kBatchHeaderBytes + kBatchPagesMax * (kEntryBytes + kBitmapBytes) +
                             kBatchPagesMax * kPageBytes);
  std::vector<std::byte> packed = std::vector<std::byte>(kBatchBytesMax);
  std::vector<std::byte> lz4_state =
      std::vector<std::byte>(static_cast<std::size_t>(LZ4_sizeofState()));
};

PageBatchEncoder::PageBatchEncoder(const PageComparer& comparer)
    : comparer_(&comparer), buffers_(std::make_unique<Buffers>()) {}
PageBatchEncoder::~PageBatchEncoder() = default;
PageBatchEncoder::PageBatchEncoder(PageBatchEncoder&&) noexcept = default;
PageBatchEncoder& PageBatchEncoder::operator=(PageBatchEncoder&&) noexcept = default;

std::span<const std::byte> PageBatchEncoder::encode(EpochId epoch,
                                                    std::span<const StagedPage> pages,
                                                    Mirror& mirror) {
  UNDERSTUDY_CHECK(pages.size() <= kBatchPagesMax, "page batch: too many pages for one batch");
  Buffers& buffers = *buffers_;
  EncodeStatistics now;
  now.pages_in = pages.size();

  std::byte* const content_start =
      buffers.plain.data() + kBatchHeaderBytes + kBatchPagesMax * (kEntryBytes + kBitmapBytes);
  std::byte* content_end = content_start;
  std::size_t entries = 0;
  std::size_t bitmaps = 0;
  std::size_t zeroed = 0;
  std::uint64_t page_floor = 0;

  for (const StagedPage& staged : pages) {
    UNDERSTUDY_CHECK(staged.page.value >= page_floor && staged.page.value < mirror.memory_pages(),
                     "page batch: page numbers must rise and lie within the mirror");
    page_floor = staged.page.value + 1;

    const std::byte* const known = mirror.known_content(staged.page);
    const std::uint64_t lines =
        known == nullptr ? ~std::uint64_t{0} : comparer_->changed_lines(staged.content, known);
    if (lines == 0) {
      ++now.pages_unchanged;
      continue;
    }
    PageForm form = PageForm::raw;
    // A page that differs from a zero page is not zero: no need to look.
    if (known != zero_page() && comparer_->is_zero_page(staged.content)) {
      form = PageForm::zero;
      ++now.pages_zero;
      buffers.zeroed[zeroed++] = staged.page;
      mirror.store_zero(staged.page);
    } else if (lines != ~std::uint64_t{0}) {
      form = PageForm::lines;
      ++now.pages_lines;
      now.lines += static_cast<std::uint64_t>(std::popcount(lines));
      ++bitmaps;
      content_end = gather_lines(lines, staged.content, content_end);
      mirror.store(staged.page, staged.content, lines);
    } else {
      ++now.pages_raw;
      std::memcpy(content_end, staged.content, kPageBytes);
      content_end += kPageBytes;
      mirror.store(staged.page, staged.content, lines);
    }
    buffers.entries[entries++] = {staged.page, form, form == PageForm::lines ? lines : 0};
  }
  mirror.release(std::span(buffers.zeroed).first(zeroed));

  if (entries == 0) {
    statistics_ += now;
    return {};
  }

  std::byte* const body = content_start - entries * kEntryBytes - bitmaps * kBitmapBytes;
  std::byte* entry_at = body;
  std::byte* bitmap_at = body + entries * kEntryBytes;
  for (const Buffers::Entry& entry : std::span(buffers.entries).first(entries)) {
    octets::put(entry_at, entry.page.value << kFormBits | static_cast<std::uint64_t>(entry.form));
    entry_at += kEntryBytes;
    if (entry.form == PageForm::lines) {
      octets::put(bitmap_at, entry.lines);
      bitmap_at += kBitmapBytes;
    }
  }
  const auto plain_bytes = static_cast<std::size_t>(content_end - body);

  // Room for one octet less than the plain form: lz4 gives up where it does not win.
  const int packed_bytes = LZ4_compress_fast_extState(
      buffers.lz4_state.data(), reinterpret_cast<const char*>(body),
      reinterpret_cast<char*>(buffers.packed.data() + kBatchHeaderBytes),
      static_cast<int>(plain_bytes), static_cast<int>(plain_bytes - 1), 1);
  const bool packed = packed_bytes > 0;
  std::byte* const head = packed ? buffers.packed.data() : body - kBatchHeaderBytes;
  const std::size_t body_bytes = packed ? static_cast<std::size_t>(packed_bytes) : plain_bytes;

  octets::put(head + kVersionAt, kCheckpointRecordVersion);
  octets::put(head + kFlagsAt, packed ? kFlagLz4 : std::uint8_t{0});
  octets::put(head + kPagesAt, static_cast<std::uint16_t>(entries));
  octets::put(head + kBodyBytesAt, static_cast<std::uint32_t>(body_bytes));
  octets::put(head + kPlainBytesAt, static_cast<std::uint32_t>(plain_bytes));
  octets::put(head + kReservedAt, std::uint32_t{0});
  octets::put(head + kEpochAt, epoch.value);
  const std::span<const std::byte> batch(head, kBatchHeaderBytes + body_bytes);
  octets::put(head + kChecksumAt, checksum_of(batch));

  now.plain_bytes = kBatchHeaderBytes + plain_bytes;
  now.encoded_bytes = batch.size();
  statistics_ += now;
  return batch;
}

// --- Decoding ----------------------------------------------------------------------------------

Result<void> PageBatchDecoder::decode(std::span<const std::byte> batch,
                                      std::uint64_t memory_pages) {
  header_ = {};
  pages_.clear();

  if (batch.size() < kBatchHeaderBytes) {
    return fail(ErrorCode::bad_data, "page batch: {} octets, the head alone has {}", batch.size(),
                kBatchHeaderBytes);
  }
  const std::byte* const head = batch.data();
  const auto version = octets::get<std::uint8_t>(head + kVersionAt);
  if (version != kCheckpointRecordVersion) {
    return fail(ErrorCode::protocol, "page batch: version {}, only {} is known", version,
                kCheckpointRecordVersion);
  }
  const auto flags = octets::get<std::uint8_t>(head + kFlagsAt);
  if ((flags & ~kFlagLz4) != 0) {
    return fail(ErrorCode::protocol, "page batch: unknown flags {:#04x}", flags);
  }
  const auto reserved = octets::get<std::uint32_t>(head + kReservedAt);
  if (reserved != 0) {
    return fail(ErrorCode::bad_data, "page batch: reserved octets are {:#x}, not zero", reserved);
  }
  const std::size_t count = octets::get<std::uint16_t>(head + kPagesAt);
  if (count == 0 || count > kBatchPagesMax) {
    return fail(ErrorCode::bad_data, "page batch: {} pages, must be 1 to {}", count,
                kBatchPagesMax);
  }
  const std::size_t body_bytes = octets::get<std::uint32_t>(head + kBodyBytesAt);
  if (body_bytes != batch.size() - kBatchHeaderBytes) {
    return fail(ErrorCode::bad_data, "page batch: head says {} octets of body, {} are there",
                body_bytes, batch.size() - kBatchHeaderBytes);
  }
  const std::size_t plain_bytes = octets::get<std::uint32_t>(head + kPlainBytesAt);
  const bool packed = (flags & kFlagLz4) != 0;
  if (plain_bytes < count * kEntryBytes || plain_bytes > count * (kEntryBytes + kPageBytes)) {
    return fail(ErrorCode::bad_data, "page batch: {} octets of plain body cannot hold {} pages",
                plain_bytes, count);
  }
  if (packed ? body_bytes >= plain_bytes : body_bytes != plain_bytes) {
    return fail(ErrorCode::bad_data, "page batch: {} octets of body stand for {} plain ones ({})",
                body_bytes, plain_bytes, packed ? "lz4" : "not compressed");
  }
  const auto checksum = octets::get<std::uint64_t>(head + kChecksumAt);
  if (const std::uint64_t computed = checksum_of(batch); computed != checksum) {
    return fail(ErrorCode::bad_data, "page batch: checksum is {:#018x}, head says {:#018x}",
                computed, checksum);
  }

  const std::byte* body = batch.data() + kBatchHeaderBytes;
  if (packed) {
    plain_.resize(kBatchPlainBytesMax);
    const int got = LZ4_decompress_safe(
        reinterpret_cast<const char*>(body), reinterpret_cast<char*>(plain_.data()),
        static_cast<int>(body_bytes), static_cast<int>(plain_bytes));
    if (got < 0 || static_cast<std::size_t>(got) != plain_bytes) {
      return fail(ErrorCode::bad_data, "page batch: lz4 body does not unpack to {} octets",
                  plain_bytes);
    }
    body = plain_.data();
  }

  // Entries first; the bitmaps' place follows from their number, the content's from the bitmaps.
  pages_.reserve(kBatchPagesMax);
  std::size_t bitmaps = 0;
  std::uint64_t page_floor = 0;
  Result<void> verdict = ok();
  for (std::size_t i = 0; i < count; ++i) {
    const auto entry = octets::get<std::uint64_t>(body + i * kEntryBytes);
    const auto form = static_cast<std::uint8_t>(entry & ((1U << kFormBits) - 1));
    const std::uint64_t page = entry >> kFormBits;
    if (form > static_cast<std::uint8_t>(PageForm::raw)) {
      pages_.clear();
      return fail(ErrorCode::protocol, "page batch: entry {} has the unknown form {}", i, form);
    }
    if (page >= memory_pages) {
      pages_.clear();
      return fail(ErrorCode::bad_data, "page batch: entry {} is page {}, memory has {}", i, page,
                  memory_pages);
    }
    if (page < page_floor) {
      pages_.clear();
      return fail(ErrorCode::bad_data, "page batch: entry {} is page {}, after page {}", i, page,
                  page_floor - 1);
    }
    page_floor = page + 1;
    bitmaps += form == static_cast<std::uint8_t>(PageForm::lines) ? 1 : 0;
    pages_.push_back({PageNumber(page), static_cast<PageForm>(form), 0, nullptr});
  }

  std::size_t bitmap_at = count * kEntryBytes;
  std::size_t content_at = bitmap_at + bitmaps * kBitmapBytes;
  if (content_at > plain_bytes) {
    pages_.clear();
    return fail(ErrorCode::bad_data, "page batch: {} bitmaps do not fit into {} octets", bitmaps,
                plain_bytes);
  }
  for (DecodedPage& page : pages_) {
    if (page.form == PageForm::lines) {
      page.lines = octets::get<std::uint64_t>(body + bitmap_at);
      bitmap_at += kBitmapBytes;
      if (page.lines == 0) {
        verdict = fail(ErrorCode::bad_data, "page batch: page {} names no changed line", page.page);
        break;
      }
    }
    const std::size_t bytes = content_bytes(page.form, page.lines);
    if (bytes > plain_bytes - content_at) {
      verdict =
          fail(ErrorCode::bad_data, "page batch: page {} needs {} octets of content, {} are left",
               page.page, bytes, plain_bytes - content_at);
      break;
    }
    if (bytes > 0) page.content = body + content_at;
    content_at += bytes;
  }
  if (verdict && content_at != plain_bytes) {
    verdict = fail(ErrorCode::bad_data, "page batch: {} octets too many at the end of the body",
                   plain_bytes - content_at);
  }
  if (!verdict) {
    pages_.clear();
    return verdict;
  }

  header_.epoch = EpochId(octets::get<std::uint64_t>(head + kEpochAt));
  header_.pages = static_cast<std::uint32_t>(count);
  header_.checksum = checksum;
  return ok();
}

void apply_page(const DecodedPage& page, std::byte* target) {
  switch (page.form) {
    case PageForm::zero:
      std::memset(target, 0, kPageBytes);
      return;
    case PageForm::raw:
      std::memcpy(target, page.content, kPageBytes);
      return;
    case PageForm::lines: {
      const std::byte* source = page.content;
      for (std::uint64_t left = page.lines; left != 0; left &= left - 1) {
        std::memcpy(target + static_cast<std::size_t>(std::countr_zero(left)) * kLineBytes, source,
                    kLineBytes);
        source += kLineBytes;
      }
      return;
    }
  }
}

Result<void> apply_batch(std::span<const std::byte> batch, std::span<std::byte> image) {
  PageBatchDecoder decoder;
  BOOST_OUTCOME_TRY(decoder.decode(batch, image.size() / kPageBytes));
  for (const DecodedPage& page : decoder.pages()) {
    apply_page(page, image.data() + page.page.value * kPageBytes);
  }
  return ok();
}

// --- The chain ---------------------------------------------------------------------------------

void BatchChain::add(std::span<const std::byte> batch) {
  add(octets::get<std::uint64_t>(batch.data() + kChecksumAt));
}

void BatchChain::add(std::uint64_t checksum) {
  std::array<std::byte, 16> link;
  octets::put(link.data(), value_);
  octets::put(link.data() + 8, checksum);
  value_ = XXH3_64bits(link.data(), link.size());
}

}  // namespace understudy
