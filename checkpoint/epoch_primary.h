// The decisions of the host that runs a protected domain: when to capture, what to release.
//
// Intuition: output goes through a gate that is closed by default. Each capture *seals* what has
// been held so far under the epoch that it ends; the backup's acknowledgement of that epoch allows
// its *release*. Between the two nothing but the acknowledgement counts: not that the bytes were
// sent, not that time went by. A primary that is cut off is therefore mute, and that is why the
// backup may promote itself by a timeout.
//
//   output:  held → sealed (epoch e) → acknowledged (e whole on the backup) → released
//
// The lease. An acknowledgement may be old when it is read: it sat in a socket while this host was
// stopped, or TCP sent it again after a second. Told with numbers: at 0 ms the backup acknowledges
// epoch 7; the acknowledgement is delayed; at 200 ms the backup, which hears nothing from us,
// promotes epoch 7; at 230 ms its domain speaks; at 400 ms we read the acknowledgement and release
// epoch 7. Nothing is lost, but two hosts have spoken, and the switch now sends the clients'
// frames to the wrong port. So an acknowledgement is acted upon only while we can prove that the
// backup cannot have promoted yet: it waits at least `silence` (200 ms) after it last heard us,
// and we know of something that it heard which we sent less than `lease` (150 ms) ago. Each
// acknowledgement proves that for the moment of its capture; each heartbeat that comes back with
// our own time in it proves it too (`on_peer_heard`). When the lease has run out, what was
// acknowledged stays held until the next proof; normally that is one heartbeat away. The lease
// only ever keeps the gate closed; it opens nothing by itself.
//
// Awkward cases:
// - The link breaks with epochs in flight. They may have become whole on the backup or not. They
//   stay held; at the next hello the backup's `committed` counts as its acknowledgement.
// - A capture fails midway: which pages were dirty is forgotten with it, so the next checkpoint is
//   a full copy (Synchronise with base 0).
// - Before the first consistent checkpoint is captured the backup cannot promote, so the gate
//   stays as open as it was; from that capture on it is closed, whatever happens, because the
//   backup may have it whole even if we never hear so.
// - Unprotect opens the gate only when the backup has said that it holds no image any more.
//   Without that word it might promote an old image after we have spoken on.
// - The peer has a higher generation and runs the domain: ours is destroyed. It has a higher
//   generation and does *not* run it (it crashed after it promoted): ours may be the last copy in
//   the world, so it is kept, mute, and the operator decides.
// - With an arbiter (failover/arbiter.h) the primary asks by itself, once its backup has been lost
//   for a while, and goes solo by the grant. Who has the grant keeps it: the backup will get none
//   within this protection. So a grant that comes after the backup is back is acted upon all the
//   same; the agent then protects anew.
// - Hand-over, the planned move to the backup. The last capture leaves the guest standing still;
//   when it is acknowledged and everything up to it is released, *the word* is given: 'yours'.
//   Until then whatever goes wrong is answered by letting the guest go on. From the word on this
//   side releases nothing, captures nothing and asks no arbiter, whatever it hears, because the
//   backup may run the domain without waiting for our lease: the word is its proof. (An agent that
//   is restarted does not know whether it gave the word; that it was about to is on disk before:
//   may_have_yielded.) If the link breaks right then, the next hello tells: the backup runs it, or
//   is about to (ours is destroyed); it still holds that epoch (the word is given again); or it
//   holds nothing any more and has not raised the generation, so that it can never have run it (the
//   guest goes on here).
// - A domain that has spoken alone (solo) is never destroyed by itself, even where a peer claims
//   to run it too: that is a split brain, somebody's promise was broken, and a person must choose.
//
// Not taken: opening the gate after so-and-so long without a backup (classic 'failover both ways'):
// two hosts would speak as soon as the link between them breaks.
//
// Actions are to be done in the order given. Each SealAndCapture and Synchronise is answered by
// exactly one on_captured or on_capture_failed, also where the link went down meanwhile. Late,
// repeated and foreign messages are normal input. Not thread-safe; all of one protection's events
// come from one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/protection.h"

namespace understudy {

/// Decides for one protection on the primary's side. A value: no thread, socket, clock or file.
class EpochPrimary {
 public:
  enum class State {
    synchronising,  ///< A full copy is under way, or waits for its retry. See `exposed`.
    protecting,     ///< Epochs run.
    backup_lost,    ///< No backup: the guest runs on, its output is held.
    solo,           ///< By the operator's (arbiter's) word: no backup, gate open.
    superseded,     ///< The domain runs elsewhere under a higher generation; ours was destroyed.
    ended,          ///< Unprotected, gate open; nothing more will be asked or done.
  };

  /// Who this is and how fast it goes.
  struct Config {
    ProtectionId protection;  ///< Not 0.
    Generation generation;    ///< The domain's generation here, as persisted.
    /// From one capture's start to the next one's; at least.
    std::chrono::microseconds interval{25'000};
    /// Captured and not yet acknowledged, at most. At the limit no capture starts: epochs stretch.
    std::uint32_t in_flight_max = 2;
    /// How long a proof that the backup heard us allows releases. Must be clearly less than the
    /// backup's Promotion::Config::silence; three quarters of it by default.
    std::chrono::microseconds lease{150'000};
    /// Wait before a failed capture is tried again.
    std::chrono::microseconds capture_retry{100'000};
    /// After so many failures in a row a first protection is given up; a later one counts its
    /// backup as lost (so that the operator may say solo) and tries on, ten times slower.
    std::uint32_t capture_failures_max = 3;
    /// After so long without its backup the primary asks the arbiter for the right to speak alone;
    /// empty: never, because the arbiter would not grant it.
    std::optional<std::chrono::microseconds> ask_solo_after;
    /// Whether a grant is for the whole protection (etcd), or about the moment at which it was
    /// given (a fence: 'the other host is off'). In the second case it is void once the backup has
    /// been heard again. (Found by the model: the backup is back and protected again, the late
    /// grant makes the primary speak alone, the backup fences it and runs its older image.)
    bool grants_last = true;
    /// Wait before a grant is tried again whose generation could not be written.
    std::chrono::microseconds grant_retry{1'000'000};
    /// True when the agent was restarted under a running protected domain: the backup may hold a
    /// promotable image, so the gate is closed from the start.
    bool taken_up_again = false;
    /// The agent that was restarted had begun a hand-over: it may have given the word. The arbiter,
    /// which knows nothing of it, is not asked before the backup has acknowledged a new epoch.
    /// (Found by the simulator: the old side had the new one fenced, and spoke.)
    bool may_have_yielded = false;
  };

  /// Pause the domain, seal the gate and the input log with `epoch`, copy, resume; then encode and
  /// send against what epoch `base` left in the mirror. `stay_paused`: do not resume, if all went
  /// well; ResumeGuest comes if it has to.
  struct SealAndCapture {
    EpochId epoch;
    EpochId base;
    bool stay_paused = false;
  };
  /// Copy the domain live, then end with a consistent checkpoint `epoch` (sealed like any other).
  /// `base` not 0: the backup still holds that epoch whole; a sender that knows every page written
  /// since `base` was captured may send only these (as a staged checkpoint upon `base`). Sending
  /// everything is always right (and is then announced with base 0, which voids the backup's image
  /// until the copy is whole).
  struct Synchronise {
    EpochId epoch;
    EpochId base;
  };
  /// Let out everything that was sealed with `up_to` or an earlier epoch. Nothing else.
  struct Release {
    EpochId up_to;
  };
  /// Let out what is held and all that comes: solo, no longer protected, or (state synchronising)
  /// not yet. An agent's durable record 'protected: start with the gate closed' is written before
  /// the first checkpoint of a protection is sent, and taken back only in state solo or ended, not
  /// by this action alone: the next attempt may have made the backup whole when the agent dies.
  struct OpenGate {};
  /// Ask the arbiter for the right to speak alone at `generation`; then on_arbiter, however late.
  struct AskArbiter {
    Generation generation;
  };
  /// What was asked is not wanted any more (Arbiter::forget). Its answer is still to be told.
  struct ForgetClaim {
    Generation generation;
  };
  /// Write `generation` where it survives a crash, then call on_generation_persisted.
  struct PersistGeneration {
    Generation generation;
  };
  /// Give the backup the word that the domain is its own from `epoch` on. May be given again.
  struct Yield {
    EpochId epoch;
  };
  /// Let the guest go on that a capture has left standing. Nothing if it runs.
  struct ResumeGuest {};
  /// Tell the backup to discard its image and confirm (on_discarded).
  struct AskDiscard {};
  /// The domain runs elsewhere under `generation`: destroy the copy here, drop what is held.
  struct DestroyDomain {
    Generation generation;
  };
  /// Close the bulk connection and begin a new one: the peer says something else by now than in its
  /// last hello.
  struct Reconnect {};
  /// Worth a line in the journal and the event list.
  enum class Event {
    first_protected,         ///< The first checkpoint is committed: from now on failover works.
    protected_again,         ///< After backup_lost.
    backup_lost,             ///< Output is held from here.
    resynchronising,         ///< Full copy after a broken link or a failed capture.
    capture_failed,          ///< Will be tried again.
    capture_keeps_failing,   ///< As often as allowed: given up, or tried on slowly.
    peer_promoting,          ///< The backup is about to take over; we stay mute.
    peer_outdated,           ///< An outdated copy runs there, mute; it will be destroyed.
    superseded,              ///< It has taken over.
    newer_copy_lost,         ///< It had taken over, and does not run now: the operator decides.
    split_brain,             ///< Two hosts run the domain: a promise was broken.
    asking_arbiter,          ///< For the right to speak alone.
    arbiter_refused,         ///< It stays mute.
    went_solo,               ///< By the operator's word, or by a grant (see solo_by_grant).
    unprotected,             ///< The backup confirmed; gate open.
    hand_over_failed,        ///< The guest goes on here.
    acknowledgement_refused  ///< Of another protection, generation or an epoch never captured.
  };
  struct Report {
    Event event;
    EpochId epoch;  ///< Where one is meant, else 0.
  };
  using Action = std::variant<SealAndCapture, Synchronise, Release, OpenGate, AskArbiter,
                              ForgetClaim, PersistGeneration, AskDiscard, Yield, ResumeGuest,
                              DestroyDomain, Reconnect, Report>;
  using Actions = std::vector<Action>;

  explicit EpochPrimary(const Config& config);

  // --- the link, in the order of time ---

  /// A bulk connection stands and the backup has said who it is.
  Actions on_link_up(Instant now, const PeerView& peer);
  /// The bulk connection is gone; what it still carried is lost from some point on.
  Actions on_link_down(Instant now);

  // --- the way of an epoch ---

  /// Time went by: see next_deadline.
  Actions on_tick(Instant now);
  /// The domain's state of `epoch` is in our hands and the domain runs again. To be called before
  /// the record that ends the epoch is sent.
  Actions on_captured(Instant now, EpochId epoch);
  /// The capture or the synchronisation came to nothing; the guest runs on.
  Actions on_capture_failed(Instant now);
  /// The last byte of `epoch` is with the kernel. Only status depends on it.
  void on_sent(EpochId epoch);
  /// The backup says that `epoch` is whole.
  Actions on_acknowledged(Instant now, ProtectionId protection, Generation generation,
                          EpochId epoch);
  /// The peer, *still as the backup of this protection* (role holding), has returned a heartbeat
  /// that we sent at `sent_at`.
  Actions on_peer_heard(Instant now, Instant sent_at);

  // --- generations and people ---

  /// The peer has told its generation of this domain outside a hello (each heartbeat may). Old
  /// tidings are harmless: they can make us mute, and the next ones end it.
  Actions on_peer_generation(Instant now, Generation generation, PeerRole role);
  /// The operator promises that no other host runs this domain or will run its old image.
  /// Refused unless the backup is lost.
  Result<Actions> on_operator_solo(Instant now);
  /// The arbiter has answered the claim on `generation`. Only a claim that was asked counts.
  Actions on_arbiter(Instant now, Generation generation, bool granted);
  /// PersistGeneration was done.
  Actions on_generation_persisted(Instant now, Generation generation);
  /// PersistGeneration came to nothing: the domain stays mute, and solo must be said again. A grant
  /// is kept, and tried again by on_tick.
  void on_persist_failed();
  /// End the protection. Refused while the backup cannot be reached (solo is the word for that).
  Result<Actions> on_unprotect(Instant now);
  /// Move the domain to the backup, which holds it warm. Refused unless epochs run. Ends in
  /// superseded, or with hand_over() back at `none`.
  Result<Actions> on_hand_over(Instant now);
  /// The backup has discarded its image of `protection`.
  Actions on_discarded(Instant now, ProtectionId protection);
  /// The next capture is wanted at once: the input log is too long (replay/release_rule.h).
  Actions on_capture_wanted(Instant now);
  /// Takes effect from the next capture on.
  void on_interval_changed(std::chrono::microseconds interval);

  /// When on_tick must be called at the latest; kNever if only events can change anything.
  [[nodiscard]] Instant next_deadline() const;

  // --- status ---

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] Generation generation() const { return config_.generation; }
  [[nodiscard]] ProtectionId protection() const { return config_.protection; }
  [[nodiscard]] std::chrono::microseconds interval() const { return config_.interval; }
  [[nodiscard]] bool link_up() const { return link_up_; }
  /// The claim whose answer is awaited, or was a refusal (`refused`); empty if none.
  [[nodiscard]] std::optional<Generation> claim() const { return claim_; }
  [[nodiscard]] bool claim_refused() const { return claim_state_ == ClaimState::refused; }
  /// In state solo: by an arbiter's grant, not by an operator's word.
  [[nodiscard]] bool solo_by_grant() const { return claim_state_ == ClaimState::granted; }
  /// Why the peer is no backup although it can be reached, if that is so.
  [[nodiscard]] std::optional<Event> trouble() const { return trouble_; }
  /// Newest epoch captured here, monotonic.
  [[nodiscard]] EpochId captured() const { return captured_; }
  /// Newest epoch handed to the kernel whole.
  [[nodiscard]] EpochId sent() const { return sent_; }
  /// Newest epoch that the backup has acknowledged, monotonic.
  [[nodiscard]] EpochId acknowledged() const { return acknowledged_; }
  /// Newest epoch whose output was released, monotonic, never above `acknowledged`.
  [[nodiscard]] EpochId released() const { return released_; }
  /// Captured and neither acknowledged nor given up with their connection.
  [[nodiscard]] std::uint32_t in_flight() const {
    return static_cast<std::uint32_t>(unacknowledged_.size());
  }
  /// True while a due capture waits because `in_flight_max` epochs are under way.
  [[nodiscard]] bool stretched() const { return stretched_; }
  /// How far a hand-over has come.
  enum class HandOver {
    none,
    wanted,     ///< The next capture is the last.
    capturing,  ///< It is under way.
    captured,   ///< The guest stands still; the backup has not acknowledged yet.
    yielded,    ///< The word was given: this side is mute until it hears what became of it.
  };
  [[nodiscard]] HandOver hand_over() const { return hand_over_; }
  /// True once the backup may hold an image that it could promote: from then on the gate opens only
  /// by acknowledgements, solo, or a confirmed unprotect.
  [[nodiscard]] bool exposed() const { return exposed_; }

 private:
  struct InFlight {
    EpochId epoch;
    Instant captured_at;
  };

  enum class ClaimState { none, asked, refused, granted };

  [[nodiscard]] bool over() const { return state_ == State::superseded || state_ == State::ended; }
  /// The domain speaks without a backup: solo, or before its first consistent checkpoint.
  [[nodiscard]] bool speaks_alone() const { return state_ == State::solo || !exposed_; }
  [[nodiscard]] bool can_capture() const {
    return !over() && state_ != State::solo && link_up_ && !trouble_ && !unprotecting_ &&
           !going_solo_ && !capturing_ && hand_over_ != HandOver::captured &&
           hand_over_ != HandOver::yielded;
  }
  /// Mute for want of a backup, with an arbiter that could help.
  [[nodiscard]] bool wants_right() const {
    return config_.ask_solo_after && state_ == State::backup_lost && exposed_ && !link_up_ &&
           !going_solo_ && !trouble_ && hand_over_ != HandOver::yielded &&
           !config_.may_have_yielded;
  }
  [[nodiscard]] bool can_use_grant() const {
    return !over() && state_ != State::solo && !going_solo_ && hand_over_ != HandOver::yielded &&
           (!trouble_ || *trouble_ == Event::newer_copy_lost);
  }
  void claim_if_due(Instant now, Actions& actions);
  void use_grant(Instant now, Actions& actions);
  void meet_generation(Generation generation, PeerRole role, Actions& actions);
  void bar(Event event, Actions& actions);
  void take_up(Instant now, Actions& actions);
  void start_synchronise(EpochId base, Actions& actions);
  void capture_if_due(Instant now, Actions& actions);
  void release_if_allowed(Instant now, Actions& actions);
  void cancel_hand_over(Actions& actions);
  void lose_backup(Actions& actions);
  void end(Actions& actions);

  Config config_;
  State state_;
  bool exposed_;
  bool link_up_ = false;
  bool stretched_ = false;
  bool ever_protected_ = false;
  bool unprotecting_ = false;
  HandOver hand_over_ = HandOver::none;
  /// A capture or synchronisation was asked for and not yet answered.
  bool capturing_ = false;
  /// The running capture belongs to a connection that is gone: its result helps nobody.
  bool orphaned_ = false;
  /// What was written since `captured_` is not known any more: only a full copy helps.
  bool dirty_lost_ = true;
  /// Why the peer is not to be used although the link is up. Cleared by the next hello.
  std::optional<Event> trouble_;
  /// What the peer held at the last hello, 0 if nothing of use.
  EpochId peer_committed_;
  EpochId issued_;
  EpochId synchronising_epoch_;
  EpochId captured_;
  EpochId sent_;
  EpochId acknowledged_;
  EpochId released_;
  /// Captured on this connection, oldest first; at most in_flight_max.
  std::deque<InFlight> unacknowledged_;
  Instant next_capture_ = Instant::min();
  std::uint32_t capture_failures_ = 0;
  std::optional<Instant> retry_at_;
  /// A moment of ours since which the backup is known to have heard us.
  std::optional<Instant> heard_at_;
  Generation highest_seen_;
  std::optional<Generation> going_solo_;
  ClaimState claim_state_ = ClaimState::none;
  std::optional<Generation> claim_;
  /// Since when there is no backup; known from the first tick after it was lost.
  std::optional<Instant> mute_since_;
  Instant grant_retry_at_ = Instant::min();
};

/// Stable lower-case names, as used in status and events.
std::string_view to_string(EpochPrimary::State state);
std::string_view to_string(EpochPrimary::Event event);

}  // namespace understudy
