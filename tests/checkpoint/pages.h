// Guest memory for tests: pages that can be written in the ways in which guests write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "checkpoint/changed_lines.h"
#include "checkpoint/page_batch.h"

namespace understudy::test {

/// How a test writes a page.
enum class Write {
  zero,       ///< All zeros.
  random,     ///< Every octet.
  octet,      ///< One octet, to something else than it was.
  few_lines,  ///< Some octets in up to four lines.
  text,       ///< All of it, with content that packs well.
};
inline constexpr int kWrites = 5;

/// Memory of whole pages. Not aligned on purpose: nothing may rely on it.
class Memory {
 public:
  explicit Memory(std::size_t pages) : bytes_(pages * kPageBytes + 1) {}

  [[nodiscard]] std::size_t pages() const { return bytes_.size() / kPageBytes; }
  [[nodiscard]] std::byte* page(std::size_t number) {
    return bytes_.data() + 1 + number * kPageBytes;
  }
  [[nodiscard]] std::span<std::byte> bytes() { return {bytes_.data() + 1, bytes_.size() - 1}; }
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return {bytes_.data() + 1, bytes_.size() - 1};
  }
  bool operator==(const Memory&) const = default;

  /// Writes page `number` in the way of `write`; equal seeds write equal content.
  void change(std::size_t number, Write write, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::byte* const target = page(number);
    switch (write) {
      case Write::zero:
        std::memset(target, 0, kPageBytes);
        return;
      case Write::random:
        for (std::size_t i = 0; i < kPageBytes; i += 8) {
          const std::uint64_t word = random();
          std::memcpy(target + i, &word, sizeof(word));
        }
        return;
      case Write::octet: {
        std::byte& octet = target[random() % kPageBytes];
        octet = static_cast<std::byte>(std::to_integer<unsigned>(octet) + 1 + random() % 255);
        return;
      }
      case Write::few_lines:
        for (int i = 0; i < 4; ++i)
          target[random() % kPageBytes] = static_cast<std::byte>(random());
        return;
      case Write::text:
        for (std::size_t i = 0; i < kPageBytes; ++i) {
          target[i] = static_cast<std::byte>('a' + (i + seed) % 7);
        }
        return;
    }
  }

 private:
  std::vector<std::byte> bytes_;
};

/// The pages `numbers` of `memory`, as an encoder takes them.
inline std::vector<StagedPage> stage(Memory& memory, std::span<const std::size_t> numbers) {
  std::vector<StagedPage> staged;
  for (const std::size_t number : numbers) {
    staged.push_back({PageNumber(number), memory.page(number)});
  }
  return staged;
}

/// All pages of `memory`.
inline std::vector<StagedPage> stage_all(Memory& memory) {
  std::vector<StagedPage> staged;
  for (std::size_t number = 0; number < memory.pages(); ++number) {
    staged.push_back({PageNumber(number), memory.page(number)});
  }
  return staged;
}

/// A copy of octets that outlives the encoder's buffer.
inline std::vector<std::byte> copy_of(std::span<const std::byte> octets) {
  return {octets.begin(), octets.end()};
}

}  // namespace understudy::test
