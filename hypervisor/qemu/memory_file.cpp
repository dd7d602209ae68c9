#include "hypervisor/qemu/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace understudy {

Result<MemoryFile> MemoryFile::create(const std::filesystem::path& directory, std::uint64_t bytes) {
  UniqueFd fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    return system_error(errno, fmt::format("guest memory in {}", directory.string()));
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return system_error(errno,
                        fmt::format("guest memory of {} bytes in {}", bytes, directory.string()));
  }
  BOOST_OUTCOME_TRY(auto mapping,
                    Mapping::of_file(fd.get(), bytes, Mapping::Access::read_write, "guest memory"));
  return MemoryFile(std::move(fd), std::move(mapping));
}

Result<MemoryFile> MemoryFile::of_process(pid_t pid, int number, std::uint64_t bytes) {
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, number);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return system_error(errno, fmt::format("guest memory {}", path));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return system_error(errno, path);
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != bytes) {
    return fail(ErrorCode::bad_data, "{}: expected guest memory of {} bytes, found {} bytes", path,
                bytes, status.st_size);
  }
  BOOST_OUTCOME_TRY(auto mapping,
                    Mapping::of_file(fd.get(), bytes, Mapping::Access::read_write, "guest memory"));
  return MemoryFile(std::move(fd), std::move(mapping));
}

Result<void> MemoryFile::append_data_ranges(std::uint64_t first, std::uint64_t count,
                                            DirtySet& out) const {
  const auto end = static_cast<off_t>((first + count) * kPageBytes);
  auto position = static_cast<off_t>(first * kPageBytes);
  while (position < end) {
    const off_t data = ::lseek(fd_.get(), position, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // Only a hole is left.
    if (data < 0) return system_error(errno, "looking for data in guest memory");
    if (data >= end) break;
    const off_t hole = ::lseek(fd_.get(), data, SEEK_HOLE);
    if (hole < 0) return system_error(errno, "looking for holes in guest memory");
    position = std::min(hole, end);
    const auto first_page = static_cast<std::uint64_t>(data) / kPageBytes;
    const auto end_page = (static_cast<std::uint64_t>(position) + kPageBytes - 1) / kPageBytes;
    append_range(out, {first_page, end_page - first_page});
  }
  return ok();
}

std::uint64_t MemoryFile::allocated_bytes() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

void append_range(DirtySet& set, PageRange range) {
  if (!set.empty() && set.back().first + set.back().count == range.first) {
    set.back().count += range.count;
  } else {
    set.push_back(range);
  }
}

}  // namespace understudy
