// Which conversation a frame belongs to, seen from the guest.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <functional>

#include "base/network_address.h"
#include "replay/packet.h"

namespace understudy::replay {

/// Whose frame it is.
enum class Direction : std::uint8_t {
  to_guest,    ///< An input.
  from_guest,  ///< An output.
};

/// A conversation between the guest and one client, whoever opened it. For echo both ports are the
/// identifier. Connections that follow each other on the same ports have the same key.
struct FlowKey {
  IpAddress guest;
  IpAddress client;
  std::uint16_t guest_port = 0;
  std::uint16_t client_port = 0;
  std::uint8_t protocol = 0;  ///< 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.

  auto operator<=>(const FlowKey&) const = default;
};

/// The flow of a packet for which `in_a_flow()`.
inline FlowKey flow_of(const Packet& packet, Direction direction) {
  if (direction == Direction::to_guest) {
    return {packet.destination, packet.source, packet.destination_port, packet.source_port,
            packet.protocol};
  }
  return {packet.source, packet.destination, packet.source_port, packet.destination_port,
          packet.protocol};
}

/// For unordered containers. Not keyed: what a stranger can do with colliding ports is bounded by
/// the limits on flows.
struct FlowKeyHash {
  std::size_t operator()(const FlowKey& key) const {
    std::uint64_t hash = 0xCBF29CE484222325ULL;
    const auto mix = [&hash](std::uint64_t value) {
      hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
      hash ^= hash >> 29;
    };
    for (const std::uint8_t octet : key.guest.octets()) mix(octet);
    for (const std::uint8_t octet : key.client.octets()) mix(octet);
    mix(static_cast<std::uint64_t>(key.guest_port) << 32 |
        static_cast<std::uint64_t>(key.client_port) << 16 | key.protocol);
    return static_cast<std::size_t>(hash);
  }
};

}  // namespace understudy::replay

template <>
struct fmt::formatter<understudy::replay::FlowKey> : fmt::formatter<std::string> {
  template <typename Context>
  auto format(const understudy::replay::FlowKey& key, Context& context) const {
    const char* protocol = key.protocol == 6 ? "tcp" : key.protocol == 17 ? "udp" : "echo";
    return fmt::formatter<std::string>::format(
        fmt::format("{} {} port {} with {} port {}", protocol, key.guest, key.guest_port,
                    key.client, key.client_port),
        context);
  }
};
