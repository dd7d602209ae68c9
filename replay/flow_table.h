// What each conversation has come to: how far the guest's stream goes, what the client has of it,
// and what an output adds to it.
//
// Intuition: a digest is of octets of the *stream*, not of a packet. A TCP that runs again cuts the
// same stream into other segments, and sends parts of it twice. So each output is first placed in
// its flow's stream (offset 0 is the octet after SYN), and only the octets that no earlier output
// carried are new: those are covered by the record of this output, and the records of a flow tile
// its stream without overlap.
//
// Awkward cases:
//  · A flow that was there before we looked: offset 0 is the first octet seen. Octets that were
//  sent
//    and not seen leave a hole before the next tile; they are part of the checkpoint, and nobody
//    has to make them again.
//  · Sequence numbers wrap after 4 GiB: offsets have 64 bits, and a number means the offset nearest
//    to what was sent last. TCP's window (at most 1 GiB) makes that unambiguous.
//  · Ports used again: a SYN with another number begins a stream anew.
//  · The table is full: the output cannot be described (nothing is returned), and has to wait for
//    the checkpoint like a strict one. Flows that have ended make room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>

#include "checkpoint/protection.h"
#include "replay/flow_key.h"
#include "replay/input_log.h"
#include "replay/packet.h"

namespace understudy::replay {

/// The stream offset of sequence number `sequence` where `base` is that of offset 0: of all that
/// fit, the one nearest to `near`. Negative for what lies before offset 0.
constexpr std::int64_t offset_of(std::uint32_t sequence, std::uint32_t base, std::uint64_t near) {
  const auto distance =
      static_cast<std::int32_t>(sequence - (base + static_cast<std::uint32_t>(near)));
  return static_cast<std::int64_t>(near) + distance;
}

/// The sequence number of stream offset `offset`.
constexpr std::uint32_t sequence_of(std::uint64_t offset, std::uint32_t base) {
  return base + static_cast<std::uint32_t>(offset);
}

/// The digest of stream octets or of a datagram.
std::uint64_t digest_of(std::span<const std::uint8_t> octets);

/// One TCP conversation, as the primary sees it go by. All numbers are those of the client's side.
struct TcpFlow {
  std::uint32_t sequence_base = 0;    ///< Of the guest's stream.
  std::uint64_t sent_to = 0;          ///< Octets of it that were sent; monotonic.
  std::uint64_t acknowledged_to = 0;  ///< Of these, what the client has acknowledged; monotonic.
  std::uint32_t acknowledgement = 0;  ///< The guest's last, of the client's stream.
  std::optional<std::uint8_t> window_scale;  ///< The guest's, once both sides have offered one.
  bool guest_ended = false;                  ///< FIN sent.
  bool end_counts = false;                   ///< It was, at sent_to, while we looked.
  bool client_ended = false;                 ///< FIN received.
  bool reset = false;                        ///< By either side.
  Instant last_used{};

  [[nodiscard]] bool over() const { return reset || (guest_ended && client_ended); }
};

/// The flows of one domain. Not thread-safe; no clock of its own.
class FlowTable {
 public:
  explicit FlowTable(std::size_t flows_max) : flows_max_(flows_max) {}

  /// An input of TCP passes. Other packets are not looked at.
  void on_input(Instant now, const Packet& packet);
  /// What the output `frame` adds to its flow, as the record that the backup will compare with.
  /// For TCP, UDP and echo only. Nothing if there is no room for another flow.
  std::optional<OutputRecord> on_output(Instant now, const Packet& packet,
                                        std::span<const std::uint8_t> frame);

  /// Nothing if the flow is not known. Valid until the next call.
  [[nodiscard]] const TcpFlow* find(const FlowKey& flow) const;
  [[nodiscard]] std::size_t size() const { return flows_.size(); }

 private:
  TcpFlow* find_or_make(Instant now, const FlowKey& flow);
  void make_room(Instant now);

  std::size_t flows_max_;
  std::unordered_map<FlowKey, TcpFlow, FlowKeyHash> flows_;
  Instant next_sweep_ = Instant::min();
};

}  // namespace understudy::replay
