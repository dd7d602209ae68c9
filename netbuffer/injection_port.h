// A port of our own on the domain's bridge, by which held frames go in again.
//
// For the frames that are not IP of a domain whose other frames pass by its own port (`entry`), the
// bridge learns nothing from it (the guest's address must stay with the guest's own port) and
// sends nothing to it. Where the domain's own port is fenced off and we speak for it (`relay`), it
// is the guest's place in the bridge: what is for the guest comes out here. It takes over VLANs,
// isolation and MTU of the domain's port, so that a frame fares as if the domain had sent it. A TAP
// without persistence: it goes with this object or with the process, whatever happens.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "netbuffer/bridge.h"
#include "netbuffer/frame_capture.h"

namespace understudy::netbuffer {

class InjectionPort {
 public:
  /// Makes the port on the bridge of `like`; it forwards at once unless the bridge runs spanning
  /// tree. Errors: permission, unavailable (no /dev/net/tun), or what rtnetlink refused.
  static Result<InjectionPort> create(NetlinkSocket& route, const BridgePort& like,
                                      PortUse use = PortUse::entry);

  [[nodiscard]] const std::string& device() const { return device_; }
  /// The port's own Ethernet address.
  [[nodiscard]] const std::array<std::uint8_t, 6>& address() const { return address_; }

  /// Puts in a frame as CapturedFrame holds it. When it returns, the bridge has passed it on.
  Result<void> inject(std::span<const std::uint8_t> header_and_frame);

  /// For PortUse::relay: becomes readable when the bridge has a frame for the guest. Non-blocking.
  [[nodiscard]] int fd() const { return tap_.get(); }
  /// Takes in what is there, at most `frames_max` frames, in order. Returns whether nothing is
  /// left.
  Result<bool> drain(std::size_t frames_max, const std::function<void(CapturedFrame)>& on_frame);

 private:
  InjectionPort(UniqueFd tap, std::string device, std::array<std::uint8_t, 6> address)
      : tap_(std::move(tap)), device_(std::move(device)), address_(address) {}

  UniqueFd tap_;
  std::string device_;
  std::array<std::uint8_t, 6> address_;
  std::vector<std::uint8_t> buffer_;
};

}  // namespace understudy::netbuffer
