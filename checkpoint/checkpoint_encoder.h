// Capture: from a dirty set to batches on their way, in two steps.
//
//   begin() · pause · copy() · [device state] · copy(late) · resume · send_rest()
//
// copy() ends when every dirty page is in the staging arena; then the domain may run. send_rest()
// hands the encoded batches out, in the order in which workers finish them, until all have gone.
// Encoding starts on the thread pool as soon as the first chunk is full, so on a second processor
// it overlaps with the copy.
//
// A complete copy of a running domain is one long checkpoint: copy() and send_rest() by turns, once
// for each round of pre-copy, the last round in the pause. A page may come again in a later copy():
// no chunk is encoded before all chunks of the copy() before are, so on the wire and in the mirror
// the later content wins.
//
// Back-pressure, from the link backwards: the sink is awaited for each batch; at most
// `encoded_bytes_max` of batches wait for it; a chunk is not encoded before there is room for its
// batch; pages are not copied before there is a chunk. So a dirty set larger than the arena makes
// copy() itself hand out batches, and the pause grows instead of the memory.
//
// If a step fails, or is cancelled, the mirror is ahead of the backup: abandon(), then reset the
// mirror and synchronise from scratch.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "checkpoint/mirror.h"
#include "checkpoint/page_batch.h"
#include "checkpoint/staging.h"
#include "hypervisor/domain.h"

namespace understudy {

/// Takes one encoded batch (the payload of a page_batch frame) and completes when there is room for
/// the next one, normally when the link has taken it. An error ends the capture.
using BatchSink = std::function<Task<Result<void>>(std::vector<std::byte> batch)>;

/// Bounds of one capture.
struct CaptureLimits {
  std::size_t encoded_bytes_max = std::size_t{16} << 20;  ///< Batches that are encoded or being
                                                          ///< encoded and not yet with the sink.
};

/// What a checkpoint's batches add up to: three fields of checkpoint_end, and statistics.
struct CaptureTotals {
  std::uint64_t batches = 0;
  std::uint64_t pages = 0;
  std::uint64_t chain = 0;
  EncodeStatistics statistics;
};

/// Captures one domain's checkpoints, one after another. All calls come from one executor's thread;
/// only the encoding runs elsewhere. May be destroyed at any time between calls, which abandons;
/// the executor and the pool must still be there then.
class CheckpointCapture {
 public:
  /// `executor` is where the calls come from (single-threaded); `workers` the pool that encodes.
  CheckpointCapture(boost::asio::any_io_executor executor, boost::asio::any_io_executor workers,
                    StagingArena arena, std::shared_ptr<Mirror> mirror, BatchSink sink,
                    CaptureLimits limits = {});
  ~CheckpointCapture();
  CheckpointCapture(const CheckpointCapture&) = delete;
  CheckpointCapture& operator=(const CheckpointCapture&) = delete;

  /// Starts the checkpoint `epoch`. Nothing of an earlier one may be left: send_rest() or abandon()
  /// came before.
  void begin(EpochId epoch);

  /// Copies the `dirty` pages (well-formed for `memory`, checked) of `memory` into the arena. To be
  /// called while the domain stands still, or, in pre-copy, while it runs (pages may then be torn;
  /// they will be dirty again). Returns when the last page is copied; nothing of `memory` or
  /// `dirty` is needed afterwards. `memory` has the size of the mirror.
  Task<Result<void>> copy(std::span<const std::byte> memory, std::span<const PageRange> dirty);

  /// Hands out what has been copied. What all batches since begin() add up to; more copy() may
  /// follow.
  Task<Result<CaptureTotals>> send_rest();

  /// Gives up the checkpoint and forgets everything. Blocks until no worker is at work on it any
  /// more, a few milliseconds at most; afterwards the mirror may be reset. No copy() or send_rest()
  /// may be under way.
  void abandon();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace understudy
