#include "agent/peer_watch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include "agent/event_log.h"

namespace understudy {
namespace {

Instant now() {
  return std::chrono::steady_clock::now();
}

std::uint64_t nanoseconds_of(Instant moment) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(moment.time_since_epoch()).count());
}

Instant instant_of(std::uint64_t nanoseconds) {
  return Instant(
      std::chrono::duration_cast<Instant::duration>(std::chrono::nanoseconds(nanoseconds)));
}

std::chrono::milliseconds milliseconds_of(std::chrono::microseconds duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration);
}

}  // namespace

PeerWatch::PeerWatch(boost::asio::any_io_executor executor, transport::LocalHost self,
                     const AgentConfig& config, PeerHooks hooks)
    : executor_(std::move(executor)),
      config_(config),
      hooks_(std::move(hooks)),
      stopped_(std::make_shared<bool>(false)) {
  transport::HeartbeatSettings settings;
  settings.interval = milliseconds_of(config.heartbeat_interval);
  settings.silence = milliseconds_of(config.deadline);
  heartbeats_ = std::make_unique<transport::Heartbeats>(
      executor_, std::move(self), settings,
      transport::HeartbeatHooks{
          .on_heartbeat = [this](const auto& path, const auto& beat) { on_heartbeat(path, beat); },
          .on_path_change = {},
          .payload = [this](const std::string& peer) { return payload_for(peer); }});
  boost::asio::co_spawn(executor_, tick(), boost::asio::detached);
}

PeerWatch::~PeerWatch() {
  stop();
}

void PeerWatch::stop() {
  *stopped_ = true;
  heartbeats_->stop();
}

void PeerWatch::watch(const transport::Peer& peer) {
  FailureDetector::Config config;
  config.interval = milliseconds_of(config_.heartbeat_interval);
  config.deadline = milliseconds_of(config_.deadline);
  config.stall_after = std::max(config.interval * 3, config.deadline * 3 / 4);
  config.paths = std::max<std::size_t>(peer.addresses.size(), 1);
  auto watched = std::make_unique<Watched>(config, now());
  watched->peer = peer;
  watched->since = std::chrono::system_clock::now();
  for (const auto& address : peer.addresses) watched->paths.push_back(address.remote.address);
  peers_[peer.name] = std::move(watched);
  heartbeats_->watch(peer);
}

void PeerWatch::forget(const std::string& peer) {
  heartbeats_->forget(peer);
  peers_.erase(peer);
}

void PeerWatch::on_heartbeat(const transport::HeartbeatPath& path,
                             const transport::Heartbeat& beat) {
  const auto found = peers_.find(path.peer);
  if (found == peers_.end()) return;
  Watched& watched = *found->second;
  auto news = decode_heartbeat_news(beat.payload);
  if (!news) {
    spdlog::warn("peer={} heartbeat ignored: {}", path.peer, news.error().message());
    return;
  }
  // A connection that the peer opened comes from an address that may not be among those we were
  // told of; it proves life all the same, and counts for the first path.
  const auto place = std::ranges::find(watched.paths, path.remote.address);
  const auto index =
      place == watched.paths.end() ? 0 : static_cast<std::size_t>(place - watched.paths.begin());
  watched.ever_heard = true;
  watched.newest_sent_at_ns = std::max(watched.newest_sent_at_ns, news.value().sent_at_ns);
  if (const auto change = watched.detector.on_heartbeat(index, now())) tell(watched, *change);
  const Instant echoed = instant_of(std::min(news.value().echo_ns, nanoseconds_of(now())));
  for (const auto& domain : news.value().domains) hooks_.on_news(path.peer, domain, echoed);
}

std::vector<std::byte> PeerWatch::payload_for(const std::string& peer) {
  HeartbeatNews news;
  news.sent_at_ns = nanoseconds_of(now());
  if (const auto found = peers_.find(peer); found != peers_.end())
    news.echo_ns = found->second->newest_sent_at_ns;
  news.domains = hooks_.news_for(peer);
  return encode(news);
}

void PeerWatch::tell(Watched& watched, const FailureDetector::Change& change) {
  watched.since = std::chrono::system_clock::now();
  hooks_.on_verdict(watched.peer.name, change);
}

Task<void> PeerWatch::tick() {
  const auto stopped = stopped_;
  while (!*stopped) {
    Instant next = now() + config_.heartbeat_interval / 2;
    for (const auto& [name, watched] : peers_)
      next = std::min(next, watched->detector.next_deadline());
    boost::asio::steady_timer timer(executor_, next);
    co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
    if (*stopped) co_return;
    for (const auto& [name, watched] : peers_) {
      if (const auto change = watched->detector.on_tick(now())) tell(*watched, *change);
    }
  }
}

PeerWatch::View PeerWatch::view(const std::string& peer) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return {};
  const Watched& watched = *found->second;
  return {watched.detector.verdict(), watched.ever_heard, watched.detector.last_sign_of_life()};
}

boost::json::array PeerWatch::to_json() const {
  const auto paths = heartbeats_->paths();
  boost::json::array list;
  for (const auto& [name, watched] : peers_) {
    boost::json::array path_list;
    for (const auto& path : paths) {
      if (path.path.peer != name || !path.path.outgoing) continue;
      boost::json::object entry = {{"address", path.path.remote.text()},
                                   {"state", path.up                    ? "alive"
                                             : path.beats_received == 0 ? "unknown"
                                                                        : "dead"}};
      if (path.beats_received > 0)
        entry["last_heartbeat_ms"] =
            std::chrono::duration_cast<std::chrono::milliseconds>(now() - path.last_beat).count();
      path_list.push_back(std::move(entry));
    }
    list.push_back(
        {{"name", name},
         {"fingerprint", watched->peer.fingerprint.groups()},
         {"state", watched->ever_heard ? to_string(watched->detector.verdict()) : "unknown"},
         {"since", rfc3339(watched->since)},
         {"paths", std::move(path_list)}});
  }
  return list;
}

}  // namespace understudy
