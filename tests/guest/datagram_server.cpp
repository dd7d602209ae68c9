#include "tests/guest/datagram_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace understudy::guest {

int serve_datagrams(std::uint16_t port, DatagramService& service) {
  const int socket = ::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int off = 0;
  setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  if (socket < 0 || bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "guestd: listen on UDP port %u: %s\n", port, std::strerror(errno));
    return 1;
  }
  std::array<char, 65536> datagram;
  while (true) {
    sockaddr_in6 client = {};
    socklen_t size = sizeof client;
    const ssize_t received = recvfrom(socket, datagram.data(), datagram.size(), 0,
                                      reinterpret_cast<sockaddr*>(&client), &size);
    if (received < 0) {
      continue;  // an ICMP error about an earlier reply
    }
    const std::string reply = service.answer({datagram.data(), static_cast<std::size_t>(received)});
    sendto(socket, reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&client), size);
  }
}

void wait_for_datagram_port(std::uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (true) {
    const int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    connect(probe, reinterpret_cast<sockaddr*>(&address), sizeof address);
    send(probe, "?", 1, MSG_NOSIGNAL);
    pollfd event = {probe, POLLIN, 0};
    char byte = 0;
    const bool answered = poll(&event, 1, 10) > 0 && recv(probe, &byte, 1, 0) >= 0;
    close(probe);
    if (answered) {
      return;
    }
    usleep(10'000);
  }
}

}  // namespace understudy::guest
