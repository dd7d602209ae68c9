#include "base/network_address.h"

#include <arpa/inet.h>

#include <algorithm>

namespace understudy {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Result<MacAddress> MacAddress::parse(std::string_view text) {
  const auto refuse = [&] {
    return fail(ErrorCode::config,
                "'{}' is not a MAC address: expected six pairs like '52:54:00:…'", text);
  };
  if (text.size() != 17) return refuse();
  MacAddress address;
  for (std::size_t i = 0; i < 6; ++i) {
    const int high = hex_digit(text[3 * i]);
    const int low = hex_digit(text[3 * i + 1]);
    if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':')) return refuse();
    address.octets[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  if (address.is_group() || address.is_zero()) {
    return fail(ErrorCode::config, "'{}' cannot be the address of an interface: {}", text,
                address.is_zero() ? "it is all zero"
                                  : "it is a multicast address (its first octet is odd)");
  }
  return address;
}

std::string MacAddress::to_string() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", octets[0], octets[1], octets[2],
                     octets[3], octets[4], octets[5]);
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  // An embedded NUL would hide what follows it from inet_pton.
  const std::string terminated(text.substr(0, text.find('\0')));
  std::array<std::uint8_t, 4> v4_octets{};
  if (terminated.size() == text.size() &&
      ::inet_pton(AF_INET, terminated.c_str(), v4_octets.data()) == 1)
    return v4(v4_octets);
  std::array<std::uint8_t, 16> v6_octets{};
  if (terminated.size() == text.size() &&
      ::inet_pton(AF_INET6, terminated.c_str(), v6_octets.data()) == 1)
    return v6(v6_octets);
  return fail(ErrorCode::config,
              "'{}' is not an IP address: expected one like '192.0.2.1' or '2001:db8::1'", text);
}

std::string IpAddress::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(is_v6_ ? AF_INET6 : AF_INET, octets_.data(), text.data(), text.size());
  return text.data();
}

bool IpAddress::can_be_a_host() const {
  if (is_v6_) {
    const bool zero_but_last = std::all_of(octets_.begin(), octets_.end() - 1,
                                           [](std::uint8_t octet) { return octet == 0; });
    return octets_[0] != 0xff && !(zero_but_last && octets_[15] <= 1);
  }
  // 0.0.0.0/8 is 'this network', 127/8 loopback, from 224 on multicast, reserved and broadcast.
  return octets_[0] != 0 && octets_[0] != 127 && octets_[0] < 224;
}

}  // namespace understudy
