// The image on the backup: the memory of the domain as of the last committed checkpoint.
//
// The image is the RAM of the standby domain itself, so promotion copies nothing. A checkpoint is
// staged beside it, encoded as it came, and each batch is judged when it arrives. When it is whole
// (complete() succeeded) it may be acknowledged, and from then on it *is* the committed state, even
// though its pages are written to the image only by apply(), which cannot fail any more. Until then
// nothing of it touches the image: the last committed one stays restorable.
//
//   reset · begin(precopy) · add … · complete · begin(1) · add … · device_state · complete · apply
//   …
//
// Awkward cases:
// - Promotion may come at any moment. It calls settle(): a whole checkpoint that is not yet applied
//   has been acknowledged, and output has left because of it, so it is applied; one that is not
//   whole is discarded. If apply() runs on another thread, promotion has to wait for its end first.
// - Pre-copy, 'epoch 0', is applied as it comes, because there is nothing to fall back to yet:
//   consistent() is false from reset() to the first apply().
// - The image is a file in memory with holes. A hole is zero; writing zeros into it, and on shared
//   memory even reading it, would allocate memory. A bit for each page says whether it has memory;
//   zero pages for holes are dropped.
// - Memory that runs out must not kill us with SIGBUS in the middle of apply(). So memory for pages
//   that have none is reserved with fallocate() when their batch arrives, before the checkpoint is
//   acknowledged: no_resources then, with the image unharmed.
//
// Not taken: applying at once with an undo log. It makes the common case (commit) pay twice so that
// the rare one (discard) is cheap, and a crash in between leaves work to do before promotion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
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
  std::size_t staged_bytes_max = std::size_t{80} << 20;  ///< Encoded batches of one checkpoint.
  std::size_t device_state_bytes_max = kDeviceStateBytesMax;
};

/// The image and the checkpoint that is on its way to it. Used by one thread at a time (apply() and
/// settle() may run on a worker while nobody else calls).
class BackupImage {
 public:
  /// An image over `memory` (whole pages; not owned, must stay mapped). `file` is the descriptor of
  /// the file in memory that is mapped there from offset 0 (not owned), or -1 when there is none:
  /// then every page is taken to have memory. Nothing is written. bad_data when the size is no
  /// multiple of a page, io when the file cannot be asked for its holes.
  static Result<BackupImage> create(std::span<std::byte> memory, int file,
                                    BackupLimits limits = {});

  /// Makes the image zero and forgets every checkpoint: how a synchronisation starts. io when the
  /// file's memory cannot be given back.
  Result<void> reset();

  /// Opens a checkpoint. protocol when one is open or whole already, when the epoch is not the one
  /// after the last committed (the first after reset() may have any number), when the memory's size
  /// differs, or when pre-copy comes after a commit without reset().
  Result<void> begin(const CheckpointBegin& record);

  /// Takes one page_batch. Pre-copy: written to the image. Epoch: staged. bad_data or protocol when
  /// it is wrong or does not belong here; no_resources when the staging limit would be passed or
  /// memory for its pages cannot be had. After any error the checkpoint can only be discarded.
  Result<void> add(std::vector<std::byte> batch);

  /// Takes the device_state record of the open checkpoint: exactly one for each epoch, none for
  /// pre-copy. Errors as decode_device_state().
  Result<void> device_state(std::span<const std::byte> record);

  /// Closes the checkpoint: when counts and chain match, and the device state is there, it is whole
  /// and may be acknowledged; next comes apply(). Pre-copy is done at once. bad_data with both
  /// figures when they do not match; the checkpoint can then only be discarded.
  Result<void> complete(const CheckpointEnd& record);

  /// Writes the whole checkpoint to the image and makes it the committed one. try_again when there
  /// is none that is whole. Pages are written in place, and repeating is harmless.
  Result<void> apply();

  /// Forgets the checkpoint that is on its way, whole or not. The committed one stays. Do not
  /// discard what was acknowledged: settle() knows the difference.
  void discard();

  /// What promotion calls: applies a whole checkpoint, discards an incomplete one; the epoch that
  /// the image then holds. try_again when no epoch was ever committed.
  Result<EpochId> settle();

  /// Whether the image is the memory of a committed epoch (so can be promoted).
  [[nodiscard]] bool consistent() const { return committed_.value > 0; }
  /// The epoch in the image; 0 before the first.
  [[nodiscard]] EpochId committed() const { return committed_; }
  /// Whether a checkpoint waits for apply().
  [[nodiscard]] bool whole() const { return stage_ == Stage::whole; }
  /// Whether a checkpoint is on its way (open, whole or failed).
  [[nodiscard]] bool busy() const { return stage_ != Stage::idle; }
  /// The committed device state; empty before the first commit. Valid until the next apply().
  [[nodiscard]] std::span<const std::byte> committed_device_state() const { return device_state_; }
  /// The addresses learnt up to the committed checkpoint, as checkpoint_end carried them.
  [[nodiscard]] std::span<const std::byte> committed_addresses() const { return addresses_; }
  /// The checkpoint_begin of the checkpoint that is on its way, and pages received of it so far:
  /// for progress.
  [[nodiscard]] const CheckpointBegin& current() const { return begin_; }
  [[nodiscard]] std::uint64_t pages_received() const { return pages_received_; }
  /// Octets staged now.
  [[nodiscard]] std::size_t staged_bytes() const { return staged_bytes_; }
  /// Pages of the image that have memory.
  [[nodiscard]] std::uint64_t populated_pages() const;

 private:
  /// idle → open → whole → idle; open → failed → (discard) idle.
  enum class Stage { idle, open, whole, failed };

  BackupImage(std::span<std::byte> memory, int file, BackupLimits limits);

  Result<void> add_checked(std::vector<std::byte> batch);
  Result<void> complete_checked(const CheckpointEnd& record);
  Result<void> find_holes();
  Result<void> reserve(std::span<const DecodedPage> pages);
  void write(std::span<const DecodedPage> pages);
  [[nodiscard]] bool populated(PageNumber page) const;
  void set_populated(std::uint64_t first, std::uint64_t count, bool value);

  std::span<std::byte> memory_;
  int file_;
  BackupLimits limits_;
  std::vector<std::uint64_t> populated_;  // One bit a page: it has memory of its own.
  PageBatchDecoder decoder_;

  EpochId committed_;
  std::vector<std::byte> device_state_;
  std::vector<std::byte> addresses_;

  Stage stage_ = Stage::idle;
  CheckpointBegin begin_;
  std::vector<std::vector<std::byte>> staged_;
  std::size_t staged_bytes_ = 0;
  std::uint64_t batches_received_ = 0;
  std::uint64_t pages_received_ = 0;
  BatchChain chain_;
  std::optional<DeviceState> staged_device_state_;
  std::vector<std::byte> staged_addresses_;
};

}  // namespace understudy
