// The decisions of the host that holds the image: what to take in, what to acknowledge.
//
// Intuition: a checkpoint is staged apart from the image. Only when it is whole (every record
// there, every checksum right) is it *committed*: acknowledged, and from then on part of what a
// promotion would run. Applying it to the image comes after the acknowledgement; it needs nobody
// but this host, so a promotion simply finishes it first.
//
//   checkpoint: begun → whole = committed = acknowledged → applied
//
// What makes promotion safe is one sentence: **a backup that has decided to promote never
// acknowledges again.** The primary's gate needs these acknowledgements, so whatever it does
// afterwards it does mutely.
//
// Awkward cases:
// - A complete copy (base 0) is written into the image in place, because a second copy of all
//   memory has no room. While it is under way there is no image: a loss of the primary then is an
//   event ('image incomplete'), not a promotion. The first synchronisation is the common case; a
//   full resynchronisation after a broken link the other.
// - The link breaks in the middle of a staged checkpoint: what is staged goes, the last commit
//   stays. In the middle of a complete copy: the image stays void until the next copy.
// - Every checkpoint names the epoch that it builds upon (`base`). Where that is not the newest
//   whole one here it is refused: applied to another base it would be a mixture that never existed.
// - The primary tells a higher generation than ours: it went solo, clients have heard of states
//   that we do not have. Our image must never run: it is discarded.
//
// Actions are to be done in the order given. Not thread-safe.
#pragma once

#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "checkpoint/protection.h"

namespace understudy {

/// Decides for one protection on the backup's side. A value: no thread, socket, clock or file.
class EpochBackup {
 public:
  enum class State {
    incomplete,  ///< Reserved; no consistent image (yet, or while a complete copy is under way).
    ready,       ///< A whole epoch is held: promotable.
    promoting,   ///< Decided: nothing is accepted or acknowledged any more.
    promoted,    ///< The image runs here.
    discarded,   ///< Unprotected or outdated: nothing is held.
  };

  /// Prepare to take in `epoch`. `in_place`: it is a complete copy and goes straight to the image;
  /// an Apply that was given earlier must have finished before the first page is written.
  struct Stage {
    EpochId epoch;
    bool in_place;
  };
  /// Tell the primary that `epoch` is whole here.
  struct Acknowledge {
    ProtectionId protection;
    Generation generation;
    EpochId epoch;
  };
  /// Bring the staged `epoch` into the image, then call on_applied. For an in-place copy only its
  /// device state and whatever else was not written straight away. One at a time, in order.
  struct Apply {
    EpochId epoch;
  };
  /// Forget what was staged of an epoch that is not whole.
  struct DropStaged {
    EpochId epoch;
  };
  /// Free the image and everything staged; confirm to the primary where it asked for it.
  struct DiscardImage {
    ProtectionId protection;
  };
  /// Why something was not taken. Each is one thing for the primary to do.
  enum class Refusal {
    other_protection,   ///< We serve another one.
    old_generation,     ///< The domain has moved on; see view().
    promotion_decided,  ///< We are taking over.
    nothing_held,       ///< Discarded, or promoted and gone.
    old_epoch,          ///< Not newer than what is committed.
    wrong_base,         ///< Builds upon an epoch that is not the newest whole one here.
    out_of_order,       ///< Whole without begin.
  };
  /// Answer the primary with `reason` and view(), and close the connection.
  struct Refuse {
    Refusal reason;
    EpochId epoch;
  };
  /// Worth a line in the journal and the event list.
  enum class Event {
    image_ready,        ///< First whole epoch, or again after a full copy: promotable from here.
    image_void,         ///< A complete copy begins: not promotable until it is whole.
    image_outdated,     ///< The primary has a higher generation: discarded.
    checkpoint_dropped  ///< The link broke before it was whole.
  };
  struct Report {
    Event event;
    EpochId epoch;
  };
  using Action = std::variant<Stage, Acknowledge, Apply, DropStaged, DiscardImage, Refuse, Report>;
  using Actions = std::vector<Action>;

  /// `generation`: the highest ever recorded here for the domain, already raised to the primary's
  /// and persisted. `protection` is not 0.
  EpochBackup(ProtectionId protection, Generation generation);

  /// A checkpoint begins on the bulk connection; one that was begun and is not whole is given up
  /// (the primary's capture failed midway). `base` is the epoch that it builds upon, 0 for a
  /// complete copy.
  Actions on_begin(ProtectionId protection, Generation generation, EpochId epoch, EpochId base);
  /// All of `epoch`, which was begun last, is here and verified. Commits it.
  Actions on_whole(Instant now, EpochId epoch);
  /// Apply was done.
  Actions on_applied(EpochId epoch);
  /// The bulk connection is gone.
  Actions on_link_down();
  /// The primary told its generation (hello or heartbeat).
  Actions on_peer_generation(Generation generation);
  /// The primary asks us to discard.
  Actions on_unprotect(ProtectionId protection, Generation generation);

  /// From here on nothing is accepted or acknowledged, and whatever is staged and not whole may be
  /// freed. False (and nothing changes) unless `ready`.
  /// Called by Promotion, which knows when.
  bool on_promote_decided();
  /// The domain runs here under `generation`. Called by Promotion; a second time it does nothing.
  void on_promoted(Generation generation);

  [[nodiscard]] State state() const { return state_; }
  /// What the hello tells the primary. Once promotion is decided it says so at once.
  [[nodiscard]] PeerView view() const;
  [[nodiscard]] ProtectionId protection() const { return protection_; }
  [[nodiscard]] Generation generation() const { return generation_; }
  /// Newest whole epoch, monotonic within the protection; 0 while void.
  [[nodiscard]] EpochId committed() const { return committed_; }
  /// Newest epoch that is in the image. What runs after a promotion is `committed`, once equal.
  [[nodiscard]] EpochId applied() const { return applied_; }
  [[nodiscard]] bool all_applied() const { return applied_ == committed_; }
  /// When an epoch was last acknowledged: the primary may lean on it for its lease from then.
  /// The input log was acknowledged: the primary may act upon that for one lease, as upon any other
  /// acknowledgement (checkpoint/epoch_primary.h, "The lease").
  void on_log_acknowledged(Instant now) { last_acknowledged_at_ = now; }
  [[nodiscard]] std::optional<Instant> last_acknowledged_at() const {
    return last_acknowledged_at_;
  }

 private:
  struct Receiving {
    EpochId epoch;
    bool in_place;
  };

  [[nodiscard]] std::optional<Refusal> refusal(ProtectionId protection,
                                               Generation generation) const;
  void give_up_receiving(Actions& actions);
  void apply_next(Actions& actions);
  void discard(Actions& actions);

  ProtectionId protection_;
  Generation generation_;
  State state_ = State::incomplete;
  std::optional<Receiving> receiving_;
  EpochId committed_;
  EpochId applied_;
  std::optional<EpochId> applying_;
  /// Committed, not yet being applied; bounded by the primary's in_flight_max.
  std::vector<EpochId> waiting_to_apply_;
  std::optional<Instant> last_acknowledged_at_;
};

/// Stable lower-case names, as used in status and events.
std::string_view to_string(EpochBackup::State state);
std::string_view to_string(EpochBackup::Refusal refusal);
std::string_view to_string(EpochBackup::Event event);

}  // namespace understudy
