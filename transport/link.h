// Links: one TLS 1.3 connection between two paired hosts, carrying frames in order.
//
// Intuition: whoever holds a Link knows that the peer is a host that was paired (or, for the
// purpose `pairing` only, a host that still has to prove itself), that versions fit, and what the
// link is for. All of that happens before a Link exists. From then on: `send` queues and waits only
// when the queue is full, `receive` gives whole verified frames, and any failure ends the link for
// good with one error that names the peer. There is no half-broken link; whoever wants another one
// connects again.
//
// Awkward cases: a peer that stops reading fills the queue, then `send` waits, and after the stall
// limit the link ends. A peer that is killed ends it at once (its kernel resets the connection),
// one whose host dies ends it after `silence_limit` (unanswered data, or keep-alive probes). Bulk
// links hand the thread back after some hundred kilobytes, so that heartbeats on the same
// io_context keep their rhythm. SIGPIPE is never raised.
//
// How TLS is driven: OpenSSL works on the non-blocking socket through a small BIO of our own, and
// Asio only waits for the socket to become ready. Not taken: boost::asio::ssl::stream, which copies
// every record twice more, reads at most 17 KB for each system call and keeps pending operations
// alive past the object that started them.
//
// Threads: a link, its connector and its listener live on one executor (an io_context run by one
// thread, or a strand). That executor must outlive them.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "transport/frame.h"
#include "transport/identity.h"

namespace understudy::transport {

class PairingDesk;

/// What a link is for. Each purpose has a TCP connection of its own, so that none waits behind
/// another. Part of the protocol.
enum class LinkPurpose : std::uint16_t { control = 1, heartbeat = 2, bulk = 3, pairing = 4 };

/// "control", "heartbeat", "bulk", "pairing".
std::string_view to_string(LinkPurpose purpose);

/// Limits of one link. Take `for_purpose` and change what must differ.
struct LinkSettings {
  /// From the first SYN to an open TCP connection.
  std::chrono::milliseconds connect_limit{3000};
  /// From the open connection to the end of TLS handshake and hello.
  std::chrono::milliseconds handshake_limit{5000};
  /// How long queued octets may make no progress at all before the link ends.
  std::chrono::milliseconds send_stall_limit{10000};
  /// How long a pending `receive` may see nothing before the link ends; zero: for ever.
  std::chrono::milliseconds idle_limit{0};
  /// How long the peer's kernel may be silent (unacknowledged data, keep-alive) before the link
  /// ends.
  std::chrono::milliseconds silence_limit{10000};
  /// Octets in the send queue above which `send` waits. One frame may exceed it, so a queue never
  /// holds more than this plus one frame.
  std::size_t send_queue_bytes_max = std::size_t{8} << 20;
  /// Payloads above it are refused, in both directions.
  std::size_t payload_bytes_max = std::size_t{16} << 20;
  /// Kernel buffer for sending and for receiving; zero leaves them to the kernel's auto-tuning.
  int socket_buffer_bytes = 0;
  /// Ask the network to prefer these packets (DSCP class selector 6, and the local queue's
  /// priority).
  bool urgent = false;
  /// After that many octets sent the TLS key is renewed (RFC 8446, section 5.5 limits AES-GCM).
  std::uint64_t key_update_bytes = std::uint64_t{64} << 30;

  /// The defaults for a purpose: small limits for heartbeats and pairing, large ones for bulk.
  static LinkSettings for_purpose(LinkPurpose purpose);
};

/// Who is at the other end.
struct PeerIdentity {
  /// The name under which the peer was paired. On a pairing link: the name that it claims.
  std::string name;
  Fingerprint fingerprint;
  BootId boot_id;
  /// Its address and port as the socket knows them, and ours.
  Endpoint remote;
  Endpoint local;
  /// The peer's software version, for status and logs.
  std::string software;
};

/// One established link. To stop an operation, close the link; Asio's own cancellation of a
/// coroutine works too, and ends it as Asio does, with an exception. Destroying it closes it.
/// Pending operations of a closed link end with an error (unavailable: "link to hostB closed"),
/// also when the Link itself is already gone.
class Link {
 public:
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link();

  /// Queues a frame whose payload is `head` followed by `body`, and returns once it is queued;
  /// waits while the queue is above its limit. `head` is copied at once (meant for small fixed
  /// parts), `body` is moved and never copied. Frames leave in the order in which `send` was
  /// called, also with several callers (only urgent ones overtake them); frames queued in one turn
  /// of the loop share packets. Success promises only that the frame is on its way. Errors: usage
  /// (payload above the limit; the link stays good), else the error that ended the link.
  Task<Result<void>> send(FrameType type, std::span<const std::byte> head,
                          std::vector<std::byte> body = {}, std::uint32_t flags = kFrameNoFlags);

  /// Queues a small frame before all that waits, but for what the kernel has; never waits for room:
  /// the caller sees to it that there are few. Urgent frames keep their order among each other.
  /// Errors as for send.
  Result<void> send_urgent(FrameType type, std::vector<std::byte> body);

  /// Waits until every queued octet was handed to the kernel.
  Task<Result<void>> flush();

  /// The next frame. One caller at a time. With `limit`, gives up after that time with timed_out,
  /// and the link stays good. A peer's `refusal` or `goodbye` arrives as an error (unavailable)
  /// with its text, and ends the link.
  Task<Result<Frame>> receive(std::optional<std::chrono::milliseconds> limit = {});

  /// Sends what is queued (within `limit`) and a goodbye with `reason`, then closes.
  Task<void> say_goodbye(std::string reason,
                         std::chrono::milliseconds limit = std::chrono::milliseconds(1000));

  /// The same with a `refusal`: the peer's receive ends with `reason`, its code included.
  Task<void> refuse(Error reason,
                    std::chrono::milliseconds limit = std::chrono::milliseconds(1000));

  /// Ends the link now; what is queued is lost. Safe to call again.
  void close();

  [[nodiscard]] bool open() const;
  [[nodiscard]] LinkPurpose purpose() const;
  [[nodiscard]] const PeerIdentity& peer() const;
  /// Frames with their headers, before encryption: all that was handed to TLS, all that came out.
  [[nodiscard]] std::uint64_t bytes_sent() const;
  [[nodiscard]] std::uint64_t bytes_received() const;
  /// Octets that wait in our own queue.
  [[nodiscard]] std::size_t bytes_queued() const;
  /// `bytes` of keying material bound to this TLS session (RFC 8446, section 7.5), equal on both
  /// ends and unknown to everybody else.
  [[nodiscard]] Result<std::vector<std::byte>> export_key(std::string_view label,
                                                          std::size_t bytes) const;

  class State;
  /// For the transport room: wraps an established connection.
  explicit Link(std::shared_ptr<State> state);

 private:
  std::shared_ptr<State> state_;
};

/// Opens links to peers.
class Connector {
 public:
  Connector(boost::asio::any_io_executor executor, LocalHost self);

  /// Connects to `address`, expects the certificate `expected`, and says hello. Returns when the
  /// peer has accepted us. Errors, each naming the address: unavailable (nobody there, refused),
  /// timed_out, permission (not the expected certificate, or the peer does not know us), protocol
  /// (not an Understudy peer, or versions do not fit), usage (not a numeric address).
  Task<Result<std::unique_ptr<Link>>> connect(const PeerAddress& address,
                                              const Fingerprint& expected, LinkPurpose purpose,
                                              LinkSettings settings);
  /// The same for a paired peer by name: tries its addresses in order. Error no_such when it is not
  /// paired; otherwise that of the last address.
  Task<Result<std::unique_ptr<Link>>> connect(std::string peer, LinkPurpose purpose);

 private:
  boost::asio::any_io_executor executor_;
  LocalHost self_;
};

/// Limits of a listener.
struct ListenerSettings {
  /// Connections that have not finished TLS and hello. One more ends the oldest of them that comes
  /// from the address with most of them, so that idle strangers cannot keep a paired host out.
  std::size_t handshakes_max = 32;
  /// How long one of them may take.
  std::chrono::milliseconds handshake_limit{5000};
  /// Overrides LinkSettings::for_purpose.
  std::function<LinkSettings(LinkPurpose)> link_settings;
};

/// Accepts links from paired hosts. Whoever is not paired gets a TLS alert and nothing else; the
/// one exception is a link for pairing while a token is pending at the desk.
class Listener {
 public:
  /// Called on the listener's executor for each link that is ready; the coroutine owns the link.
  using Handler = std::function<Task<void>(std::unique_ptr<Link>)>;

  /// Listens on `endpoint` (port 0: any free one). `desk` may be null: then nobody can pair here;
  /// it must outlive the listener. Errors: usage (address), exists (port in use), permission, io.
  static Result<std::unique_ptr<Listener>> open(boost::asio::any_io_executor executor,
                                                const Endpoint& endpoint, LocalHost self,
                                                std::shared_ptr<PairingDesk> desk, Handler handler,
                                                ListenerSettings settings = {});
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  /// Closes.
  ~Listener();

  /// Where it listens, with the real port.
  [[nodiscard]] Endpoint endpoint() const;
  /// Stops accepting and ends unfinished handshakes. Links already handed over go on.
  void close();

  /// Counters since the start.
  struct Counters {
    std::uint64_t accepted = 0;   ///< links handed to the handler
    std::uint64_t refused = 0;    ///< connections that failed TLS, hello or the time limit
    std::size_t handshaking = 0;  ///< unfinished now
  };
  [[nodiscard]] Counters counters() const;

  class State;
  /// For the transport room.
  explicit Listener(std::shared_ptr<State> state);

 private:
  std::shared_ptr<State> state_;
};

}  // namespace understudy::transport
