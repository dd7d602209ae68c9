// Two hosts in one process, hostA and hostB, paired, talking over loopback on one io_context. And
// the things that a wire and a stranger may do to them.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "transport/hello.h"
#include "transport/link.h"
#include "transport/link_state.h"
#include "transport/pairing.h"
#include "transport/tls_stream.h"

namespace understudy::transport {

using Octets = std::vector<std::byte>;

inline Octets octets(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline std::string text_of(const Octets& octets) {
  return {reinterpret_cast<const char*>(octets.data()), octets.size()};
}

inline LocalHost make_host(std::string name) {
  return {std::move(name), BootId::random(), TlsIdentity::generate().value(),
          PeerStore::in_memory()};
}

/// Both hosts and the loop that they run on. Members in the order in which they may go.
struct TwoHosts {
  boost::asio::io_context io{1};
  LocalHost a = make_host("hostA");
  LocalHost b = make_host("hostB");

  TwoHosts() {
    (void)a.peers->put({"hostB", b.identity->fingerprint(), {}});
    (void)b.peers->put({"hostA", a.identity->fingerprint(), {}});
  }

  /// Runs the loop until `task` is done. Throws after a generous limit: a hang is a failure.
  template <typename T>
  T run(Task<T> task, std::chrono::seconds limit = std::chrono::seconds(60)) {
    std::optional<T> result;
    run_until([&, started = start(keep(std::move(task), result))] { return *started; }, limit);
    return std::move(result.value());
  }

  void run(Task<void> task) {
    run_until([started = start(std::move(task))] { return *started; });
  }

  /// Starts `task` and drops what it gives; the flag tells when it has ended.
  std::shared_ptr<bool> start(Task<void> task) {
    auto ended = std::make_shared<bool>(false);
    boost::asio::co_spawn(io, std::move(task),
                          [ended](const std::exception_ptr&) { *ended = true; });
    return ended;
  }
  template <typename T>
  void start(Task<T> task) {
    start(drop(std::move(task)));
  }
  template <typename T>
  static Task<void> keep(Task<T> task, std::optional<T>& result) {
    result.emplace(co_await std::move(task));
  }
  template <typename T>
  static Task<void> drop(Task<T> task) {
    (void)co_await std::move(task);
  }

  void run_until(const std::function<bool()>& condition,
                 std::chrono::seconds limit = std::chrono::seconds(60)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("waited too long");
      io.restart();
      io.run_one_for(std::chrono::milliseconds(50));
    }
  }

  void run_for(std::chrono::milliseconds time) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    io.restart();
    io.run_until(deadline);
  }

  /// A listener of B on loopback that puts the links it gets into `accepted`.
  std::unique_ptr<Listener> listen(std::vector<std::unique_ptr<Link>>& accepted,
                                   ListenerSettings settings = {},
                                   std::shared_ptr<PairingDesk> desk = nullptr,
                                   std::uint16_t port = 0) {
    auto opened = Listener::open(
        io.get_executor(), {"127.0.0.1", port}, b, std::move(desk),
        [&accepted](std::unique_ptr<Link> link) -> Task<void> {
          accepted.push_back(std::move(link));
          co_return;
        },
        std::move(settings));
    if (!opened) throw std::runtime_error(opened.error().message());
    return std::move(opened).value();
  }

  /// A connects to `endpoint`.
  Result<std::unique_ptr<Link>> connect(const Endpoint& endpoint, LinkPurpose purpose,
                                        std::optional<LinkSettings> settings = {}) {
    Connector connector(io.get_executor(), a);
    return run(connector.connect({endpoint, {}}, b.identity->fingerprint(), purpose,
                                 settings.value_or(LinkSettings::for_purpose(purpose))));
  }
};

/// Both ends of one link, through `via` if given.
struct LinkPair {
  std::vector<std::unique_ptr<Link>> accepted;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Link> a;
  std::unique_ptr<Link> b;

  explicit LinkPair(TwoHosts& hosts, LinkPurpose purpose = LinkPurpose::bulk,
                    std::optional<LinkSettings> settings = {},
                    const std::function<Endpoint(Endpoint)>& via = {}) {
    ListenerSettings listening;
    if (settings) listening.link_settings = [settings](LinkPurpose) { return *settings; };
    listener = hosts.listen(accepted, listening);
    const Endpoint to = via ? via(listener->endpoint()) : listener->endpoint();
    auto connected = hosts.connect(to, purpose, settings);
    if (!connected) throw std::runtime_error(connected.error().message());
    a = std::move(connected).value();
    hosts.run_until([&] { return !accepted.empty(); });
    b = std::move(accepted.front());
    accepted.clear();
  }
};

/// A wire between A and B that may be told to do harm: every piece that passes from A to B is shown
/// to `meddle`, which may change, lengthen or shorten it. `cut` ends both connections.
class Wire {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  std::function<void(Octets&)> meddle;

  explicit Wire(boost::asio::io_context& io)
      : io_(io), acceptor_(io, {boost::asio::ip::make_address("127.0.0.1"), 0}) {}
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  ~Wire() { cut(); }

  /// Starts carrying to `target`; gives the address to connect to instead.
  Endpoint carry_to(const Endpoint& target) {
    boost::asio::co_spawn(io_, accept(target), boost::asio::detached);
    return endpoint_of(acceptor_.local_endpoint());
  }
  void cut() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    for (auto& socket : sockets_) socket->close(ignored);
  }

 private:
  Task<void> accept(Endpoint target) {
    const auto token = boost::asio::as_tuple(boost::asio::use_awaitable);
    auto [code, accepted] = co_await acceptor_.async_accept(token);
    if (code) co_return;
    auto near = std::make_shared<Socket>(std::move(accepted));
    auto far = std::make_shared<Socket>(io_);
    sockets_ = {near, far};
    co_await far->async_connect({boost::asio::ip::make_address(target.address), target.port},
                                token);
    boost::asio::co_spawn(io_,
                          pump(near, far,
                               [this](Octets& piece) {
                                 if (meddle) meddle(piece);
                               }),
                          boost::asio::detached);
    boost::asio::co_spawn(io_, pump(far, near, [](Octets&) {}), boost::asio::detached);
  }
  static Task<void> pump(std::shared_ptr<Socket> from, std::shared_ptr<Socket> to,
                         std::function<void(Octets&)> change) {
    const auto token = boost::asio::as_tuple(boost::asio::use_awaitable);
    Octets buffer(65536);
    for (;;) {
      auto [code, bytes] = co_await from->async_read_some(boost::asio::buffer(buffer), token);
      if (code) break;
      Octets piece(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(bytes));
      change(piece);
      auto [failed, sent] =
          co_await boost::asio::async_write(*to, boost::asio::buffer(piece), token);
      if (failed) break;
    }
    boost::system::error_code ignored;
    to->shutdown(Socket::shutdown_send, ignored);
  }

  boost::asio::io_context& io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::vector<std::shared_ptr<Socket>> sockets_;
};

/// A peer with A's key that speaks TLS properly and then says whatever it likes.
class RudePeer {
 public:
  RudePeer(TwoHosts& hosts, const Endpoint& endpoint, std::shared_ptr<const TlsIdentity> identity)
      : hosts_(hosts) {
    boost::asio::ip::tcp::socket socket(hosts.io);
    socket.connect({boost::asio::ip::make_address(endpoint.address), endpoint.port});
    socket.non_blocking(true);
    stream_ = TlsStream::open(std::move(socket), std::move(identity), TlsStream::Role::connecting,
                              [](const Fingerprint&) { return true; })
                  .value();
  }

  Result<void> shake() { return hosts_.run(shake_hands(stream_)); }
  /// A frame with the next number, or with `sequence`.
  void say(FrameType type, const Octets& payload, std::optional<std::uint64_t> sequence = {}) {
    const auto header =
        encode_frame_header(type, kFrameNoFlags, sequence.value_or(next_++), payload);
    raw(Octets(header.begin(), header.end()));
    raw(payload);
  }
  void raw(const Octets& octets) {
    if (octets.empty()) return;
    const auto step = stream_->write(octets, false);
    if (step.outcome != TlsStream::Outcome::done || step.bytes != octets.size()) {
      throw std::runtime_error("the rude peer could not write");
    }
  }
  void hello(LinkPurpose purpose) {
    Hello hello;
    hello.purpose = purpose;
    hello.name = "hostA";
    say(FrameType::hello, encode(hello));
  }
  /// The next frame from the other side, or how its stream ended.
  Result<Frame> hear() { return hosts_.run(listen(*this)); }
  TlsStream& stream() { return *stream_; }

 private:
  static Task<Result<Frame>> listen(RudePeer& self) {
    for (;;) {
      BOOST_OUTCOME_CO_TRY(auto frame, self.decoder_.next());
      if (frame) co_return std::move(*frame);
      const auto step = self.stream_->read(self.decoder_.space());
      if (step.outcome == TlsStream::Outcome::done) {
        self.decoder_.filled(step.bytes);
      } else if (step.outcome == TlsStream::Outcome::failed) {
        co_return self.stream_->failure();
      } else if (step.outcome == TlsStream::Outcome::ended) {
        co_return fail(ErrorCode::unavailable, "ended");
      } else {
        co_await self.stream_->wait(step.outcome);
      }
    }
  }

  TwoHosts& hosts_;
  std::shared_ptr<TlsStream> stream_;
  FrameDecoder decoder_{1 << 20};
  std::uint64_t next_ = 1;
};

}  // namespace understudy::transport
