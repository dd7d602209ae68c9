// One owner for each memory mapping.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace understudy {

/// Owns a mapped range of memory and unmaps it when it goes. Move-only.
class Mapping {
 public:
  enum class Access { read_only, read_write };

  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { unmap(); }

  /// Maps the first `bytes` of `fd` shared. The descriptor may be closed afterwards. `what` names
  /// the file in errors.
  static Result<Mapping> of_file(int fd, std::size_t bytes, Access access, const std::string& what);
  /// Maps `bytes` of zeroed private memory that costs nothing until touched.
  static Result<Mapping> anonymous(std::size_t bytes);

  [[nodiscard]] std::span<std::byte> bytes() { return {data_, bytes_}; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, bytes_}; }
  [[nodiscard]] bool valid() const { return data_ != nullptr; }

 private:
  Mapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  void unmap();

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace understudy
