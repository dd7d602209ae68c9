// How far the guest has certainly come with its inputs: the `delivered` of a mark
// (replay/input_log.h, "The cut").
//
// Intuition: frames go into the host's queue for an interface one by one, and the device model
// takes them out one by one and counts. What it took is inside the guest, but for the newest frame,
// which it may hold in its hands because the guest has no room or has just been stopped.
//
//   given   1 2 3 4 5 6 7           taken = 5: 1 to 4 are inside, 5 perhaps, 6 and 7 are not
//
// Awkward cases:
//  · The count began long before us, and frames of others may lie in the queue when we begin: until
//    the queue was seen empty once, in a pause, nothing is certain. (While QEMU runs, a frame may
//    be out of the queue and not yet counted.)
//  · A silent interface: its newest frame would count as in flight for ever, and keep the log from
//    being cut. After a second of silence, where the guest has room, it is taken to be inside.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "checkpoint/protection.h"
#include "hypervisor/domain.h"

namespace understudy {

/// Follows the inputs of one domain. A value: no clock, no I/O.
class InputDelivery {
 public:
  /// After so long without another frame the newest one is not in anybody's hands.
  static constexpr std::chrono::seconds kSilence{1};

  explicit InputDelivery(std::size_t interfaces) : interfaces_(interfaces) {}

  [[nodiscard]] std::size_t interfaces() const { return interfaces_.size(); }
  /// The queue of `interface` took a frame, let in when the log's last position was `position`.
  void on_given(Instant now, std::size_t interface, LogPosition position);
  /// What Domain::input_progress says, one entry for each interface. `paused`: the domain stands
  /// still.
  void on_progress(std::span<const InputProgress> progress, bool paused);

  /// Whether `takes_inputs` makes a difference for certain().
  [[nodiscard]] bool silent(Instant now) const;
  /// All that was let in at this log position or before is inside the guest. `last`: the log's last
  /// position. `takes_inputs`: Domain::takes_inputs.
  [[nodiscard]] LogPosition certain(Instant now, LogPosition last, bool takes_inputs) const;
  /// Frames that are being followed; progress should be looked at before they are too many.
  [[nodiscard]] std::size_t followed() const;

 private:
  struct Given {
    std::uint64_t number;
    LogPosition position;
    Instant at;
  };
  struct Interface {
    std::uint64_t given = 0;
    std::optional<std::uint64_t> taken_before;  ///< Of frames that are not ours.
    std::uint64_t taken = 0;                    ///< Of ours.
    std::deque<Given> in_flight;
  };
  [[nodiscard]] static bool only_an_old_one(const Interface& interface, Instant now);

  std::vector<Interface> interfaces_;
};

}  // namespace understudy
