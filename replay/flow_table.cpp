#include "replay/flow_table.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>

namespace understudy::replay {
namespace {

using namespace std::chrono_literals;

/// How long an ended flow is remembered when room is needed: its last acknowledgements may still
/// come.
constexpr auto kEndedFor = 2s;
/// How long any flow is remembered without a frame when room is needed.
constexpr auto kIdleFor = 2h;
constexpr auto kSweepEvery = 1s;

}  // namespace

std::uint64_t digest_of(std::span<const std::uint8_t> octets) {
  return XXH3_64bits(octets.data(), octets.size());
}

void FlowTable::on_input(Instant now, const Packet& packet) {
  if (packet.kind != FrameKind::tcp) return;
  const auto found = flows_.find(flow_of(packet, Direction::to_guest));
  if (found == flows_.end()) return;
  TcpFlow& flow = found->second;
  flow.last_used = now;
  const TcpHeader& tcp = packet.tcp;
  if (tcp.has(kRst)) flow.reset = true;
  if (tcp.has(kFin)) flow.client_ended = true;
  if (!tcp.has(kAck)) return;
  const std::int64_t to = offset_of(tcp.acknowledgement, flow.sequence_base, flow.sent_to);
  // An acknowledgement of what was not sent is the guest's to refuse; it teaches us nothing.
  if (to > static_cast<std::int64_t>(flow.acknowledged_to) &&
      to <= static_cast<std::int64_t>(flow.sent_to) + (flow.guest_ended ? 1 : 0)) {
    flow.acknowledged_to = std::min(static_cast<std::uint64_t>(to), flow.sent_to);
  }
}

std::optional<OutputRecord> FlowTable::on_output(Instant now, const Packet& packet,
                                                 std::span<const std::uint8_t> frame) {
  OutputRecord record;
  record.flow = flow_of(packet, Direction::from_guest);
  const auto payload = payload_of(frame, packet);
  if (packet.kind != FrameKind::tcp) {
    record.length = static_cast<std::uint32_t>(payload.size());
    record.digest = digest_of(payload);
    return record;
  }

  const TcpHeader& tcp = packet.tcp;
  const auto known = flows_.find(record.flow);
  const bool opens = tcp.has(kSyn);
  const std::uint32_t first = tcp.sequence + (opens ? 1U : 0U);
  if (known != flows_.end() && opens && known->second.sequence_base != first) flows_.erase(known);
  const bool made = !flows_.contains(record.flow);
  TcpFlow* flow = find_or_make(now, record.flow);
  if (flow == nullptr) return std::nullopt;
  if (made) flow->sequence_base = first;
  flow->last_used = now;
  if (opens && tcp.has(kAck)) flow->window_scale = tcp.window_scale.value_or(0);
  // A guest that opens gets to know with the answer whether scaling is in force; its own offer is
  // what counts then.
  if (opens && !tcp.has(kAck)) flow->window_scale = tcp.window_scale;

  // Of the octets in this segment, those from `fresh` on are new.
  const std::int64_t start = offset_of(first, flow->sequence_base, flow->sent_to);
  const std::int64_t end = start + static_cast<std::int64_t>(payload.size());
  const auto sent_to = static_cast<std::int64_t>(flow->sent_to);
  // A FIN that was sent counts, so that its acknowledgement is one of something sent.
  record.offset = flow->sent_to + (flow->end_counts ? 1U : 0U);
  if (end > sent_to) {
    const std::int64_t fresh = std::max(start, sent_to);
    const auto content = payload.subspan(static_cast<std::size_t>(fresh - start));
    record.offset = static_cast<std::uint64_t>(fresh);
    record.length = static_cast<std::uint32_t>(content.size());
    record.digest = digest_of(content);
    flow->sent_to = static_cast<std::uint64_t>(end);
  }
  record.sequence_base = flow->sequence_base;
  // A repeated SYN opens nothing that was not open.
  if (opens && made) record.flags |= OutputRecord::opens;
  if (tcp.has(kFin)) {
    // A repeated FIN ends nothing that had not ended; nor does one that lies before where we began
    // to look.
    if (!flow->guest_ended && end >= sent_to) {
      record.flags |= OutputRecord::ends;
      flow->end_counts = true;
    }
    flow->guest_ended = true;
  }
  if (tcp.has(kRst)) {
    record.flags |= OutputRecord::resets;
    flow->reset = true;
  }
  if (tcp.has(kAck)) {
    record.flags |= OutputRecord::acknowledges;
    record.acknowledgement = flow->acknowledgement = tcp.acknowledgement;
  }
  if (tcp.timestamps) {
    record.flags |= OutputRecord::has_timestamp;
    record.timestamp = tcp.timestamps->value;
  }
  if (flow->window_scale) {
    record.flags |= OutputRecord::has_window_scale;
    record.window_scale = *flow->window_scale;
  }
  return record;
}

const TcpFlow* FlowTable::find(const FlowKey& flow) const {
  const auto found = flows_.find(flow);
  return found == flows_.end() ? nullptr : &found->second;
}

TcpFlow* FlowTable::find_or_make(Instant now, const FlowKey& flow) {
  const auto found = flows_.find(flow);
  if (found != flows_.end()) return &found->second;
  if (flows_.size() >= flows_max_) make_room(now);
  if (flows_.size() >= flows_max_) return nullptr;
  return &flows_[flow];
}

void FlowTable::make_room(Instant now) {
  if (now < next_sweep_) return;
  next_sweep_ = now + kSweepEvery;
  std::erase_if(flows_, [now](const auto& entry) {
    const TcpFlow& flow = entry.second;
    return now - flow.last_used > (flow.over() ? Instant::duration(kEndedFor) : kIdleFor);
  });
}

}  // namespace understudy::replay
