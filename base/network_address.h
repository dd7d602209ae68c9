// Addresses on a network, as values: the 48 bits of Ethernet, and the addresses of IPv4 and IPv6.
//
// They are kept as octets in the order of the wire, so that a frame can be read or written without
// a thought about byte order. Text goes in through `parse` and out through `to_string`; nothing
// here looks up names.
#pragma once

#include <fmt/format.h>

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy {

/// An Ethernet address. The default value is all zero, which no interface has.
struct MacAddress {
  std::array<std::uint8_t, 6> octets{};

  /// Reads the address of an interface, "52:54:00:ab:cd:ef" (either case; six pairs). Refuses
  /// groups and all zero, which no interface can have. Error: `config`, with the text given.
  static Result<MacAddress> parse(std::string_view text);
  /// All ones: every station of the link.
  static constexpr MacAddress broadcast() { return {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}; }

  /// "52:54:00:ab:cd:ef", lower case.
  [[nodiscard]] std::string to_string() const;
  /// Whether it names a group (broadcast is a group too) rather than one station.
  [[nodiscard]] constexpr bool is_group() const { return (octets[0] & 1U) != 0; }
  [[nodiscard]] constexpr bool is_zero() const { return *this == MacAddress{}; }

  constexpr auto operator<=>(const MacAddress&) const = default;
};

/// An IPv4 or an IPv6 address. The default value is the IPv4 address 0.0.0.0.
class IpAddress {
 public:
  constexpr IpAddress() = default;
  /// From octets in the order of the wire.
  static constexpr IpAddress v4(std::array<std::uint8_t, 4> octets) {
    IpAddress address;
    for (std::size_t i = 0; i < octets.size(); ++i) address.octets_[i] = octets[i];
    return address;
  }
  /// From octets in the order of the wire. A mapped IPv4 address stays an IPv6 address.
  static constexpr IpAddress v6(std::array<std::uint8_t, 16> octets) {
    IpAddress address;
    address.is_v6_ = true;
    address.octets_ = octets;
    return address;
  }
  /// Reads "192.0.2.1" or "2001:db8::1"; no zone, no prefix length. Error: `config`.
  static Result<IpAddress> parse(std::string_view text);

  [[nodiscard]] constexpr bool is_v4() const { return !is_v6_; }
  [[nodiscard]] constexpr bool is_v6() const { return is_v6_; }
  /// 4 or 16 octets in the order of the wire. Valid as long as this object.
  [[nodiscard]] constexpr std::span<const std::uint8_t> octets() const {
    return std::span(octets_).first(is_v6_ ? 16 : 4);
  }
  /// "192.0.2.1", "2001:db8::1".
  [[nodiscard]] std::string to_string() const;
  /// Whether one host can have it as its own: not unspecified, loopback, multicast or broadcast.
  [[nodiscard]] bool can_be_a_host() const;

  constexpr auto operator<=>(const IpAddress&) const = default;

 private:
  bool is_v6_ = false;
  std::array<std::uint8_t, 16> octets_{};
};

}  // namespace understudy

template <>
struct fmt::formatter<understudy::MacAddress> : fmt::formatter<std::string> {
  template <typename Context>
  auto format(const understudy::MacAddress& address, Context& context) const {
    return fmt::formatter<std::string>::format(address.to_string(), context);
  }
};

template <>
struct fmt::formatter<understudy::IpAddress> : fmt::formatter<std::string> {
  template <typename Context>
  auto format(const understudy::IpAddress& address, Context& context) const {
    return fmt::formatter<std::string>::format(address.to_string(), context);
  }
};
