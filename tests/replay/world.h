// One schedule of replay mode: clients, a lossy network, a primary, a link, a backup, a crash at a
// given step, a promotion, sometimes a second one; all in one thread, from one seed.
//
// Inside are the product's own release rule, logs, replayer and translator, between guests and
// clients that speak the TCP of tcp_model.h. The checker sees only what clients see, and asks the
// guest that survived what it remembers:
//  · an echo's stream is what was sent; a download's and an upload's are the right ones;
//  · every ledger reply that a client has read names an entry that the surviving guest has, with
//    that client's request, amount and balance: nothing acknowledged is lost, and there is one
//    story;
//  · the random service chains each line to the one before: lines of two executions do not fit;
//  · every connection ends, or was reset; none hangs;
//  · UDP: a reply that a client has read is what the surviving guest would say again.
//
// Not modelled: a tap that drops, corrupted octets (the link's checksums are tested elsewhere),
// IPv6 and VLANs (packet tests), two backups.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace understudy::replay::test {

/// Rules broken on purpose, to show that the checker sees.
enum class Canary {
  none,
  release_before_acknowledged,   ///< Output goes when its digest was sent, not acknowledged.
  cut_one_too_many,              ///< A commit also drops the first input after `delivered`.
  count_in_flight_as_delivered,  ///< Frames in the tap at the pause count as inside.
  no_comparison,                 ///< Whatever the guest says again counts as the same.
};

/// What a schedule may reach; each has to be reached by some.
enum Reached : std::size_t {
  kPromoted,
  kPromotedTwice,
  kResetByDivergence,
  kTranslated,
  kNotWaitedFor,
  kFellBack,
  kLinkLost,
  kInFlightAtPause,
  kPortsUsedAgain,
  kAllClientsContent,
  kReached
};
const char* name_of(Reached reached);

struct Options {
  std::uint64_t seed = 1;
  Canary canary = Canary::none;
  bool jumbled = false;         ///< The guest serves in another order each time it runs.
  bool random_service = false;  ///< Some clients use the service that never answers alike.
  bool lossless = false;        ///< The network between clients and hosts loses nothing.
  std::optional<std::uint64_t> crash_at;  ///< Step of the first crash; drawn if not given.
  bool link_faults = true;
  bool small_log = false;
  bool must_not_diverge = false;  ///< Any divergence is a violation.
  bool six = false;               ///< IPv6.
  bool leaky_tap = false;         ///< The tap drops TCP segments that the replayer gives the guest.
  bool trace = false;
};

struct Outcome {
  std::string violation;  ///< Empty if all promises were kept.
  std::array<std::uint64_t, kReached> reached{};
  std::uint64_t steps = 0;
  std::uint64_t resets = 0;
  std::uint64_t digest = 0;     ///< Of everything that clients have seen, and when.
  std::uint64_t replay_ms = 0;  ///< Of the first promotion, until live.
  std::uint64_t log_ms = 0;     ///< How much time its log covered.
};

Outcome run(const Options& options);

}  // namespace understudy::replay::test
