// The connecting side: TCP, TLS, hello, each within its time limit.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "transport/hello.h"
#include "transport/link.h"
#include "transport/link_state.h"

namespace understudy::transport {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using LinkResult = Result<std::unique_ptr<Link>>;

Result<tcp::endpoint> numeric(const std::string& address, std::uint16_t port) {
  boost::system::error_code wrong;
  const auto parsed = asio::ip::make_address(address, wrong);
  if (wrong) return fail(ErrorCode::usage, "'{}' is no numeric address", address);
  return tcp::endpoint(parsed, port);
}

Error not_connected(const boost::system::error_code& code, const std::string& where) {
  return fail(ErrorCode::unavailable, "{}: {}", where, code.message());
}

Task<Result<void>> open_tcp(tcp::socket& socket, const PeerAddress& address,
                            const LinkSettings& settings) {
  const std::string where = "connect to " + address.remote.text();
  BOOST_OUTCOME_CO_TRY(const tcp::endpoint remote,
                       numeric(address.remote.address, address.remote.port));
  boost::system::error_code code;
  socket.open(remote.protocol(), code);
  if (code) co_return not_connected(code, where);
  tune_socket(socket, settings);
  if (!address.local_address.empty()) {
    BOOST_OUTCOME_CO_TRY(const tcp::endpoint local, numeric(address.local_address, 0));
    socket.bind(local, code);
    if (code) co_return not_connected(code, where + " from " + address.local_address);
  }
  {
    const Deadline limit(socket.get_executor(), settings.connect_limit, [&socket] {
      boost::system::error_code ignored;
      socket.close(ignored);
    });
    auto [failed] =
        co_await socket.async_connect(remote, asio::as_tuple(boost::asio::use_awaitable));
    if (limit.passed()) {
      co_return fail(ErrorCode::timed_out, "{}: no answer within {} ms", where,
                     settings.connect_limit.count());
    }
    if (failed) co_return not_connected(failed, where);
  }
  // A connection to a free local port may meet itself (simultaneous open); that is nobody.
  if (socket.local_endpoint(code) == socket.remote_endpoint(code)) {
    co_return fail(ErrorCode::unavailable, "{}: nobody listens there", where);
  }
  socket.non_blocking(true, code);
  if (code) co_return not_connected(code, where);
  co_return ok();
}

// What hello brings back, or why there is no link.
Task<Result<HelloReply>> greet(std::shared_ptr<Link::State> state, const LocalHost& self,
                               LinkPurpose purpose) {
  Hello hello;
  hello.purpose = purpose;
  hello.boot_id = self.boot_id;
  hello.name = self.name;
  hello.software = UNDERSTUDY_VERSION;
  const auto payload = encode(hello);
  BOOST_OUTCOME_CO_TRY(co_await Link::State::send(state, FrameType::hello, payload, {}, 0));
  BOOST_OUTCOME_CO_TRY(const Frame frame, co_await Link::State::receive(state, {}));
  if (frame.type != FrameType::hello_reply) {
    co_return fail(ErrorCode::protocol, "expected hello_reply, got {}", to_string(frame.type));
  }
  co_return decode_hello_reply(frame.payload);
}

Task<LinkResult> connect_to(asio::any_io_executor executor, LocalHost self, PeerAddress address,
                            Fingerprint expected, LinkPurpose purpose, LinkSettings settings) {
  tcp::socket socket(executor);
  BOOST_OUTCOME_CO_TRY(co_await open_tcp(socket, address, settings));
  boost::system::error_code code;
  PeerIdentity peer;
  peer.remote = endpoint_of(socket.remote_endpoint(code));
  peer.local = endpoint_of(socket.local_endpoint(code));
  peer.fingerprint = expected;
  const Peer* const known = self.peers ? self.peers->find(expected) : nullptr;
  peer.name = known == nullptr ? address.remote.text() : known->name;
  const std::string where = fmt::format("connect to {} at {}", peer.name, peer.remote.text());

  BOOST_OUTCOME_CO_TRY(
      auto stream,
      TlsStream::open(std::move(socket), self.identity, TlsStream::Role::connecting,
                      [expected](const Fingerprint& shown) { return shown == expected; }));
  const Deadline limit(executor, settings.handshake_limit, [stream] { stream->close(); });
  const auto late = [&] {
    return fail(ErrorCode::timed_out, "{}: no TLS and hello within {} ms", where,
                settings.handshake_limit.count());
  };
  if (const auto shaken = co_await shake_hands(stream); !shaken) {
    const auto& error = shaken.error();
    if (limit.passed()) co_return late();
    if (error.code() == ErrorCode::permission && stream->peer_fingerprint() != expected) {
      co_return fail(ErrorCode::permission, "{}: it shows the certificate {}, expected {}", where,
                     stream->peer_fingerprint().groups(), expected.groups());
    }
    co_return error.in(where);
  }
  const auto state = Link::State::start(executor, stream, purpose, settings, peer);
  auto reply = co_await greet(state, self, purpose);
  if (!reply) {
    state->end(fail(ErrorCode::unavailable, "{} closed", state->title()));
    if (limit.passed()) co_return late();
    co_return reply.error().in(where);
  }
  if (known == nullptr) peer.name = reply.value().name;
  peer.boot_id = reply.value().boot_id;
  peer.software = reply.value().software;
  state->settle(purpose, std::move(settings), std::move(peer));
  co_return std::make_unique<Link>(state);
}

Task<LinkResult> connect_by_name(asio::any_io_executor executor, LocalHost self, std::string name,
                                 LinkPurpose purpose) {
  const Peer* const found = self.peers->find(name);
  if (found == nullptr) co_return fail(ErrorCode::no_such, "no peer named '{}' is paired", name);
  const Peer peer = *found;  // the store may change while we wait
  Error last = fail(ErrorCode::unavailable, "peer '{}' has no address", name);
  for (const PeerAddress& address : peer.addresses) {
    auto link = co_await connect_to(executor, self, address, peer.fingerprint, purpose,
                                    LinkSettings::for_purpose(purpose));
    if (link) co_return link;
    last = link.error();
  }
  co_return last;
}

}  // namespace

Connector::Connector(boost::asio::any_io_executor executor, LocalHost self)
    : executor_(std::move(executor)), self_(std::move(self)) {}

Task<Result<std::unique_ptr<Link>>> Connector::connect(const PeerAddress& address,
                                                       const Fingerprint& expected,
                                                       LinkPurpose purpose, LinkSettings settings) {
  return connect_to(executor_, self_, address, expected, purpose, std::move(settings));
}

Task<Result<std::unique_ptr<Link>>> Connector::connect(std::string peer, LinkPurpose purpose) {
  return connect_by_name(executor_, self_, std::move(peer), purpose);
}

}  // namespace understudy::transport
