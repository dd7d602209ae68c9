#include "hypervisor/qemu/isolated_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

namespace understudy {
namespace {

ifreq request_for(const std::string& device) {
  ifreq request{};
  std::memcpy(request.ifr_name, device.c_str(),
              std::min(device.size(), sizeof request.ifr_name - 1));
  return request;
}

Result<UniqueFd> control_socket() {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return system_error(errno, "a socket for interface settings");
  return fd;
}

void put_address(sockaddr& target, std::uint32_t network_order) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = network_order;
  std::memcpy(&target, &address, sizeof address);
}

}  // namespace

Result<IsolatedNetwork> IsolatedNetwork::create() {
  IsolatedNetwork network;
  int failure = 0;
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      failure = errno;
      return;
    }
    network.fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!network.fd_.valid()) failure = errno;
  }).join();
  if (!network.fd_.valid()) return system_error(failure, "a network namespace for a rehearsal");
  return network;
}

Result<void> IsolatedNetwork::inside(const std::function<Result<void>()>& work) const {
  std::optional<Result<void>> result;
  std::thread([&] {
    if (::setns(fd_.get(), CLONE_NEWNET) != 0) {
      result.emplace(system_error(errno, "entering a rehearsal's network"));
      return;
    }
    result.emplace(work());
  }).join();
  return std::move(*result);
}

Result<void> IsolatedNetwork::bring_up(const std::string& device) const {
  const auto work = [&device]() -> Result<void> {
    BOOST_OUTCOME_TRY(const UniqueFd socket, control_socket());
    ifreq request = request_for(device);
    if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return system_error(errno, device);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return system_error(errno, device);
    return ok();
  };
  return inside(work);
}

Result<void> IsolatedNetwork::set_address(const std::string& device, const IpAddress& address,
                                          unsigned prefix) const {
  if (!address.is_v4() || prefix < 1 || prefix > 31)
    return fail(ErrorCode::unavailable, "{}/{}: only IPv4 is talked to", address, prefix);
  const auto work = [&]() -> Result<void> {
    BOOST_OUTCOME_TRY(const UniqueFd socket, control_socket());
    ifreq request = request_for(device);
    std::uint32_t octets = 0;
    std::memcpy(&octets, address.octets().data(), sizeof octets);
    put_address(request.ifr_addr, octets);
    if (::ioctl(socket.get(), SIOCSIFADDR, &request) != 0)
      return system_error(errno, fmt::format("the address of {}", device));
    put_address(request.ifr_netmask, htonl(~std::uint32_t{0} << (32 - prefix)));
    if (::ioctl(socket.get(), SIOCSIFNETMASK, &request) != 0)
      return system_error(errno, fmt::format("the netmask of {}", device));
    return ok();
  };
  return inside(work);
}

}  // namespace understudy
