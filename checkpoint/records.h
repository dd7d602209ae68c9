// The records of a checkpoint: what the payload of each frame between primary and backup means.
//
//   checkpoint_begin · page_batch … · device_state · checkpoint_end      (primary to backup)
//   acknowledgement                                                    (backup to primary)
//
// Octets are written one by one in little-endian order: no struct is ever cast onto the wire. Every
// record starts with its version; reserved octets are zero and are checked to be; flags that are
// not known are refused, because a flag changes the meaning. Lengths are exact: an octet too many
// is an error, too. page_batch is defined in page_batch.h, device_state in device_state.h, all
// drawn in docs/protocol-checkpoint.md. The frame around them (type, length, checksum) is
// transport's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/protection.h"

namespace understudy {

/// The version of all records of a checkpoint that this build speaks.
inline constexpr std::uint8_t kCheckpointRecordVersion = 1;
/// Octets of learnt addresses in checkpoint_end, at most.
inline constexpr std::size_t kLearntAddressesBytesMax = 64 * 1024;
/// The largest memory that a record may speak of: 16 TiB. Bounds every product of page counts.
inline constexpr std::uint64_t kMemoryPagesMax = std::uint64_t{1} << 32;

/// Opens a checkpoint.
struct CheckpointBegin {
  ProtectionId protection;  ///< Never 0.
  Generation generation;    ///< The sender's.
  EpochId epoch;            ///< What it will be called; at least 1.
  EpochId base;  ///< The epoch that it builds upon, below `epoch`; 0 for a complete copy.
  std::uint64_t memory_pages = 0;          ///< Size of the domain's memory; must be the image's.
  std::uint64_t dirty_pages_expected = 0;  ///< For progress: pages that will be looked at, at most
                                           ///< memory_pages. Fewer may come, and in a complete
                                           ///< copy of a busy domain more.

  /// Whether it is a complete copy, which goes to the image as it comes.
  [[nodiscard]] bool complete_copy() const { return base.value == 0; }
  bool operator==(const CheckpointBegin&) const = default;
};

/// Closes a checkpoint. What came in between must add up to it.
struct CheckpointEnd {
  EpochId epoch;
  std::uint64_t batches = 0;
  std::uint64_t pages = 0;                  ///< Pages in all batches.
  std::uint64_t chain = 0;                  ///< BatchChain over all batches.
  std::uint32_t pause_us = 0;               ///< How long the domain stood still.
  std::vector<std::byte> learnt_addresses;  ///< Opaque here: addresses that the domain was seen to
                                            ///< use, to be announced after a promotion.
  bool operator==(const CheckpointEnd&) const = default;
};

/// The backup holds the whole checkpoint: output of that epoch may go.
struct CheckpointAcknowledged {
  ProtectionId protection;  ///< Never 0.
  Generation generation;    ///< The highest that the backup knows.
  EpochId epoch;            ///< At least 1.
  bool operator==(const CheckpointAcknowledged&) const = default;
};

/// The record as octets. The fields must keep the limits above (a broken promise of ours
/// otherwise).
std::vector<std::byte> encode(const CheckpointBegin& record);
std::vector<std::byte> encode(const CheckpointEnd& record);
std::vector<std::byte> encode(const CheckpointAcknowledged& record);

/// The record in `payload`. protocol for a version or flag that is not known; bad_data for a
/// wrong length, a reserved octet that is not zero or a number beyond its limit.
Result<CheckpointBegin> decode_checkpoint_begin(std::span<const std::byte> payload);
Result<CheckpointEnd> decode_checkpoint_end(std::span<const std::byte> payload);
Result<CheckpointAcknowledged> decode_checkpoint_acknowledged(std::span<const std::byte> payload);

}  // namespace understudy
