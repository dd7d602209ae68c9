#include "checkpoint/records.h"

#include <algorithm>
#include <string_view>

#include "checkpoint/octets.h"

namespace understudy {
namespace {

// Every record begins: 0 version · 1 flags (none known) · 2 reserved (2).
constexpr std::size_t kVersionAt = 0;
constexpr std::size_t kFlagsAt = 1;
constexpr std::size_t kReservedAt = 2;

// checkpoint_begin: 4 reserved (4) · 8 protection · 16 generation · 24 epoch · 32 base
//                   · 40 memory pages · 48 expected pages
constexpr std::size_t kBeginBytes = 56;
// checkpoint_end: 4 pause_us (4) · 8 epoch · 16 batches · 24 pages · 32 chain
//                 · 40 length of addresses (4) · 44 reserved (4) · 48 addresses
constexpr std::size_t kEndBytes = 48;
// acknowledgement: 4 reserved (4) · 8 protection · 16 generation · 24 epoch
constexpr std::size_t kAcknowledgedBytes = 32;

std::vector<std::byte> start_record(std::size_t bytes) {
  std::vector<std::byte> record(bytes);
  octets::put(record.data() + kVersionAt, kCheckpointRecordVersion);
  return record;
}

std::uint64_t number_at(std::span<const std::byte> payload, std::size_t at) {
  return octets::get<std::uint64_t>(payload.data() + at);
}

std::uint32_t short_number_at(std::span<const std::byte> payload, std::size_t at) {
  return octets::get<std::uint32_t>(payload.data() + at);
}

/// Length, version, flags and the first reserved octets, the same for every record.
Result<void> check_start(std::string_view what, std::span<const std::byte> payload,
                         std::size_t bytes_min) {
  // The version first: another version may well have another length.
  if (!payload.empty()) {
    const auto version = octets::get<std::uint8_t>(payload.data() + kVersionAt);
    if (version != kCheckpointRecordVersion) {
      return fail(ErrorCode::protocol, "{}: version {}, only {} is known", what, version,
                  kCheckpointRecordVersion);
    }
  }
  if (payload.size() < bytes_min) {
    return fail(ErrorCode::bad_data, "{}: {} octets, at least {} expected", what, payload.size(),
                bytes_min);
  }
  const auto flags = octets::get<std::uint8_t>(payload.data() + kFlagsAt);
  if (flags != 0) {
    return fail(ErrorCode::protocol, "{}: unknown flags {:#04x}", what, flags);
  }
  const auto reserved = octets::get<std::uint16_t>(payload.data() + kReservedAt);
  if (reserved != 0) {
    return fail(ErrorCode::bad_data, "{}: reserved octets 2 to 3 are {:#x}, not zero", what,
                reserved);
  }
  return ok();
}

Result<void> check_reserved(std::string_view what, std::span<const std::byte> payload,
                            std::size_t at) {
  if (const std::uint32_t reserved = short_number_at(payload, at); reserved != 0) {
    return fail(ErrorCode::bad_data, "{}: reserved octets {} to {} are {:#x}, not zero", what, at,
                at + 3, reserved);
  }
  return ok();
}

Result<void> check_exact(std::string_view what, std::span<const std::byte> payload,
                         std::size_t bytes) {
  if (payload.size() != bytes) {
    return fail(ErrorCode::bad_data, "{}: {} octets, {} expected", what, payload.size(), bytes);
  }
  return ok();
}

Result<void> check_not_zero(std::string_view what, std::string_view field, std::uint64_t value) {
  if (value == 0) return fail(ErrorCode::bad_data, "{}: {} is 0, which means none", what, field);
  return ok();
}

/// The rules for the fields of a begin; of ours when encoding, of the peer's when decoding.
Result<void> check(const CheckpointBegin& record) {
  constexpr std::string_view what = "checkpoint_begin";
  BOOST_OUTCOME_TRY(check_not_zero(what, "the protection", record.protection.value));
  BOOST_OUTCOME_TRY(check_not_zero(what, "the epoch", record.epoch.value));
  if (record.base >= record.epoch) {
    return fail(ErrorCode::bad_data, "{}: epoch {} cannot build upon epoch {}", what, record.epoch,
                record.base);
  }
  if (record.memory_pages == 0 || record.memory_pages > kMemoryPagesMax) {
    return fail(ErrorCode::bad_data, "{}: {} pages of memory, must be 1 to {}", what,
                record.memory_pages, kMemoryPagesMax);
  }
  if (record.dirty_pages_expected > record.memory_pages) {
    return fail(ErrorCode::bad_data, "{}: {} dirty pages expected in a memory of {}", what,
                record.dirty_pages_expected, record.memory_pages);
  }
  return ok();
}

}  // namespace

std::vector<std::byte> encode(const CheckpointBegin& record) {
  UNDERSTUDY_CHECK(check(record).has_value(), "checkpoint_begin: fields break their limits");
  std::vector<std::byte> payload = start_record(kBeginBytes);
  octets::put(payload.data() + 8, record.protection.value);
  octets::put(payload.data() + 16, record.generation.value);
  octets::put(payload.data() + 24, record.epoch.value);
  octets::put(payload.data() + 32, record.base.value);
  octets::put(payload.data() + 40, record.memory_pages);
  octets::put(payload.data() + 48, record.dirty_pages_expected);
  return payload;
}

std::vector<std::byte> encode(const CheckpointEnd& record) {
  UNDERSTUDY_CHECK(
      record.epoch.value > 0 && record.learnt_addresses.size() <= kLearntAddressesBytesMax,
      "checkpoint_end: fields break their limits");
  std::vector<std::byte> payload = start_record(kEndBytes + record.learnt_addresses.size());
  octets::put(payload.data() + 4, record.pause_us);
  octets::put(payload.data() + 8, record.epoch.value);
  octets::put(payload.data() + 16, record.batches);
  octets::put(payload.data() + 24, record.pages);
  octets::put(payload.data() + 32, record.chain);
  octets::put(payload.data() + 40, static_cast<std::uint32_t>(record.learnt_addresses.size()));
  std::copy(record.learnt_addresses.begin(), record.learnt_addresses.end(),
            payload.begin() + kEndBytes);
  return payload;
}

std::vector<std::byte> encode(const CheckpointAcknowledged& record) {
  UNDERSTUDY_CHECK(record.protection.value > 0 && record.epoch.value > 0,
                   "acknowledgement: fields break their limits");
  std::vector<std::byte> payload = start_record(kAcknowledgedBytes);
  octets::put(payload.data() + 8, record.protection.value);
  octets::put(payload.data() + 16, record.generation.value);
  octets::put(payload.data() + 24, record.epoch.value);
  return payload;
}

Result<CheckpointBegin> decode_checkpoint_begin(std::span<const std::byte> payload) {
  constexpr std::string_view what = "checkpoint_begin";
  BOOST_OUTCOME_TRY(check_start(what, payload, kBeginBytes));
  BOOST_OUTCOME_TRY(check_exact(what, payload, kBeginBytes));
  BOOST_OUTCOME_TRY(check_reserved(what, payload, 4));
  CheckpointBegin record;
  record.protection = ProtectionId(number_at(payload, 8));
  record.generation = Generation(number_at(payload, 16));
  record.epoch = EpochId(number_at(payload, 24));
  record.base = EpochId(number_at(payload, 32));
  record.memory_pages = number_at(payload, 40);
  record.dirty_pages_expected = number_at(payload, 48);
  BOOST_OUTCOME_TRY(check(record));
  return record;
}

Result<CheckpointEnd> decode_checkpoint_end(std::span<const std::byte> payload) {
  constexpr std::string_view what = "checkpoint_end";
  BOOST_OUTCOME_TRY(check_start(what, payload, kEndBytes));
  const std::size_t address_bytes = short_number_at(payload, 40);
  if (address_bytes > kLearntAddressesBytesMax) {
    return fail(ErrorCode::bad_data, "{}: {} octets of addresses, at most {} are allowed", what,
                address_bytes, kLearntAddressesBytesMax);
  }
  BOOST_OUTCOME_TRY(check_exact(what, payload, kEndBytes + address_bytes));
  BOOST_OUTCOME_TRY(check_reserved(what, payload, 44));
  CheckpointEnd record;
  record.pause_us = short_number_at(payload, 4);
  record.epoch = EpochId(number_at(payload, 8));
  record.batches = number_at(payload, 16);
  record.pages = number_at(payload, 24);
  record.chain = number_at(payload, 32);
  BOOST_OUTCOME_TRY(check_not_zero(what, "the epoch", record.epoch.value));
  const auto addresses = payload.subspan(kEndBytes);
  record.learnt_addresses.assign(addresses.begin(), addresses.end());
  return record;
}

Result<CheckpointAcknowledged> decode_checkpoint_acknowledged(std::span<const std::byte> payload) {
  constexpr std::string_view what = "acknowledgement";
  BOOST_OUTCOME_TRY(check_start(what, payload, kAcknowledgedBytes));
  BOOST_OUTCOME_TRY(check_exact(what, payload, kAcknowledgedBytes));
  BOOST_OUTCOME_TRY(check_reserved(what, payload, 4));
  CheckpointAcknowledged record;
  record.protection = ProtectionId(number_at(payload, 8));
  record.generation = Generation(number_at(payload, 16));
  record.epoch = EpochId(number_at(payload, 24));
  BOOST_OUTCOME_TRY(check_not_zero(what, "the protection", record.protection.value));
  BOOST_OUTCOME_TRY(check_not_zero(what, "the epoch", record.epoch.value));
  return record;
}

}  // namespace understudy
