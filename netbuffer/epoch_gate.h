// The gate's logic: which frames belong to which epoch, and which may go now. No I/O.
//
// Intuition: frames of one source (one NFQUEUE, one packet socket) come in an order that never
// changes, each with a number. A barrier is therefore a single number: everything up to it was sent
// before the pause. To release an epoch is to say "up to this number", so the gate keeps no list of
// frames, only a short list of barriers.
//
//     held ──seal(epoch)──▶ sealed ──the backup acknowledges──▶ released
//       └──────────────── drop_all(), reject ──────────────────▶ dropped
//
// Awkward cases, and what is done about them:
//  · An acknowledgement comes twice, or late: releases nothing more (`nothing`).
//  · Acknowledgements overtake each other: an acknowledged epoch implies all before it (the
//    protocol applies checkpoints in order), so release(5) lets 4 go too; release(4) afterwards is
//    `nothing`.
//  · An acknowledgement names an epoch that was never sealed: refused (`unknown`), nothing goes.
//    One might be tempted to release whatever is sealed. That is wrong, because a number from the
//    future means that the sender speaks of another protection.
//  · An epoch is sealed again, or an older one: refused, nothing changes. Frames that came since
//    then stay held and fall into the next epoch, which is always safe: later is never wrong.
//  · Numbers are 32 bits and wrap around. Sources hand them out one by one and hold far fewer than
//    2^31 frames, so they are only ever compared for equality and passed on.
//  · A late notification (a frame sent before the pause that is only seen after the barrier) falls
//    into the next epoch: released later than necessary, never too early.
//
// Not taken: a list of frames with their epochs. It costs memory for each frame and makes a release
// proportional to the frames, while the kernel can release a prefix of its queue in one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "base/ids.h"

namespace understudy {

/// So many frames with so many octets.
struct Traffic {
  std::uint64_t frames = 0;
  std::uint64_t bytes = 0;

  constexpr Traffic& operator+=(const Traffic& other) {
    frames += other.frames;
    bytes += other.bytes;
    return *this;
  }
  constexpr bool operator==(const Traffic&) const = default;
};

/// What one source, or all sources of a kind, have done. `held` and `sealed` describe now (`sealed`
/// is the part of `held` that only waits for its acknowledgement); the others only grow.
struct TrafficCounters {
  Traffic held;
  Traffic sealed;
  Traffic released;
  Traffic dropped;

  constexpr TrafficCounters& operator+=(const TrafficCounters& other) {
    held += other.held;
    sealed += other.sealed;
    released += other.released;
    dropped += other.dropped;
    return *this;
  }
  constexpr bool operator==(const TrafficCounters&) const = default;
};

/// Orders the frames of one source into epochs. A plain value: no clock, no socket, no thread.
class EpochGate {
 public:
  /// Frames that may go (or are given up) now: the oldest ones of the source, up to and including
  /// `last_packet_id`.
  struct UpTo {
    std::uint32_t last_packet_id = 0;
    Traffic traffic;
    bool operator==(const UpTo&) const = default;
  };
  enum class SealOutcome {
    sealed,      ///< Everything held so far belongs to this epoch or an earlier one.
    out_of_turn  ///< The epoch is not later than one that was sealed; nothing changed.
  };
  enum class ReleaseOutcome {
    released,  ///< `up_to` says what goes.
    nothing,   ///< Already released, or no frames waited for it.
    unknown    ///< An epoch that was never sealed; nothing changed.
  };
  struct Release {
    ReleaseOutcome outcome = ReleaseOutcome::nothing;
    std::optional<UpTo> up_to;  ///< Present exactly for `released`.
  };

  /// A frame was taken in: it is held. `packet_id` follows the one before it in the source's order.
  void on_frame(std::uint32_t packet_id, std::size_t bytes);

  /// A frame was refused at the limit, or lost by the kernel: it counts as dropped.
  void on_rejected(Traffic traffic) { counters_.dropped += traffic; }

  /// The barrier. To be called while the domain stands still and after every notification was
  /// taken in: all that is held and in no epoch yet belongs to `epoch`. An epoch may be empty, and
  /// numbers may be left out.
  SealOutcome seal(EpochId epoch);

  /// The backup has acknowledged `epoch`: the frames of this epoch and of all before it may go.
  /// They count as released at once.
  Release release(EpochId epoch);

  /// Everything held goes, sealed or not. Only for a domain that stops being protected.
  std::optional<UpTo> release_all();

  /// Everything held is given up, sealed or not, and counts as dropped.
  std::optional<UpTo> drop_all();

  /// Frames that were counted as released turned out to be lost (the kernel no longer had them):
  /// they count as dropped instead.
  void on_lost(Traffic traffic);

  [[nodiscard]] const TrafficCounters& counters() const { return counters_; }
  /// The last epoch sealed; 0 before the first.
  [[nodiscard]] EpochId last_sealed() const { return last_sealed_; }

 private:
  struct Barrier {
    EpochId epoch;
    UpTo up_to;  ///< `traffic` is that of this epoch alone.
  };
  std::optional<UpTo> take_all();

  std::deque<Barrier> barriers_;  ///< Of epochs that hold frames, oldest first.
  UpTo unsealed_;                 ///< What came since the last barrier.
  EpochId last_sealed_;
  TrafficCounters counters_;
};

}  // namespace understudy
