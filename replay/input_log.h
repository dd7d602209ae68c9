// The input log: what went into the domain since its last committed checkpoint, and digests of what
// came out, in one order. The primary writes it, the backup keeps it, a promotion replays it.
//
// Intuition: a position is a place in *one* row of inputs and outputs. 'Every input that was
// delivered before this output, and the output's own digest' is therefore everything up to one
// position, and one number from the backup acknowledges it.
//
//   … input 41 · input 42 · output 43 (digest) · input 44 · mark 45 (epoch 8, delivered 42) …
//
// The cut. A mark is written while the domain stands still for the checkpoint of an epoch. Once
// that epoch is committed, its mark cuts the log:
//  · outputs before the mark go: the guest's memory in that checkpoint knows them as sent;
//  · inputs go up to `delivered`, the last one that was certainly inside the guest at the pause.
//    Inputs between `delivered` and the mark were in flight between gate and guest. They stay, and
//    are replayed: a TCP takes one that it has had already for a duplicate; a datagram may be
//    answered twice.
// One might be tempted to cut at the mark. That is wrong: input 44 above had passed the gate, and
// lay in the tap's queue while the guest stood still. Its answer, made after the pause, is released
// on the strength of the log; cut at 45, nothing could make it again.
//
// A gap stands where inputs were let in without being logged (the log was full, or was not kept
// yet). Nothing behind a gap can be replayed until the gap was cut; nothing behind it is released
// by the log before that (release_rule.h).
//
// The octets are specified in docs/protocol-replay.md. Decoding refuses whatever breaks a rule,
// before it takes memory, and takes a batch whole or not at all. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/protection.h"
#include "replay/flow_key.h"
#include "replay/packet.h"

namespace understudy::replay {

/// The version of the records of a log that this build speaks.
inline constexpr std::uint8_t kLogVersion = 1;
/// Octets of a batch, at most; a batch with one record may reach it.
inline constexpr std::size_t kBatchBytesMax = 2U << 20;
/// Octets of what a mark carries, at most.
inline constexpr std::size_t kMarkStateBytesMax = 1U << 20;
/// Octets of bookkeeping that a record counts for, beside its own.
inline constexpr std::size_t kRecordOverheadBytes = 64;

/// A frame that was let in.
struct InputRecord {
  std::uint16_t interface = 0;  ///< Index of the domain's network interface.
  ChecksumState checksum = ChecksumState::complete;
  Frame frame;  ///< 1 to kFrameBytesMax octets.
  bool operator==(const InputRecord&) const = default;
};

/// What an output carried: enough to know it again, not enough to make it.
struct OutputRecord {
  enum Flags : std::uint16_t {
    opens = 1,         ///< It carries SYN for the first time; `sequence_base` is its number plus 1.
    ends = 2,          ///< It carries FIN for the first time, at offset + length.
    resets = 4,        ///< It carries RST.
    acknowledges = 8,  ///< `acknowledgement` is meaningful.
    has_timestamp = 16,    ///< `timestamp` is meaningful.
    has_window_scale = 32  ///< `window_scale` is known.
  };
  FlowKey flow;
  std::uint16_t flags = 0;
  std::uint8_t window_scale = 0;  ///< The guest's, at most 14.
  /// TCP: the sequence number of stream offset 0, as the client sees it. Tells connections apart
  /// that follow each other on the same ports.
  std::uint32_t sequence_base = 0;
  /// TCP: stream offset of the first octet that no earlier record of the flow has covered. Others:
  /// 0.
  std::uint64_t offset = 0;
  std::uint32_t length = 0;           ///< Octets covered; 0 for a bare acknowledgement.
  std::uint64_t digest = 0;           ///< XXH3 of these octets.
  std::uint32_t acknowledgement = 0;  ///< What the guest has of the client's stream.
  std::uint32_t timestamp = 0;        ///< The guest's clock, as the client sees it.
  bool operator==(const OutputRecord&) const = default;
};

/// The log's side of a checkpoint's barrier.
struct MarkRecord {
  EpochId epoch;          ///< What the checkpoint is called.
  LogPosition delivered;  ///< Inputs and gaps up to here are inside it; before the mark itself.
  /// What the checkpoint cannot know and a promotion needs: the translations in force
  /// (translator.h).
  std::vector<std::byte> translations;
  bool operator==(const MarkRecord&) const = default;
};

/// Here inputs were let in that are in no log.
struct GapRecord {
  bool operator==(const GapRecord&) const = default;
};

using LogContent = std::variant<InputRecord, OutputRecord, MarkRecord, GapRecord>;

struct LogRecord {
  LogPosition position;
  LogContent content;
  bool operator==(const LogRecord&) const = default;
};

/// Octets of a record on the wire.
std::size_t encoded_bytes(const LogContent& content);

/// Records on their way, in the order of their positions, which follow one another.
struct LogBatch {
  ProtectionId protection;  ///< Never 0.
  Generation generation;    ///< The sender's.
  std::vector<LogRecord> records;
  bool operator==(const LogBatch&) const = default;
};

/// The backup has everything up to `position`, and will use it if it promotes.
struct LogAcknowledged {
  ProtectionId protection;  ///< Never 0.
  Generation generation;    ///< The highest that the backup knows.
  LogPosition position;     ///< At least 1.
  bool operator==(const LogAcknowledged&) const = default;
};

std::vector<std::byte> encode(const LogBatch& batch);
/// The same of records that lie elsewhere: at least one, their positions following one another.
std::vector<std::byte> encode_log_batch(ProtectionId protection, Generation generation,
                                        std::span<const LogRecord* const> records);
std::vector<std::byte> encode(const LogAcknowledged& acknowledged);
/// protocol for a version, flag or kind of record that is not known; bad_data for all else.
Result<LogBatch> decode_log_batch(std::span<const std::byte> payload);
Result<LogAcknowledged> decode_log_acknowledged(std::span<const std::byte> payload);

/// What a log may hold. Octets are those of the wire plus kRecordOverheadBytes for each record.
struct LogLimits {
  std::size_t bytes_max = std::size_t{64} << 20;
  std::size_t records_max = 400'000;
};

/// The records since the last cut, on either side.
class InputLog {
 public:
  explicit InputLog(LogLimits limits) : limits_(limits) {}

  /// Primary: adds `content` at the next position. no_resources at a limit; nothing changes then.
  Result<LogPosition> append(LogContent content);
  /// Backup: adds records that came. They must follow the last one; an empty log that never had
  /// any takes any first position. bad_data, no_resources; nothing changes then.
  Result<void> take_in(std::vector<LogRecord> records);

  /// The checkpoint of `epoch` is committed: drops what its mark cuts, the mark and all before it.
  /// Returns the mark. no_such if the log has no mark of that epoch.
  Result<MarkRecord> cut(EpochId epoch);
  /// Primary: gives everything up, because it will not be kept any more. Positions go on.
  void clear();
  /// An empty log goes on behind `position`, where the other side's ends: never back.
  void skip_to(LogPosition position) { last_ = std::max(last_, position); }

  /// What is left, oldest first. Positions rise; inputs that were in flight at a mark stand before
  /// those after it.
  [[nodiscard]] const std::deque<LogRecord>& records() const { return records_; }
  [[nodiscard]] std::deque<LogRecord> take_records();
  /// The last position given or taken; 0 before the first.
  [[nodiscard]] LogPosition last_position() const { return last_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t inputs() const { return inputs_; }
  [[nodiscard]] const LogLimits& limits() const { return limits_; }

 private:
  void count(const LogContent& content, bool added);

  LogLimits limits_;
  std::deque<LogRecord> records_;
  LogPosition last_;
  std::size_t bytes_ = 0;
  std::size_t inputs_ = 0;
};

/// The backup's side: takes batches in, says what to acknowledge, and keeps what a promotion needs.
///
/// Awkward cases:
///  · A batch comes again after a reconnect: what is known is skipped; its acknowledgement is
///    repeated.
///  · A batch of another protection or an older generation: refused (protocol), nothing changes.
///  · The first record ever must be a gap: the log of a protection begins somewhere, and a backup
///    that starts in the middle would not know what it lacks.
///  · A commit without its mark: the primary, restarted perhaps, keeps no log; nothing is left to
///  be
///    replayed. (One that keeps a log sends the mark before the checkpoint's end.)
///  · After the decision to promote nothing is taken or acknowledged (rule R3 of the failure
///  model).
class BackupLog {
 public:
  BackupLog(ProtectionId protection, Generation generation, LogLimits limits)
      : protection_(protection), generation_(generation), log_(limits) {}

  /// What to send back. bad_data, protocol, no_resources: the connection is to be closed; what was
  /// acknowledged stays.
  Result<LogAcknowledged> on_batch(LogBatch batch);
  /// The checkpoint of `epoch` is whole and acknowledged. Without a mark of it the primary keeps no
  /// log: what was in it is inside the checkpoint, or has not been answered.
  /// Whether there was one.
  bool on_committed(EpochId epoch);
  /// The decision to promote has fallen.
  void on_promote_decided() { deaf_ = true; }

  /// For the hello: up to where the log is here; 0 if there is none.
  [[nodiscard]] LogPosition last_position() const { return log_.last_position(); }
  [[nodiscard]] const InputLog& log() const { return log_; }

  /// What a promotion replays: the records from the last committed mark to the first gap.
  struct Replayable {
    std::vector<LogRecord> records;
    std::vector<std::byte> translations;
    bool ended_by_gap = false;
  };
  /// Gives it away; only after on_promote_decided.
  Replayable take();

 private:
  ProtectionId protection_;
  Generation generation_;
  InputLog log_;
  std::vector<std::byte> translations_;
  bool deaf_ = false;
};

}  // namespace understudy::replay
