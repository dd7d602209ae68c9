#include "tests/guest/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <unordered_map>

namespace understudy::guest {
namespace {

std::int64_t now_ms() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

int listen_on(std::uint16_t port) {
  const int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int on = 1;
  const int off = 0;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 1024) != 0) {
    std::fprintf(stderr, "guestd: listen on port %u: %s\n", port, std::strerror(errno));
    return -1;
  }
  return listener;
}

/// The loop's view of one service: its connections and what epoll watches of each.
class Loop {
 public:
  Loop(int listener, Service& service)
      : listener_(listener), service_(service), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    watch(EPOLL_CTL_ADD, listener_, EPOLLIN);
  }

  [[noreturn]] void run() {
    std::int64_t next_tick = now_ms();
    while (true) {
      int wait_ms = service_.tick_ms();
      if (wait_ms >= 0) {
        wait_ms = static_cast<int>(std::max<std::int64_t>(0, next_tick - now_ms()));
      }
      std::array<epoll_event, 64> events;
      const int count = epoll_wait(epoll_, events.data(), events.size(), wait_ms);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == listener_) {
          accept_all();
        } else {
          handle(events[i].data.fd, events[i].events);
        }
      }
      if (service_.tick_ms() >= 0 && now_ms() >= next_tick) {
        next_tick = std::max(next_tick + service_.tick_ms(), now_ms());
        service_.tick();
        for (auto entry = connections_.begin(); entry != connections_.end();) {
          Connection& connection = (entry++)->second;  // pump may erase it
          pump(connection);
        }
      }
    }
  }

 private:
  void watch(int operation, int descriptor, std::uint32_t what) const {
    epoll_event event = {};
    event.events = what;
    event.data.fd = descriptor;
    epoll_ctl(epoll_, operation, descriptor, &event);
  }

  void accept_all() {
    int socket = -1;
    while ((socket = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
      if (connections_.size() == connections_max) {
        close(socket);
        continue;
      }
      const int on = 1;
      setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      connections_[socket].socket = socket;
      watch(EPOLL_CTL_ADD, socket, EPOLLIN);
    }
  }

  void handle(int socket, std::uint32_t events) {
    const auto entry = connections_.find(socket);
    if (entry == connections_.end()) {
      return;  // closed by an earlier event of the same batch
    }
    Connection& connection = entry->second;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 &&
        connection.output.size() < output_bytes_max) {
      std::array<char, input_bytes_max> buffer;
      const ssize_t size =
          recv(socket, buffer.data(), input_bytes_max - connection.input.size(), 0);
      if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
        drop(connection);
        return;
      }
      if (size > 0) {
        connection.input.append(buffer.data(), static_cast<std::size_t>(size));
        if (!service_.consume(connection) || connection.input.size() == input_bytes_max) {
          drop(connection);
          return;
        }
      }
    }
    pump(connection);
  }

  /// Lets the service produce and sends what the socket takes; then watches for what is next.
  void pump(Connection& connection) {
    const std::size_t before = connection.output.size();
    if (before < output_bytes_max) {
      service_.produce(connection);
    }
    const bool more_may_come = service_.eager() && connection.output.size() > before;
    if (!connection.output.empty()) {
      const ssize_t size =
          send(connection.socket, connection.output.data(), connection.output.size(), MSG_NOSIGNAL);
      if (size < 0 && errno != EAGAIN && errno != EINTR) {
        drop(connection);
        return;
      }
      connection.output.erase(0, size > 0 ? static_cast<std::size_t>(size) : 0);
    }
    const bool full = connection.output.size() >= output_bytes_max;
    const bool pending = !connection.output.empty() || more_may_come;
    watch(EPOLL_CTL_MOD, connection.socket, (full ? 0U : EPOLLIN) | (pending ? EPOLLOUT : 0U));
  }

  void drop(const Connection& connection) {
    const int socket = connection.socket;
    connections_.erase(socket);
    close(socket);
  }

  int listener_;
  Service& service_;
  int epoll_;
  std::unordered_map<int, Connection> connections_;
};

}  // namespace

int serve(std::uint16_t port, Service& service) {
  const int listener = listen_on(port);
  if (listener < 0) {
    return 1;
  }
  Loop(listener, service).run();
}

void wait_for_port(std::uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (true) {
    const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected =
        connect(probe, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    close(probe);
    if (connected) {
      return;
    }
    usleep(10'000);
  }
}

}  // namespace understudy::guest
