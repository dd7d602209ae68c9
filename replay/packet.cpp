#include "replay/packet.h"

#include <algorithm>

#include "base/result.h"

namespace understudy::replay {
namespace {

constexpr std::size_t kEthernetHeaderBytes = 14;
constexpr std::size_t kVlanTagsMax = 2;
constexpr std::size_t kIpv4HeaderBytes = 20;
constexpr std::size_t kIpv6HeaderBytes = 40;
constexpr std::size_t kTcpHeaderBytes = 20;
constexpr std::size_t kUdpHeaderBytes = 8;
constexpr std::size_t kEchoHeaderBytes = 6;  // Type, code, checksum, identifier.
constexpr int kExtensionHeadersMax = 8;

constexpr std::uint8_t kHopByHop = 0;
constexpr std::uint8_t kIcmp = 1;
constexpr std::uint8_t kIgmp = 2;
constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::uint8_t kRouting = 43;
constexpr std::uint8_t kFragment = 44;
constexpr std::uint8_t kIcmpv6 = 58;
constexpr std::uint8_t kDestinationOptions = 60;

using Octets = std::span<const std::uint8_t>;

std::uint16_t word_at(Octets octets, std::size_t at) {
  return static_cast<std::uint16_t>(octets[at] << 8 | octets[at + 1]);
}

std::uint32_t long_at(Octets octets, std::size_t at) {
  return static_cast<std::uint32_t>(word_at(octets, at)) << 16 | word_at(octets, at + 2);
}

void put_word(std::span<std::uint8_t> octets, std::size_t at, std::uint16_t value) {
  octets[at] = static_cast<std::uint8_t>(value >> 8);
  octets[at + 1] = static_cast<std::uint8_t>(value);
}

void put_long(std::span<std::uint8_t> octets, std::size_t at, std::uint32_t value) {
  put_word(octets, at, static_cast<std::uint16_t>(value >> 16));
  put_word(octets, at + 2, static_cast<std::uint16_t>(value));
}

template <std::size_t Count>
std::array<std::uint8_t, Count> take(Octets octets, std::size_t at) {
  std::array<std::uint8_t, Count> taken{};
  std::copy_n(octets.begin() + static_cast<std::ptrdiff_t>(at), Count, taken.begin());
  return taken;
}

/// The options between the fixed header and the payload. False if they run over their end.
bool read_tcp_options(Octets frame, std::size_t at, std::size_t end, TcpHeader& tcp) {
  constexpr std::uint8_t kEnd = 0, kNothing = 1, kSegmentSize = 2, kWindowScale = 3,
                         kSackPermitted = 4, kSack = 5, kTimestamps = 8;
  while (at < end) {
    const std::uint8_t option = frame[at];
    if (option == kEnd) return true;
    if (option == kNothing) {
      ++at;
      continue;
    }
    if (at + 1 >= end) return false;
    const std::size_t length = frame[at + 1];
    if (length < 2 || at + length > end) return false;
    const std::size_t value_at = at + 2;
    if (option == kSegmentSize && length == 4) {
      tcp.segment_size_max = word_at(frame, value_at);
    } else if (option == kWindowScale && length == 3) {
      tcp.window_scale = std::min<std::uint8_t>(frame[value_at], 14);
    } else if (option == kSackPermitted && length == 2) {
      tcp.sack_permitted = true;
    } else if (option == kTimestamps && length == 10) {
      tcp.timestamps = TcpTimestamps{long_at(frame, value_at), long_at(frame, value_at + 4)};
      tcp.timestamps_at = value_at;
    } else if (option == kSack && length >= 10 && (length - 2) % 8 == 0) {
      tcp.sack_count = std::min((length - 2) / 8, tcp.sack.size());
      tcp.sack_at = value_at;
      for (std::size_t i = 0; i < tcp.sack_count; ++i) {
        tcp.sack[i] = {long_at(frame, value_at + 8 * i), long_at(frame, value_at + 8 * i + 4)};
      }
    }
    at += length;
  }
  return true;
}

/// Reads what stands at `packet.transport_at`, up to `end`, the end of the IP packet.
FrameKind read_transport(Octets frame, std::size_t end, Packet& packet) {
  const std::size_t at = packet.transport_at;
  const std::size_t there = end - at;
  switch (packet.protocol) {
    case kTcp: {
      if (there < kTcpHeaderBytes) return FrameKind::malformed;
      const std::size_t header_bytes = static_cast<std::size_t>(frame[at + 12] >> 4) * 4;
      if (header_bytes < kTcpHeaderBytes || header_bytes > there) return FrameKind::malformed;
      packet.source_port = word_at(frame, at);
      packet.destination_port = word_at(frame, at + 2);
      TcpHeader& tcp = packet.tcp;
      tcp.sequence = long_at(frame, at + 4);
      tcp.acknowledgement = long_at(frame, at + 8);
      tcp.flags = frame[at + 13];
      tcp.window = word_at(frame, at + 14);
      if (!read_tcp_options(frame, at + kTcpHeaderBytes, at + header_bytes, tcp)) {
        return FrameKind::malformed;
      }
      packet.payload_at = at + header_bytes;
      packet.payload_bytes = there - header_bytes;
      return FrameKind::tcp;
    }
    case kUdp: {
      if (there < kUdpHeaderBytes) return FrameKind::malformed;
      const std::size_t bytes = word_at(frame, at + 4);
      if (bytes < kUdpHeaderBytes || bytes > there) return FrameKind::malformed;
      packet.source_port = word_at(frame, at);
      packet.destination_port = word_at(frame, at + 2);
      packet.payload_at = at + kUdpHeaderBytes;
      packet.payload_bytes = bytes - kUdpHeaderBytes;
      return FrameKind::udp;
    }
    case kIcmp:
    case kIcmpv6: {
      if (packet.v6 != (packet.protocol == kIcmpv6)) return FrameKind::other_ip;
      if (there < 4) return FrameKind::malformed;
      const std::uint8_t type = frame[at];
      const bool request = type == (packet.v6 ? 128 : 8);
      const bool reply = type == (packet.v6 ? 129 : 0);
      if (!request && !reply) return FrameKind::control;
      if (there < kEchoHeaderBytes + 2) return FrameKind::malformed;
      packet.echo_request = request;
      packet.source_port = packet.destination_port = word_at(frame, at + 4);
      packet.payload_at = at + kEchoHeaderBytes;
      packet.payload_bytes = there - kEchoHeaderBytes;
      return FrameKind::echo;
    }
    case kIgmp:
      return FrameKind::control;
    default:
      return FrameKind::other_ip;
  }
}

FrameKind read_ipv4(Octets frame, Packet& packet) {
  const std::size_t at = packet.network_at;
  if (frame.size() - at < kIpv4HeaderBytes || frame[at] >> 4 != 4) return FrameKind::malformed;
  const std::size_t header_bytes = static_cast<std::size_t>(frame[at] & 0x0F) * 4;
  const std::size_t total_bytes = word_at(frame, at + 2);
  if (header_bytes < kIpv4HeaderBytes || total_bytes < header_bytes ||
      total_bytes > frame.size() - at) {
    return FrameKind::malformed;
  }
  packet.source = IpAddress::v4(take<4>(frame, at + 12));
  packet.destination = IpAddress::v4(take<4>(frame, at + 16));
  packet.protocol = frame[at + 9];
  packet.transport_at = at + header_bytes;
  // More fragments, or an offset: bits 0x3FFF; 'do not fragment' and the reserved bit do not count.
  if ((word_at(frame, at + 6) & 0x3FFF) != 0) return FrameKind::fragment;
  return read_transport(frame, at + total_bytes, packet);
}

FrameKind read_ipv6(Octets frame, Packet& packet) {
  const std::size_t at = packet.network_at;
  packet.v6 = true;
  if (frame.size() - at < kIpv6HeaderBytes || frame[at] >> 4 != 6) return FrameKind::malformed;
  const std::size_t payload_bytes = word_at(frame, at + 4);
  const std::size_t end = at + kIpv6HeaderBytes + payload_bytes;
  if (end > frame.size()) return FrameKind::malformed;
  packet.source = IpAddress::v6(take<16>(frame, at + 8));
  packet.destination = IpAddress::v6(take<16>(frame, at + 24));
  std::uint8_t next = frame[at + 6];
  std::size_t next_at = at + kIpv6HeaderBytes;
  for (int headers = 0;; ++headers) {
    packet.protocol = next;
    packet.transport_at = next_at;
    if (next == kFragment) return FrameKind::fragment;
    if (next != kHopByHop && next != kRouting && next != kDestinationOptions) break;
    // The length octet counts units of eight octets beyond the first (RFC 8200, section 4).
    if (headers == kExtensionHeadersMax || end - next_at < 8) return FrameKind::malformed;
    const std::size_t bytes = (static_cast<std::size_t>(frame[next_at + 1]) + 1) * 8;
    if (bytes > end - next_at) return FrameKind::malformed;
    next = frame[next_at];
    next_at += bytes;
  }
  return read_transport(frame, end, packet);
}

std::uint16_t folded(std::uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

/// Where the transport checksum stands; 0 if the protocol has none that we know.
std::size_t checksum_at(const Packet& packet) {
  switch (packet.kind) {
    case FrameKind::tcp:
      return packet.transport_at + 16;
    case FrameKind::udp:
      return packet.transport_at + 6;
    case FrameKind::echo:
      return packet.transport_at + 2;
    default:
      return 0;
  }
}

/// The transport checksum as it should be, whatever stands in its place.
std::uint16_t transport_checksum(Octets frame, const Packet& packet) {
  const std::size_t end = packet.payload_at + packet.payload_bytes;
  const Octets transport = frame.subspan(packet.transport_at, end - packet.transport_at);
  std::uint32_t sum = 0;
  if (packet.protocol != kIcmp) {  // ICMP for IPv4 alone has no pseudo header.
    sum = internet_sum(packet.source.octets(), sum);
    sum = internet_sum(packet.destination.octets(), sum);
    sum += packet.protocol;
    sum += static_cast<std::uint32_t>(transport.size());
  }
  sum = internet_sum(transport, sum);
  // Takes out what stands in the checksum's own place; it lies at an even offset.
  sum += static_cast<std::uint16_t>(~word_at(frame, checksum_at(packet)));
  auto checksum = static_cast<std::uint16_t>(~folded(sum));
  if (checksum == 0 && packet.kind == FrameKind::udp) checksum = 0xFFFF;
  return checksum;
}

}  // namespace

std::uint32_t internet_sum(Octets octets, std::uint32_t sum) {
  std::uint64_t wide = sum;
  for (std::size_t i = 0; i + 1 < octets.size(); i += 2) wide += word_at(octets, i);
  if (octets.size() % 2 != 0) wide += static_cast<std::uint32_t>(octets.back()) << 8;
  while (wide >> 16 != 0) wide = (wide & 0xFFFF) + (wide >> 16);
  return static_cast<std::uint32_t>(wide);
}

Packet parse(Octets frame) {
  Packet packet;
  if (frame.size() < kEthernetHeaderBytes) return packet;
  std::size_t type_at = 12;
  for (std::size_t tags = 0; tags < kVlanTagsMax; ++tags) {
    const std::uint16_t type = word_at(frame, type_at);
    if (type != 0x8100 && type != 0x88A8) break;
    type_at += 4;
    if (frame.size() < type_at + 2) return packet;
  }
  packet.network_at = type_at + 2;
  switch (word_at(frame, type_at)) {
    case 0x0800:
      packet.kind = read_ipv4(frame, packet);
      break;
    case 0x86DD:
      packet.kind = read_ipv6(frame, packet);
      break;
    default:
      packet.kind = FrameKind::not_ip;
  }
  return packet;
}

void TcpEditor::put(std::size_t at, std::uint32_t value) {
  if (checksum_ == ChecksumState::complete) {
    // RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), octet by octet, because options may put a
    // number at an odd place, where its octets belong to other words than its own.
    const std::size_t sum_at = checksum_at(packet_);
    std::uint32_t sum = static_cast<std::uint16_t>(~word_at(frame_, sum_at));
    for (std::size_t i = 0; i < 4; ++i) {
      const bool high = (at + i - packet_.transport_at) % 2 == 0;
      const std::uint32_t old_word = static_cast<std::uint32_t>(frame_[at + i]) << (high ? 8 : 0);
      const std::uint32_t new_word = ((value >> (24 - 8 * i)) & 0xFF) << (high ? 8 : 0);
      sum += (0xFFFF - old_word) + new_word;
    }
    put_word(frame_, sum_at, static_cast<std::uint16_t>(~folded(sum)));
  }
  put_long(frame_, at, value);
}

void TcpEditor::set_sequence(std::uint32_t sequence) {
  packet_.tcp.sequence = sequence;
  put(packet_.transport_at + 4, sequence);
}

void TcpEditor::set_acknowledgement(std::uint32_t acknowledgement) {
  packet_.tcp.acknowledgement = acknowledgement;
  put(packet_.transport_at + 8, acknowledgement);
}

void TcpEditor::set_timestamps(TcpTimestamps timestamps) {
  if (!packet_.tcp.timestamps) return;
  packet_.tcp.timestamps = timestamps;
  put(packet_.tcp.timestamps_at, timestamps.value);
  put(packet_.tcp.timestamps_at + 4, timestamps.echo);
}

void TcpEditor::set_sack(std::size_t index, SackBlock block) {
  UNDERSTUDY_CHECK(index < packet_.tcp.sack_count, "set_sack: the frame has no such block");
  packet_.tcp.sack[index] = block;
  put(packet_.tcp.sack_at + 8 * index, block.left);
  put(packet_.tcp.sack_at + 8 * index + 4, block.right);
}

void complete_checksums(std::span<std::uint8_t> frame, const Packet& packet, bool keep_absent_udp) {
  const std::size_t sum_at = checksum_at(packet);
  if (sum_at == 0) return;
  if (!packet.v6) {
    const std::size_t at = packet.network_at;
    put_word(frame, at + 10, 0);
    // Options lie between the fixed header and the transport.
    const std::uint32_t sum = internet_sum(frame.subspan(at, packet.transport_at - at));
    put_word(frame, at + 10, static_cast<std::uint16_t>(~folded(sum)));
  }
  const bool absent = packet.kind == FrameKind::udp && !packet.v6 && word_at(frame, sum_at) == 0;
  if (!absent || !keep_absent_udp) put_word(frame, sum_at, transport_checksum(frame, packet));
}

bool transport_checksum_is_right(Octets frame, const Packet& packet) {
  const std::size_t sum_at = checksum_at(packet);
  return sum_at != 0 && word_at(frame, sum_at) == transport_checksum(frame, packet);
}

Frame build_tcp(const TcpSegment& segment) {
  UNDERSTUDY_CHECK(segment.source.is_v4() == segment.destination.is_v4(),
                   "build_tcp: addresses of two families");
  const TcpHeader& tcp = segment.header;
  std::vector<std::uint8_t> options;
  const auto append_long = [&options](std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      options.push_back(static_cast<std::uint8_t>(value >> shift));
    }
  };
  if (tcp.segment_size_max) {
    options.insert(options.end(), {2, 4, static_cast<std::uint8_t>(*tcp.segment_size_max >> 8),
                                   static_cast<std::uint8_t>(*tcp.segment_size_max)});
  }
  if (tcp.sack_permitted) options.insert(options.end(), {1, 1, 4, 2});
  if (tcp.window_scale) options.insert(options.end(), {1, 3, 3, *tcp.window_scale});
  if (tcp.timestamps) {
    options.insert(options.end(), {1, 1, 8, 10});
    append_long(tcp.timestamps->value);
    append_long(tcp.timestamps->echo);
  }
  if (tcp.sack_count > 0) {
    options.insert(options.end(), {1, 1, 5, static_cast<std::uint8_t>(2 + 8 * tcp.sack_count)});
    for (std::size_t i = 0; i < tcp.sack_count; ++i) {
      append_long(tcp.sack[i].left);
      append_long(tcp.sack[i].right);
    }
  }
  UNDERSTUDY_CHECK(options.size() <= 40, "build_tcp: more options than a header holds");

  const bool v6 = segment.source.is_v6();
  const std::size_t ip_bytes = v6 ? kIpv6HeaderBytes : kIpv4HeaderBytes;
  const std::size_t tcp_bytes = kTcpHeaderBytes + options.size();
  const std::size_t total = ip_bytes + tcp_bytes + segment.payload.size();
  UNDERSTUDY_CHECK(total <= 65'535, "build_tcp: payload beyond an IP packet");
  Frame frame(kEthernetHeaderBytes + total);
  std::copy_n(segment.destination_mac.octets.begin(), 6, frame.begin());
  std::copy_n(segment.source_mac.octets.begin(), 6, frame.begin() + 6);
  put_word(frame, 12, v6 ? 0x86DD : 0x0800);
  const auto ip = std::span(frame).subspan(kEthernetHeaderBytes);
  const auto source = segment.source.octets();
  const auto destination = segment.destination.octets();
  if (v6) {
    ip[0] = 0x60;
    put_word(ip, 4, static_cast<std::uint16_t>(total - ip_bytes));
    ip[6] = kTcp;
    ip[7] = 64;
    std::copy(source.begin(), source.end(), ip.begin() + 8);
    std::copy(destination.begin(), destination.end(), ip.begin() + 24);
  } else {
    ip[0] = 0x45;
    put_word(ip, 2, static_cast<std::uint16_t>(total));
    put_word(ip, 6, 0x4000);  // Do not fragment.
    ip[8] = 64;
    ip[9] = kTcp;
    std::copy(source.begin(), source.end(), ip.begin() + 12);
    std::copy(destination.begin(), destination.end(), ip.begin() + 16);
  }
  const auto transport = ip.subspan(ip_bytes);
  put_word(transport, 0, segment.source_port);
  put_word(transport, 2, segment.destination_port);
  put_long(transport, 4, tcp.sequence);
  put_long(transport, 8, tcp.acknowledgement);
  transport[12] = static_cast<std::uint8_t>(tcp_bytes / 4 << 4);
  transport[13] = tcp.flags;
  put_word(transport, 14, tcp.window);
  std::copy(options.begin(), options.end(), transport.begin() + kTcpHeaderBytes);
  std::copy(segment.payload.begin(), segment.payload.end(),
            transport.begin() + static_cast<std::ptrdiff_t>(tcp_bytes));
  complete_checksums(frame, parse(frame));
  return frame;
}

std::vector<Frame> split_tcp(Octets frame, std::size_t payload_max) {
  UNDERSTUDY_CHECK(payload_max > 0, "split_tcp: segments without payload");
  const Packet packet = parse(frame);
  std::vector<Frame> parts;
  const std::size_t payload_bytes = packet.kind == FrameKind::tcp ? packet.payload_bytes : 0;
  std::size_t done = 0;
  do {
    const std::size_t part_bytes = std::min(payload_max, payload_bytes - done);
    const bool last = done + part_bytes == payload_bytes;
    if (last && done == 0) {
      parts.emplace_back(frame.begin(), frame.end());
    } else {
      Frame part(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(packet.payload_at));
      const auto from = frame.begin() + static_cast<std::ptrdiff_t>(packet.payload_at + done);
      part.insert(part.end(), from, from + static_cast<std::ptrdiff_t>(part_bytes));
      const std::size_t network_bytes = part.size() - packet.network_at;
      if (packet.v6) {
        put_word(part, packet.network_at + 4,
                 static_cast<std::uint16_t>(network_bytes - kIpv6HeaderBytes));
      } else {
        put_word(part, packet.network_at + 2, static_cast<std::uint16_t>(network_bytes));
      }
      put_long(part, packet.transport_at + 4,
               packet.tcp.sequence + static_cast<std::uint32_t>(done));
      if (!last) part[packet.transport_at + 13] &= static_cast<std::uint8_t>(~(kFin | kPsh));
      parts.push_back(std::move(part));
    }
    complete_checksums(parts.back(), parse(parts.back()));
    done += part_bytes;
  } while (done < payload_bytes);
  return parts;
}

MacAddress destination_mac_of(Octets frame) {
  return frame.size() < 12 ? MacAddress{} : MacAddress{take<6>(frame, 0)};
}

MacAddress source_mac_of(Octets frame) {
  return frame.size() < 12 ? MacAddress{} : MacAddress{take<6>(frame, 6)};
}

}  // namespace understudy::replay
