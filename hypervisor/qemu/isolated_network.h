// A network namespace without a name and without any connection: where a rehearsal's taps lie.
//
// Intuition: a thread leaves for a fresh namespace and opens a descriptor of it; the namespace
// lives as long as that descriptor or a device in it is held by somebody. A tap that is made there
// was never in the host's network, not even for an instant.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/network_address.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy {

class IsolatedNetwork {
 public:
  /// Makes one. Errors: permission (CAP_SYS_ADMIN is missing).
  static Result<IsolatedNetwork> create();

  /// Runs `work` on a thread inside and waits for it: sockets and devices that it makes belong
  /// there. Short work only.
  Result<void> inside(const std::function<Result<void>()>& work) const;
  /// Takes `device` up; gives it an IPv4 address with a network of `prefix` bits.
  Result<void> bring_up(const std::string& device) const;
  Result<void> set_address(const std::string& device, const IpAddress& address,
                           unsigned prefix) const;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace understudy
