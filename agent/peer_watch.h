// The other hosts, as seen from here: heartbeats on all paths, and the verdict over each peer.
//
// transport::Heartbeats brings the beats, failover's FailureDetector judges their absence; this
// file joins the two, keeps the echo that the primary's lease needs (checkpoint/epoch_primary.h),
// and tells the agent.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/array.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/config.h"
#include "agent/protection_messages.h"
#include "agent/signal.h"
#include "failover/failure_detector.h"
#include "transport/heartbeat.h"

namespace understudy {

/// What the agent wants to hear of its peers, and says to them. Called on the agent's thread.
struct PeerHooks {
  /// The verdict over `peer` changed.
  std::function<void(const std::string& peer, const FailureDetector::Change& change)> on_verdict;
  /// `peer` said what it is to `domain`; `echoed` is when we had sent the newest beat that it had
  /// heard by then.
  std::function<void(const std::string& peer, const HeartbeatDomain& domain, Instant echoed)>
      on_news;
  /// What to tell `peer` about domains.
  std::function<std::vector<HeartbeatDomain>(const std::string& peer)> news_for;
};

/// Watches all paired hosts. Lives on one executor, which must outlive it.
class PeerWatch {
 public:
  PeerWatch(boost::asio::any_io_executor executor, transport::LocalHost self,
            const AgentConfig& config, PeerHooks hooks);
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  /// Begins to watch `peer`, or takes its changed addresses over.
  void watch(const transport::Peer& peer);
  void forget(const std::string& peer);
  /// A heartbeat link that the listener accepted.
  void adopt(std::unique_ptr<transport::Link> link) { heartbeats_->adopt(std::move(link)); }
  /// Says now what changed, without waiting for the next interval.
  void tell_now() { heartbeats_->beat_now(); }
  void stop();

  /// The verdict, and whether the peer was ever heard.
  struct View {
    FailureDetector::Verdict verdict = FailureDetector::Verdict::dead;
    bool ever_heard = false;
    Instant last_sign_of_life;
  };
  [[nodiscard]] View view(const std::string& peer) const;
  /// The peer objects of docs/api.md.
  [[nodiscard]] boost::json::array to_json() const;

 private:
  struct Watched {
    Watched(const FailureDetector::Config& config, Instant start) : detector(config, start) {}
    transport::Peer peer;
    FailureDetector detector;
    std::vector<std::string>
        paths;  ///< Remote addresses without port: a path's index is its place.
    bool ever_heard = false;
    std::uint64_t newest_sent_at_ns = 0;  ///< Of the peer's clock, to be echoed.
    std::chrono::system_clock::time_point since;
  };

  void on_heartbeat(const transport::HeartbeatPath& path, const transport::Heartbeat& beat);
  std::vector<std::byte> payload_for(const std::string& peer);
  void tell(Watched& watched, const FailureDetector::Change& change);
  Task<void> tick();

  boost::asio::any_io_executor executor_;
  const AgentConfig& config_;
  PeerHooks hooks_;
  std::map<std::string, std::unique_ptr<Watched>> peers_;
  std::unique_ptr<transport::Heartbeats> heartbeats_;
  std::shared_ptr<bool>
      stopped_;  ///< Shared with the ticking coroutine, which may outlive us by one wait.
};

}  // namespace understudy
