// The deterministic bytes that guest and client both know, so that a client can check every byte.
//
// Byte `position` of the pattern `seed` is a byte of mix(seed + position / 8): it depends on
// nothing else, so a checker may begin anywhere, and a block that is lost, repeated, or taken from
// another connection (another seed) is found at its first word. A plain counter would not do: a
// shift by a multiple of its period would pass.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace understudy::guest {

static_assert(std::endian::native == std::endian::little, "whole words are copied as they are");

/// A bijection that spreads every input bit over the word: the finaliser of SplitMix64 (Steele,
/// Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
constexpr std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15U;
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31U);
}

/// The byte at `position` of the pattern `seed`.
constexpr std::uint8_t pattern_byte(std::uint64_t seed, std::uint64_t position) {
  const std::uint64_t word = mix(mix(seed) + position / 8);
  return static_cast<std::uint8_t>(word >> (position % 8 * 8));
}

/// Fills `bytes` with the pattern `seed` from `position` on.
inline void fill_pattern(std::uint64_t seed, std::uint64_t position, std::span<char> bytes) {
  const std::uint64_t base = mix(seed);
  while (!bytes.empty()) {
    const std::uint64_t word = mix(base + position / 8) >> (position % 8 * 8);
    const std::size_t size = std::min<std::size_t>(8 - position % 8, bytes.size());
    if (size == 8) {
      std::memcpy(bytes.data(), &word, 8);  // one store: most words go this way
    } else {
      std::memcpy(bytes.data(), &word, size);
    }
    bytes = bytes.subspan(size);
    position += size;
  }
}

/// The number of bytes that differ from the pattern `seed` at `position`.
inline std::size_t count_wrong(std::uint64_t seed, std::uint64_t position,
                               std::span<const char> bytes) {
  const std::uint64_t base = mix(seed);
  std::size_t wrong = 0;
  while (!bytes.empty()) {
    std::uint64_t word = mix(base + position / 8) >> (position % 8 * 8);
    const std::size_t size = std::min<std::size_t>(8 - position % 8, bytes.size());
    if (size < 8 || std::memcmp(bytes.data(), &word, 8) != 0) {
      for (const char byte : bytes.first(size)) {
        wrong += static_cast<std::size_t>(byte != static_cast<char>(word));
        word >>= 8U;
      }
    }
    bytes = bytes.subspan(size);
    position += size;
  }
  return wrong;
}

/// The seed of the guest's web file of `size` bytes (/1m.bin and so on).
constexpr std::uint64_t web_file_seed(std::uint64_t size) {
  return mix(size);
}

}  // namespace understudy::guest
