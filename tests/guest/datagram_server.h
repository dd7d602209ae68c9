// A loop around one UDP socket, for services whose request and reply are a datagram each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace understudy::guest {

/// What a UDP port does.
class DatagramService {
 public:
  virtual ~DatagramService() = default;
  /// The reply to one datagram, sent to where that came from.
  virtual std::string answer(std::string_view request) = 0;
};

/// Listens on `port` (IPv6 and IPv4) and serves until the end of the process. Returns only an exit
/// status, after a message on stderr, if it cannot listen.
int serve_datagrams(std::uint16_t port, DatagramService& service);

/// Waits until something answers datagrams on `port` of the loopback address.
void wait_for_datagram_port(std::uint16_t port);

}  // namespace understudy::guest
