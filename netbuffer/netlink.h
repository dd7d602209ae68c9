// Talking to the kernel's configuration over netlink: send a request, wait for its answer.
//
// Used for what is set up once (rules, ports, forwarding entries), hence blocking: the kernel
// answers within the call that sends the request. Queues of frames have a socket of their own
// (frame_queue.h).
#pragma once

#include <libmnl/libmnl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace understudy::netbuffer {

/// Room for one netlink request, aligned as libmnl wants it.
struct RequestBuffer {
  alignas(nlmsghdr) std::array<char, 8192> octets{};
};

/// A blocking netlink socket of one protocol, in the network namespace of the thread that opened
/// it. Sequence numbers are its own business.
class NetlinkSocket {
 public:
  /// `protocol` is NETLINK_ROUTE, NETLINK_NETFILTER, … Errors: permission, unavailable.
  static Result<NetlinkSocket> open(int protocol);

  /// Sends `request` (sequence number and NLM_F_ACK are set here) and waits for the answer. `what`
  /// begins the error's message, e.g. "bridge br0: turn on nf_call_iptables".
  Result<void> request(nlmsghdr* request, std::string_view what);
  /// The errno value of the answer, 0 for success, for callers that read meaning into it; an error
  /// only where there was no answer at all.
  Result<int> try_request(nlmsghdr* request, std::string_view what);
  /// Sends a request that is answered by messages and an acknowledgement, and calls `on_message`
  /// for each of them. Flags are the caller's; the sequence number is set here.
  Result<void> query(nlmsghdr* request, std::string_view what,
                     const std::function<void(const nlmsghdr*)>& on_message);
  /// Sends a request for a dump and calls `on_message` for each message of the answer.
  Result<void> dump(nlmsghdr* request, std::string_view what,
                    const std::function<void(const nlmsghdr*)>& on_message);

  /// The sequence number that the next message should carry, for callers that build batches.
  std::uint32_t next_sequence() { return ++sequence_; }
  [[nodiscard]] mnl_socket* raw() const { return socket_.get(); }
  [[nodiscard]] int fd() const { return mnl_socket_get_fd(socket_.get()); }

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };
  explicit NetlinkSocket(mnl_socket* socket) : socket_(socket) {}

  std::unique_ptr<mnl_socket, Closer> socket_;
  std::uint32_t sequence_ = 0;
};

}  // namespace understudy::netbuffer
