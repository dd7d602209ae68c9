// The accepting side: a bounded number of strangers at the door, each with a time limit; who they
// are comes before what they want.
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <list>
#include <map>

#include "transport/hello.h"
#include "transport/link.h"
#include "transport/link_state.h"
#include "transport/octets.h"
#include "transport/pairing.h"

namespace understudy::transport {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;

// How long a refused connection is listened to, so that the alert or refusal gets there before the
// reset that closing a socket with unread data causes.
constexpr std::chrono::milliseconds kLingerLimit{500};
// After accept fails for lack of descriptors or memory.
constexpr std::chrono::milliseconds kAcceptPause{100};

}  // namespace

class Listener::State : public std::enable_shared_from_this<Listener::State> {
 public:
  State(asio::any_io_executor executor, LocalHost self, std::shared_ptr<PairingDesk> desk,
        Handler handler, ListenerSettings settings)
      : executor_(executor),
        acceptor_(executor),
        self_(std::move(self)),
        desk_(std::move(desk)),
        handler_(std::move(handler)),
        settings_(std::move(settings)) {}

  Result<void> open(const Endpoint& endpoint);
  void close();
  [[nodiscard]] Endpoint endpoint() const { return endpoint_; }
  [[nodiscard]] Counters counters() const { return {accepted_, refused_, guests_.size()}; }

  static Task<void> accept(std::shared_ptr<State> self);

 private:
  // A connection that has not finished TLS and hello.
  struct Guest {
    asio::ip::address address;
    std::shared_ptr<TlsStream> stream;
  };
  using Place = std::list<Guest>::iterator;

  static Task<void> welcome(std::shared_ptr<State> self, tcp::socket socket);
  static Task<Result<std::shared_ptr<Link::State>>> introduce(
      const std::shared_ptr<State>& self, const std::shared_ptr<TlsStream>& stream,
      const PeerIdentity& address);
  static Task<void> linger(const std::shared_ptr<State>& self, std::shared_ptr<TlsStream> stream);
  void make_room();
  [[nodiscard]] bool is_pairing_open() const { return desk_ && desk_->open(Clock::now()); }
  [[nodiscard]] LinkSettings settings_for(LinkPurpose purpose) const {
    return settings_.link_settings ? settings_.link_settings(purpose)
                                   : LinkSettings::for_purpose(purpose);
  }

  asio::any_io_executor executor_;
  tcp::acceptor acceptor_;
  Endpoint endpoint_;
  LocalHost self_;
  std::shared_ptr<PairingDesk> desk_;
  Handler handler_;
  ListenerSettings settings_;
  std::list<Guest> guests_;  // oldest first
  bool closed_ = false;
  std::uint64_t accepted_ = 0;
  std::uint64_t refused_ = 0;
};

Result<void> Listener::State::open(const Endpoint& endpoint) {
  boost::system::error_code code;
  const auto address = asio::ip::make_address(endpoint.address, code);
  if (code) {
    return fail(ErrorCode::usage, "listen on '{}': expected a numeric address", endpoint.address);
  }
  const tcp::endpoint wanted(address, endpoint.port);
  acceptor_.open(wanted.protocol(), code);
  if (!code) acceptor_.set_option(tcp::acceptor::reuse_address(true), code);
  // "::" serves IPv4 too.
  if (!code && address.is_v6()) acceptor_.set_option(asio::ip::v6_only(false), code);
  if (!code) acceptor_.bind(wanted, code);
  if (!code) acceptor_.listen(asio::socket_base::max_listen_connections, code);
  if (!code) acceptor_.non_blocking(true, code);
  if (code) {
    const std::string what = "listen on " + endpoint.text();
    if (code == asio::error::address_in_use) {
      return fail(ErrorCode::exists, "{}: another program listens there", what);
    }
    return system_error(code.value(), what);
  }
  endpoint_ = endpoint_of(acceptor_.local_endpoint(code));
  return ok();
}

void Listener::State::close() {
  if (closed_) return;
  closed_ = true;
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  for (const Guest& guest : guests_) guest.stream->close();
}

Task<void> Listener::State::accept(std::shared_ptr<State> self) {
  while (!self->closed_) {
    auto [code, socket] =
        co_await self->acceptor_.async_accept(asio::as_tuple(boost::asio::use_awaitable));
    if (self->closed_) break;
    if (code) {
      spdlog::warn("transport: accept failed on={} reason=\"{}\"", self->endpoint_.text(),
                   code.message());
      asio::steady_timer pause(self->executor_, kAcceptPause);
      co_await pause.async_wait(asio::as_tuple(boost::asio::use_awaitable));
      continue;
    }
    self->make_room();
    asio::co_spawn(
        self->executor_, welcome(self, std::move(socket)), [](const std::exception_ptr& thrown) {
          if (!thrown) return;
          try {
            std::rethrow_exception(thrown);
          } catch (const std::exception& error) {
            spdlog::error("transport: a link's handler threw reason=\"{}\"", error.what());
          }
        });
  }
}

// Ends the oldest guest from the address that has most, once all places are taken.
void Listener::State::make_room() {
  if (guests_.size() < std::max<std::size_t>(settings_.handshakes_max, 1)) return;
  std::map<asio::ip::address, std::size_t> counts;
  for (const Guest& guest : guests_) ++counts[guest.address];
  const auto busiest =
      std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  const auto oldest = std::ranges::find(guests_, busiest->first, &Guest::address);
  oldest->stream->close();
  // Its coroutine leaves the list by itself, soon; it must not be chosen again before.
  guests_.splice(guests_.end(), guests_, oldest);
}

Task<void> Listener::State::welcome(std::shared_ptr<State> self, tcp::socket socket) {
  boost::system::error_code code;
  const auto remote = socket.remote_endpoint(code);
  if (code) co_return;  // gone already
  PeerIdentity address;
  address.remote = endpoint_of(remote);
  address.local = endpoint_of(socket.local_endpoint(code));
  address.name = address.remote.text();
  socket.non_blocking(true, code);
  tune_socket(socket, LinkSettings{});

  auto opened =
      TlsStream::open(std::move(socket), self->self_.identity, TlsStream::Role::accepting,
                      [self](const Fingerprint& shown) {
                        return self->self_.peers->find(shown) != nullptr || self->is_pairing_open();
                      });
  if (!opened) {
    spdlog::warn("transport: refused from={} reason=\"{}\"", address.remote.text(),
                 opened.error().message());
    co_return;
  }
  const auto stream = opened.value();
  struct Stay {
    State& state;
    Place place;
    Stay(State& of, Guest guest) : state(of) {
      place = state.guests_.insert(state.guests_.end(), std::move(guest));
    }
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;
    ~Stay() { state.guests_.erase(place); }
  };
  std::unique_ptr<Link> link;
  {
    const Stay stay(*self, {remote.address(), stream});
    const Deadline limit(self->executor_, self->settings_.handshake_limit,
                         [stream] { stream->close(); });
    auto introduced = co_await introduce(self, stream, address);
    if (!introduced) {
      ++self->refused_;
      spdlog::info("transport: refused from={} reason=\"{}\"", address.remote.text(),
                   limit.passed() ? "TLS and hello took too long" : introduced.error().message());
      co_await linger(self, stream);
      co_return;
    }
    link = std::make_unique<Link>(introduced.value());
  }
  if (self->closed_) co_return;
  ++self->accepted_;
  // `self` keeps the handler, and what it has captured, alive until it has returned.
  co_await self->handler_(std::move(link));
}

// TLS, then hello: from a stream to a link that is ready.
Task<Result<std::shared_ptr<Link::State>>> Listener::State::introduce(
    const std::shared_ptr<State>& self, const std::shared_ptr<TlsStream>& stream,
    const PeerIdentity& address) {
  BOOST_OUTCOME_CO_TRY(co_await shake_hands(stream));
  PeerIdentity peer = address;
  peer.fingerprint = stream->peer_fingerprint();
  const auto state =
      Link::State::start(self->executor_, stream, LinkPurpose::control, LinkSettings{}, peer);
  const auto refuse = [&](Error error) {
    return Link::State::say_goodbye(state, FrameType::refusal, encode_refusal(error), kLingerLimit);
  };

  auto frame = co_await Link::State::receive(state, {});
  if (!frame) {
    // A broken stream ends here without a word; the state has closed it.
    state->end(frame.error());
    co_return frame.error();
  }
  auto hello = frame.value().type == FrameType::hello
                   ? decode_hello(frame.value().payload)
                   : Result<Hello>(fail(ErrorCode::protocol, "expected hello, got {}",
                                        to_string(frame.value().type)));
  if (!hello) {
    co_await refuse(hello.error());
    co_return hello.error();
  }
  const auto version = agree_on_version(hello.value());
  if (!version) {
    co_await refuse(version.error());
    co_return version.error();
  }
  // Looked up again: TLS may have let a stranger in because a token is pending, and pairing is all
  // that strangers may do.
  const LinkPurpose purpose = hello.value().purpose;
  const Peer* const known = self->self_.peers->find(peer.fingerprint);
  const bool welcome = purpose == LinkPurpose::pairing ? self->is_pairing_open() : known != nullptr;
  if (!welcome) {
    const Error error = purpose == LinkPurpose::pairing
                            ? fail(ErrorCode::not_authorized, "no token is pending here")
                            : fail(ErrorCode::permission, "not paired here");
    co_await refuse(error);
    co_return error;
  }
  peer.name = known == nullptr ? hello.value().name : known->name;
  peer.boot_id = hello.value().boot_id;
  peer.software = hello.value().software;

  HelloReply reply;
  reply.version = version.value();
  reply.boot_id = self->self_.boot_id;
  reply.name = self->self_.name;
  reply.software = UNDERSTUDY_VERSION;
  const auto payload = encode(reply);
  BOOST_OUTCOME_CO_TRY(
      co_await Link::State::send(state, FrameType::hello_reply, payload, {}, kFrameNoFlags));
  // It leaves before the handler gets the link: a handler that closes at once has still accepted.
  BOOST_OUTCOME_CO_TRY(co_await Link::State::flush(state, Clock::time_point::max()));
  LinkSettings settings = self->settings_for(purpose);
  tune_socket(stream->socket(), settings);
  state->settle(purpose, std::move(settings), std::move(peer));
  co_return state;
}

Task<void> Listener::State::linger(const std::shared_ptr<State>& self,
                                   std::shared_ptr<TlsStream> stream) {
  auto& socket = stream->socket();
  if (!socket.is_open()) co_return;
  boost::system::error_code code;
  socket.shutdown(tcp::socket::shutdown_send, code);
  const Deadline limit(self->executor_, kLingerLimit, [stream] { stream->close(); });
  std::array<std::byte, 4096> discarded;
  std::size_t budget = std::size_t{1} << 20;
  while (socket.is_open() && budget > 0) {
    auto [failed, bytes] = co_await socket.async_read_some(
        asio::buffer(discarded), asio::as_tuple(boost::asio::use_awaitable));
    if (failed) break;
    budget -= std::min(budget, bytes);
  }
  stream->close();
}

Result<std::unique_ptr<Listener>> Listener::open(boost::asio::any_io_executor executor,
                                                 const Endpoint& endpoint, LocalHost self,
                                                 std::shared_ptr<PairingDesk> desk, Handler handler,
                                                 ListenerSettings settings) {
  auto state = std::make_shared<State>(executor, std::move(self), std::move(desk),
                                       std::move(handler), std::move(settings));
  BOOST_OUTCOME_TRY(state->open(endpoint));
  asio::co_spawn(executor, State::accept(state), asio::detached);
  return std::make_unique<Listener>(std::move(state));
}

Listener::Listener(std::shared_ptr<State> state) : state_(std::move(state)) {}

Listener::~Listener() {
  close();
}

Endpoint Listener::endpoint() const {
  return state_->endpoint();
}

void Listener::close() {
  state_->close();
}

Listener::Counters Listener::counters() const {
  return state_->counters();
}

}  // namespace understudy::transport
