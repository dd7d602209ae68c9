// What the simulated world is made of: records on a connection, the gate, a domain, an image, a
// host.
//
// Facts only. Who does what with them is told from inside.h on; what is right is in oracle.h.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/epoch_backup.h"
#include "checkpoint/epoch_primary.h"
#include "failover/arbiter.h"
#include "failover/failure_detector.h"
#include "failover/promotion.h"
#include "tests/sim/oracle.h"

namespace understudy::sim {

/// Simulated time: microseconds since the beginning, nobody's clock.
using Time = std::int64_t;
inline constexpr Time kMs = 1000;

/// One record on a bulk connection.
struct Message {
  enum class Kind { hello, welcome, begin, page, end, acknowledge, ask_discard, discarded, yours };
  Kind kind = Kind::hello;
  ProtectionId protection;
  Generation generation;
  EpochId epoch;
  EpochId base;
  std::size_t page = 0;
  std::uint64_t value = 0;  ///< Of a page; of an end: the number of pages before it.
  std::uint64_t n = 0;
  std::uint64_t h = 0;
  Instance origin = 0;
  PeerView view;
};

struct Heartbeat {
  std::size_t path = 0;
  Instant sent_at;  ///< On the sender's clock.
  std::optional<Instant> echo;
  PeerView view;
};

/// The way out of a domain, as netbuffer/ promises it.
class Gate {
 public:
  template <typename Deliver>
  void emit(const Frame& frame, const Deliver& deliver) {
    if (open_) {
      deliver(frame);
    } else {
      held_.push_back({frame, EpochId{}});
    }
  }
  void seal(EpochId epoch) {
    open_ = false;
    for (auto& held : held_) {
      if (held.sealed == EpochId{}) held.sealed = epoch;
    }
  }
  template <typename Deliver>
  void release(EpochId up_to, const Deliver& deliver) {
    while (!held_.empty() && held_.front().sealed != EpochId{} && held_.front().sealed <= up_to) {
      deliver(held_.front().frame);
      held_.pop_front();
    }
  }
  template <typename Deliver>
  void open(const Deliver& deliver) {
    open_ = true;
    for (const auto& held : held_) deliver(held.frame);
    held_.clear();
  }

 private:
  struct Held {
    Frame frame;
    EpochId sealed;  ///< 0 until a capture seals it.
  };
  bool open_ = false;
  std::deque<Held> held_;
};

struct Domain {
  GuestState state;
  Instance instance = 0;
  std::uint32_t dirty = 0;
  bool paused = false;
};

struct Staged {
  EpochId epoch;
  bool in_place = false;
  std::map<std::size_t, std::uint64_t> pages;
  std::uint64_t n = 0;
  std::uint64_t h = 0;
  std::uint64_t count = 0;
};

/// What the backup side of a host has in memory, as a fact.
struct Image {
  GuestState memory;    ///< The paused domain.
  Instance origin = 0;  ///< Whose copy.
  bool whole = false;   ///< Some epoch is there completely (in memory or staged).
  std::uint64_t whole_n = 0;
};

/// What survives a crash.
struct Disk {
  Generation generation{1};
  bool voice = false;         ///< The domain runs here unprotected (or solo).
  bool handing_over = false;  ///< A hand-over was begun: the word may have been given.
  ProtectionId protection;
};

/// A claim that a host's agent has asked the arbiter for and not been answered.
struct Asked {
  Arbiter::Claim claim;
  bool wanted = true;
  bool stale = false;  ///< A fence's run began before the claim was forgotten.
};

/// What an arbiter like etcd has written down of one protection.
struct Holding {
  Generation generation;
  int holder = 0;
  bool claimed = false;
};

struct Host {
  int id = 0;
  bool up = true;
  std::uint32_t incarnation = 0;  ///< Of the agent.
  Time stalled_until = 0;
  Time clock_origin = 0;
  Time clock_rate = 1000;  ///< Thousandths.
  std::uint64_t steps = 0;
  Time tick_at = 0;

  Disk disk;
  std::optional<Generation> writing;  ///< On its way to the disk: a crash may lose it or not.
  Time disk_slow_until = 0;
  Time disk_full_until = 0;
  bool clock_stopped_once = false;  ///< It was frozen, clock and all.
  std::optional<Asked> asked;
  std::unique_ptr<Arbiter> arbiter;
  std::optional<Domain> domain;
  Gate gate;
  std::optional<FailureDetector> detector;
  std::optional<Instant> peer_sent_at;  ///< Newest heartbeat of the peer, its clock.

  // As primary.
  std::optional<EpochPrimary> primary;
  std::size_t link = 0;     ///< The connection that stands, 0 none.
  std::size_t attempt = 0;  ///< The connection that was begun.
  Time attempt_at = 0;
  Time mute_since = 0;
  std::map<EpochId, std::uint32_t> masks;  ///< Pages written in each epoch.
  bool fail_captures = false;
  // What the operator has asked for and allowed: the truth for the oracle.
  ProtectionId asked_protection;
  bool solo_said = false;
  bool unprotect_said = false;

  // As backup.
  std::unique_ptr<EpochBackup> backup;
  std::unique_ptr<Promotion> promotion;
  std::size_t peer_link = 0;
  Image image;
  std::optional<Staged> staging;
  std::map<EpochId, Staged> whole;
  Time next_wish = 0;
  bool peer_gone = false;
  bool decided = false;
};

struct Connection {
  int from = 0;  ///< The primary's host.
  bool dead = false;
  Time cut_at = 0;
  std::array<Time, 2> last{};  ///< Newest delivery, by sending host.
  std::array<std::vector<Message>, 2> waiting;
};

}  // namespace understudy::sim
