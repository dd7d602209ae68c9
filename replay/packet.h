// One Ethernet frame, read with bounds checks and changed in place.
//
// Intuition: `parse` looks once over the octets and says where everything is; whoever changes a
// field afterwards names the field, and the checksum follows. Nothing behind a length that the
// frame itself claims is read before the claim was compared with what is there. Octets come from
// guests and from the network: any of them may be missing or a lie.
//
// What becomes of unusual frames (FrameKind says which it is):
//  · VLAN tags, up to two: skipped and kept. A third makes it `not_ip`.
//  · Ethernet padding after the IP packet: ignored and kept.
//  · Wrong IP version, a length beyond the frame or below the headers, a total length of 0 (packets
//    above 64 KiB), a TCP header that is no multiple of what it says, TCP options that run over
//    their end: `malformed`. Nothing is read out of it, it belongs to no flow.
//  · IPv4 fragments and IPv6 fragment headers, the first one too: `fragment`. Ports of later
//    fragments are unknown, and a stream digest over fragments would have to reassemble.
//  · IPv4 options: skipped by the header length, kept.
//  · IPv6 hop-by-hop, routing and destination options: skipped, at most eight, kept. Any other
//    extension header (authentication, encryption): `other_ip`.
//  · Urgent data is part of the stream; the urgent pointer counts from the sequence number, so that
//    translation leaves it alone.
//  · Checksums are not verified here (with offloads they are not there yet); see
//    `transport_checksum_is_right`.
//
// Checksums. A frame from a guest with checksum offload carries only the sum of the pseudo header
// where the checksum belongs (Linux: CHECKSUM_PARTIAL, virtio: NEEDS_CSUM). Sequence numbers are
// not part of that sum, so a change leaves it alone; a frame that is to be sent by somebody else
// is completed with `complete_checksums`. Complete ones are updated after RFC 1624, equation 3.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/network_address.h"

namespace understudy::replay {

/// A whole Ethernet frame, from its destination address on, without frame check sequence.
using Frame = std::vector<std::uint8_t>;

/// The largest frame that is looked at: 64 KiB of IP packet (offloads make such ones) behind an
/// Ethernet header with two tags.
inline constexpr std::size_t kFrameBytesMax = 65'535 + 14 + 8;

/// What a frame is, as far as replay treats it differently.
enum class FrameKind : std::uint8_t {
  not_ip,     ///< ARP and everything else that is not IP.
  malformed,  ///< Claims to be IP and breaks its format.
  fragment,   ///< Part of an IP packet.
  tcp,        ///< A TCP segment, header and options readable.
  udp,        ///< A UDP datagram.
  echo,       ///< ICMP or ICMPv6 echo request or reply.
  control,    ///< Every other ICMP and ICMPv6 message, and IGMP: advice, not a conversation.
  other_ip,   ///< Another protocol above IP, or an extension header that hides what it is.
};

/// Bits of the TCP flags octet (RFC 9293, section 3.1).
enum TcpFlags : std::uint8_t {
  kFin = 0x01,
  kSyn = 0x02,
  kRst = 0x04,
  kPsh = 0x08,
  kAck = 0x10,
  kUrg = 0x20,
};

/// RFC 7323's option: the sender's clock and the echo of the receiver's.
struct TcpTimestamps {
  std::uint32_t value = 0;
  std::uint32_t echo = 0;
  bool operator==(const TcpTimestamps&) const = default;
};

/// RFC 2018: octets [left, right) have arrived out of order.
struct SackBlock {
  std::uint32_t left = 0;
  std::uint32_t right = 0;
  bool operator==(const SackBlock&) const = default;
};

/// The fields of a TCP header, in host order.
struct TcpHeader {
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgement = 0;  ///< Meaningful with kAck.
  std::uint8_t flags = 0;
  std::uint16_t window = 0;  ///< As sent: not scaled.
  std::optional<std::uint16_t> segment_size_max;
  std::optional<std::uint8_t> window_scale;  ///< At most 14, as RFC 7323 wants it read.
  bool sack_permitted = false;
  std::optional<TcpTimestamps> timestamps;
  std::array<SackBlock, 4> sack{};
  std::size_t sack_count = 0;
  /// Where the options' values stand, counted from the start of the frame.
  std::size_t timestamps_at = 0;
  std::size_t sack_at = 0;

  [[nodiscard]] bool has(std::uint8_t flag) const { return (flags & flag) != 0; }
};

/// What `parse` found. Offsets count from the start of the frame.
struct Packet {
  FrameKind kind = FrameKind::malformed;
  bool v6 = false;
  IpAddress source;
  IpAddress destination;
  std::uint8_t protocol = 0;  ///< Of the transport, behind extension headers.
  std::size_t network_at = 0;
  std::size_t transport_at = 0;
  std::size_t payload_at = 0;
  std::size_t payload_bytes = 0;
  /// Ports; for echo both are the identifier.
  std::uint16_t source_port = 0;
  std::uint16_t destination_port = 0;
  bool echo_request = false;
  TcpHeader tcp;  ///< For FrameKind::tcp.

  /// Octets of sequence space that a TCP segment takes: payload, SYN and FIN.
  [[nodiscard]] std::uint32_t sequence_length() const {
    return static_cast<std::uint32_t>(payload_bytes) + (tcp.has(kSyn) ? 1U : 0U) +
           (tcp.has(kFin) ? 1U : 0U);
  }
  /// Whether it brings its receiver more than an acknowledgement: contents, a beginning or an end.
  [[nodiscard]] bool brings_something() const {
    return kind != FrameKind::tcp || sequence_length() > 0 || tcp.has(kRst);
  }
  /// Whether this frame has ports, or an identifier, and so belongs to a flow.
  [[nodiscard]] bool in_a_flow() const {
    return kind == FrameKind::tcp || kind == FrameKind::udp || kind == FrameKind::echo;
  }
};

/// Reads `frame`. Never fails: what cannot be read is said by `kind`.
Packet parse(std::span<const std::uint8_t> frame);

/// The payload above TCP or UDP, or of an echo from its sequence number on.
inline std::span<const std::uint8_t> payload_of(std::span<const std::uint8_t> frame,
                                                const Packet& packet) {
  return frame.subspan(packet.payload_at, packet.payload_bytes);
}

/// What stands in a frame's transport checksum.
enum class ChecksumState : std::uint8_t {
  complete,  ///< The checksum, as on a wire.
  partial,   ///< The sum of the pseudo header only; the network card would do the rest.
};

/// Changes fields of one TCP frame. The frame must be the one that `packet` was parsed from; both
/// must outlive the editor, and `packet` follows the changes.
class TcpEditor {
 public:
  TcpEditor(std::span<std::uint8_t> frame, Packet& packet, ChecksumState checksum)
      : frame_(frame), packet_(packet), checksum_(checksum) {}

  void set_sequence(std::uint32_t sequence);
  void set_acknowledgement(std::uint32_t acknowledgement);
  /// Only where the frame has the option: nothing else is done about it otherwise.
  void set_timestamps(TcpTimestamps timestamps);
  /// Block `index` of those that the frame has.
  void set_sack(std::size_t index, SackBlock block);

 private:
  void put(std::size_t at, std::uint32_t value);

  std::span<std::uint8_t> frame_;
  Packet& packet_;
  ChecksumState checksum_;
};

/// Computes the IPv4 header checksum and the transport checksum of a TCP, UDP, ICMP or ICMPv6
/// frame anew, whatever stood there. Other frames stay as they are. An IPv4 UDP checksum of zero,
/// which means none, stays zero if `keep_absent_udp`.
void complete_checksums(std::span<std::uint8_t> frame, const Packet& packet,
                        bool keep_absent_udp = true);

/// Whether the transport checksum is what `complete_checksums` would write.
bool transport_checksum_is_right(std::span<const std::uint8_t> frame, const Packet& packet);

/// The internet checksum's sum over `octets` (RFC 1071), not inverted, added to `sum`.
std::uint32_t internet_sum(std::span<const std::uint8_t> octets, std::uint32_t sum = 0);

/// A TCP segment to be made: a reset, an acknowledgement. Options other than these are not written.
struct TcpSegment {
  MacAddress source_mac;
  MacAddress destination_mac;
  IpAddress source;
  IpAddress destination;  ///< Of the same family as `source`.
  std::uint16_t source_port = 0;
  std::uint16_t destination_port = 0;
  TcpHeader header;  ///< Its `…_at` fields are not looked at. At most three SACK blocks beside
                     ///< timestamps.
  std::span<const std::uint8_t> payload;
};

/// The segment as an Ethernet frame with complete checksums.
Frame build_tcp(const TcpSegment& segment);

/// The same TCP segment as several with at most `payload_max` octets each, complete checksums; for
/// a network interface that takes no frame above its MTU. FIN and PSH stay with the last one. A
/// frame that fits, or is not TCP, comes back alone with its checksums completed.
std::vector<Frame> split_tcp(std::span<const std::uint8_t> frame, std::size_t payload_max);

/// The Ethernet addresses of a frame; zero for one below 12 octets.
MacAddress destination_mac_of(std::span<const std::uint8_t> frame);
MacAddress source_mac_of(std::span<const std::uint8_t> frame);

/// RFC 1982 in 32 bits: whether `a` comes before `b` in sequence space.
constexpr bool before(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>(a - b) < 0;
}

}  // namespace understudy::replay
