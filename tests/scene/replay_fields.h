// What agents say about replay mode, read from a domain object and a timeline (docs/api.md). The
// one place of tests, demo and benchmarks where these fields' names stand.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>

namespace understudy::scene {

/// The object `replay` of a domain object, and the log's part of `bytes`.
struct ReplayStatus {
  std::string state;                      ///< Of the release rule: "replay" when output goes with
                                          ///< the log; empty without a protection.
  std::uint64_t inputs = 0;               ///< Frames for the guest.
  std::uint64_t outputs = 0;              ///< Frames of the guest.
  std::uint64_t inputs_dropped = 0;       ///< Must be 0 where nothing overflows.
  std::uint64_t sent_bytes = 0;           ///< `bytes.log`: sent since protection began.
  std::uint64_t log_bytes = 0;            ///< Of the log, as it is now.
  std::uint64_t log_lag_records = 0;      ///< Not acknowledged yet.
  std::uint64_t inputs_since_commit = 0;  ///< Those that a replay would give again.
  double replay_estimate_ms = 0;          ///< How long it would take now.
};
/// Nothing if the domain object has no `replay`.
std::optional<ReplayStatus> replay_status_of(const boost::json::object& domain);

/// The object `replay` of a timeline: what a promotion replayed.
struct ReplayOutcome {
  double replay_ms = 0;              ///< From when the guest ran to the end of the replay.
  double covered_ms = 0;             ///< The time that the log's inputs took at first.
  std::uint64_t inputs = 0;          ///< That were given again.
  std::uint64_t flows_diverged = 0;  ///< Connections on which the guest said something else.
};
/// Nothing if the timeline has no `replay`, or the replay has not ended.
std::optional<ReplayOutcome> replay_outcome_of(const boost::json::object& timeline);

}  // namespace understudy::scene
