// Device state on the wire: a blob of some hundred KiB that hardly changes from epoch to epoch.
//
// It is cut into 64-octet lines; those that differ from the state of the checkpoint before travel,
// lz4 over them. Where a field of variable length shifts all that follows, most lines differ and
// the record is simply larger: always right, mostly small.
//
// The record names the state that it builds on by that state's xxh3, and carries the xxh3 of the
// result. A receiver that holds another base refuses instead of guessing; the first state of a
// synchronisation builds on nothing. Octet by octet: docs/protocol-checkpoint.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace understudy {

/// Octets of a device state, at most: it has to fit into one frame of a bulk link (16 MiB) whatever
/// it contains. Stock QEMU machines have 50–320 KiB.
inline constexpr std::size_t kDeviceStateBytesMax = std::size_t{15} << 20;
/// Octets before the body of the record.
inline constexpr std::size_t kDeviceStateHeaderBytes = 48;

/// The sender's side: remembers the state that was encoded last.
class DeviceStateEncoder {
 public:
  /// The record for `state` at the end of `epoch`; `state` becomes the base of the next record.
  /// no_resources when it is larger than kDeviceStateBytesMax; the base stays as it was then.
  Result<std::vector<std::byte>> encode(EpochId epoch, std::span<const std::byte> state);
  /// The next record builds on nothing: for a new synchronisation, or when it is unknown whether
  /// the last one arrived.
  void reset();

 private:
  std::vector<std::byte> base_;
  bool has_base_ = false;
};

/// A device state as it was at the end of `epoch`.
struct DeviceState {
  EpochId epoch;
  std::vector<std::byte> bytes;
};

/// The receiver's side: the state in `record`, built on `base` (the state of the last committed
/// checkpoint; empty before the first). `bytes_max` bounds the result before memory is taken.
/// bad_data or protocol when the record is wrong, builds on another base, or the result's checksum
/// differs.
Result<DeviceState> decode_device_state(std::span<const std::byte> record,
                                        std::span<const std::byte> base,
                                        std::size_t bytes_max = kDeviceStateBytesMax);

}  // namespace understudy
