// The deterministic bytes that guest and client both know, so that a client can check every byte.
//
// Byte `position` of the pattern `seed` is a byte of mix(seed + position / 8): it depends on
// nothing else, so a checker may begin anywhere, and a block that is lost, repeated, or taken from
// another connection (another seed) is found at its first word. A plain counter would not do: a
// shift by a multiple of its period would pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace understudy::guest {

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
  std::uint64_t word = mix(base + position / 8) >> (position % 8 * 8);
  for (char& byte : bytes) {
    byte = static_cast<char>(word);
    word >>= 8U;
    if (++position % 8 == 0) {
      word = mix(base + position / 8);
    }
  }
}

/// The number of bytes that differ from the pattern `seed` at `position`.
inline std::size_t count_wrong(std::uint64_t seed, std::uint64_t position,
                               std::span<const char> bytes) {
  const std::uint64_t base = mix(seed);
  std::uint64_t word = mix(base + position / 8) >> (position % 8 * 8);
  std::size_t wrong = 0;
  for (const char byte : bytes) {
    wrong += static_cast<std::size_t>(byte != static_cast<char>(word));
    word >>= 8U;
    if (++position % 8 == 0) {
      word = mix(base + position / 8);
    }
  }
  return wrong;
}

/// The seed of the guest's web file of `size` bytes (/1m.bin and so on).
constexpr std::uint64_t web_file_seed(std::uint64_t size) {
  return mix(size);
}

}  // namespace understudy::guest
