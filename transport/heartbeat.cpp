// See heartbeat.h. The frame is drawn in docs/protocol-frames.md.
#include "transport/heartbeat.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <optional>

#include "transport/octets.h"
#include "transport/waiters.h"

namespace understudy::transport {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Octets of a beat before its payload.
constexpr std::size_t kBeatBytes = 32;

std::uint64_t microseconds_of(Clock::time_point time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<microseconds>(time.time_since_epoch()).count());
}

}  // namespace

class Heartbeats::State : public std::enable_shared_from_this<Heartbeats::State> {
 public:
  State(boost::asio::any_io_executor executor, LocalHost self, HeartbeatSettings settings,
        HeartbeatHooks hooks)
      : executor_(executor),
        self_(std::move(self)),
        settings_(settings),
        hooks_(std::move(hooks)),
        ticker_(executor) {}

  void start() {
    boost::asio::co_spawn(executor_, tick(shared_from_this()), boost::asio::detached);
  }
  void watch(const Peer& peer);
  void forget(const std::string& peer);
  void adopt(std::unique_ptr<Link> link);
  void beat_now();
  void stop();
  [[nodiscard]] std::vector<HeartbeatPathStatus> paths() const;

 private:
  struct Path {
    explicit Path(boost::asio::any_io_executor executor) : pause(std::move(executor)) {}
    HeartbeatPathStatus status;
    PeerAddress address;      // outgoing only
    Fingerprint fingerprint;  // outgoing only
    std::shared_ptr<Link> link;
    bool gone = false;
    std::uint64_t next_number = 1;
    std::uint64_t echo_us = 0;  // when the peer sent its last beat, by its clock
    Clock::time_point echo_at;  // when that arrived, by ours
    Waiters pause;              // between attempts to connect
  };
  using PathPointer = std::shared_ptr<Path>;

  static Task<void> tick(std::shared_ptr<State> self);
  static Task<void> keep_connected(std::shared_ptr<State> self, PathPointer path);
  static Task<void> serve(std::shared_ptr<State> self, PathPointer path,
                          std::shared_ptr<Link> link);
  static Task<void> serve_accepted(std::shared_ptr<State> self, PathPointer path,
                                   std::shared_ptr<Link> link);
  static Task<void> beat(const std::shared_ptr<State>& self, PathPointer path);
  void on_beat(const PathPointer& path, const Frame& frame, const BootId& boot_id);
  void set_up(const PathPointer& path, bool up);
  void drop(const PathPointer& path);
  [[nodiscard]] LinkSettings link_settings() const;

  boost::asio::any_io_executor executor_;
  LocalHost self_;
  HeartbeatSettings settings_;
  HeartbeatHooks hooks_;
  std::vector<PathPointer> paths_;
  Waiters ticker_;
  bool beat_now_ = false;
  bool stopped_ = false;
};

LinkSettings Heartbeats::State::link_settings() const {
  auto settings = LinkSettings::for_purpose(LinkPurpose::heartbeat);
  // A lost SYN is sent again after a second; a new attempt is sooner.
  settings.connect_limit = std::max(milliseconds(300), 6 * settings_.interval);
  settings.silence_limit = std::max(milliseconds(1000), 20 * settings_.interval);
  settings.idle_limit = std::max(milliseconds(5000), 50 * settings_.interval);
  return settings;
}

// What the owner asks for.

void Heartbeats::State::watch(const Peer& peer) {
  if (stopped_) return;
  // What is not wanted any more goes, what is new comes, what stays is not disturbed.
  for (const PathPointer& path : std::vector(paths_)) {
    if (!path->status.path.outgoing || path->status.path.peer != peer.name) continue;
    const bool wanted = path->fingerprint == peer.fingerprint &&
                        std::ranges::find(peer.addresses, path->address) != peer.addresses.end();
    if (!wanted) drop(path);
  }
  for (const PeerAddress& address : peer.addresses) {
    const bool have = std::ranges::any_of(paths_, [&](const PathPointer& path) {
      return path->status.path.outgoing && path->status.path.peer == peer.name &&
             path->address == address;
    });
    if (have) continue;
    const auto path = std::make_shared<Path>(executor_);
    path->status.path = {peer.name, address.remote, address.local_address, true};
    path->status.since = Clock::now();
    path->address = address;
    path->fingerprint = peer.fingerprint;
    paths_.push_back(path);
    boost::asio::co_spawn(executor_, keep_connected(shared_from_this(), path),
                          boost::asio::detached);
  }
}

void Heartbeats::State::forget(const std::string& peer) {
  for (const PathPointer& path : std::vector(paths_)) {
    if (path->status.path.peer == peer) drop(path);
  }
}

void Heartbeats::State::adopt(std::unique_ptr<Link> accepted) {
  if (stopped_) return;  // the link closes with its owner
  const std::shared_ptr<Link> link = std::move(accepted);
  const PeerIdentity& peer = link->peer();
  const HeartbeatPath which{peer.name, {peer.remote.address, 0}, peer.local.address, false};
  // The peer has connected anew on the same path: the old link is dead, its history goes on.
  const auto known = std::ranges::find_if(
      paths_, [&](const PathPointer& path) { return path->status.path == which; });
  PathPointer path;
  if (known != paths_.end()) {
    path = *known;
    if (path->link) path->link->close();
  } else {
    path = std::make_shared<Path>(executor_);
    path->status.path = which;
    path->status.since = Clock::now();
    paths_.push_back(path);
  }
  boost::asio::co_spawn(executor_, serve_accepted(shared_from_this(), path, link),
                        boost::asio::detached);
}

void Heartbeats::State::beat_now() {
  beat_now_ = true;
  ticker_.notify_all();
}

std::vector<HeartbeatPathStatus> Heartbeats::State::paths() const {
  std::vector<HeartbeatPathStatus> all;
  for (const bool outgoing : {true, false}) {
    for (const PathPointer& path : paths_) {
      if (path->status.path.outgoing == outgoing) all.push_back(path->status);
    }
  }
  return all;
}

void Heartbeats::State::drop(const PathPointer& path) {
  path->gone = true;
  if (path->link) path->link->close();
  path->pause.notify_all();
  std::erase(paths_, path);
}

void Heartbeats::State::stop() {
  stopped_ = true;
  for (const PathPointer& path : std::vector(paths_)) drop(path);
  ticker_.notify_all();
}

// What goes on by itself.

Task<void> Heartbeats::State::tick(std::shared_ptr<State> self) {
  auto next = Clock::now();
  while (!self->stopped_) {
    self->beat_now_ = false;
    for (const PathPointer& path : std::vector(self->paths_)) {
      if (self->stopped_) co_return;
      co_await beat(self, path);
      if (path->status.up && Clock::now() - path->status.last_beat > self->settings_.silence) {
        self->set_up(path, false);
      }
    }
    // A steady pace; after a hitch it starts anew instead of catching up.
    next += self->settings_.interval;
    const auto now = Clock::now();
    if (next <= now) next = now + self->settings_.interval;
    while (!self->stopped_ && !self->beat_now_ && Clock::now() < next) {
      co_await self->ticker_.wait(next);
    }
  }
}

Task<void> Heartbeats::State::keep_connected(std::shared_ptr<State> self, PathPointer path) {
  Connector connector(self->executor_, self->self_);
  const LinkSettings settings = self->link_settings();
  while (!self->stopped_ && !path->gone) {
    const auto started = Clock::now();
    auto connected = co_await connector.connect(path->address, path->fingerprint,
                                                LinkPurpose::heartbeat, settings);
    if (self->stopped_ || path->gone) break;
    if (connected) {
      const std::shared_ptr<Link> link = std::move(connected).value();
      co_await serve(self, path, link);
    } else {
      // Said once for each reason, not twenty times a second.
      if (path->status.last_error != connected.error().message()) {
        spdlog::warn("heartbeat: no link peer={} path={} reason=\"{}\"", path->status.path.peer,
                     path->address.remote.text(), connected.error().message());
      }
      path->status.last_error = connected.error().message();
    }
    const auto again =
        std::max(started + self->settings_.interval, Clock::now() + self->settings_.interval / 4);
    while (!self->stopped_ && !path->gone && Clock::now() < again) {
      co_await path->pause.wait(again);
    }
  }
}

Task<void> Heartbeats::State::serve(std::shared_ptr<State> self, PathPointer path,
                                    std::shared_ptr<Link> link) {
  path->link = link;
  path->next_number = 1;
  path->echo_us = 0;
  co_await beat(self, path);
  std::string reason;
  for (;;) {
    const auto frame = co_await link->receive();
    if (!frame) {
      reason = frame.error().message();
      break;
    }
    if (self->stopped_ || path->gone || path->link != link) break;
    if (frame.value().type != FrameType::heartbeat || frame.value().payload.size() < kBeatBytes) {
      reason = fmt::format("expected a heartbeat, got {} with {} octets",
                           to_string(frame.value().type), frame.value().payload.size());
      break;
    }
    self->on_beat(path, frame.value(), link->peer().boot_id);
  }
  link->close();
  if (path->link != link) co_return;  // another link has taken over
  path->link.reset();
  if (self->stopped_ || path->gone) co_return;
  path->status.last_error = reason;
  self->set_up(path, false);
}

Task<void> Heartbeats::State::serve_accepted(std::shared_ptr<State> self, PathPointer path,
                                             std::shared_ptr<Link> link) {
  co_await serve(self, path, link);
  // The peer opens it again if it can; kept, so that its absence is seen. What a flood of addresses
  // of one (paired) peer could leave behind is bounded.
  constexpr std::size_t kSilentPathsMax = 64;
  if (self->paths_.size() > kSilentPathsMax && !path->link) self->drop(path);
}

Task<void> Heartbeats::State::beat(const std::shared_ptr<State>& self, PathPointer path) {
  const std::shared_ptr<Link> link = path->link;
  if (!link || !link->open()) co_return;
  if (link->bytes_queued() > 0) {
    ++path->status.beats_skipped;
    co_return;
  }
  std::vector<std::byte> payload;
  if (self->hooks_.payload) payload = self->hooks_.payload(path->status.path.peer);
  if (payload.size() > self->settings_.payload_bytes_max) {
    spdlog::error("heartbeat: payload left out peer={} bytes={} limit={}", path->status.path.peer,
                  payload.size(), self->settings_.payload_bytes_max);
    payload.clear();
  }
  const auto now = Clock::now();
  OctetWriter head;
  head.number(path->next_number++);
  head.number(microseconds_of(now));
  head.number(path->echo_us);
  head.number(path->echo_us == 0 ? std::uint32_t{0}
                                 : static_cast<std::uint32_t>(microseconds_of(now) -
                                                              microseconds_of(path->echo_at)));
  head.number(std::uint32_t{0});
  // The queue is empty, so this does not wait.
  const auto sent = co_await link->send(FrameType::heartbeat, head.written(), std::move(payload));
  if (sent) ++path->status.beats_sent;
}

void Heartbeats::State::on_beat(const PathPointer& path, const Frame& frame,
                                const BootId& boot_id) {
  const auto now = Clock::now();
  OctetReader reader(frame.payload);
  Heartbeat received;
  received.boot_id = boot_id;
  received.number = reader.number<std::uint64_t>();
  path->echo_us = reader.number<std::uint64_t>();
  path->echo_at = now;
  const auto our_us = reader.number<std::uint64_t>();
  const auto held_us = reader.number<std::uint32_t>();
  reader.number<std::uint32_t>();
  received.payload = reader.rest();
  const auto now_us = microseconds_of(now);
  // The peer's figures are only believed where they make sense.
  if (our_us != 0 && our_us <= now_us && held_us <= now_us - our_us) {
    path->status.round_trip = microseconds(now_us - our_us - held_us);
  }
  ++path->status.beats_received;
  path->status.last_beat = now;
  if (!path->status.up) set_up(path, true);
  if (!stopped_ && hooks_.on_heartbeat) hooks_.on_heartbeat(path->status.path, received);
}

void Heartbeats::State::set_up(const PathPointer& path, bool up) {
  if (path->status.up == up) return;
  path->status.up = up;
  path->status.since = Clock::now();
  if (up) {
    spdlog::info("heartbeat: path up peer={} remote={} outgoing={}", path->status.path.peer,
                 path->status.path.remote.text(), path->status.path.outgoing);
    path->status.last_error.clear();
  } else {
    spdlog::warn("heartbeat: path down peer={} remote={} outgoing={} reason=\"{}\"",
                 path->status.path.peer, path->status.path.remote.text(),
                 path->status.path.outgoing,
                 path->link ? "no heartbeat for too long" : path->status.last_error);
  }
  if (!stopped_ && hooks_.on_path_change) hooks_.on_path_change(path->status);
}

// Heartbeats.

Heartbeats::Heartbeats(boost::asio::any_io_executor executor, LocalHost self,
                       HeartbeatSettings settings, HeartbeatHooks hooks)
    : state_(std::make_shared<State>(executor, std::move(self), settings, std::move(hooks))) {
  state_->start();
}

Heartbeats::~Heartbeats() {
  stop();
}

void Heartbeats::watch(const Peer& peer) {
  state_->watch(peer);
}

void Heartbeats::forget(const std::string& peer) {
  state_->forget(peer);
}

void Heartbeats::adopt(std::unique_ptr<Link> link) {
  state_->adopt(std::move(link));
}

void Heartbeats::beat_now() {
  state_->beat_now();
}

std::vector<HeartbeatPathStatus> Heartbeats::paths() const {
  return state_->paths();
}

void Heartbeats::stop() {
  state_->stop();
}

}  // namespace understudy::transport
