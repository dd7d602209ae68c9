#include "replay/input_log.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "transport/octets.h"

namespace understudy::replay {
namespace {

using transport::OctetReader;
using transport::OctetWriter;

constexpr std::size_t kBatchHeadBytes = 40;
constexpr std::size_t kChecksumAt = 32;
constexpr std::size_t kRecordHeadBytes = 8;
constexpr std::size_t kOutputBytes = 72;
constexpr std::size_t kMarkBytes = 16;
constexpr std::size_t kAcknowledgedBytes = 32;
constexpr std::uint16_t kOutputFlagsKnown = 63;
constexpr std::uint8_t kPartialChecksum = 1;

enum class Kind : std::uint8_t { input = 1, output = 2, mark = 3, gap = 4 };

// --- writing ---

void write_address(OctetWriter& writer, const IpAddress& address) {
  const auto octets = address.octets();
  writer.octets(std::as_bytes(octets));
  for (std::size_t i = octets.size(); i < 16; ++i) writer.number(std::uint8_t{0});
}

void write_head(OctetWriter& writer, Kind kind, std::uint8_t flags, std::uint16_t interface,
                std::size_t body_bytes) {
  writer.number(static_cast<std::uint8_t>(kind));
  writer.number(flags);
  writer.number(interface);
  writer.number(static_cast<std::uint32_t>(body_bytes));
}

void write(OctetWriter& writer, const InputRecord& input) {
  UNDERSTUDY_CHECK(!input.frame.empty() && input.frame.size() <= kFrameBytesMax,
                   "input record: a frame of that size");
  const bool partial = input.checksum == ChecksumState::partial;
  write_head(writer, Kind::input, partial ? kPartialChecksum : 0, input.interface,
             input.frame.size());
  writer.octets(std::as_bytes(std::span(input.frame)));
}

void write(OctetWriter& writer, const OutputRecord& output) {
  write_head(writer, Kind::output, 0, 0, kOutputBytes);
  writer.number(output.flow.protocol);
  writer.number(static_cast<std::uint8_t>(output.flow.guest.is_v6() ? 6 : 4));
  UNDERSTUDY_CHECK((output.flags & ~kOutputFlagsKnown) == 0 && output.window_scale <= 14,
                   "output record: fields break their limits");
  writer.number(static_cast<std::uint16_t>(output.flags | output.window_scale << 8));
  writer.number(output.flow.guest_port);
  writer.number(output.flow.client_port);
  write_address(writer, output.flow.guest);
  write_address(writer, output.flow.client);
  writer.number(output.offset);
  writer.number(output.digest);
  writer.number(output.length);
  writer.number(output.sequence_base);
  writer.number(output.acknowledgement);
  writer.number(output.timestamp);
}

void write(OctetWriter& writer, const MarkRecord& mark) {
  UNDERSTUDY_CHECK(mark.epoch.value > 0 && mark.translations.size() <= kMarkStateBytesMax,
                   "mark record: fields break their limits");
  write_head(writer, Kind::mark, 0, 0, kMarkBytes + mark.translations.size());
  writer.number(mark.epoch.value);
  writer.number(mark.delivered.value);
  writer.octets(mark.translations);
}

void write(OctetWriter& writer, const GapRecord&) {
  write_head(writer, Kind::gap, 0, 0, 0);
}

// --- reading ---

Result<IpAddress> read_address(OctetReader& reader, bool v6) {
  const auto octets = reader.array<16>();
  if (v6) return IpAddress::v6(octets);
  if (std::any_of(octets.begin() + 4, octets.end(), [](std::uint8_t o) { return o != 0; })) {
    return fail(ErrorCode::bad_data, "output record: octets behind an IPv4 address are not zero");
  }
  return IpAddress::v4({octets[0], octets[1], octets[2], octets[3]});
}

Result<LogContent> read_output(OctetReader reader) {
  OutputRecord output;
  output.flow.protocol = reader.number<std::uint8_t>();
  const auto family = reader.number<std::uint8_t>();
  const auto flags = reader.number<std::uint16_t>();
  output.window_scale = static_cast<std::uint8_t>(flags >> 8);
  output.flags = flags & 0xFF;
  output.flow.guest_port = reader.number<std::uint16_t>();
  output.flow.client_port = reader.number<std::uint16_t>();
  if (family != 4 && family != 6) {
    return fail(ErrorCode::bad_data, "output record: address family {}, must be 4 or 6", family);
  }
  if (output.flow.protocol != 6 && output.flow.protocol != 17 &&
      output.flow.protocol != (family == 6 ? 58 : 1)) {
    return fail(ErrorCode::bad_data, "output record: protocol {} has no flows",
                output.flow.protocol);
  }
  if ((output.flags & ~kOutputFlagsKnown) != 0) {
    return fail(ErrorCode::protocol, "output record: unknown flags {:#06x}", output.flags);
  }
  if (output.window_scale > 14) {
    return fail(ErrorCode::bad_data, "output record: window scale {}, at most 14 is allowed",
                output.window_scale);
  }
  BOOST_OUTCOME_TRY(output.flow.guest, read_address(reader, family == 6));
  BOOST_OUTCOME_TRY(output.flow.client, read_address(reader, family == 6));
  output.offset = reader.number<std::uint64_t>();
  output.digest = reader.number<std::uint64_t>();
  output.length = reader.number<std::uint32_t>();
  output.sequence_base = reader.number<std::uint32_t>();
  output.acknowledgement = reader.number<std::uint32_t>();
  output.timestamp = reader.number<std::uint32_t>();
  if (output.length > kFrameBytesMax) {
    return fail(ErrorCode::bad_data, "output record: {} octets in one frame, at most {}",
                output.length, kFrameBytesMax);
  }
  if (output.offset > std::uint64_t{1} << 62) {
    return fail(ErrorCode::bad_data, "output record: stream offset {}", output.offset);
  }
  return LogContent(output);
}

Result<LogContent> read_mark(LogPosition position, std::span<const std::byte> body) {
  if (body.size() < kMarkBytes || body.size() > kMarkBytes + kMarkStateBytesMax) {
    return fail(ErrorCode::bad_data, "mark: {} octets, must be {} to {}", body.size(), kMarkBytes,
                kMarkBytes + kMarkStateBytesMax);
  }
  OctetReader reader(body);
  MarkRecord mark;
  mark.epoch = EpochId(reader.number<std::uint64_t>());
  mark.delivered = LogPosition(reader.number<std::uint64_t>());
  if (mark.epoch.value == 0) return fail(ErrorCode::bad_data, "mark: the epoch is 0: none");
  if (mark.delivered >= position) {
    return fail(ErrorCode::bad_data, "mark at {}: cannot have delivered up to {}", position,
                mark.delivered);
  }
  mark.translations.assign(reader.rest().begin(), reader.rest().end());
  return LogContent(std::move(mark));
}

Result<LogContent> read_record(LogPosition position, std::uint8_t kind, std::uint8_t flags,
                               std::uint16_t interface, std::span<const std::byte> body) {
  const bool is_input = kind == static_cast<std::uint8_t>(Kind::input);
  if ((flags & ~(is_input ? kPartialChecksum : 0)) != 0) {
    return fail(ErrorCode::protocol, "record {}: unknown flags {:#04x}", position, flags);
  }
  if (!is_input && interface != 0) {
    return fail(ErrorCode::bad_data, "record {}: reserved octets 2 to 3 are {:#x}, not zero",
                position, interface);
  }
  switch (static_cast<Kind>(kind)) {
    case Kind::input: {
      if (body.empty() || body.size() > kFrameBytesMax) {
        return fail(ErrorCode::bad_data, "input {}: a frame of {} octets, must be 1 to {}",
                    position, body.size(), kFrameBytesMax);
      }
      const auto* octets = reinterpret_cast<const std::uint8_t*>(body.data());
      return LogContent(InputRecord{interface,
                                    flags == 0 ? ChecksumState::complete : ChecksumState::partial,
                                    Frame(octets, octets + body.size())});
    }
    case Kind::output:
      if (body.size() != kOutputBytes) {
        return fail(ErrorCode::bad_data, "output {}: {} octets, {} expected", position, body.size(),
                    kOutputBytes);
      }
      return read_output(OctetReader(body));
    case Kind::mark:
      return read_mark(position, body);
    case Kind::gap:
      if (!body.empty()) {
        return fail(ErrorCode::bad_data, "gap {}: {} octets, none expected", position, body.size());
      }
      return LogContent(GapRecord{});
  }
  return fail(ErrorCode::protocol, "record {}: unknown kind {}", position, kind);
}

/// Version, flags and reserved octets, the same for batches and acknowledgements.
Result<void> check_start(std::string_view what, std::span<const std::byte> payload,
                         std::size_t bytes_min) {
  if (!payload.empty() && std::to_integer<std::uint8_t>(payload[0]) != kLogVersion) {
    return fail(ErrorCode::protocol, "{}: version {}, only {} is known", what,
                std::to_integer<std::uint8_t>(payload[0]), kLogVersion);
  }
  if (payload.size() < bytes_min) {
    return fail(ErrorCode::bad_data, "{}: {} octets, at least {} expected", what, payload.size(),
                bytes_min);
  }
  if (payload[1] != std::byte{0}) {
    return fail(ErrorCode::protocol, "{}: unknown flags {:#04x}", what,
                std::to_integer<std::uint8_t>(payload[1]));
  }
  return ok();
}

std::uint64_t checksum_of(std::span<const std::byte> batch) {
  const std::uint64_t seed = XXH3_64bits(batch.data(), kChecksumAt);
  const auto body = batch.subspan(kBatchHeadBytes);
  return XXH3_64bits_withSeed(body.data(), body.size(), seed);
}

}  // namespace

std::size_t encoded_bytes(const LogContent& content) {
  struct Body {
    std::size_t operator()(const InputRecord& input) const { return input.frame.size(); }
    std::size_t operator()(const OutputRecord&) const { return kOutputBytes; }
    std::size_t operator()(const MarkRecord& m) const { return kMarkBytes + m.translations.size(); }
    std::size_t operator()(const GapRecord&) const { return 0; }
  };
  return kRecordHeadBytes + std::visit(Body{}, content);
}

std::vector<std::byte> encode(const LogBatch& batch) {
  std::vector<const LogRecord*> records;
  records.reserve(batch.records.size());
  for (const LogRecord& record : batch.records) records.push_back(&record);
  return encode_log_batch(batch.protection, batch.generation, records);
}

std::vector<std::byte> encode_log_batch(ProtectionId protection, Generation generation,
                                        std::span<const LogRecord* const> records) {
  UNDERSTUDY_CHECK(protection.value > 0 && !records.empty(),
                   "log batch: fields break their limits");
  OctetWriter writer;
  writer.number(kLogVersion);
  writer.number(std::uint8_t{0});
  writer.number(std::uint16_t{0});
  writer.number(static_cast<std::uint32_t>(records.size()));
  writer.number(protection.value);
  writer.number(generation.value);
  writer.number(records.front()->position.value);
  writer.number(std::uint64_t{0});
  LogPosition next = records.front()->position;
  for (const LogRecord* record : records) {
    UNDERSTUDY_CHECK(record->position == next, "log batch: positions do not follow one another");
    next = next.next();
    std::visit([&writer](const auto& content) { write(writer, content); }, record->content);
  }
  std::vector<std::byte> payload = writer.take();
  UNDERSTUDY_CHECK(payload.size() <= kBatchBytesMax, "log batch: too many octets");
  const std::uint64_t checksum = checksum_of(payload);
  for (std::size_t i = 0; i < 8; ++i) {
    payload[kChecksumAt + i] = static_cast<std::byte>(checksum >> (8 * i));
  }
  return payload;
}

std::vector<std::byte> encode(const LogAcknowledged& acknowledged) {
  UNDERSTUDY_CHECK(acknowledged.protection.value > 0 && acknowledged.position.value > 0,
                   "log acknowledgement: fields break their limits");
  OctetWriter writer;
  writer.number(kLogVersion);
  writer.number(std::uint8_t{0});
  writer.number(std::uint16_t{0});
  writer.number(std::uint32_t{0});
  writer.number(acknowledged.protection.value);
  writer.number(acknowledged.generation.value);
  writer.number(acknowledged.position.value);
  return writer.take();
}

Result<LogBatch> decode_log_batch(std::span<const std::byte> payload) {
  BOOST_OUTCOME_TRY(check_start("input_log", payload, kBatchHeadBytes));
  if (payload.size() > kBatchBytesMax) {
    return fail(ErrorCode::bad_data, "input_log: {} octets, at most {} are allowed", payload.size(),
                kBatchBytesMax);
  }
  OctetReader reader(payload);
  (void)reader.number<std::uint16_t>();
  const auto reserved = reader.number<std::uint16_t>();
  const std::size_t count = reader.number<std::uint32_t>();
  LogBatch batch;
  batch.protection = ProtectionId(reader.number<std::uint64_t>());
  batch.generation = Generation(reader.number<std::uint64_t>());
  const auto first = reader.number<std::uint64_t>();
  const auto checksum = reader.number<std::uint64_t>();
  if (reserved != 0) {
    return fail(ErrorCode::bad_data, "input_log: reserved octets 2 to 3 are {:#x}, not zero",
                reserved);
  }
  if (checksum != checksum_of(payload)) {
    return fail(ErrorCode::bad_data, "input_log: the checksum is another one");
  }
  if (batch.protection.value == 0) {
    return fail(ErrorCode::bad_data, "input_log: the protection is 0, which means none");
  }
  if (count == 0 || count > reader.rest().size() / kRecordHeadBytes) {
    return fail(ErrorCode::bad_data, "input_log: {} records in {} octets", count,
                reader.rest().size());
  }
  if (first == 0 || first > ~std::uint64_t{0} - count) {
    return fail(ErrorCode::bad_data, "input_log: first position {}", first);
  }
  batch.records.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const LogPosition position(first + i);
    const auto kind = reader.number<std::uint8_t>();
    const auto flags = reader.number<std::uint8_t>();
    const auto interface = reader.number<std::uint16_t>();
    const auto body_bytes = reader.number<std::uint32_t>();
    const auto body = reader.octets(body_bytes);
    if (reader.broken()) {
      return fail(ErrorCode::bad_data, "input_log: ends within record {}", position);
    }
    BOOST_OUTCOME_TRY(auto content, read_record(position, kind, flags, interface, body));
    batch.records.push_back({position, std::move(content)});
  }
  if (!reader.rest().empty()) {
    return fail(ErrorCode::bad_data, "input_log: {} octets behind the last record",
                reader.rest().size());
  }
  return batch;
}

Result<LogAcknowledged> decode_log_acknowledged(std::span<const std::byte> payload) {
  constexpr std::string_view what = "log acknowledgement";
  BOOST_OUTCOME_TRY(check_start(what, payload, kAcknowledgedBytes));
  if (payload.size() != kAcknowledgedBytes) {
    return fail(ErrorCode::bad_data, "{}: {} octets, {} expected", what, payload.size(),
                kAcknowledgedBytes);
  }
  OctetReader reader(payload.subspan(2));
  const auto reserved = reader.number<std::uint16_t>();
  const auto reserved_too = reader.number<std::uint32_t>();
  if (reserved != 0 || reserved_too != 0) {
    return fail(ErrorCode::bad_data, "{}: reserved octets 2 to 7 are not zero", what);
  }
  LogAcknowledged acknowledged;
  acknowledged.protection = ProtectionId(reader.number<std::uint64_t>());
  acknowledged.generation = Generation(reader.number<std::uint64_t>());
  acknowledged.position = LogPosition(reader.number<std::uint64_t>());
  if (acknowledged.protection.value == 0 || acknowledged.position.value == 0) {
    return fail(ErrorCode::bad_data, "{}: a protection or position of 0", what);
  }
  return acknowledged;
}

// --- the log ---

void InputLog::count(const LogContent& content, bool added) {
  const std::size_t bytes = encoded_bytes(content) + kRecordOverheadBytes;
  const std::size_t inputs = std::holds_alternative<InputRecord>(content) ? 1 : 0;
  bytes_ = added ? bytes_ + bytes : bytes_ - bytes;
  inputs_ = added ? inputs_ + inputs : inputs_ - inputs;
}

Result<LogPosition> InputLog::append(LogContent content) {
  const std::size_t bytes = encoded_bytes(content) + kRecordOverheadBytes;
  if (records_.size() >= limits_.records_max || bytes_ + bytes > limits_.bytes_max) {
    return fail(ErrorCode::no_resources, "the input log is full: {} records, {} octets",
                records_.size(), bytes_);
  }
  last_ = last_.next();
  count(content, true);
  records_.push_back({last_, std::move(content)});
  return last_;
}

Result<void> InputLog::take_in(std::vector<LogRecord> records) {
  std::size_t bytes = bytes_;
  LogPosition last = last_;
  for (const LogRecord& record : records) {
    if (last.value != 0 && record.position != last.next()) {
      return fail(ErrorCode::bad_data, "log position {} does not follow {}", record.position, last);
    }
    last = record.position;
    bytes += encoded_bytes(record.content) + kRecordOverheadBytes;
  }
  if (records_.size() + records.size() > limits_.records_max || bytes > limits_.bytes_max) {
    return fail(ErrorCode::no_resources, "the input log would hold {} records, {} octets",
                records_.size() + records.size(), bytes);
  }
  for (LogRecord& record : records) {
    count(record.content, true);
    records_.push_back(std::move(record));
  }
  last_ = last;
  return ok();
}

Result<MarkRecord> InputLog::cut(EpochId epoch) {
  const auto mark_at = std::find_if(records_.begin(), records_.end(), [epoch](const auto& record) {
    const auto* mark = std::get_if<MarkRecord>(&record.content);
    return mark != nullptr && mark->epoch == epoch;
  });
  if (mark_at == records_.end()) {
    return fail(ErrorCode::no_such, "the input log has no mark of epoch {}", epoch);
  }
  const LogPosition marked = mark_at->position;
  MarkRecord mark = std::get<MarkRecord>(mark_at->content);
  std::deque<LogRecord> left;
  while (!records_.empty() && records_.front().position <= marked) {
    LogRecord record = std::move(records_.front());
    records_.pop_front();
    const bool in_flight =
        record.position > mark.delivered && (std::holds_alternative<InputRecord>(record.content) ||
                                             std::holds_alternative<GapRecord>(record.content));
    if (in_flight) {
      left.push_back(std::move(record));
    } else {
      count(record.content, false);
    }
  }
  records_.insert(records_.begin(), std::make_move_iterator(left.begin()),
                  std::make_move_iterator(left.end()));
  return mark;
}

void InputLog::clear() {
  records_.clear();
  bytes_ = 0;
  inputs_ = 0;
}

std::deque<LogRecord> InputLog::take_records() {
  std::deque<LogRecord> records = std::move(records_);
  clear();
  return records;
}

// --- the backup's side ---

Result<LogAcknowledged> BackupLog::on_batch(LogBatch batch) {
  if (deaf_) return fail(ErrorCode::protocol, "input_log: this host has decided to promote");
  if (batch.protection != protection_) {
    return fail(ErrorCode::protocol, "input_log: of protection {:x}, not {:x}",
                batch.protection.value, protection_.value);
  }
  if (batch.generation < generation_) {
    return fail(ErrorCode::protocol, "input_log: of generation {}, {} is known", batch.generation,
                generation_);
  }
  auto& records = batch.records;
  const bool fresh = log_.last_position().value == 0;
  if (fresh && !records.empty() && !std::holds_alternative<GapRecord>(records.front().content)) {
    return fail(ErrorCode::protocol, "input_log: begins at {} without a gap",
                records.front().position);
  }
  std::erase_if(records, [this](const LogRecord& r) { return r.position <= log_.last_position(); });
  BOOST_OUTCOME_TRY(log_.take_in(std::move(records)));
  return LogAcknowledged{protection_, generation_, log_.last_position()};
}

bool BackupLog::on_committed(EpochId epoch) {
  auto mark = log_.cut(epoch);
  if (!mark) log_.clear();
  translations_ = mark ? std::move(mark.value().translations) : std::vector<std::byte>();
  return mark.has_value();
}

BackupLog::Replayable BackupLog::take() {
  UNDERSTUDY_CHECK(deaf_, "a log is replayed only after the decision to promote");
  Replayable replayable;
  replayable.translations = std::move(translations_);
  for (LogRecord& record : log_.take_records()) {
    if (std::holds_alternative<GapRecord>(record.content)) {
      replayable.ended_by_gap = true;
      break;
    }
    if (!std::holds_alternative<MarkRecord>(record.content)) {
      replayable.records.push_back(std::move(record));
    }
  }
  return replayable;
}

}  // namespace understudy::replay
