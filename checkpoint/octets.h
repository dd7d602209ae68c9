// Little-endian octets, read and written one value at a time. Inside the checkpoint room only:
// every record's layout is spelled out where it is encoded, and checked where it is decoded.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace understudy::octets {

/// Writes `value` at `target` as sizeof(Number) little-endian octets.
template <std::unsigned_integral Number>
void put(std::byte* target, Number value) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(target, &value, sizeof(value));
  } else {
    for (std::size_t i = 0; i < sizeof(value); ++i) {
      target[i] = static_cast<std::byte>((value >> (8 * i)) & 0xFF);
    }
  }
}

/// The number in the sizeof(Number) little-endian octets at `source`, at any alignment.
template <std::unsigned_integral Number>
Number get(const std::byte* source) {
  Number value = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&value, source, sizeof(value));
  } else {
    for (std::size_t i = 0; i < sizeof(value); ++i) {
      value |= static_cast<Number>(std::to_integer<Number>(source[i]) << (8 * i));
    }
  }
  return value;
}

}  // namespace understudy::octets
