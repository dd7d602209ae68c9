#include "hypervisor/qemu/tap.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>

namespace understudy {
namespace {

constexpr std::size_t kNameCharactersMax = IFNAMSIZ - 1;
constexpr unsigned kAttemptsMax = 16;
/// From linux/if_tun.h: fail with EBUSY instead of attaching to a device that exists.
constexpr short kTunExclusive = static_cast<short>(0x8000);

/// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv): short, and the same on every host.
std::uint32_t hash(std::string_view text) {
  std::uint32_t value = 2166136261u;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 16777619u;
  return value;
}

ifreq request_for(const std::string& device) {
  ifreq request{};
  std::memcpy(request.ifr_name, device.c_str(), std::min(device.size(), kNameCharactersMax));
  return request;
}

Result<UniqueFd> control_socket() {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return system_error(errno, "a socket for interface settings");
  return fd;
}

}  // namespace

std::string tap_name(std::string_view domain, unsigned index, unsigned attempt) {
  std::string plain = fmt::format("us-{}-{}", domain, index);
  if (attempt == 0 && plain.size() <= kNameCharactersMax) return plain;
  // "us-" + 4 + "-" + 4 hexadecimal digits + "-" + index leaves room for an index of two digits.
  const std::uint32_t code = hash(fmt::format("{}/{}", domain, attempt)) & 0xffff;
  return fmt::format("us-{}{:04x}-{}", domain.substr(0, 4), code, index);
}

Result<void> probe_taps() {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return system_error(errno, "/dev/net/tun");
  return ok();
}

Result<Tap> create_tap(std::string_view domain, unsigned index) {
  for (unsigned attempt = 0; attempt < kAttemptsMax; ++attempt) {
    Tap tap;
    tap.device = tap_name(domain, index, attempt);
    tap.fd.reset(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!tap.fd.valid()) return system_error(errno, "/dev/net/tun");
    ifreq request = request_for(tap.device);
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | kTunExclusive);
    if (::ioctl(tap.fd.get(), TUNSETIFF, &request) != 0) {
      if (errno == EBUSY || errno == EEXIST) continue;
      return system_error(errno, fmt::format("making tap {}", tap.device));
    }
    // Otherwise the host itself would speak up on the guest's wire, with neighbour discovery of its
    // own. Where there is no IPv6 there is no such file.
    std::ofstream("/proc/sys/net/ipv6/conf/" + tap.device + "/disable_ipv6") << "1";
    return tap;
  }
  return fail(ErrorCode::exists, "no free name for a tap of {}: {} and {} more are taken", domain,
              tap_name(domain, index, 0), kAttemptsMax - 1);
}

Result<void> check_bridge(const std::string& bridge) {
  BOOST_OUTCOME_TRY(const UniqueFd socket, control_socket());
  ethtool_drvinfo info{};
  info.cmd = ETHTOOL_GDRVINFO;
  ifreq request = request_for(bridge);
  request.ifr_data = reinterpret_cast<char*>(&info);
  if (::ioctl(socket.get(), SIOCETHTOOL, &request) != 0) {
    if (errno == ENODEV) {
      return fail(ErrorCode::no_such, "there is no bridge {} (ip link add {} type bridge)", bridge,
                  bridge);
    }
    if (errno != EOPNOTSUPP) return system_error(errno, fmt::format("bridge {}", bridge));
  }
  if (std::strncmp(info.driver, "bridge", sizeof info.driver) != 0) {
    return fail(ErrorCode::config, "{} is not a bridge", bridge);
  }
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP)) {
    return fail(ErrorCode::config, "bridge {} is down (ip link set {} up)", bridge, bridge);
  }
  return ok();
}

Result<std::uint64_t> frames_taken_from(const std::string& device) {
  // Of this thread's namespace, unlike sysfs. A line: "name: " and 16 numbers, the tenth of which
  // is the packets sent.
  std::ifstream file("/proc/thread-self/net/dev");
  std::string line;
  while (std::getline(file, line)) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(' ');
    if (line.compare(begin, colon - begin, device) != 0) continue;
    std::istringstream numbers(line.substr(colon + 1));
    std::uint64_t number = 0;
    for (int field = 0; field < 10; ++field) numbers >> number;
    if (numbers) return number;
  }
  return fail(ErrorCode::no_such, "no device {} in /proc/net/dev", device);
}

Result<void> attach_tap(const std::string& device, const std::string& bridge) {
  BOOST_OUTCOME_TRY(const UniqueFd socket, control_socket());
  ifreq of_bridge = request_for(bridge);
  if (::ioctl(socket.get(), SIOCGIFMTU, &of_bridge) != 0) {
    return system_error(errno, fmt::format("bridge {}", bridge));
  }
  ifreq request = request_for(device);
  request.ifr_mtu = of_bridge.ifr_mtu;
  if (::ioctl(socket.get(), SIOCSIFMTU, &request) != 0) {
    return system_error(errno, fmt::format("the MTU of {}", device));
  }
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return system_error(errno, device);
  const int device_index = request.ifr_ifindex;
  of_bridge.ifr_ifindex = device_index;
  if (::ioctl(socket.get(), SIOCBRADDIF, &of_bridge) != 0 && errno != EBUSY) {
    return system_error(errno, fmt::format("making {} a port of bridge {}", device, bridge));
  }
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return system_error(errno, device);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return system_error(errno, fmt::format("taking {} up", device));
  }
  return ok();
}

Result<void> detach_tap(const std::string& device, const std::string& bridge) {
  BOOST_OUTCOME_TRY(const UniqueFd socket, control_socket());
  ifreq request = request_for(device);
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return system_error(errno, device);
  ifreq of_bridge = request_for(bridge);
  of_bridge.ifr_ifindex = request.ifr_ifindex;
  // EINVAL: it is no port of it.
  if (::ioctl(socket.get(), SIOCBRDELIF, &of_bridge) != 0 && errno != EINVAL) {
    return system_error(errno, fmt::format("taking {} off bridge {}", device, bridge));
  }
  return ok();
}

Result<std::vector<std::vector<std::uint8_t>>> take_frames(const UniqueFd& tap) {
  constexpr std::size_t kHeaderBytes = 10;
  constexpr std::size_t kFrameBytesMax = 128 * 1024;
  int header_bytes = kHeaderBytes;
  if (::ioctl(tap.get(), TUNGETVNETHDRSZ, &header_bytes) != 0) {
    return system_error(errno, "the header of a tap's frames");
  }
  const auto frame_at =
      static_cast<std::ptrdiff_t>(std::max(header_bytes, static_cast<int>(kHeaderBytes)));
  std::vector<std::vector<std::uint8_t>> frames;
  std::vector<std::uint8_t> buffer(kFrameBytesMax);
  for (;;) {
    const ssize_t bytes = ::read(tap.get(), buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno != EAGAIN) return system_error(errno, "read a tap");
    if (bytes <= frame_at) return frames;
    auto& frame = frames.emplace_back(buffer.begin(), buffer.begin() + kHeaderBytes);
    frame.insert(frame.end(), buffer.begin() + frame_at, buffer.begin() + bytes);
  }
}

}  // namespace understudy
