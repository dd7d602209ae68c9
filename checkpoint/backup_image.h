// The image on the backup: the memory of the domain as of the last committed checkpoint.
//
// The image is the RAM of the standby domain itself, so promotion copies nothing. A checkpoint is
// staged beside it, encoded as it came, and each batch is judged when it arrives. When it is whole
// (complete() succeeded) it may be acknowledged, and from then on it *is* the committed state, even
// though its pages are written to the image only by apply(), which cannot fail any more. Until then
// nothing of it touches the image: the last committed one stays restorable.
//
//   begin(1, base 0) · add … · device_state · complete     the complete copy, in place
//   begin(2, base 1) · add … · device_state · complete · apply      and so on
//
// Awkward cases:
// - Promotion may come at any moment. It calls settle(): whole checkpoints that are not yet applied
//   have been acknowledged, and output has left because of them, so they are applied; one that is
//   not whole is dropped. If apply() runs on another thread, promotion has to wait for its end.
// - A complete copy (base 0) is written in place, because there is no room for a second copy of all
//   memory: consistent() is false from its begin() to its complete(). It starts from zeros, as the
//   primary's mirror does.
// - The image is a file in memory with holes. A hole is zero; writing zeros into it, and on shared
//   memory even reading it, would allocate memory. A bit for each page says whether it has memory;
//   zero pages for holes are skipped.
// - Memory that runs out must not kill us with SIGBUS in the middle of apply(). So memory for pages
//   that have none is reserved with fallocate() when their batch arrives, before the checkpoint is
//   acknowledged: no_resources then, with the image unharmed.
// - The next checkpoint may arrive while the last is being applied on a worker.
//
// Not taken: applying at once with an undo log. It makes the common case (commit) pay twice so that
// the rare one (drop) is cheap, and a crash in between leaves work to do before promotion.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/device_state.h"
#include "checkpoint/page_batch.h"
#include "checkpoint/records.h"

namespace understudy {

/// How much a peer may make us stage.
struct BackupLimits {
  std::size_t staged_bytes_max = std::size_t{80} << 20;  ///< Encoded batches: those of the open
                                                         ///< checkpoint and those not yet applied.
  std::size_t device_state_bytes_max = kDeviceStateBytesMax;
};

/// The image and the checkpoints that are on their way to it.
///
/// All functions belong to one thread, apart from apply(), which may run on another one at the same
/// time as begin(), add(), device_state(), complete(), drop() and the questions. Two exceptions:
/// begin() of a complete copy and settle() must not meet a running apply().
class BackupImage {
 public:
  /// An image over `memory` (whole pages; not owned, must stay mapped). `file` is the descriptor of
  /// the file in memory that is mapped there from offset 0 (not owned, stays open), or -1 when
  /// there is none: then the memory is all zero now, and every page has some. Nothing is written.
  /// bad_data when the size is no multiple of a page, io when the file cannot be asked for its
  /// holes.
  static Result<std::unique_ptr<BackupImage>> create(std::span<std::byte> memory, int file,
                                                     BackupLimits limits = {});
  ~BackupImage();
  BackupImage(const BackupImage&) = delete;
  BackupImage& operator=(const BackupImage&) = delete;

  /// Opens a checkpoint. A complete copy (base 0) makes the image zero first, gives its memory
  /// back, and forgets every other checkpoint; where the image held much that takes its time (about
  /// 0.1 s for a GiB). protocol when one is open, when the memory's size differs, when `base` is
  /// neither 0 nor committed(), or when the epoch is not above committed(). io when memory cannot
  /// be given back. After an error nothing is open.
  Result<void> begin(const CheckpointBegin& record);

  /// Takes one page_batch. Complete copy: written to the image. Otherwise: staged. bad_data or
  /// protocol when it is wrong or does not belong here; no_resources when the staging limit would
  /// be passed or memory for its pages cannot be had. After any error the checkpoint can only be
  /// dropped.
  Result<void> add(std::vector<std::byte> batch);

  /// Takes the device_state record of the open checkpoint: exactly one for each. Errors as
  /// decode_device_state(), and then the checkpoint can only be dropped.
  Result<void> device_state(std::span<const std::byte> record);

  /// Closes the checkpoint: when counts and chain match, and the device state is there, it is
  /// whole, committed, and may be acknowledged; next comes apply(). bad_data with both figures when
  /// they do not match; the checkpoint can then only be dropped.
  Result<void> complete(CheckpointEnd record);

  /// Writes the oldest whole checkpoint that is not in the image yet to the image, and says which
  /// it was; nothing to do (a complete copy, or none waits) gives applied(). Cannot fail. Repeating
  /// is harmless.
  EpochId apply();

  /// Forgets the open checkpoint, if there is one. Committed ones stay. Of a complete copy the
  /// pages stay where they are, and the image is void until the next one.
  void drop();

  /// What promotion calls: drops what is open, applies what is whole; the epoch that the image then
  /// holds. try_again when the image is void.
  Result<EpochId> settle();

  /// Whether there is a committed epoch (so the domain can be promoted, after settle()).
  [[nodiscard]] bool consistent() const { return committed_.value > 0; }
  /// The newest whole epoch; 0 while the image is void.
  [[nodiscard]] EpochId committed() const { return committed_; }
  /// The newest epoch that is in the image; 0 while the image is void.
  [[nodiscard]] EpochId applied() const;
  /// The device state of committed(); empty while the image is void. Valid until the next begin()
  /// or complete().
  [[nodiscard]] std::span<const std::byte> committed_device_state() const { return device_state_; }
  /// The addresses learnt up to committed(), as checkpoint_end carried them. Valid as above.
  [[nodiscard]] std::span<const std::byte> committed_addresses() const { return addresses_; }

  /// Whether a checkpoint is open.
  [[nodiscard]] bool receiving() const { return open_ != nullptr; }
  /// What is open: its checkpoint_begin and the pages received so far, for progress. Only while
  /// receiving().
  [[nodiscard]] const CheckpointBegin& receiving_record() const;
  [[nodiscard]] std::uint64_t pages_received() const;
  /// Octets staged now, open and not yet applied.
  [[nodiscard]] std::size_t staged_bytes() const;
  /// Pages of the image that have memory.
  [[nodiscard]] std::uint64_t populated_pages() const;

 private:
  struct Checkpoint;

  BackupImage(std::span<std::byte> memory, int file, BackupLimits limits);

  Result<void> start_from_zeros();
  Result<void> add_checked(std::vector<std::byte> batch);
  Result<void> complete_checked(CheckpointEnd record);
  Result<void> find_holes();
  Result<void> reserve(std::span<const DecodedPage> pages);
  void write(std::span<const DecodedPage> pages);
  [[nodiscard]] std::uint64_t memory_pages() const { return memory_.size() / kPageBytes; }
  [[nodiscard]] bool populated(PageNumber page) const;
  void set_populated(std::uint64_t first, std::uint64_t count);

  std::span<std::byte> memory_;
  int file_;
  BackupLimits limits_;
  // One bit a page: it has memory of its own. Set by add(), read by apply(), cleared by
  // start_from_zeros() alone. A bit that apply() misses belongs to a later checkpoint.
  std::vector<std::atomic<std::uint64_t>> populated_;

  // Belongs to the receiving thread.
  PageBatchDecoder receive_decoder_;
  std::unique_ptr<Checkpoint> open_;
  EpochId committed_;
  std::vector<std::byte> device_state_;
  std::vector<std::byte> addresses_;

  // Belongs to apply().
  PageBatchDecoder apply_decoder_;

  // Where the two meet.
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Checkpoint>> waiting_;  // Whole, oldest first.
  EpochId applied_;
  std::size_t waiting_bytes_ = 0;
};

}  // namespace understudy
