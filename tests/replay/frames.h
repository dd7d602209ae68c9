// Frames for tests: made from parts, so that a test says only what it is about.
#pragma once

#include <string_view>

#include "replay/packet.h"

namespace understudy::replay::test {

inline const MacAddress kGuestMac{{0x52, 0x54, 0, 0, 0, 1}};
inline const MacAddress kClientMac{{0x52, 0x54, 0, 0, 0, 2}};
inline IpAddress v4(std::uint8_t last) {
  return IpAddress::v4({10, 0, 0, last});
}
inline IpAddress v6(std::uint8_t last) {
  return IpAddress::v6({0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last});
}

inline std::span<const std::uint8_t> octets(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// A protocol's octets in an IPv4 or IPv6 packet in an Ethernet frame, checksums complete.
inline Frame ip_frame(const IpAddress& source, const IpAddress& destination, std::uint8_t protocol,
                      std::span<const std::uint8_t> transport) {
  // A TCP frame lends its headers; the transport is put in place of its own.
  Frame frame = build_tcp({.source_mac = kClientMac,
                           .destination_mac = kGuestMac,
                           .source = source,
                           .destination = destination});
  const std::size_t network_bytes = source.is_v6() ? 40 : 20;
  frame.resize(14 + network_bytes);
  frame.insert(frame.end(), transport.begin(), transport.end());
  const std::size_t length = source.is_v6() ? transport.size() : 20 + transport.size();
  const std::size_t length_at = source.is_v6() ? 18 : 16;
  frame[length_at] = static_cast<std::uint8_t>(length >> 8);
  frame[length_at + 1] = static_cast<std::uint8_t>(length);
  frame[source.is_v6() ? 20 : 23] = protocol;
  complete_checksums(frame, parse(frame), false);
  return frame;
}

inline Frame udp_frame(const IpAddress& source, std::uint16_t source_port,
                       const IpAddress& destination, std::uint16_t destination_port,
                       std::span<const std::uint8_t> payload) {
  const std::size_t length = payload.size() + 8;
  std::vector<std::uint8_t> udp{static_cast<std::uint8_t>(source_port >> 8),
                                static_cast<std::uint8_t>(source_port),
                                static_cast<std::uint8_t>(destination_port >> 8),
                                static_cast<std::uint8_t>(destination_port),
                                static_cast<std::uint8_t>(length >> 8),
                                static_cast<std::uint8_t>(length),
                                0,
                                0};
  udp.insert(udp.end(), payload.begin(), payload.end());
  return ip_frame(source, destination, 17, udp);
}

inline Frame echo_frame(const IpAddress& source, const IpAddress& destination, bool request,
                        std::uint16_t identifier, std::span<const std::uint8_t> rest) {
  const bool six = source.is_v6();
  std::vector<std::uint8_t> icmp{
      static_cast<std::uint8_t>(six ? (request ? 128 : 129) : (request ? 8 : 0)),
      0,
      0,
      0,
      static_cast<std::uint8_t>(identifier >> 8),
      static_cast<std::uint8_t>(identifier)};
  icmp.insert(icmp.end(), rest.begin(), rest.end());
  return ip_frame(source, destination, six ? 58 : 1, icmp);
}

}  // namespace understudy::replay::test
