// When to stop pre-copy and take the first pause: a pure function of what was seen so far.
//
// Pre-copy sends memory while the guest writes on. Each round sends what the round before left
// dirty; it pays as long as rounds shrink. Ending late costs bytes, ending early costs one long
// pause, so the rule ends when the rest fits into a short pause, or when rounds no longer shrink.
#pragma once

#include <cstdint>

namespace understudy {

/// What is known when a round is about to be sent.
struct PrecopyRound {
  unsigned number = 0;                   ///< Rounds sent so far.
  std::uint64_t dirty_pages = 0;         ///< What this round would send.
  std::uint64_t dirty_pages_before = 0;  ///< What the round before sent.
};

/// Pages that are copied within a pause that nobody notices (4 MiB, about a millisecond).
inline constexpr std::uint64_t kPagesForOnePause = 1024;
/// Rounds after which a guest is taken to write faster than we send.
inline constexpr unsigned kPrecopyRoundsMax = 12;

/// Whether `round` should be left to the pause instead of being sent live.
[[nodiscard]] constexpr bool precopy_ends(const PrecopyRound& round) {
  if (round.number == 0) return false;  // The full copy is always live.
  if (round.dirty_pages <= kPagesForOnePause) return true;
  if (round.number >= kPrecopyRoundsMax) return true;
  // Less than a tenth smaller than the last one: further rounds win little.
  return round.number >= 3 && round.dirty_pages * 10 > round.dirty_pages_before * 9;
}

}  // namespace understudy
