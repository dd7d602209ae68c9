// Reading and writing the fixed layouts of the wire: little-endian numbers and short strings.
//
// The reader never reads past its end: after the first read that does not fit it is `broken`, and
// gives zeros. So a layout is read in one go and checked once.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace understudy::transport {

/// Appends to a growing row of octets.
class OctetWriter {
 public:
  /// Appends `number` in as many octets as its type has, least significant first.
  template <typename Number>
  void number(Number number) {
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
      octets_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(number) >> (8 * i)));
    }
  }
  /// Appends octets as they are.
  void octets(std::span<const std::byte> octets) {
    octets_.insert(octets_.end(), octets.begin(), octets.end());
  }
  /// Appends the octets of a fixed array.
  template <std::size_t count>
  void array(const std::array<std::uint8_t, count>& array) {
    octets(std::as_bytes(std::span(array)));
  }
  /// Appends one octet of length and the text, cut off at 255 octets.
  void text(std::string_view text) {
    text = text.substr(0, 255);
    number(static_cast<std::uint8_t>(text.size()));
    octets(std::as_bytes(std::span(text)));
  }
  /// What was written so far.
  [[nodiscard]] const std::vector<std::byte>& written() const { return octets_; }
  /// Gives away what was written.
  [[nodiscard]] std::vector<std::byte> take() { return std::move(octets_); }

 private:
  std::vector<std::byte> octets_;
};

/// Reads a row of octets that must stay alive.
class OctetReader {
 public:
  explicit OctetReader(std::span<const std::byte> octets) : left_(octets) {}

  /// The next number, zero when there are not enough octets.
  template <typename Number>
  Number number() {
    std::uint64_t value = 0;
    const auto part = octets(sizeof(Number));
    for (std::size_t i = 0; i < part.size(); ++i) {
      value |= std::to_integer<std::uint64_t>(part[i]) << (8 * i);
    }
    return static_cast<Number>(value);
  }
  /// The next `count` octets, none when there are fewer.
  std::span<const std::byte> octets(std::size_t count) {
    if (count > left_.size()) {
      broken_ = true;
      left_ = {};
      return {};
    }
    const auto part = left_.first(count);
    left_ = left_.subspan(count);
    return part;
  }
  /// The next fixed array.
  template <std::size_t count>
  std::array<std::uint8_t, count> array() {
    std::array<std::uint8_t, count> array{};
    const auto part = octets(count);
    if (!part.empty()) std::memcpy(array.data(), part.data(), part.size());
    return array;
  }
  /// The next text as `OctetWriter::text` wrote it.
  std::string text() {
    const auto part = octets(number<std::uint8_t>());
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  /// All that is left.
  [[nodiscard]] std::span<const std::byte> rest() const { return left_; }
  /// True after a read that did not fit.
  [[nodiscard]] bool broken() const { return broken_; }

 private:
  std::span<const std::byte> left_;
  bool broken_ = false;
};

/// `text` from a peer, made fit for logs and terminals: at most `length_max` octets, everything but
/// printable ASCII replaced.
inline std::string printable(std::string_view text, std::size_t length_max = 300) {
  std::string result(text.substr(0, length_max));
  std::replace_if(
      result.begin(), result.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return result;
}

}  // namespace understudy::transport
