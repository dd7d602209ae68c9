// The life of a link. See link.h for what it promises.
#include "transport/link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include "transport/hello.h"
#include "transport/link_state.h"

namespace understudy::transport {
namespace {

// Small frames share a chunk up to the size of one TLS record.
constexpr std::size_t kChunkBytes = std::size_t{16} << 10;
// Bodies up to that size are copied into the chunk of the small frames.
constexpr std::size_t kSmallBodyBytes = std::size_t{4} << 10;
// After so many octets the thread is handed back: about half a millisecond of encryption.
constexpr std::size_t kTurnBytes = std::size_t{256} << 10;
// So much is numbered ahead of the kernel; urgent frames wait behind no more than that (and one
// frame).
constexpr std::size_t kNumberedBytes = std::size_t{64} << 10;
// Until hello has told what the link is for.
constexpr std::size_t kHelloBytesMax = 4096;

using Clock = std::chrono::steady_clock;

}  // namespace

std::string_view to_string(LinkPurpose purpose) {
  switch (purpose) {
    case LinkPurpose::control:
      return "control";
    case LinkPurpose::heartbeat:
      return "heartbeat";
    case LinkPurpose::bulk:
      return "bulk";
    case LinkPurpose::pairing:
      return "pairing";
  }
  return "unknown";
}

LinkSettings LinkSettings::for_purpose(LinkPurpose purpose) {
  LinkSettings settings;
  switch (purpose) {
    case LinkPurpose::control:
      settings.send_queue_bytes_max = std::size_t{1} << 20;
      settings.payload_bytes_max = std::size_t{4} << 20;
      break;
    case LinkPurpose::heartbeat:
      settings.connect_limit = std::chrono::milliseconds(1000);
      settings.silence_limit = std::chrono::milliseconds(2000);
      settings.idle_limit = std::chrono::milliseconds(10000);
      settings.send_queue_bytes_max = std::size_t{32} << 10;
      settings.payload_bytes_max = std::size_t{32} << 10;
      settings.socket_buffer_bytes = 32 << 10;
      settings.urgent = true;
      break;
    case LinkPurpose::bulk:
      break;
    case LinkPurpose::pairing:
      settings.idle_limit = std::chrono::milliseconds(10000);
      settings.send_queue_bytes_max = std::size_t{16} << 10;
      settings.payload_bytes_max = kHelloBytesMax;
      break;
  }
  return settings;
}

std::shared_ptr<Link::State> Link::State::start(boost::asio::any_io_executor executor,
                                                std::shared_ptr<TlsStream> stream,
                                                LinkPurpose purpose, LinkSettings settings,
                                                PeerIdentity peer) {
  auto state = std::make_shared<State>(executor, std::move(stream), purpose, std::move(settings),
                                       std::move(peer));
  boost::asio::co_spawn(executor, write_queue(state), boost::asio::detached);
  return state;
}

Link::State::State(boost::asio::any_io_executor executor, std::shared_ptr<TlsStream> stream,
                   LinkPurpose purpose, LinkSettings settings, PeerIdentity peer)
    : executor_(executor),
      stream_(std::move(stream)),
      purpose_(purpose),
      settings_(std::move(settings)),
      peer_(std::move(peer)),
      senders_(executor),
      writer_(executor),
      drained_(executor),
      decoder_(kHelloBytesMax),
      watchdog_(executor) {}

void Link::State::settle(LinkPurpose purpose, LinkSettings settings, PeerIdentity peer) {
  purpose_ = purpose;
  settings_ = std::move(settings);
  settings_.payload_bytes_max = std::min(settings_.payload_bytes_max, kPayloadBytesCeiling);
  peer_ = std::move(peer);
  decoder_.set_payload_bytes_max(settings_.payload_bytes_max);
}

std::string Link::State::title() const {
  return fmt::format("link to {} ({}, {})", peer_.name, to_string(purpose_), peer_.remote.text());
}

void Link::State::end(const Error& reason) {
  if (ended_) return;
  ended_ = reason;
  urgent_.clear();
  waiting_.clear();
  queue_.clear();
  numbered_bytes_ = 0;
  queued_bytes_ = 0;
  stream_->close();
  watchdog_.cancel();
  senders_.notify_all();
  writer_.notify_all();
  drained_.notify_all();
}

// Sending.

Task<Result<void>> Link::State::send(std::shared_ptr<State> self, FrameType type,
                                     std::span<const std::byte> head, std::vector<std::byte> body,
                                     std::uint32_t flags) {
  if (self->ended_) co_return *self->ended_;
  if (const std::size_t bytes = head.size() + body.size();
      bytes > self->settings_.payload_bytes_max) {
    co_return fail(ErrorCode::usage, "{}: a {} frame of {} octets exceeds the limit of {}",
                   self->title(), to_string(type), bytes, self->settings_.payload_bytes_max);
  }
  // Whoever comes while others wait for room stands behind them.
  if (!self->senders_.empty() || self->queued_bytes_ >= self->settings_.send_queue_bytes_max) {
    const std::vector<std::byte> kept_head(head.begin(), head.end());
    do {
      co_await self->senders_.wait();
      if (self->ended_) co_return *self->ended_;
    } while (self->queued_bytes_ >= self->settings_.send_queue_bytes_max);
    Waiting late{type, flags, kept_head, std::move(body)};
    self->enqueue(self->waiting_, std::move(late));
    if (self->queued_bytes_ < self->settings_.send_queue_bytes_max) self->senders_.notify_first();
    co_return ok();
  }
  Waiting frame{type, flags, std::vector<std::byte>(head.begin(), head.end()), std::move(body)};
  self->enqueue(self->waiting_, std::move(frame));
  co_return ok();
}

Result<void> Link::State::send_urgent(FrameType type, std::vector<std::byte> body) {
  if (ended_) return *ended_;
  if (body.size() > settings_.payload_bytes_max) {
    return fail(ErrorCode::usage, "{}: a {} frame of {} octets exceeds the limit of {}", title(),
                to_string(type), body.size(), settings_.payload_bytes_max);
  }
  enqueue(urgent_, {type, kFrameNoFlags, {}, std::move(body)});
  return ok();
}

void Link::State::enqueue(std::deque<Waiting>& line, Waiting frame) {
  queued_bytes_ += kFrameHeaderBytes + frame.head.size() + frame.body.size();
  line.push_back(std::move(frame));
  if (!stall_deadline_) {
    stall_deadline_ = Clock::now() + settings_.send_stall_limit;
    watch(*stall_deadline_);
  }
  writer_.notify_all();
}

// What gets its number now cannot be overtaken any more.
void Link::State::fill_queue() {
  while (numbered_bytes_ < kNumberedBytes && !(urgent_.empty() && waiting_.empty())) {
    auto& line = urgent_.empty() ? waiting_ : urgent_;
    Waiting frame = std::move(line.front());
    line.pop_front();
    number_frame(std::move(frame));
  }
}

void Link::State::number_frame(Waiting frame) {
  const auto header =
      encode_frame_header(frame.type, frame.flags, next_sequence_++, frame.head, frame.body);
  const bool copy_body = frame.body.size() <= kSmallBodyBytes;
  const std::size_t small_bytes =
      header.size() + frame.head.size() + (copy_body ? frame.body.size() : 0);
  if (queue_.empty() || !queue_.back().small ||
      queue_.back().octets.size() + small_bytes > kChunkBytes) {
    queue_.emplace_back();
  }
  auto& octets = queue_.back().octets;
  octets.insert(octets.end(), header.begin(), header.end());
  octets.insert(octets.end(), frame.head.begin(), frame.head.end());
  if (copy_body) octets.insert(octets.end(), frame.body.begin(), frame.body.end());
  numbered_bytes_ += header.size() + frame.head.size() + frame.body.size();
  if (!copy_body) queue_.push_back({std::move(frame.body), 0, false});
}

Task<void> Link::State::write_queue(std::shared_ptr<State> self) {
  std::size_t bytes_in_turn = 0;
  while (!self->ended_) {
    self->fill_queue();
    if (self->queue_.empty()) {
      bytes_in_turn = 0;
      co_await self->writer_.wait();
      continue;
    }
    const Chunk& chunk = self->queue_.front();
    const auto left = std::span(chunk.octets).subspan(chunk.sent);
    const bool more = self->queue_.size() > 1 || left.size() > kChunkBytes;
    const auto step = self->stream_->write(left, more);
    switch (step.outcome) {
      case TlsStream::Outcome::done:
        self->on_sent(step.bytes);
        bytes_in_turn += step.bytes;
        if (bytes_in_turn >= kTurnBytes) {
          bytes_in_turn = 0;
          co_await yield(self);
        }
        break;
      case TlsStream::Outcome::want_read:
      case TlsStream::Outcome::want_write:
        bytes_in_turn = 0;
        co_await self->stream_->wait(step.outcome);
        break;
      case TlsStream::Outcome::ended:
      case TlsStream::Outcome::failed:
        self->end(self->stream_->failure().in(self->title()));
        break;
    }
  }
}

void Link::State::on_sent(std::size_t bytes) {
  Chunk& chunk = queue_.front();
  chunk.sent += bytes;
  if (chunk.sent == chunk.octets.size()) queue_.pop_front();
  numbered_bytes_ -= bytes;
  queued_bytes_ -= bytes;
  bytes_sent_ += bytes;
  bytes_since_key_update_ += bytes;
  if (bytes_since_key_update_ >= settings_.key_update_bytes) {
    bytes_since_key_update_ = 0;
    stream_->update_key();
  }
  if (queued_bytes_ == 0) {
    stall_deadline_.reset();
    drained_.notify_all();
  } else {
    stall_deadline_ = Clock::now() + settings_.send_stall_limit;
  }
  if (queued_bytes_ < settings_.send_queue_bytes_max) senders_.notify_first();
}

Task<Result<void>> Link::State::flush(std::shared_ptr<State> self, Time deadline) {
  for (;;) {
    if (self->ended_) co_return Error(*self->ended_);
    if (self->queued_bytes_ == 0) co_return ok();
    if (Clock::now() >= deadline) {
      co_return fail(ErrorCode::timed_out, "{}: {} octets not sent in time", self->title(),
                     self->queued_bytes_);
    }
    co_await self->drained_.wait(deadline);
  }
}

// Receiving.

Task<Result<Frame>> Link::State::receive(std::shared_ptr<State> self,
                                         std::optional<std::chrono::milliseconds> limit) {
  UNDERSTUDY_CHECK(!self->receiving_, "two coroutines receive from one link");
  struct Receiving {
    State& state;
    explicit Receiving(State& of) : state(of) { state.receiving_ = true; }
    Receiving(const Receiving&) = delete;
    Receiving& operator=(const Receiving&) = delete;
    ~Receiving() {
      state.receiving_ = false;
      state.idle_deadline_.reset();
      state.receive_deadline_.reset();
    }
  };
  const Receiving mark(*self);
  const auto started = Clock::now();

  for (;;) {
    if (self->ended_) co_return *self->ended_;
    auto next = self->decoder_.next();
    if (!next) {
      self->end(next.error().in(self->title()));
      continue;
    }
    if (next.value()) {
      Frame frame = std::move(*next.value());
      if (frame.type == FrameType::refusal) {
        self->end(decode_refusal(frame.payload).in(self->title()));
        continue;
      }
      if (frame.type == FrameType::goodbye) {
        self->end(decode_goodbye(frame.payload).in(self->title()));
        continue;
      }
      co_return frame;
    }
    if (self->bytes_in_turn_ >= kTurnBytes) {
      co_await yield(self);
      self->bytes_in_turn_ = 0;
      continue;
    }
    const auto step = self->stream_->read(self->decoder_.space());
    switch (step.outcome) {
      case TlsStream::Outcome::done:
        self->bytes_received_ += step.bytes;
        self->bytes_in_turn_ += step.bytes;
        self->decoder_.filled(step.bytes);
        break;
      case TlsStream::Outcome::want_read:
      case TlsStream::Outcome::want_write: {
        if (limit) {
          self->receive_deadline_ = started + *limit;
          if (Clock::now() >= *self->receive_deadline_) {
            co_return fail(ErrorCode::timed_out, "{}: nothing received within {} ms", self->title(),
                           limit->count());
          }
          self->watch(*self->receive_deadline_);
        }
        if (self->settings_.idle_limit.count() > 0) {
          self->idle_deadline_ = Clock::now() + self->settings_.idle_limit;
          self->watch(*self->idle_deadline_);
        }
        self->bytes_in_turn_ = 0;
        co_await self->stream_->wait(step.outcome);
        break;
      }
      case TlsStream::Outcome::ended:
        self->end(
            fail(self->decoder_.at_frame_border() ? ErrorCode::unavailable : ErrorCode::bad_data,
                 "{}: {}", self->title(),
                 self->decoder_.at_frame_border() ? "the peer closed the connection"
                                                  : "the stream ends inside a frame"));
        break;
      case TlsStream::Outcome::failed:
        self->end(self->stream_->failure().in(self->title()));
        break;
    }
  }
}

Task<void> Link::State::yield(const std::shared_ptr<State>& self) {
  co_await boost::asio::post(self->executor_, boost::asio::as_tuple(boost::asio::use_awaitable));
}

// The end, in order.

Task<void> Link::State::say_goodbye(std::shared_ptr<State> self, FrameType type,
                                    std::vector<std::byte> payload,
                                    std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  if (!self->ended_) {
    // Past the queue's limit if need be: it is the last frame, and it is small.
    Waiting last{type, kFrameNoFlags, std::move(payload), {}};
    self->enqueue(self->waiting_, std::move(last));
    if (const auto flushed = co_await flush(self, deadline); flushed) {
      // Closing a socket with unread data makes the kernel send a reset, which would overtake the
      // farewell. So our direction ends first, and the peer is listened to until it ends its own.
      self->stream_->end_writing();
      while (!self->ended_ && !self->receiving_ && Clock::now() < deadline) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
        if (const auto frame = co_await receive(self, left); !frame) break;
      }
    }
  }
  self->end(fail(ErrorCode::unavailable, "{} closed", self->title()));
}

// The watch over time limits. One timer serves them all: limits move ahead with every step of
// progress, and the timer only looks when the earliest limit it was told of has come.

void Link::State::watch(Time deadline) {
  if (watchdog_at_ && *watchdog_at_ <= deadline) return;
  watchdog_at_ = deadline;
  watchdog_.expires_at(deadline);
  watchdog_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (!code && self) self->on_watch();
  });
}

void Link::State::on_watch() {
  watchdog_at_.reset();
  if (ended_) return;
  const auto now = Clock::now();
  if (stall_deadline_ && now >= *stall_deadline_) {
    return end(fail(ErrorCode::timed_out, "{}: the peer took none of {} waiting octets for {} ms",
                    title(), queued_bytes_, settings_.send_stall_limit.count()));
  }
  if (idle_deadline_ && now >= *idle_deadline_) {
    return end(fail(ErrorCode::timed_out, "{}: nothing received for {} ms", title(),
                    settings_.idle_limit.count()));
  }
  if (receive_deadline_ && now >= *receive_deadline_) {
    receive_deadline_.reset();
    stream_->cancel();  // the receive looks at its clock; a waiting write simply tries again
  }
  for (const auto& deadline : {stall_deadline_, idle_deadline_, receive_deadline_}) {
    if (deadline) watch(*deadline);
  }
}

// Link.

Link::Link(std::shared_ptr<State> state) : state_(std::move(state)) {}

Link::~Link() {
  close();
}

Task<Result<void>> Link::send(FrameType type, std::span<const std::byte> head,
                              std::vector<std::byte> body, std::uint32_t flags) {
  return State::send(state_, type, head, std::move(body), flags);
}

Result<void> Link::send_urgent(FrameType type, std::vector<std::byte> body) {
  return state_->send_urgent(type, std::move(body));
}

Task<Result<void>> Link::flush() {
  return State::flush(state_, State::Time::max());
}

Task<Result<Frame>> Link::receive(std::optional<std::chrono::milliseconds> limit) {
  return State::receive(state_, limit);
}

Task<void> Link::say_goodbye(std::string reason, std::chrono::milliseconds limit) {
  return State::say_goodbye(state_, FrameType::goodbye, encode_goodbye(reason), limit);
}

Task<void> Link::refuse(Error reason, std::chrono::milliseconds limit) {
  return State::say_goodbye(state_, FrameType::refusal, encode_refusal(reason), limit);
}

void Link::close() {
  state_->end(fail(ErrorCode::unavailable, "{} closed", state_->title()));
}

bool Link::open() const {
  return !state_->ended();
}

LinkPurpose Link::purpose() const {
  return state_->purpose();
}

const PeerIdentity& Link::peer() const {
  return state_->peer();
}

std::uint64_t Link::bytes_sent() const {
  return state_->bytes_sent();
}

std::uint64_t Link::bytes_received() const {
  return state_->bytes_received();
}

std::size_t Link::bytes_queued() const {
  return state_->bytes_queued();
}

Result<std::vector<std::byte>> Link::export_key(std::string_view label, std::size_t bytes) const {
  return state_->stream()->export_key(label, bytes);
}

// What connector and listener share.

Deadline::Deadline(const boost::asio::any_io_executor& executor, std::chrono::milliseconds limit,
                   std::function<void()> on_passed)
    : timer_(executor, limit), passed_(std::make_shared<bool>(false)) {
  timer_.async_wait(
      [passed = passed_, act = std::move(on_passed)](const boost::system::error_code& code) {
        if (code || *passed) return;
        *passed = true;
        act();
      });
}

Deadline::~Deadline() {
  // The timer may have fired already, with its handler still in the loop: then it must not act.
  *passed_ = true;
  timer_.cancel();
}

Task<Result<void>> shake_hands(std::shared_ptr<TlsStream> stream) {
  for (;;) {
    const auto step = stream->handshake();
    switch (step.outcome) {
      case TlsStream::Outcome::done:
        co_return ok();
      case TlsStream::Outcome::want_read:
      case TlsStream::Outcome::want_write:
        co_await stream->wait(step.outcome);
        break;
      case TlsStream::Outcome::ended:
        co_return fail(ErrorCode::unavailable, "the connection ended during the handshake");
      case TlsStream::Outcome::failed:
        co_return stream->failure();
    }
  }
}

void tune_socket(boost::asio::ip::tcp::socket& socket, const LinkSettings& settings) {
  const int fd = socket.native_handle();
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof(value));
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  // What the kernel has cannot be overtaken by urgent frames.
  set(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 256 << 10);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(settings.silence_limit.count()));
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  const int third_s = std::max(1, static_cast<int>(settings.silence_limit.count() / 3000));
  set(IPPROTO_TCP, TCP_KEEPIDLE, third_s);
  set(IPPROTO_TCP, TCP_KEEPINTVL, third_s);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  if (settings.socket_buffer_bytes > 0) {
    set(SOL_SOCKET, SO_SNDBUF, settings.socket_buffer_bytes);
    set(SOL_SOCKET, SO_RCVBUF, settings.socket_buffer_bytes);
  }
  if (settings.urgent) {
    constexpr int kClassSelector6 = 0xc0;
    set(IPPROTO_IP, IP_TOS, kClassSelector6);
    set(IPPROTO_IPV6, IPV6_TCLASS, kClassSelector6);
    set(SOL_SOCKET, SO_PRIORITY, 6);  // after IP_TOS, which sets it too
  }
}

Endpoint endpoint_of(const boost::asio::ip::tcp::endpoint& endpoint) {
  auto address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
  }
  return {address.to_string(), endpoint.port()};
}

}  // namespace understudy::transport
