// Which addresses a guest uses, read off its own frames. The octets come from the guest: any of
// them may be missing or a lie, so every field is checked against the length before it is read, and
// nothing here allocates, fails or throws.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/network_address.h"

namespace understudy {

/// The address that an IP packet (from its first octet; 40 octets are enough, 64 to see neighbour
/// advertisements) claims for its sender: the target of a neighbour advertisement, else the source.
/// Nothing if the packet is cut short, of another version, or the address cannot be one host's.
std::optional<IpAddress> sender_of_ip_packet(std::span<const std::uint8_t> packet);

/// The IPv4 address that an ARP frame (from its Ethernet header on; up to two VLAN tags are
/// skipped) claims for `mac`. Nothing for other frames, other senders, and probes (which ask
/// whether an address is free and so do not use it yet).
std::optional<IpAddress> sender_of_arp_frame(std::span<const std::uint8_t> frame,
                                             const MacAddress& mac);

/// Addresses in the order in which they were first seen, each once, at most `kMax`: a guest that
/// makes addresses up fills its own list and nothing else.
class AddressBook {
 public:
  static constexpr std::size_t kMax = 32;

  /// Adds `address` unless it is known or the book is full.
  void add(const IpAddress& address);
  [[nodiscard]] const std::vector<IpAddress>& addresses() const { return addresses_; }

 private:
  std::vector<IpAddress> addresses_;
};

}  // namespace understudy
