// The one server loop of the guest's services: many TCP connections, one thread, bounded buffers.
//
// A service sees bytes come in and puts bytes out; whoever does not read what it asked for is not
// read from either (its output buffer is the limit), so no client makes the guest grow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace understudy::guest {

/// One TCP connection, as a service sees it.
struct Connection {
  int socket = -1;
  std::string input;   ///< Received and not yet consumed.
  std::string output;  ///< To be sent.
  /// Whatever the service keeps for this connection.
  std::shared_ptr<void> memory;
};

/// What a port does.
class Service {
 public:
  virtual ~Service() = default;

  /// Takes what it can from `connection.input`, may append to `connection.output`. False closes the
  /// connection.
  virtual bool consume(Connection& connection) = 0;

  /// Called whenever there is room in the output, and at every tick: a service that talks by itself
  /// appends here.
  virtual void produce(Connection& /*connection*/) {}

  /// True if it produces as fast as the socket takes, not only at ticks: then `produce` is called
  /// again as soon as there is room, until it appends nothing.
  [[nodiscard]] virtual bool eager() const { return false; }

  /// Called at every tick, before `produce`.
  virtual void tick() {}

  /// Milliseconds between ticks; -1: none.
  virtual int tick_ms() { return -1; }
};

constexpr std::size_t input_bytes_max = 16384;   ///< A connection that needs more is closed.
constexpr std::size_t output_bytes_max = 65536;  ///< Above this nothing more is read.
constexpr std::size_t connections_max = 2048;    ///< Further ones are closed at once.

/// Listens on `port` (IPv6 and IPv4) and serves until the end of the process. Returns only an exit
/// status, after a message on stderr, if it cannot listen.
int serve(std::uint16_t port, Service& service);

/// Waits until something accepts connections on `port` of the loopback address.
void wait_for_port(std::uint16_t port);

}  // namespace understudy::guest
