#include "netbuffer/frame_addresses.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace understudy {
namespace {

constexpr std::size_t kIpv4HeaderBytes = 20;
constexpr std::size_t kIpv4SourceOffset = 12;
constexpr std::size_t kIpv6HeaderBytes = 40;
constexpr std::size_t kIpv6SourceOffset = 8;
constexpr std::uint8_t kProtocolIcmpv6 = 58;
constexpr std::uint8_t kNeighbourAdvertisement = 136;

std::uint16_t word(std::span<const std::uint8_t> octets, std::size_t offset) {
  return static_cast<std::uint16_t>(octets[offset] << 8 | octets[offset + 1]);
}

template <std::size_t Count>
std::array<std::uint8_t, Count> take(std::span<const std::uint8_t> octets, std::size_t offset) {
  std::array<std::uint8_t, Count> taken{};
  std::copy_n(octets.begin() + static_cast<std::ptrdiff_t>(offset), Count, taken.begin());
  return taken;
}

std::optional<IpAddress> if_host(const IpAddress& address) {
  if (!address.can_be_a_host()) return std::nullopt;
  return address;
}

}  // namespace

std::optional<IpAddress> sender_of_ip_packet(std::span<const std::uint8_t> packet) {
  if (packet.empty()) return std::nullopt;
  const int version = packet[0] >> 4;
  if (version == 4 && packet.size() >= kIpv4HeaderBytes) {
    return if_host(IpAddress::v4(take<4>(packet, kIpv4SourceOffset)));
  }
  if (version != 6 || packet.size() < kIpv6HeaderBytes) return std::nullopt;
  // A neighbour advertisement: type, code, checksum, flags, then the target at octet 8.
  constexpr std::size_t kTargetOffset = kIpv6HeaderBytes + 8;
  if (packet[6] == kProtocolIcmpv6 && packet.size() >= kTargetOffset + 16 &&
      packet[kIpv6HeaderBytes] == kNeighbourAdvertisement) {
    return if_host(IpAddress::v6(take<16>(packet, kTargetOffset)));
  }
  return if_host(IpAddress::v6(take<16>(packet, kIpv6SourceOffset)));
}

std::optional<IpAddress> sender_of_arp_frame(std::span<const std::uint8_t> frame,
                                             const MacAddress& mac) {
  std::size_t type_offset = 12;
  for (int tags = 0; tags < 2 && frame.size() >= type_offset + 2; ++tags) {
    const std::uint16_t type = word(frame, type_offset);
    if (type != 0x8100 && type != 0x88a8) break;
    type_offset += 4;
  }
  // After RFC 826: hardware type 1, protocol 0x0800, lengths 6 and 4, operation, sender's MAC and
  // IPv4 address, target's MAC and IPv4 address.
  const std::size_t arp_offset = type_offset + 2;
  if (frame.size() < arp_offset + 28 || word(frame, type_offset) != 0x0806) return std::nullopt;
  const auto arp = frame.subspan(arp_offset);
  if (word(arp, 0) != 1 || word(arp, 2) != 0x0800 || arp[4] != 6 || arp[5] != 4) {
    return std::nullopt;
  }
  if (take<6>(arp, 8) != mac.octets) return std::nullopt;
  return if_host(IpAddress::v4(take<4>(arp, 14)));
}

void AddressBook::add(const IpAddress& address) {
  if (addresses_.size() >= kMax) return;
  if (std::find(addresses_.begin(), addresses_.end(), address) != addresses_.end()) return;
  addresses_.push_back(address);
}

}  // namespace understudy
