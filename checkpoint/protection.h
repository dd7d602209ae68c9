// Words that both sides of a protection use: which protection, what time it is, and what one host
// knows of the other when they meet.
//
// One protection is one (primary, backup, domain) with an id of its own. Its id tells it from the
// next one of the same domain: after 'unprotect, protect again' epochs count from 1 anew, and a
// message of the old protection must not be taken for one of the new.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "base/ids.h"

namespace understudy {

/// A moment on this host's monotonic clock. Moments of two hosts are never compared; only
/// stretches of time are, and of these we rely on nothing finer than 'neither clock runs a quarter
/// faster than the other'.
using Instant = std::chrono::steady_clock::time_point;

/// 'Never' as a deadline.
inline constexpr Instant kNever = Instant::max();

/// Names one protection for ever: drawn at random by the primary when `protect` is asked for. 0 is
/// 'none'.
using ProtectionId = StrongNumber<struct ProtectionTag>;

/// What a host is to a domain, as it says itself.
enum class PeerRole {
  none,       ///< It holds nothing of this domain: it will not promote.
  holding,    ///< It is backup; `committed` says how far (0: no consistent image yet).
  promoting,  ///< It has decided to promote and has not yet told how it ended.
  running,    ///< The domain runs there (its gate may be open or closed).
};

/// The stable lower-case name of `role`.
std::string_view to_string(PeerRole role);

/// What a backup says of itself when a bulk connection begins (hello), and what the primary does
/// next depends on. Everything in it was true when it was sent, and may be older than now.
struct PeerView {
  ProtectionId protection;  ///< The protection it serves; 0 with PeerRole::none.
  Generation generation;    ///< The highest generation of this domain that it has ever recorded.
  EpochId committed;        ///< The newest whole epoch that it holds; 0 if its image is void.
  PeerRole role = PeerRole::none;
};

}  // namespace understudy
