// Staging: where dirty pages are copied to while the domain stands still.
//
// The pause is as long as this copy, so it does nothing but copy, into memory that is resident
// beforehand. The arena is a fixed number of chunks of 256 pages. A chunk is filled, handed to a
// worker that encodes it, and returns to the arena when it is destroyed, on whatever thread. When
// the dirty set is larger than the arena, the copier has to wait for chunks to come back: the pause
// grows, memory does not.
//
// Not taken: write-protecting the pages and copying them on the domain's first write. It makes the
// pause shorter for large dirty sets and every epoch more expensive, and QEMU's memory cannot be
// protected from outside without a trap in its process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"
#include "checkpoint/page_batch.h"
#include "hypervisor/domain.h"

namespace understudy {

/// Whether `ranges` are sorted, disjoint, none empty, and all within `memory_pages` pages: the
/// promise of DirtySet.
[[nodiscard]] bool is_well_formed(std::span<const PageRange> ranges, std::uint64_t memory_pages);

/// How far the copy of one dirty set has come. A value; refers to ranges that the caller keeps.
class DirtyCursor {
 public:
  DirtyCursor() = default;
  /// At the start of `ranges`, which must be well-formed and stay alive.
  explicit DirtyCursor(std::span<const PageRange> ranges);

  [[nodiscard]] std::uint64_t pages_left() const { return pages_left_; }
  /// The next run, at most `pages_max` pages long; empty (count 0) at the end. Moves on.
  PageRange take(std::uint64_t pages_max);

 private:
  std::span<const PageRange> ranges_;
  std::uint64_t taken_of_first_ = 0;
  std::uint64_t pages_left_ = 0;
};

class StagingArena;

/// Room for kBatchPagesMax pages. Returns to its arena when destroyed, on any thread; keeps the
/// arena's memory alive. Move-only; used by one thread at a time.
class StagingChunk {
 public:
  StagingChunk(StagingChunk&& other) noexcept;
  StagingChunk& operator=(StagingChunk&& other) noexcept;
  StagingChunk(const StagingChunk&) = delete;
  StagingChunk& operator=(const StagingChunk&) = delete;
  ~StagingChunk();

  /// Copies pages from `memory` (the domain's whole memory) until the chunk is full or the cursor
  /// is at its end; the number of pages copied. What the chunk held before is forgotten.
  std::size_t fill(std::span<const std::byte> memory, DirtyCursor& cursor);

  /// The pages held, in rising order. Valid while the chunk lives and is not filled again.
  [[nodiscard]] std::span<const StagedPage> pages() const;

 private:
  friend class StagingArena;
  struct Slot;
  struct Pool;
  StagingChunk(std::shared_ptr<Pool> pool, Slot* slot);
  void give_back();

  std::shared_ptr<Pool> pool_;
  Slot* slot_ = nullptr;
};

/// A fixed number of chunks, all of them in resident memory. Thread-safe. One for each capture: who
/// waits for a chunk must be able to count on its own workers to return one.
class StagingArena {
 public:
  /// Enough for 8,192 dirty pages (32 MiB).
  static constexpr std::size_t kDefaultChunks = 32;

  /// Takes `chunks` MiB of memory at once. no_resources when they cannot be had.
  static Result<StagingArena> create(std::size_t chunks = kDefaultChunks);

  /// A free chunk, or nothing when all are in use. Never waits.
  [[nodiscard]] std::optional<StagingChunk> try_acquire();
  [[nodiscard]] std::size_t chunks() const;
  [[nodiscard]] std::size_t chunks_free() const;

 private:
  explicit StagingArena(std::shared_ptr<StagingChunk::Pool> pool);

  std::shared_ptr<StagingChunk::Pool> pool_;
};

}  // namespace understudy
