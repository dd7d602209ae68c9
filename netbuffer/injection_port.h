// A port of our own on the domain's bridge, by which held frames that are not IP go in again.
//
// The bridge learns nothing from it (the guest's address must stay with the guest's own port) and
// sends nothing to it. It takes over VLANs, isolation and MTU of the domain's port, so that a frame
// fares as if the domain had sent it. A TAP without persistence: it goes with this object or with
// the process, whatever happens.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "netbuffer/bridge.h"

namespace understudy::netbuffer {

class InjectionPort {
 public:
  /// Makes the port on the bridge of `like`; it forwards at once unless the bridge runs spanning
  /// tree. Errors: permission, unavailable (no /dev/net/tun), or what rtnetlink refused.
  static Result<InjectionPort> create(NetlinkSocket& route, const BridgePort& like);

  [[nodiscard]] const std::string& device() const { return device_; }

  /// Puts in a frame as CapturedFrame holds it. When it returns, the bridge has passed it on.
  Result<void> inject(std::span<const std::uint8_t> header_and_frame);

 private:
  InjectionPort(UniqueFd tap, std::string device)
      : tap_(std::move(tap)), device_(std::move(device)) {}

  UniqueFd tap_;
  std::string device_;
};

}  // namespace understudy::netbuffer
