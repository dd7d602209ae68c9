#include "netbuffer/device_lock.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>

namespace understudy::netbuffer {

Result<UniqueFd> lock_device(const std::string& device) {
  UniqueFd lock(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!lock.valid()) return system_error(errno, "open a unix socket");
  const std::string name = "understudy-gate-" + device;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(lock.get(), reinterpret_cast<const sockaddr*>(&address), bytes) < 0) {
    if (errno == EADDRINUSE) {
      return fail(ErrorCode::exists, "the gate of {} is held already, by this or another process",
                  device);
    }
    return system_error(errno, fmt::format("lock the gate of {}", device));
  }
  return lock;
}

}  // namespace understudy::netbuffer
