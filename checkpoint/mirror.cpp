#include "checkpoint/mirror.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "checkpoint/changed_lines.h"

namespace understudy {
namespace {

constexpr std::uint64_t kBitsPerWord = 64;

std::uint64_t words_for(std::uint64_t pages) {
  return (pages + kBitsPerWord - 1) / kBitsPerWord;
}

std::uint64_t bit_of(PageNumber page) {
  return std::uint64_t{1} << (page.value % kBitsPerWord);
}

}  // namespace

Result<std::shared_ptr<Mirror>> Mirror::create(std::uint64_t memory_pages, Keep keep) {
  Mapping copies;
  if (keep == Keep::copies && memory_pages > 0) {
    BOOST_OUTCOME_TRY(copies, Mapping::anonymous(memory_pages * kPageBytes));
    // A huge page would populate 2 MiB for the sake of one page. Kernels without huge pages answer
    // EINVAL, which is what we want to hear.
    if (::madvise(copies.bytes().data(), copies.bytes().size(), MADV_NOHUGEPAGE) != 0 &&
        errno != EINVAL) {
      return system_error(errno, "mirror: refusing huge pages");
    }
  }
  // Value-initialised: all zero.
  std::unique_ptr<std::atomic<std::uint64_t>[]> not_zero(
      new (std::nothrow) std::atomic<std::uint64_t>[words_for(memory_pages)]());
  if (not_zero == nullptr) {
    return fail(ErrorCode::no_resources, "mirror: no memory for the bits of {} pages",
                memory_pages);
  }
  return std::shared_ptr<Mirror>(
      new Mirror(std::move(copies), memory_pages, keep, std::move(not_zero)));
}

Mirror::Mirror(Mapping copies, std::uint64_t memory_pages, Keep keep,
               std::unique_ptr<std::atomic<std::uint64_t>[]> not_zero)
    : copies_(std::move(copies)),
      memory_pages_(memory_pages),
      keep_(keep),
      not_zero_(std::move(not_zero)) {}

bool Mirror::known_zero(PageNumber page) const {
  return (not_zero_[page.value / kBitsPerWord].load(std::memory_order_relaxed) & bit_of(page)) == 0;
}

const std::byte* Mirror::known_content(PageNumber page) const {
  if (known_zero(page)) return zero_page();
  if (keep_ == Keep::zero_bits) return nullptr;
  return copies_.bytes().data() + page.value * kPageBytes;
}

void Mirror::store(PageNumber page, const std::byte* content, std::uint64_t changed_lines) {
  const bool was_zero = known_zero(page);
  if (was_zero) {
    not_zero_[page.value / kBitsPerWord].fetch_or(bit_of(page), std::memory_order_relaxed);
  }
  if (keep_ == Keep::zero_bits) return;
  std::byte* target = slot(page);
  // What lies behind a zero page may be old content that was never given back.
  if (was_zero || changed_lines == ~std::uint64_t{0}) {
    std::memcpy(target, content, kPageBytes);
    return;
  }
  for (std::uint64_t left = changed_lines; left != 0; left &= left - 1) {
    const std::size_t at = static_cast<std::size_t>(std::countr_zero(left)) * kLineBytes;
    std::memcpy(target + at, content + at, kLineBytes);
  }
}

void Mirror::store_zero(PageNumber page) {
  not_zero_[page.value / kBitsPerWord].fetch_and(~bit_of(page), std::memory_order_relaxed);
}

void Mirror::release(std::span<const PageNumber> pages) {
  if (keep_ == Keep::zero_bits) return;
  for (std::size_t first = 0; first < pages.size();) {
    std::size_t end = first + 1;
    while (end < pages.size() && pages[end].value == pages[end - 1].value + 1) ++end;
    // It can only fail for a range that is not ours; memory that stays is not harmful.
    (void)::madvise(slot(pages[first]), (end - first) * kPageBytes, MADV_DONTNEED);
    first = end;
  }
}

void Mirror::reset() {
  for (std::uint64_t i = 0; i < words_for(memory_pages_); ++i) {
    not_zero_[i].store(0, std::memory_order_relaxed);
  }
  if (copies_.valid()) {
    (void)::madvise(copies_.bytes().data(), copies_.bytes().size(), MADV_DONTNEED);
  }
}

std::uint64_t Mirror::resident_bytes() const {
  if (keep_ == Keep::zero_bits) return 0;
  std::uint64_t pages = 0;
  for (std::uint64_t i = 0; i < words_for(memory_pages_); ++i) {
    pages +=
        static_cast<std::uint64_t>(std::popcount(not_zero_[i].load(std::memory_order_relaxed)));
  }
  return pages * kPageBytes;
}

}  // namespace understudy
