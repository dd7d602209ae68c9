// Heartbeats: small frames at a steady pace over connections of their own, on every path between
// two hosts, so that a full pipe is not taken for a dead host.
//
// Intuition: a host opens one heartbeat link to every address of every peer, and whoever has such a
// link, opened or accepted, sends a beat each interval and reports those that it receives. Nothing
// here decides that a peer is dead: each beat is handed up the moment it arrives, and the detector
// (room failover) draws the conclusions from their absence.
//
// Both sides connect, so between two hosts with one address each there are two links. That costs
// some hundred octets a second, and buys that each host knows the state of each of *its* configured
// paths, and that beats flow in both directions even where a firewall lets only one side connect.
//
// Awkward cases: beats never queue. When the last beat has not left yet, the next one is not made:
// a path that heals delivers fresh news, not history. A broken link is opened again after a pause
// that never exceeds the interval by much, so that a path that heals is heard within a few
// intervals. The sockets have small buffers, TCP_NODELAY and a priority above bulk traffic.
//
// Not taken: UDP with authentication of our own (no head-of-line blocking on loss, but a second
// cryptographic protocol to get right); beats inside the bulk link.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "transport/identity.h"
#include "transport/link.h"

namespace understudy::transport {

/// One heartbeat as it arrived.
struct Heartbeat {
  BootId boot_id;            ///< The sender's; a new one means that its agent was restarted.
  std::uint64_t number = 0;  ///< Counts the beats of that sender on that link, from 1.
  /// The opaque words of the sender's agent. Valid during the callback only.
  std::span<const std::byte> payload;
};

/// One path to a peer: a connection that we open to a configured address, or one that the peer
/// opened to us (`outgoing` false).
struct HeartbeatPath {
  std::string peer;   ///< name
  Endpoint remote;    ///< outgoing: as configured; otherwise the address without a fixed port (0)
  std::string local;  ///< our address on it; empty while an outgoing path has none
  bool outgoing = true;

  auto operator<=>(const HeartbeatPath&) const = default;
};

/// What is known of a path.
struct HeartbeatPathStatus {
  HeartbeatPath path;
  bool up = false;  ///< the link stands and a beat arrived within `silence`
  std::chrono::steady_clock::time_point since;      ///< of `up` or not `up`
  std::chrono::steady_clock::time_point last_beat;  ///< epoch of the clock: never
  std::uint64_t beats_sent = 0;
  std::uint64_t beats_received = 0;
  std::uint64_t beats_skipped = 0;          ///< not made because the last one had not left
  std::chrono::microseconds round_trip{0};  ///< latest, without the time spent at the peer; 0: none
  std::string last_error;                   ///< why the link ended last; empty: it has not
};

/// Paces and limits.
struct HeartbeatSettings {
  std::chrono::milliseconds interval{50};
  /// A path without a beat for so long is shown as down. Only for show: detection is elsewhere.
  std::chrono::milliseconds silence{200};
  /// Largest payload that an agent may attach; a beat whose payload is larger goes
  /// without, with an error in the log.
  std::size_t payload_bytes_max = 16384;
};

/// What the owner wants to hear and say. All are called on the executor and must not block; the
/// owner may call back into Heartbeats from them.
struct HeartbeatHooks {
  /// A beat arrived on `path`.
  std::function<void(const HeartbeatPath& path, const Heartbeat& beat)> on_heartbeat;
  /// A path went up or down. May be empty.
  std::function<void(const HeartbeatPathStatus& status)> on_path_change;
  /// The payload of the next beat to `peer`. May be empty.
  std::function<std::vector<std::byte>(const std::string& peer)> payload;
};

/// All heartbeats of this host. Lives on one executor, which must outlive it. Destroying it stops
/// it.
class Heartbeats {
 public:
  Heartbeats(boost::asio::any_io_executor executor, LocalHost self, HeartbeatSettings settings,
             HeartbeatHooks hooks);
  Heartbeats(const Heartbeats&) = delete;
  Heartbeats& operator=(const Heartbeats&) = delete;
  ~Heartbeats();

  /// Opens paths to all addresses of `peer`, for ever. Calling it again with changed addresses
  /// opens and closes what differs.
  void watch(const Peer& peer);
  /// Closes all paths to and from the peer of that name.
  void forget(const std::string& peer);
  /// Takes over a link of purpose `heartbeat` that the listener accepted. A link from a peer that
  /// is not watched is served too.
  void adopt(std::unique_ptr<Link> link);
  /// Sends a beat on every path now, without waiting for the next interval: for news that matter.
  void beat_now();
  /// All paths, outgoing ones first.
  [[nodiscard]] std::vector<HeartbeatPathStatus> paths() const;
  /// Ends all paths. No hook is called afterwards.
  void stop();

  class State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace understudy::transport
