// Guest memory: a file without a name.
//
// Intuition: the file is opened with O_TMPFILE in a tmpfs, handed to QEMU as an inherited
// descriptor and mapped by both. It has no name, so it cannot collide, cannot be opened by others,
// and is gone with the last process that holds it: no crash, of anybody, leaves gigabytes behind.
// An agent that adopts the QEMU opens it again through /proc/PID/fd.
//
// Memory that never held data takes no room ('holes'); the file system itself remembers where data
// is.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "hypervisor/domain.h"

namespace understudy {

/// Owns one descriptor of a guest's memory and a mapping of all of it.
class MemoryFile {
 public:
  /// Makes a file of `bytes`, all hole, in `directory`, and maps it with `access`. Errors name the
  /// directory.
  static Result<MemoryFile> create(const std::filesystem::path& directory, std::uint64_t bytes);
  /// Opens the memory of a running process again: its descriptor number `number`, which must be a
  /// file of `bytes`.
  static Result<MemoryFile> of_process(pid_t pid, int number, std::uint64_t bytes);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> bytes() { return mapping_.bytes(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return mapping_.bytes(); }

  /// Appends the page ranges that hold data within [`first`, `first` + `count`) pages to `out`, and
  /// returns ok. Sorted and disjoint.
  Result<void> append_data_ranges(std::uint64_t first, std::uint64_t count, DirtySet& out) const;
  /// Bytes that the file takes up now.
  [[nodiscard]] std::uint64_t allocated_bytes() const;

 private:
  MemoryFile(UniqueFd fd, Mapping mapping) : fd_(std::move(fd)), mapping_(std::move(mapping)) {}
  UniqueFd fd_;
  Mapping mapping_;
};

/// Appends a range to a sorted set, joining it to the last one where they touch.
void append_range(DirtySet& set, PageRange range);

}  // namespace understudy
