#include "base/mapping.h"

#include <sys/mman.h>

namespace understudy {

Result<Mapping> Mapping::of_file(int fd, std::size_t bytes, Access access,
                                 const std::string& what) {
  const int protection = access == Access::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  void* address = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return system_error(errno, fmt::format("map {}", what));
  return Mapping(static_cast<std::byte*>(address), bytes);
}

Result<Mapping> Mapping::anonymous(std::size_t bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return system_error(errno, fmt::format("map {} bytes", bytes));
  return Mapping(static_cast<std::byte*>(address), bytes);
}

void Mapping::unmap() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace understudy
