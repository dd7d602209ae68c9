#include "checkpoint/device_state.h"

#include <lz4.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "checkpoint/changed_lines.h"
#include "checkpoint/octets.h"
#include "checkpoint/records.h"

namespace understudy {
namespace {

// The head (docs/protocol-checkpoint.md):
//   0 version · 1 flags · 2 reserved (2) · 4 state octets (4) · 8 body octets (4) · 12 plain octets
//   (4) 16 epoch · 24 xxh3 of the base · 32 xxh3 of the state · 40 xxh3 of head and body · 48 body
constexpr std::size_t kVersionAt = 0;
constexpr std::size_t kFlagsAt = 1;
constexpr std::size_t kReservedAt = 2;
constexpr std::size_t kStateBytesAt = 4;
constexpr std::size_t kBodyBytesAt = 8;
constexpr std::size_t kPlainBytesAt = 12;
constexpr std::size_t kEpochAt = 16;
constexpr std::size_t kBaseHashAt = 24;
constexpr std::size_t kStateHashAt = 32;
constexpr std::size_t kChecksumAt = 40;

constexpr std::uint8_t kFlagLz4 = 1;
constexpr std::uint8_t kFlagHasBase = 2;
constexpr std::uint8_t kFlagsKnown = kFlagLz4 | kFlagHasBase;

// The plain body: a bit for each line of the state, in words of 64; then the changed lines.
constexpr std::size_t kLinesPerWord = 64;

std::size_t lines_in(std::size_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes;
}
std::size_t bitmap_words(std::size_t bytes) {
  return (lines_in(bytes) + kLinesPerWord - 1) / kLinesPerWord;
}
/// Octets of line `line` of a state of `bytes` octets: the last one may be short.
std::size_t line_bytes(std::size_t line, std::size_t bytes) {
  return std::min(kLineBytes, bytes - line * kLineBytes);
}

std::uint64_t hash_of(std::span<const std::byte> octets) {
  return XXH3_64bits(octets.data(), octets.size());
}

/// As for page batches: xxh3 of the body, seeded with the xxh3 of the head before the checksum.
std::uint64_t checksum_of(std::span<const std::byte> record) {
  return XXH3_64bits_withSeed(record.data() + kDeviceStateHeaderBytes,
                              record.size() - kDeviceStateHeaderBytes,
                              XXH3_64bits(record.data(), kChecksumAt));
}

}  // namespace

Result<std::vector<std::byte>> DeviceStateEncoder::encode(EpochId epoch,
                                                          std::span<const std::byte> state) {
  if (state.size() > kDeviceStateBytesMax) {
    return fail(ErrorCode::no_resources,
                "device state: {} octets, at most {} can be sent to a backup", state.size(),
                kDeviceStateBytesMax);
  }
  const std::size_t words = bitmap_words(state.size());
  std::vector<std::byte> plain(words * 8);
  plain.reserve(words * 8 + state.size() / 8);
  for (std::size_t word = 0; word < words; ++word) {
    std::uint64_t changed = 0;
    for (std::size_t bit = 0; bit < kLinesPerWord; ++bit) {
      const std::size_t line = word * kLinesPerWord + bit;
      if (line >= lines_in(state.size())) break;
      const std::size_t at = line * kLineBytes;
      const std::size_t bytes = line_bytes(line, state.size());
      // A line that the base has only in part counts as changed.
      if (at + bytes > base_.size() ||
          std::memcmp(state.data() + at, base_.data() + at, bytes) != 0) {
        changed |= std::uint64_t{1} << bit;
        plain.insert(plain.end(), state.begin() + at, state.begin() + at + bytes);
      }
    }
    octets::put(plain.data() + word * 8, changed);
  }

  std::vector<std::byte> record(kDeviceStateHeaderBytes + plain.size());
  int packed_bytes = 0;
  if (plain.size() > 1) {
    packed_bytes =
        LZ4_compress_default(reinterpret_cast<const char*>(plain.data()),
                             reinterpret_cast<char*>(record.data() + kDeviceStateHeaderBytes),
                             static_cast<int>(plain.size()), static_cast<int>(plain.size() - 1));
  }
  const bool packed = packed_bytes > 0;
  if (packed) {
    record.resize(kDeviceStateHeaderBytes + static_cast<std::size_t>(packed_bytes));
  } else {
    std::copy(plain.begin(), plain.end(), record.begin() + kDeviceStateHeaderBytes);
  }

  const auto flags =
      static_cast<std::uint8_t>((packed ? kFlagLz4 : 0) | (has_base_ ? kFlagHasBase : 0));
  octets::put(record.data() + kVersionAt, kCheckpointRecordVersion);
  octets::put(record.data() + kFlagsAt, flags);
  octets::put(record.data() + kReservedAt, std::uint16_t{0});
  octets::put(record.data() + kStateBytesAt, static_cast<std::uint32_t>(state.size()));
  octets::put(record.data() + kBodyBytesAt,
              static_cast<std::uint32_t>(record.size() - kDeviceStateHeaderBytes));
  octets::put(record.data() + kPlainBytesAt, static_cast<std::uint32_t>(plain.size()));
  octets::put(record.data() + kEpochAt, epoch.value);
  octets::put(record.data() + kBaseHashAt, has_base_ ? hash_of(base_) : std::uint64_t{0});
  octets::put(record.data() + kStateHashAt, hash_of(state));
  octets::put(record.data() + kChecksumAt, checksum_of(record));

  base_.assign(state.begin(), state.end());
  has_base_ = true;
  return record;
}

void DeviceStateEncoder::reset() {
  base_.clear();
  has_base_ = false;
}

Result<DeviceState> decode_device_state(std::span<const std::byte> record,
                                        std::span<const std::byte> base, std::size_t bytes_max) {
  const std::byte* const head = record.data();
  if (!record.empty()) {
    const auto version = octets::get<std::uint8_t>(head + kVersionAt);
    if (version != kCheckpointRecordVersion) {
      return fail(ErrorCode::protocol, "device state: version {}, only {} is known", version,
                  kCheckpointRecordVersion);
    }
  }
  if (record.size() < kDeviceStateHeaderBytes) {
    return fail(ErrorCode::bad_data, "device state: {} octets, the head alone has {}",
                record.size(), kDeviceStateHeaderBytes);
  }
  const auto flags = octets::get<std::uint8_t>(head + kFlagsAt);
  if ((flags & ~kFlagsKnown) != 0) {
    return fail(ErrorCode::protocol, "device state: unknown flags {:#04x}", flags);
  }
  if (const auto reserved = octets::get<std::uint16_t>(head + kReservedAt); reserved != 0) {
    return fail(ErrorCode::bad_data, "device state: reserved octets 2 to 3 are {:#x}, not zero",
                reserved);
  }
  const std::size_t state_bytes = octets::get<std::uint32_t>(head + kStateBytesAt);
  if (state_bytes > std::min(bytes_max, kDeviceStateBytesMax)) {
    return fail(ErrorCode::bad_data, "device state: {} octets, at most {} are allowed", state_bytes,
                std::min(bytes_max, kDeviceStateBytesMax));
  }
  const std::size_t body_bytes = octets::get<std::uint32_t>(head + kBodyBytesAt);
  if (body_bytes != record.size() - kDeviceStateHeaderBytes) {
    return fail(ErrorCode::bad_data, "device state: head says {} octets of body, {} are there",
                body_bytes, record.size() - kDeviceStateHeaderBytes);
  }
  const std::size_t bitmap_bytes = bitmap_words(state_bytes) * 8;
  const std::size_t plain_bytes = octets::get<std::uint32_t>(head + kPlainBytesAt);
  const bool packed = (flags & kFlagLz4) != 0;
  if (plain_bytes < bitmap_bytes || plain_bytes > bitmap_bytes + state_bytes ||
      (packed ? body_bytes >= plain_bytes : body_bytes != plain_bytes)) {
    return fail(ErrorCode::bad_data,
                "device state: {} octets of body and {} plain ones do not fit a state of {}",
                body_bytes, plain_bytes, state_bytes);
  }
  if (const std::uint64_t said = octets::get<std::uint64_t>(head + kChecksumAt),
      computed = checksum_of(record);
      said != computed) {
    return fail(ErrorCode::bad_data, "device state: checksum is {:#018x}, head says {:#018x}",
                computed, said);
  }
  const bool has_base = (flags & kFlagHasBase) != 0;
  const auto base_hash = octets::get<std::uint64_t>(head + kBaseHashAt);
  if (has_base ? base_hash != hash_of(base) : base_hash != 0) {
    return fail(ErrorCode::bad_data,
                "device state: builds upon a state with xxh3 {:#018x}, which is not the one held",
                base_hash);
  }

  std::vector<std::byte> unpacked;
  const std::byte* plain = head + kDeviceStateHeaderBytes;
  if (packed) {
    unpacked.resize(plain_bytes);
    const int got = LZ4_decompress_safe(
        reinterpret_cast<const char*>(plain), reinterpret_cast<char*>(unpacked.data()),
        static_cast<int>(body_bytes), static_cast<int>(plain_bytes));
    if (got < 0 || static_cast<std::size_t>(got) != plain_bytes) {
      return fail(ErrorCode::bad_data, "device state: lz4 body does not unpack to {} octets",
                  plain_bytes);
    }
    plain = unpacked.data();
  }

  DeviceState result;
  result.epoch = EpochId(octets::get<std::uint64_t>(head + kEpochAt));
  result.bytes.resize(state_bytes);
  if (has_base) {
    std::copy_n(base.begin(), std::min(base.size(), state_bytes), result.bytes.begin());
  }
  std::size_t content_at = bitmap_bytes;
  for (std::size_t word = 0; word < bitmap_bytes / 8; ++word) {
    for (auto left = octets::get<std::uint64_t>(plain + word * 8); left != 0; left &= left - 1) {
      const std::size_t line =
          word * kLinesPerWord + static_cast<std::size_t>(std::countr_zero(left));
      if (line >= lines_in(state_bytes)) {
        return fail(ErrorCode::bad_data, "device state: names line {}, there are {}", line,
                    lines_in(state_bytes));
      }
      const std::size_t bytes = line_bytes(line, state_bytes);
      if (bytes > plain_bytes - content_at) {
        return fail(ErrorCode::bad_data, "device state: the body ends within line {}", line);
      }
      std::memcpy(result.bytes.data() + line * kLineBytes, plain + content_at, bytes);
      content_at += bytes;
    }
  }
  if (content_at != plain_bytes) {
    return fail(ErrorCode::bad_data, "device state: {} octets too many at the end of the body",
                plain_bytes - content_at);
  }
  if (const std::uint64_t said = octets::get<std::uint64_t>(head + kStateHashAt),
      computed = hash_of(result.bytes);
      said != computed) {
    return fail(ErrorCode::bad_data, "device state: xxh3 of the result is {:#018x}, not {:#018x}",
                computed, said);
  }
  return result;
}

}  // namespace understudy
