// The primary's side of one protection: does what EpochPrimary decides.
//
// Intuition: EpochPrimary (checkpoint/) says *what* and *when*; this file knows *how*. Two
// coroutines share the work, on one thread:
//
//   drive()      waits for the next deadline or a wake-up, and carries out the long actions one
//   after another:
//                synchronise, capture, persist, destroy
//   keep_link()  keeps a bulk link to the backup, tells the decisions when it comes and goes, and
//   takes
//                in acknowledgements
//
// Short actions (release, open, report) are done at once, where they arise: an acknowledgement that
// comes in while a capture is being sent releases its epoch without waiting for anything.
//
// Awkward cases:
// - The link dies in the middle of a capture: the sink fails, the capture is abandoned, the guest
// has been
//   resumed in any case, and what was dirty is kept for the full copy that follows.
// - The domain dies: the backup is told to take over, because its image is good and ours is gone.
// - Whatever ends this session leaves the gate closed, unless the decisions said to open it.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/conditions.h"
#include "agent/gatekeeper.h"
#include "agent/host_services.h"
#include "agent/output_holds.h"
#include "agent/pause_statistics.h"
#include "agent/protection_messages.h"
#include "agent/signal.h"
#include "base/condition.h"
#include "checkpoint/checkpoint_encoder.h"
#include "checkpoint/device_state.h"
#include "checkpoint/epoch_primary.h"

namespace understudy {

/// How a session ended: what the agent does with the domain next.
enum class PrimaryEnd {
  unprotected,  ///< The gate is open, the domain runs on alone, the backup holds nothing.
  resigned,     ///< The same, by the backup's own wish: protect again when it is back.
  superseded,   ///< The domain runs elsewhere; ours is destroyed.
  domain_gone,  ///< The domain ended by itself or was stopped.
};

/// One protection on the primary. Made with std::make_shared; its coroutines keep it alive until it
/// ended.
class PrimarySession : public std::enable_shared_from_this<PrimarySession> {
 public:
  using EndHandler = std::function<void(PrimaryEnd)>;

  /// `domain`, `record` and `replay_gate` belong to `owner`, which the session keeps alive until
  /// its last coroutine has ended. `record` is already saved with this protection. `replay_gate` is
  /// the domain's gate in replay mode, or null: it may outlive this session, or be older than it
  /// (agent/replay_gate.h). `taken_up_again`: an earlier run of the agent left the domain
  /// protected, its gate closed.
  PrimarySession(const HostServices& services, std::shared_ptr<const void> owner, Domain& domain,
                 DomainRecord& record, std::shared_ptr<ReplayGate>& replay_gate,
                 bool taken_up_again);
  ~PrimarySession();
  PrimarySession(const PrimarySession&) = delete;
  PrimarySession& operator=(const PrimarySession&) = delete;

  /// Begins. `on_end` is called once, from the agent's thread, when nothing of the session is at
  /// work on the domain any more.
  void start(EndHandler on_end);

  /// The operator's word that the backup will not run the domain (docs/failure-model.md). Returns
  /// when the gate is open.
  Task<Result<void>> solo();
  /// Ends the protection with the backup's consent. Returns when the gate is open.
  Task<Result<void>> unprotect();
  /// Moves the domain to the backup, to be protected from there to `next_backup` (empty: to
  /// nobody): a last checkpoint, then the domain runs there and is destroyed here; the session ends
  /// as superseded. Returns when that is certain. On an error the domain goes on here, or
  /// (timed_out) what became of it is not known yet and this side stays mute.
  Task<Result<void>> hand_over(std::string next_backup);
  /// Ends the session because the domain is being stopped; the backup is told. Returns when nothing
  /// of the session is at work on the domain any more. The gate stays closed: see remove_gate().
  Task<void> abandon();
  /// Ends a session whose gate is open (solo) without another word; `on_end` is not called. Returns
  /// as abandon() does.
  Task<void> retire();
  /// Takes the gate's rules out of the kernel, once the domain that they held is destroyed.
  void remove_gate();
  /// The record's mode, interval and replay options have changed: they take effect with the next
  /// epoch, and the backup is told. The first change to replay mode means another gate: what is
  /// held at that moment is lost, as in a network.
  Task<Result<void>> on_options_changed();

  /// The arbiter has answered a claim of this session's.
  void on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer);
  /// A heartbeat of the peer says what it is to the domain, and echoes one of ours sent at
  /// `echoed`.
  void on_peer_news(const HeartbeatDomain& news, Instant echoed);
  /// The peer was declared dead, or lives again: for status only, the gate does not care.
  void on_peer_reachable(std::string_view reason, bool reachable);
  /// The domain's process ended by itself.
  Task<void> on_domain_exit(const DomainExit& exit);

  /// Adds what this side knows to the domain's status object (docs/api.md, "The domain object").
  void add_status(boost::json::object& status, Conditions& conditions) const;
  [[nodiscard]] const EpochPrimary& decisions() const { return decisions_; }
  [[nodiscard]] const PauseStatistics& pauses() const { return pauses_; }

  /// How output was held so far.
  [[nodiscard]] OutputHolds::Tally output_holds() const {
    return holds_.tally(std::chrono::steady_clock::now());
  }
  /// What the guest was heard from so far: each interface's addresses, encoded as a checkpoint
  /// carries them.
  [[nodiscard]] std::vector<std::byte> learnt_addresses() const;

 private:
  struct SyncProgress {
    std::uint64_t pages_sent = 0;
    std::uint64_t pages_total = 0;
    std::uint64_t bytes_sent = 0;
    unsigned round = 0;
    Instant started;
    Instant last_progress;
  };

  Task<void> drive();
  Task<void> keep_link();
  static Task<void> close_later(std::shared_ptr<transport::Link> link);
  Task<void> serve_link(std::shared_ptr<transport::Link> link);
  /// Takes the decisions' actions: short ones at once, long ones to the queue.
  void carry_out(const EpochPrimary::Actions& actions);
  void report(const EpochPrimary::Report& report);
  Task<void> perform(EpochPrimary::Action action);

  Task<void> synchronise(EpochId epoch);
  Task<Result<void>> precopy(EpochId epoch);
  /// What a paused capture completes: the epoch's own checkpoint upon the one before, or a complete
  /// copy under way.
  enum class Upon { epoch_before, this_copy };
  enum class Afterwards { resume, stay_paused };
  Task<void> capture(EpochId epoch, Upon upon, Afterwards afterwards = Afterwards::resume);
  Task<Result<void>> capture_steps(EpochId epoch, Upon upon, Afterwards afterwards);
  Task<void> yield(EpochId epoch);
  void send_inputs_after();
  void forget_hand_over();
  Task<void> resume_guest();
  Task<void> give_up(EpochId epoch, Error error);
  Task<Result<void>> send_begin(EpochId epoch, EpochId base, std::uint64_t dirty_pages);
  Task<Result<void>> send(transport::FrameType type, std::vector<std::byte> payload);
  Result<void> close_gate();
  Result<std::unique_ptr<Gatekeeper>> close_replay_gate();
  [[nodiscard]] bool wants_replay_gate() const;
  Task<Result<void>> seal(EpochId epoch);
  Task<Result<void>> resume();
  void send_log(std::vector<std::byte> batch);
  void report(const replay::ReleaseRule::Report& report);
  void finish(PrimaryEnd end);
  Task<void> wait_for_drive();
  void update_conditions(Conditions& conditions) const;
  [[nodiscard]] Arbiter::Claim claim_on(Generation generation) const;

  HostServices services_;
  std::shared_ptr<const void> owner_;  ///< Of the two below.
  Domain& domain_;
  DomainRecord& record_;
  EpochPrimary decisions_;
  EndHandler on_end_;
  Signal wake_;
  Condition changed_;  ///< Notified whenever the decisions' state may have changed: solo() and
                       ///< unprotect() wait for it.
  Condition drive_ended_;
  std::deque<EpochPrimary::Action> pending_;
  std::string next_backup_;                ///< Of a hand-over.
  std::optional<Instant> standing_since_;  ///< The guest, left standing by a hand-over's capture.
  bool driving_ = false;  ///< drive() has not ended: it may be in the middle of a capture.
  bool ended_ = false;
  bool farewell_ = false;  ///< The backup was told of the end over the link that stands.
  PrimaryEnd end_ = PrimaryEnd::unprotected;  ///< Valid once ended_.
  bool unprotect_asked_ = false;
  bool resigned_ = false;

  std::shared_ptr<transport::Link> link_;
  LogPosition peer_log_;  ///< How far the backup's log went when the link was made.
  std::shared_ptr<ReplayGate>& replay_gate_;  ///< The owner's.
  std::unique_ptr<Gatekeeper> gate_;
  bool gate_is_for_replay_ = false;  ///< Of gate_.
  std::shared_ptr<Mirror> mirror_;
  std::unique_ptr<CheckpointCapture> capture_;
  DeviceStateEncoder device_state_encoder_;
  DirtySet carried_over_;  ///< Pages that a failed epoch took out of the log.

  OutputHolds holds_;
  PauseStatistics pauses_;
  std::optional<SyncProgress> progress_;
  std::uint64_t checkpoints_ = 0;
  std::uint64_t dirty_bytes_ = 0;
  std::uint64_t wire_bytes_ = 0;
  std::uint64_t log_bytes_ = 0;  ///< Of the input log, on the wire.
  std::string peer_reason_ = "NeverSeen";
  std::optional<bool> peer_reachable_;
  std::string last_problem_;
};

}  // namespace understudy
