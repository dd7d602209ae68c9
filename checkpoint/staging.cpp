#include "checkpoint/staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "base/mapping.h"

namespace understudy {

bool is_well_formed(std::span<const PageRange> ranges, std::uint64_t memory_pages) {
  std::uint64_t next_free = 0;
  for (const PageRange& range : ranges) {
    if (range.count == 0 || range.first < next_free || range.first >= memory_pages ||
        range.count > memory_pages - range.first) {
      return false;
    }
    next_free = range.first + range.count;
  }
  return true;
}

DirtyCursor::DirtyCursor(std::span<const PageRange> ranges) : ranges_(ranges) {
  for (const PageRange& range : ranges) pages_left_ += range.count;
}

PageRange DirtyCursor::take(std::uint64_t pages_max) {
  if (pages_left_ == 0 || pages_max == 0) return {};
  const PageRange& first = ranges_.front();
  const PageRange run{first.first + taken_of_first_,
                      std::min(pages_max, first.count - taken_of_first_)};
  taken_of_first_ += run.count;
  pages_left_ -= run.count;
  if (taken_of_first_ == first.count) {
    ranges_ = ranges_.subspan(1);
    taken_of_first_ = 0;
  }
  return run;
}

/// The memory of one chunk and what it holds.
struct StagingChunk::Slot {
  std::byte* memory = nullptr;
  std::array<StagedPage, kBatchPagesMax> pages;
  std::size_t count = 0;
};

/// What arena and chunks share.
struct StagingChunk::Pool {
  Mapping memory;
  std::vector<Slot> slots;
  std::mutex mutex;
  std::vector<Slot*> free;
};

StagingChunk::StagingChunk(std::shared_ptr<Pool> pool, Slot* slot)
    : pool_(std::move(pool)), slot_(slot) {}

StagingChunk::StagingChunk(StagingChunk&& other) noexcept
    : pool_(std::move(other.pool_)), slot_(std::exchange(other.slot_, nullptr)) {}

StagingChunk& StagingChunk::operator=(StagingChunk&& other) noexcept {
  if (this != &other) {
    give_back();
    pool_ = std::move(other.pool_);
    slot_ = std::exchange(other.slot_, nullptr);
  }
  return *this;
}

StagingChunk::~StagingChunk() {
  give_back();
}

void StagingChunk::give_back() {
  if (slot_ == nullptr) return;
  {
    const std::lock_guard lock(pool_->mutex);
    pool_->free.push_back(slot_);  // Last in, first out: that one is still in the cache.
  }
  slot_ = nullptr;
  pool_.reset();
}

std::size_t StagingChunk::fill(std::span<const std::byte> memory, DirtyCursor& cursor) {
  Slot& slot = *slot_;
  slot.count = 0;
  while (slot.count < kBatchPagesMax) {
    const PageRange run = cursor.take(kBatchPagesMax - slot.count);
    if (run.count == 0) break;
    std::byte* const target = slot.memory + slot.count * kPageBytes;
    std::memcpy(target, memory.data() + run.first * kPageBytes, run.count * kPageBytes);
    for (std::uint64_t i = 0; i < run.count; ++i) {
      slot.pages[slot.count++] = {PageNumber(run.first + i), target + i * kPageBytes};
    }
  }
  return slot.count;
}

std::span<const StagedPage> StagingChunk::pages() const {
  return std::span(slot_->pages).first(slot_->count);
}

Result<StagingArena> StagingArena::create(std::size_t chunks) {
  constexpr std::size_t chunk_bytes = kBatchPagesMax * kPageBytes;
  auto pool = std::make_shared<StagingChunk::Pool>();
  BOOST_OUTCOME_TRY(pool->memory, Mapping::anonymous(chunks * chunk_bytes));
  const std::span<std::byte> memory = pool->memory.bytes();
  // Huge pages make the copy faster where they are to be had; it is no harm where they are not.
  (void)::madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
  // Page faults belong here, not into a pause.
  if (::madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE) != 0) {
    if (errno != EINVAL) return system_error(errno, "staging arena: populating its memory");
    for (std::size_t at = 0; at < memory.size(); at += kPageBytes) memory[at] = std::byte{0};
  }
  pool->slots.resize(chunks);
  pool->free.reserve(chunks);
  for (std::size_t i = chunks; i-- > 0;) {
    pool->slots[i].memory = memory.data() + i * chunk_bytes;
    pool->free.push_back(&pool->slots[i]);
  }
  return StagingArena(std::move(pool));
}

StagingArena::StagingArena(std::shared_ptr<StagingChunk::Pool> pool) : pool_(std::move(pool)) {}

std::optional<StagingChunk> StagingArena::try_acquire() {
  StagingChunk::Slot* slot = nullptr;
  {
    const std::lock_guard lock(pool_->mutex);
    if (pool_->free.empty()) return std::nullopt;
    slot = pool_->free.back();
    pool_->free.pop_back();
  }
  slot->count = 0;
  return StagingChunk(pool_, slot);
}

std::size_t StagingArena::chunks() const {
  return pool_->slots.size();
}

std::size_t StagingArena::chunks_free() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->free.size();
}

}  // namespace understudy
