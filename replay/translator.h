// Numbers of two executions: what the guest says now, and what the client was told before.
//
// Intuition: a connection that was opened after the checkpoint is opened again in the replay, and
// the guest picks another initial sequence number; and its timestamp clock has gone back to the
// checkpoint. The client must not notice. So the guest's numbers get a constant added on their way
// out, and whatever the client says about them gets it taken off on its way in:
//
//   guest → client   sequence + delta           timestamp value + delta
//   client → guest   acknowledgement − delta    SACK edges − delta     timestamp echo − delta
//
// The client's own numbers pass as they are: its segments come from the log, or from itself.
//
// Awkward cases:
//  · A timestamp echo of zero in a segment without ACK means nothing (RFC 7323, section 3.2) and
//    stays.
//  · How far the timestamps have to be moved is known only when the guest speaks again: until then
//    the newest one that the client has seen is kept (`timestamp_floor`), and the first segment on
//    its way out settles it. A client drops what looks older than what it has seen (PAWS).
//  · The connection ends and its ports are used again: a SYN of the guest with another number
//    than the one translated begins a connection without translation.
//  · Urgent pointers, windows and options other than these do not depend on the numbers.
//  · A second failover: the translations in force travel with each mark (input_log.h) and are taken
//    over by the next replayer.
//  · Too many connections: `set` refuses, and the replayer resets the connection instead.
//
// An entry ends `kLinger` after a reset in either direction, or after both sides have sent FIN: so
// long may a lost last acknowledgement be repeated. Octets: docs/protocol-replay.md.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "checkpoint/protection.h"
#include "replay/flow_key.h"
#include "replay/packet.h"

namespace understudy::replay {

/// Connections that can be translated at a time.
inline constexpr std::size_t kTranslationsMax = 16'384;

/// What is added to the guest's numbers, modulo 2³².
struct Translation {
  std::uint32_t sequence_delta = 0;
  std::uint32_t timestamp_delta = 0;
  /// The guest's own sequence number of stream offset 0: tells this connection from the next one.
  std::uint32_t guest_base = 0;
  /// The newest timestamp that the client has seen, if the guest has not spoken since.
  std::optional<std::uint32_t> timestamp_floor;
  bool guest_ended = false;
  bool client_ended = false;

  [[nodiscard]] bool changes_nothing() const {
    return sequence_delta == 0 && timestamp_delta == 0 && !timestamp_floor;
  }
  bool operator==(const Translation&) const = default;
};

/// The translations of one domain. Not thread-safe.
class Translator {
 public:
  static constexpr std::chrono::seconds kLinger{120};

  /// From now on, for this flow. One that changes nothing takes the flow out. False if there are
  /// too many.
  bool set(const FlowKey& flow, const Translation& translation);
  [[nodiscard]] const Translation* find(const FlowKey& flow) const;
  void erase(const FlowKey& flow) { entries_.erase(flow); }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] bool empty() const { return entries_.empty(); }

  /// Changes a frame of the guest into what the client expects. `packet` must be its parse, and
  /// follows. True if anything was changed. Frames without translation stay as they are.
  bool to_network(Instant now, std::span<std::uint8_t> frame, Packet& packet,
                  ChecksumState checksum);
  /// Changes a frame of a client into what the guest expects.
  bool to_guest(Instant now, std::span<std::uint8_t> frame, Packet& packet, ChecksumState checksum);

  /// Forgets connections that have ended. To be called every few seconds.
  void on_tick(Instant now);

  /// All translations, for a mark. Nothing at all if there are none.
  [[nodiscard]] std::vector<std::byte> encode() const;
  /// protocol for another version or flag; bad_data for all else.
  static Result<Translator> decode(std::span<const std::byte> octets);

  bool operator==(const Translator&) const = default;

 private:
  struct Entry {
    Translation translation;
    /// When it ended; not part of what travels: an ended connection lingers anew.
    std::optional<Instant> ended_at;
    bool operator==(const Entry& other) const { return translation == other.translation; }
  };
  void note_end(Instant now, const FlowKey& flow, const TcpHeader& tcp, bool by_guest);

  std::unordered_map<FlowKey, Entry, FlowKeyHash> entries_;
};

}  // namespace understudy::replay
