// The promotion of a backup: may it happen, and what in which order.
//
// Intuition: from the decision on the backup is deaf to its primary. The generation is written to
// disk and the last committed epoch is brought into the image side by side; when both are done,
// and the primary's lease has surely run out, the domain is resumed, its gate opened, its new place
// announced to the network. Each step is kept with its time: that is the timeline that an operator
// reads afterwards.
//
//   decided → generation_persisted, last_epoch_applied → domain_resumed → announced → done
//
// Why the generation is persisted *before* the domain speaks: a host that crashed after it had
// spoken must know so when it comes back, or the old primary and the clients would be told two
// stories.
//
// Why there is a wait: the primary may act on our last acknowledgement as long as its lease allows
// (checkpoint/epoch_primary.h). An automatic promotion has waited that long already, by detection;
// one by hand, with the primary alive, waits here. Only a hand-over need not: the primary has given
// its word after its last release.
//
// Awkward cases:
// - The primary's host crashes and is back before the deadline: it is never silent for long enough,
//   and yet the domain is gone. Its first words say so ('none'), and that is a reason to promote.
//   They may also be old (sent before the domain came to run there), so the wait for the lease is
//   kept.
// - The generation cannot be written (disk full): nothing was spoken, nothing is resumed. The
//   promotion has failed and is tried again after `retry`, or when asked for; the backup stays
//   deaf, because it cannot know what the primary made of its silence.
// - The domain cannot be resumed: the same, but the generation stays raised. The old primary, if it
//   comes back, keeps its copy, mute, and an operator decides.
//
// - The primary is heard with a higher generation (it went solo by an operator's word) before the
//   domain was resumed: the backup discards its image and the promotion fails.
//
// Actions are to be done in the order given. Not thread-safe.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/epoch_backup.h"
#include "checkpoint/protection.h"
#include "failover/arbiter.h"

namespace understudy {

/// When each phase of one promotion was reached; what was not reached is empty.
struct PromotionTimeline {
  std::optional<Instant> last_sign_of_life;  ///< Of the primary's host.
  std::optional<Instant> asked;              ///< Detected dead, or asked for by hand.
  std::optional<Instant> decided;            ///< Granted; deaf from here.
  std::optional<Instant> generation_persisted;
  std::optional<Instant> last_epoch_applied;
  std::optional<Instant> domain_resumed;
  std::optional<Instant> announced;  ///< First round of announcements sent.
  std::optional<Instant> done;       ///< Last round sent.
};

/// Decides one promotion. A value beside the EpochBackup and Arbiter that it refers to, which must
/// outlive it.
class Promotion {
 public:
  struct Config {
    std::string domain;
    /// The domain speaks no earlier than this after the primary can last have heard us: the
    /// detector's deadline, which the primary's lease is shorter than.
    std::chrono::microseconds silence{200'000};
    /// Wait before a failed promotion is tried again.
    std::chrono::microseconds retry{500'000};
    /// The operator has forbidden automatic promotion of this domain.
    bool automatic = true;
  };

  enum class Phase {
    idle,        ///< Nothing asked.
    asking,      ///< The arbiter has not answered yet; the backup still serves.
    preparing,   ///< Decided; generation, last epoch and lease are under way.
    resuming,    ///< ResumeDomain was given.
    announcing,  ///< The domain speaks.
    done,        ///< Announced.
    failed,      ///< Persisting or resuming failed, or the image was discarded meanwhile.
  };

  enum class Cause {
    primary_dead,  ///< The failure detector's verdict.
    primary_gone,  ///< Its host lives and says that it does not run the domain any more.
    handed_over,   ///< The primary's word: it stands still, and will never speak again. That is the
                   ///< right to run, so no arbiter is asked; and there is no lease to wait for.
    operator_word  ///< `understudy promote`: the arbiter is not asked. With one, a promise that the
                   ///< primary does not run solo and will not.
  };

  /// Why a promotion is not even begun.
  enum class Refusal {
    image_incomplete,  ///< No consistent checkpoint is held: the domain is lost with its primary.
    already_promoted,  ///< It runs here, or is about to.
    nothing_held,      ///< Unprotected or outdated.
    forbidden,         ///< Automatic promotion is switched off for this domain.
    not_authorised,    ///< The arbiter said no.
  };

  /// Write `generation` where it survives a crash, then on_generation_persisted.
  struct PersistGeneration {
    Generation generation;
  };
  /// Resume the image; then on_resumed or on_failed. Its gate stays closed until OpenGate.
  struct ResumeDomain {
    EpochId epoch;
  };
  /// Let the domain speak.
  struct OpenGate {};
  /// Send ARP, RARP and neighbour advertisements in several rounds; then on_announced for the first
  /// round and on_done for the last.
  struct Announce {};
  /// Not begun, for `refusal`. Worth an event: with image_incomplete the domain is lost.
  struct Refused {
    Refusal refusal;
  };
  using Action = std::variant<PersistGeneration, ResumeDomain, OpenGate, Announce, Refused>;
  using Actions = std::vector<Action>;

  Promotion(Config config, EpochBackup& backup, Arbiter& arbiter);

  /// The primary is silent since `last_sign_of_life`, or the operator wants it. When granted, the
  /// backup is told (on_promote_decided) before this returns.
  Actions on_wanted(Instant now, Cause cause, Instant last_sign_of_life);
  /// The arbiter's late answer. Ignored unless `asking`. `last_sign_of_life`: as known now.
  Actions on_arbiter(Instant now, Arbiter::Answer answer, Instant last_sign_of_life);
  /// The primary's host was heard and says what it is to the domain. `running`: a wish on which
  /// nothing was decided yet is forgotten. `none`: the domain is gone there, so a promotion is
  /// wanted (once; a failed one is the caller's to repeat, as with a dead primary). An agent that
  /// has just started must not say `none` before it has looked.
  Actions on_primary_heard(Instant now, PeerRole role);
  /// PersistGeneration was done.
  Actions on_generation_persisted(Instant now);
  /// The backup applied an epoch (call after EpochBackup::on_applied).
  Actions on_applied(Instant now);
  /// Time went by: see next_deadline.
  Actions on_tick(Instant now);
  /// The domain runs, its gate still closed.
  Actions on_resumed(Instant now);
  void on_announced(Instant now);
  void on_done(Instant now);
  /// Persisting or resuming came to nothing; worth an event. Tried again after `retry`.
  void on_failed(Instant now);

  [[nodiscard]] Phase phase() const { return phase_; }
  /// The generation that this promotion raises to; 0 before it is decided.
  [[nodiscard]] Generation generation() const { return generation_; }
  /// What the arbiter was asked last; it is awaited in phase `asking`.
  [[nodiscard]] const std::optional<Arbiter::Claim>& claim() const { return claim_; }
  [[nodiscard]] const PromotionTimeline& timeline() const { return timeline_; }
  /// When on_tick must be called at the latest; kNever if only events can change anything.
  [[nodiscard]] Instant next_deadline() const;

 private:
  [[nodiscard]] std::optional<Refusal> refusal(Cause cause) const;
  Actions decide(Instant now, Instant last_sign_of_life);
  Actions resume_if_ready(Instant now);

  Config config_;
  EpochBackup& backup_;
  Arbiter& arbiter_;
  Phase phase_ = Phase::idle;
  bool persisted_ = false;
  bool handed_over_ = false;  ///< By the primary's word.
  /// The primary's host has said `none` since it last said anything else.
  bool gone_ = false;
  Generation generation_;
  Instant not_before_ = Instant::min();
  Instant retry_at_ = kNever;
  std::optional<Arbiter::Claim> claim_;
  PromotionTimeline timeline_;
};

/// Stable lower-case names, as used in status, events and the timeline.
std::string_view to_string(Promotion::Phase phase);
std::string_view to_string(Promotion::Refusal refusal);

}  // namespace understudy
