// Whether a domain that was taken over goes back to the host where it belongs.
//
// Intuition: a move costs a moment's pause and a move at the wrong time costs a second failure, so
// the default is to stay (`never`). `manual` only says when it could be done. `when_healthy` does
// it: once the domain is protected here, has been here for the minimum stay, and its home has been
// heard without a break for the delay.
//
// The awkward case is a home that dies each time it has the domain back (a bad memory module under
// load): with fixed times the domain would go to and fro for ever. So each stay that follows a
// return home that did not last is twice as long as the one before, up to a day. A return has
// lasted when the domain was at home for at least as long as it had stayed here.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "checkpoint/protection.h"

namespace understudy {

enum class FailbackMode { never, manual, when_healthy };
/// "never", "manual", "when-healthy".
std::string_view to_string(FailbackMode mode);
/// Reads that. Error: usage, with what it may be.
Result<FailbackMode> failback_mode_from(std::string_view text);

/// Decides for one domain on one host. A value; time comes in as an argument and never goes back.
/// It is kept while the domain is elsewhere: its memory is what prevents ping-pong.
class Failback {
 public:
  struct Config {
    FailbackMode mode = FailbackMode::never;
    std::chrono::seconds delay{300};
    std::chrono::seconds minimum_stay{600};
    std::chrono::seconds longest_stay{86'400};
  };
  /// What is the case now.
  struct Facts {
    bool runs_here = false;
    bool home_is_here = false;
    bool home_heard = false;
    bool protected_here = false;  ///< A whole image is on some backup.
  };
  enum class Advice {
    stay,
    possible,  ///< It could go home; it is the operator's to say so.
    move,      ///< Move it home now; then on_moved or on_move_failed.
  };

  /// To be asked whenever facts may have changed, and now and then.
  Advice advise(Instant now, const Config& config, const Facts& facts);
  /// The move home was done.
  void on_moved(Instant now);
  /// It came to nothing: the next one is advised after another stay.
  void on_move_failed(Instant now);
  /// How long it stays here at least, this time.
  [[nodiscard]] std::chrono::seconds stay(const Config& config) const;

 private:
  std::optional<Instant> here_since_;
  std::optional<Instant> home_well_since_;
  std::optional<Instant> sent_home_at_;
  unsigned short_returns_ = 0;
};

}  // namespace understudy
