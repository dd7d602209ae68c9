#include "netbuffer/injection_port.h"

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "netbuffer/kernel_module.h"

namespace understudy::netbuffer {

Result<InjectionPort> InjectionPort::create(NetlinkSocket& route, const BridgePort& like,
                                            PortUse use) {
  const auto open_tun = [] {
    return UniqueFd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  };
  UniqueFd tap = open_tun();
  if (!tap.valid() && (errno == ENOENT || errno == ENODEV)) {
    load_kernel_module("tun");
    tap = open_tun();
  }
  if (!tap.valid()) {
    if (errno == ENOENT || errno == ENODEV) {
      return fail(ErrorCode::unavailable,
                  "no /dev/net/tun: the kernel needs TAP devices (module tun, CONFIG_TUN)");
    }
    return system_error(errno, "open /dev/net/tun");
  }
  ifreq request{};
  std::strncpy(request.ifr_name, use == PortUse::relay ? "us-relay%d" : "us-inject%d",
               IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) < 0) {
    return system_error(errno, "make a TAP device for released frames");
  }
  std::string device = request.ifr_name;
  // Otherwise the bridge would lose its own offloads to a port that lacks them.
  ::ioctl(tap.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6);
  BOOST_OUTCOME_TRY(const unsigned index, index_of_device(device));
  BOOST_OUTCOME_TRY(add_own_port(route, index, device, like, use));
  return InjectionPort(std::move(tap), std::move(device), address_of_own_port(index));
}

Result<void> InjectionPort::inject(std::span<const std::uint8_t> header_and_frame) {
  while (::write(tap_.get(), header_and_frame.data(), header_and_frame.size()) < 0) {
    if (errno == EINTR) continue;
    return system_error(errno, fmt::format("put a held frame back in by {}", device_));
  }
  return ok();
}

Result<bool> InjectionPort::drain(std::size_t frames_max,
                                  const std::function<void(CapturedFrame)>& on_frame) {
  constexpr std::size_t kFrameBytesMax = 128 * 1024;
  buffer_.resize(kFrameBytesMax);
  for (std::size_t frames = 0; frames < frames_max; ++frames) {
    const ssize_t received = ::read(tap_.get(), buffer_.data(), buffer_.size());
    if (received < 0) {
      if (errno == EAGAIN) return true;
      if (errno == EINTR) continue;
      return system_error(errno, fmt::format("read frames of {}", device_));
    }
    if (received < static_cast<ssize_t>(CapturedFrame::kHeaderBytes + ETH_HLEN)) continue;
    CapturedFrame frame;
    frame.octets.assign(buffer_.begin(), buffer_.begin() + received);
    frame.keep_only_what_travels();
    on_frame(std::move(frame));
  }
  return false;
}

}  // namespace understudy::netbuffer
