// What agents say about replay mode, read from a domain object and a timeline (docs/api.md). The
// one place of tests, demo and benchmarks where these fields' names stand.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>

namespace understudy::scene {

/// The object `replay` of a primary's domain object. Counters run since protection began.
struct ReplayStatus {
  std::uint64_t inputs = 0;       ///< `inputs`: frames for the guest that were logged.
  std::uint64_t input_bytes = 0;  ///< `input_bytes`: their octets.
  std::uint64_t outputs = 0;      ///< `outputs`: frames of the guest that were judged.
  std::uint64_t sent_bytes = 0;   ///< `sent_bytes`: log frames on the link, digests included.
  std::uint64_t log_bytes = 0;    ///< `log_bytes`: of the log, as it is now.
  std::uint64_t log_inputs = 0;   ///< `log_inputs`: since the last commit.
  std::uint64_t lag_records = 0;  ///< `lag_records`: not acknowledged yet.
  double estimate_ms = 0;         ///< `estimate_ms`: how long a replay would take now.
  std::uint64_t fallbacks = 0;    ///< `fallbacks`: to remus mode.
};
/// Nothing if the domain object has no `replay`.
std::optional<ReplayStatus> replay_status_of(const boost::json::object& domain);

/// The object `replay` of a timeline: what a promotion replayed.
struct ReplayOutcome {
  double replay_ms = 0;           ///< `replay_ms`: from `resumed` to the end of the replay.
  double log_ms = 0;              ///< `log_ms`: the time that the log's inputs took at first.
  std::uint64_t inputs = 0;       ///< `inputs`
  std::uint64_t outputs = 0;      ///< `outputs`: suppressed, and found to be the same.
  std::uint64_t divergences = 0;  ///< `divergences`: flows.
};
/// Nothing if the timeline has no `replay`: no log, or the replay has not ended.
std::optional<ReplayOutcome> replay_outcome_of(const boost::json::object& timeline);

}  // namespace understudy::scene
