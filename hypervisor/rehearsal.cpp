#include "hypervisor/rehearsal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace understudy {

Result<std::uint64_t> copy_image(std::span<const std::byte> from, int from_file,
                                 std::span<std::byte> to, int to_file,
                                 const std::atomic<bool>& given_up) {
  constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;
  if (from.size() != to.size())
    return fail(ErrorCode::internal, "an image of {} bytes into {}", from.size(), to.size());
  std::uint64_t copied = 0;
  for (std::uint64_t position = 0; position < from.size();) {
    std::uint64_t begin = position;
    std::uint64_t end = from.size();
    if (from_file >= 0) {
      const off_t data = ::lseek(from_file, static_cast<off_t>(position), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data < 0) return system_error(errno, "asking for the data of an image");
      const off_t hole = ::lseek(from_file, data, SEEK_HOLE);
      if (hole < 0) return system_error(errno, "asking for the holes of an image");
      begin = static_cast<std::uint64_t>(data);
      end = std::min<std::uint64_t>(end, static_cast<std::uint64_t>(hole));
      if (begin >= end) break;
    }
    for (std::uint64_t piece = begin; piece < end; piece += kPieceBytes) {
      if (given_up.load(std::memory_order_relaxed))
        return fail(ErrorCode::try_again, "the image is needed for a promotion");
      const std::uint64_t bytes = std::min(kPieceBytes, end - piece);
      // Writing to a page that cannot be had would end us with SIGBUS.
      if (to_file >= 0 &&
          ::fallocate(to_file, 0, static_cast<off_t>(piece), static_cast<off_t>(bytes)) != 0)
        return system_error(errno, "memory for a copy of the image");
      std::memcpy(to.data() + piece, from.data() + piece, bytes);
      copied += bytes;
    }
    position = end;
  }
  return copied;
}

}  // namespace understudy
