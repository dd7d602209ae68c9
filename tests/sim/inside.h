// The inside of a simulated world: its state, and what can happen in it.
//
// world.h is what the tests see. The steps are told by subject:
//   world.cpp         time, the beginning, the guests and their client, the end
//   network.cpp       connections, heartbeats, who hears what
//   primary_side.cpp  what EpochPrimary decides, done
//   backup_side.cpp   what EpochBackup and Promotion decide, done
//   arbiters.cpp      the arbiter's answers; the hosts' disks
//   faults.cpp        what breaks, and the repair
//   operators.cpp     the person who protects, promotes, says solo and unprotect, and keeps
//   promises
#pragma once

#include <fmt/format.h>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/epoch_backup.h"
#include "checkpoint/epoch_primary.h"
#include "failover/arbiter.h"
#include "failover/promotion.h"
#include "tests/sim/oracle.h"
#include "tests/sim/parts.h"
#include "tests/sim/world.h"

namespace understudy::sim {

/// When everything is repaired, and when patience ends.
inline constexpr Time kHealAt = 1500 * kMs;
inline constexpr Time kEnd = 6500 * kMs;

/// What the two hosts of a world share with others (cluster.h): their clocks, and what strikes the
/// whole machine. Sides are 0 and 1.
class Machines {
 public:
  virtual ~Machines() = default;
  struct Clock {
    Time origin = 0;
    Time rate = 1000;
  };
  virtual Clock clock_of(int side) = 0;
  /// The host of that side loses its power, for all that run on it, and is back after that time.
  virtual void power_off(int side, Time back_after) = 0;
};

class World {
 public:
  /// `machines`: null if this world's two hosts are its own. Then faults are drawn, too; else the
  /// owner strikes them.
  explicit World(const Options& options, Machines* machines = nullptr)
      : options_(options), machines_(machines), random_(mix(options.seed, options.variation)) {}

  /// Everything from the beginning to the verdict.
  Outcome run();

  /// The same in steps: begin, then `step` while there is a next event, then the verdict.
  void begin() { set_up(); }
  [[nodiscard]] std::optional<Time> next_at() const;
  void step();
  Outcome verdict();
  /// A promise has been broken.
  [[nodiscard]] bool broken() const { return !oracle_.violation().empty(); }

  /// Strikes the host of that side now.
  void strike(const Blow& blow);
  /// The host of that side loses its power at that time, which has come.
  void crash_side(int side, Time at, Time back_after);

 private:
  struct Event {
    Time at;
    std::uint64_t order;
    int host;  ///< -1: of the world.
    std::uint32_t incarnation;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  // --- time ---

  void after(Time delay, std::function<void()> what);
  /// On a host: not if its agent has gone meanwhile; later if it is stopped.
  void after(Host& host, Time delay, std::function<void()> what);
  void handle(Event& event);
  static Instant clock(const Host& host, Time now);
  [[nodiscard]] Instant clock(const Host& host) const { return clock(host, now_); }
  Time until(const Host& host, Instant deadline) const;
  /// The one timer that stands for every machine's next_deadline.
  void schedule_tick(Host& host);
  void tick(Host& host);

  template <typename... Args>
  void tell(fmt::format_string<Args...> format, Args&&... args) {
    if (options_.trace) {
      outcome_.story.push_back(fmt::format("{:>9.3f} ms  {}", static_cast<double>(now_) / kMs,
                                           fmt::format(format, std::forward<Args>(args)...)));
    }
  }
  void reached(Reached what) { ++outcome_.reached[static_cast<std::size_t>(what)]; }
  Host& other(const Host& host) { return hosts_[static_cast<std::size_t>(1 - host.id)]; }
  bool calm() const { return now_ >= kHealAt; }
  /// Small troubles happen at random beside the blows.
  bool uneasy() const { return options_.random_faults && !options_.no_small_troubles && !calm(); }

  // --- the beginning ---

  void set_up();

  /// The agent of `host` starts, with nothing but its disk.
  void boot(Host& host);

  // --- the guests and their client ---

  std::function<void(const Frame&)> deliver_from(Host& host);
  void run_guests();

  // --- the network ---

  bool cut(int from) const { return cut_until_[static_cast<std::size_t>(from)] > now_; }
  Time delay(int from);

  void send(std::size_t number, const Host& host, const Message& message);
  void transmit(std::size_t number, int from, const Message& message);
  /// What waited while a direction was cut goes out now.
  void flush();
  void break_connection(std::size_t number, Time noticed_within = 60 * kMs);
  void notice_break(Host& host, std::size_t number);

  /// What `host` says of itself.
  PeerView view(const Host& host) const;

  void heartbeat(Host& host);
  void receive(Host& host, const Heartbeat& beat);

  void keep_connected(Host& host);

  void receive(Host& host, std::size_t number, const Message& message);

  void receive_as_primary(Host& host, std::size_t number, const Message& message);

  // --- the primary's doing ---

  void act(Host& host, const EpochPrimary::Actions& actions);
  void perform(Host& host, const EpochPrimary::SealAndCapture& capture);
  /// Full copy while the guest runs, or the pages since `base` where this world remembers them.
  void perform(Host& host, const EpochPrimary::Synchronise& copy);
  void perform(Host& host, const EpochPrimary::Release& release);
  void perform(Host& host, const EpochPrimary::OpenGate&);
  void perform(Host& host, const EpochPrimary::PersistGeneration& it);
  void perform(Host& host, const EpochPrimary::AskArbiter& ask);
  void perform(Host& host, const EpochPrimary::ForgetClaim& claim);
  static Arbiter::Claim claim_of_primary(const Host& host, Generation generation);
  void ask_as_primary(Host& host, Generation generation);
  void perform(Host& host, const EpochPrimary::Yield& yielded);
  void perform(Host& host, const EpochPrimary::ResumeGuest&);
  void perform(Host& host, const EpochPrimary::AskDiscard&);
  void perform(Host& host, const EpochPrimary::DestroyDomain& destroy);
  void perform(Host& host, const EpochPrimary::Reconnect&) { break_connection(host.link); }
  void perform(Host& host, const EpochPrimary::Report& report) { note(host, report); }
  void note(const Host& host, const EpochPrimary::Report& report);

  void drop_domain(Host& host);

  Message begin_of(const Host& host, EpochId epoch, EpochId base);
  void copy_live(Host& host, EpochId epoch, std::size_t link, std::size_t page);
  void send_page(const Host& host, std::size_t link, std::size_t page, const GuestState& state);

  void final_pause(Host& host, EpochId epoch, EpochId base, bool copy, bool stay);
  void transmit_epoch(Host& host, std::size_t link, EpochId epoch, EpochId base, bool full,
                      std::uint32_t mask, const GuestState& state);

  // --- the backup's doing ---

  void make_backup(Host& host, ProtectionId protection, Generation generation);

  void receive_as_backup(Host& host, std::size_t number, const Message& message);
  void acknowledge(Host& host, const Message& message);
  void receive_end(Host& host, const Message& message);
  void apply(Host& host, EpochId epoch);
  void finish_applies(Host& host);

  void act(Host& host, const EpochBackup::Actions& actions);
  void perform(Host& host, const EpochBackup::Stage& stage);
  void perform(Host& host, const EpochBackup::Acknowledge& whole);
  void perform(Host& host, const EpochBackup::Apply& it);
  void perform(Host& host, const EpochBackup::DropStaged& drop);
  void perform(Host& host, const EpochBackup::DiscardImage& discard);
  void perform(Host& host, const EpochBackup::Refuse& refuse);
  void perform(Host& host, const EpochBackup::Report& report);

  // --- promotion ---

  void wish_promotion(Host& host);
  void want_promotion(Host& host, Promotion::Cause cause);
  bool count_decision(Host& host);
  void act(Host& host, const Promotion::Actions& actions);
  void perform(Host& host, const Promotion::PersistGeneration& it);
  void perform(Host& host, const Promotion::ResumeDomain&);
  void perform(Host& host, const Promotion::OpenGate&);
  void perform(Host& host, const Promotion::Announce&);
  void perform(const Host& host, const Promotion::Refused& refused);
  void resume(Host& host);

  // --- the arbiter ---

  /// A host's way to the arbiter: what EtcdArbiter and FenceArbiter do, on simulated time.
  class HostArbiter final : public Arbiter {
   public:
    HostArbiter(World& world, Host& host) : world_(world), host_(host) {}
    Answer ask(const Claim& claim) override { return world_.ask(host_, claim); }
    void forget(const Claim& claim) override { world_.forget(host_, claim); }
    [[nodiscard]] std::string_view name() const override { return "simulated"; }

   private:
    World& world_;
    Host& host_;
  };

  Arbiter::Answer ask(Host& host, const Arbiter::Claim& claim);
  void forget(Host& host, const Arbiter::Claim& claim);
  void pursue(Host& host, const Arbiter::Claim& claim);
  /// etcd gets a claim, which may have been long on its way; the host may be another by now.
  void serve(Host& host, const Arbiter::Claim& claim, Time sent, std::uint32_t incarnation);
  void shoot(Host& host, const Arbiter::Claim& claim);
  void answered(Host& host, const Arbiter::Claim& claim, bool granted);
  static std::string name_of_host(int id) { return id == 0 ? "hostA" : "hostB"; }

  // --- disks ---

  void write(Host& host, Generation generation);
  void persist(Host& host, Generation generation, std::function<void(bool)> done);

  // --- faults ---

  void strike(Fault fault, Host& host, Random dice);

  void flap(std::int64_t turns, Random dice);

  /// The agent and all that it holds are gone; its connections are reset.
  void kill_agent(Host& host);
  void crash(Host& host, Time back_after);
  /// This world's hosts only, or the whole machine where others share it.
  void power_off(Host& host, Time back_after);
  void come_back(Host& host);
  void restart_agent(Host& host);

  /// Beyond the fault budget: no copy is left that knows all that the client was told.
  void look_for_loss();

  void heal();

  // --- the operator, who keeps promises ---

  EpochPrimary::Config primary_config(const Host& host) const;
  void protect(Host& host);
  /// The host whose copy is the domain.
  Host* rightful();
  /// Whether it is true that `peer` holds no image and cannot get one any more from what is on its
  /// way to it: the operator has looked.
  bool harmless(const Host& peer, const Host& host) const;
  /// With an arbiter the operator promises that the primary does not speak alone, and will not.
  bool may_promote_by_hand(const Host& backup);
  /// Nobody runs the domain, and the arbiter (which has lost its data, say) lets nobody: a person
  /// looks whether a copy is left.
  void speak_up();
  void operate();

  // --- the end ---

  [[nodiscard]] bool whole_again();
  void watch();
  void judge_liveness();

  Options options_;
  Machines* machines_ = nullptr;
  Random random_;
  Outcome outcome_;
  Oracle oracle_;
  NoArbiter no_arbiter_;
  ArbiterKind arbiter_kind_ = ArbiterKind::none;
  std::map<ProtectionId, Holding> book_;
  Time arbiter_down_until_ = 0;
  std::array<Host, 2> hosts_;
  std::deque<Connection> connections_;
  std::priority_queue<Event> queue_;
  std::uint64_t order_ = 0;
  Time now_ = 0;
  std::uint64_t protections_ = 0;
  Time spoken_at_ = 0;
  int steady_ = 0;
  bool lost_ = false;
  bool asked_to_move_ = false;
  bool finished_ = false;

  bool incremental_ = false;
  bool deterministic_guest_ = false;  ///< The same state goes on in the same way, wherever it runs.
  bool bulk_is_life_ = true;
  std::size_t paths_ = 1;
  Time base_delay_ = 200;
  Time page_cost_ = 60;
  std::array<Time, 2> cut_until_{};
  std::array<Time, 2> slow_until_{};
  std::array<Time, 2> slow_by_{};
  std::array<Time, 2> deaf_until_{};
  std::array<Time, 2> twice_until_{};
};

}  // namespace understudy::sim
