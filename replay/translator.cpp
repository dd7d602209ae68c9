#include "replay/translator.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "transport/octets.h"

namespace understudy::replay {
namespace {

using transport::OctetReader;
using transport::OctetWriter;

constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kEntryBytes = 56;
constexpr std::uint8_t kGuestEnded = 1;
constexpr std::uint8_t kClientEnded = 2;
constexpr std::uint8_t kHasFloor = 4;
constexpr std::uint8_t kTcp = 6;

std::array<std::uint8_t, 16> padded(const IpAddress& address) {
  std::array<std::uint8_t, 16> octets{};
  std::ranges::copy(address.octets(), octets.begin());
  return octets;
}

std::optional<IpAddress> unpadded(const std::array<std::uint8_t, 16>& octets, bool v6) {
  if (v6) return IpAddress::v6(octets);
  if (std::any_of(octets.begin() + 4, octets.end(), [](std::uint8_t o) { return o != 0; })) {
    return std::nullopt;
  }
  return IpAddress::v4({octets[0], octets[1], octets[2], octets[3]});
}

}  // namespace

bool Translator::set(const FlowKey& flow, const Translation& translation) {
  if (translation.changes_nothing()) {
    entries_.erase(flow);
    return true;
  }
  if (!entries_.contains(flow) && entries_.size() >= kTranslationsMax) return false;
  entries_[flow] = {translation, std::nullopt};
  return true;
}

const Translation* Translator::find(const FlowKey& flow) const {
  const auto found = entries_.find(flow);
  return found == entries_.end() ? nullptr : &found->second.translation;
}

bool Translator::to_network(Instant now, std::span<std::uint8_t> frame, Packet& packet,
                            ChecksumState checksum) {
  if (packet.kind != FrameKind::tcp || entries_.empty()) return false;
  const FlowKey flow = flow_of(packet, Direction::from_guest);
  const auto found = entries_.find(flow);
  if (found == entries_.end()) return false;
  Translation& translation = found->second.translation;
  if (packet.tcp.has(kSyn) && packet.tcp.sequence + 1 != translation.guest_base) {
    entries_.erase(found);
    return false;
  }
  if (packet.tcp.timestamps && translation.timestamp_floor && !packet.tcp.has(kRst)) {
    const std::uint32_t seen = packet.tcp.timestamps->value + translation.timestamp_delta;
    if (before(seen, *translation.timestamp_floor)) {
      translation.timestamp_delta += *translation.timestamp_floor - seen;
    }
    translation.timestamp_floor.reset();
    if (translation.changes_nothing()) {
      entries_.erase(found);
      return false;
    }
  }
  TcpEditor editor(frame, packet, checksum);
  editor.set_sequence(packet.tcp.sequence + translation.sequence_delta);
  if (packet.tcp.timestamps) {
    editor.set_timestamps(
        {packet.tcp.timestamps->value + translation.timestamp_delta, packet.tcp.timestamps->echo});
  }
  note_end(now, flow, packet.tcp, true);
  return true;
}

bool Translator::to_guest(Instant now, std::span<std::uint8_t> frame, Packet& packet,
                          ChecksumState checksum) {
  if (packet.kind != FrameKind::tcp || entries_.empty()) return false;
  const FlowKey flow = flow_of(packet, Direction::to_guest);
  const auto found = entries_.find(flow);
  if (found == entries_.end()) return false;
  const Translation& translation = found->second.translation;
  if (packet.tcp.has(kAck)) {
    TcpEditor editor(frame, packet, checksum);
    editor.set_acknowledgement(packet.tcp.acknowledgement - translation.sequence_delta);
    for (std::size_t i = 0; i < packet.tcp.sack_count; ++i) {
      editor.set_sack(i, {packet.tcp.sack[i].left - translation.sequence_delta,
                          packet.tcp.sack[i].right - translation.sequence_delta});
    }
    if (packet.tcp.timestamps) {
      editor.set_timestamps({packet.tcp.timestamps->value,
                             packet.tcp.timestamps->echo - translation.timestamp_delta});
    }
  }
  note_end(now, flow, packet.tcp, false);
  return true;
}

void Translator::note_end(Instant now, const FlowKey& flow, const TcpHeader& tcp, bool by_guest) {
  Entry& entry = entries_.at(flow);
  if (tcp.has(kFin))
    (by_guest ? entry.translation.guest_ended : entry.translation.client_ended) = true;
  const bool ended =
      tcp.has(kRst) || (entry.translation.guest_ended && entry.translation.client_ended);
  if (ended && !entry.ended_at) entry.ended_at = now;
}

void Translator::on_tick(Instant now) {
  for (auto next = entries_.begin(); next != entries_.end();) {
    Entry& entry = next->second;
    // Taken over from a mark: its time begins here.
    if (entry.translation.guest_ended && entry.translation.client_ended && !entry.ended_at) {
      entry.ended_at = now;
    }
    const bool over = entry.ended_at && now - *entry.ended_at >= kLinger;
    next = over ? entries_.erase(next) : std::next(next);
  }
}

std::vector<std::byte> Translator::encode() const {
  if (entries_.empty()) return {};
  OctetWriter entries;
  // In the order of the keys, so that the same translations are the same octets.
  std::vector<std::pair<FlowKey, Translation>> sorted;
  sorted.reserve(entries_.size());
  for (const auto& [flow, entry] : entries_) sorted.emplace_back(flow, entry.translation);
  std::ranges::sort(sorted, {}, &std::pair<FlowKey, Translation>::first);
  for (const auto& [flow, translation] : sorted) {
    entries.number(static_cast<std::uint8_t>(flow.guest.is_v6() ? 6 : 4));
    entries.number(static_cast<std::uint8_t>((translation.guest_ended ? kGuestEnded : 0) |
                                             (translation.client_ended ? kClientEnded : 0) |
                                             (translation.timestamp_floor ? kHasFloor : 0)));
    entries.number(flow.guest_port);
    entries.number(flow.client_port);
    entries.number(std::uint16_t{0});
    entries.array(padded(flow.guest));
    entries.array(padded(flow.client));
    entries.number(translation.sequence_delta);
    entries.number(translation.timestamp_delta);
    entries.number(translation.guest_base);
    entries.number(translation.timestamp_floor.value_or(0));
  }
  OctetWriter writer;
  writer.number(kVersion);
  writer.number(std::uint8_t{0});
  writer.number(std::uint16_t{0});
  writer.number(static_cast<std::uint32_t>(entries_.size()));
  const std::uint64_t seed = XXH3_64bits(writer.written().data(), writer.written().size());
  writer.number(static_cast<std::uint64_t>(
      XXH3_64bits_withSeed(entries.written().data(), entries.written().size(), seed)));
  writer.octets(entries.written());
  return writer.take();
}

Result<Translator> Translator::decode(std::span<const std::byte> octets) {
  Translator translator;
  if (octets.empty()) return translator;
  OctetReader reader(octets);
  const auto version = reader.number<std::uint8_t>();
  if (version != kVersion) {
    return fail(ErrorCode::protocol, "translations: version {}, only {} is known", version,
                kVersion);
  }
  const auto flags = reader.number<std::uint8_t>();
  const auto reserved = reader.number<std::uint16_t>();
  const std::size_t count = reader.number<std::uint32_t>();
  const auto checksum = reader.number<std::uint64_t>();
  if (reader.broken() || count == 0 || count > kTranslationsMax ||
      reader.rest().size() != count * kEntryBytes) {
    return fail(ErrorCode::bad_data, "translations: {} octets for {} entries", octets.size(),
                count);
  }
  if (flags != 0) return fail(ErrorCode::protocol, "translations: unknown flags {:#04x}", flags);
  const std::uint64_t seed = XXH3_64bits(octets.data(), 8);
  if (reserved != 0 ||
      checksum != XXH3_64bits_withSeed(reader.rest().data(), reader.rest().size(), seed)) {
    return fail(ErrorCode::bad_data, "translations: the checksum is another one");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto family = reader.number<std::uint8_t>();
    const auto entry_flags = reader.number<std::uint8_t>();
    FlowKey flow;
    flow.protocol = kTcp;
    flow.guest_port = reader.number<std::uint16_t>();
    flow.client_port = reader.number<std::uint16_t>();
    const auto zero = reader.number<std::uint16_t>();
    const auto guest = unpadded(reader.array<16>(), family == 6);
    const auto client = unpadded(reader.array<16>(), family == 6);
    Translation translation;
    translation.sequence_delta = reader.number<std::uint32_t>();
    translation.timestamp_delta = reader.number<std::uint32_t>();
    translation.guest_base = reader.number<std::uint32_t>();
    translation.guest_ended = (entry_flags & kGuestEnded) != 0;
    translation.client_ended = (entry_flags & kClientEnded) != 0;
    const auto floor = reader.number<std::uint32_t>();
    const bool has_floor = (entry_flags & kHasFloor) != 0;
    if (has_floor) translation.timestamp_floor = floor;
    if ((entry_flags & ~(kGuestEnded | kClientEnded | kHasFloor)) != 0) {
      return fail(ErrorCode::protocol, "translation {}: unknown flags {:#04x}", i, entry_flags);
    }
    if ((family != 4 && family != 6) || !guest || !client || zero != 0 ||
        (!has_floor && floor != 0) || translation.changes_nothing()) {
      return fail(ErrorCode::bad_data, "translation {}: not of this format", i);
    }
    flow.guest = *guest;
    flow.client = *client;
    if (!translator.entries_.try_emplace(flow, Entry{translation, std::nullopt}).second) {
      return fail(ErrorCode::bad_data, "translation {}: {} comes twice", i, flow);
    }
  }
  return translator;
}

}  // namespace understudy::replay
