#include "tests/scene/replay_fields.h"

#include "tests/scene/json_fields.h"

namespace understudy::scene {
namespace {

std::uint64_t count_at(const boost::json::object& object, std::string_view key) {
  const double number = number_at(object, key);
  return number > 0 ? static_cast<std::uint64_t>(number) : 0;
}

}  // namespace

std::optional<ReplayStatus> replay_status_of(const boost::json::object& domain) {
  const auto& replay = object_at(domain, "replay");
  if (replay.empty()) {
    return std::nullopt;
  }
  return ReplayStatus{.state = text_at(replay, "state"),
                      .inputs = count_at(replay, "inputs"),
                      .outputs = count_at(replay, "outputs"),
                      .inputs_dropped = count_at(replay, "inputs_dropped"),
                      .sent_bytes = count_at(object_at(domain, "bytes"), "log"),
                      .log_bytes = count_at(replay, "log_bytes"),
                      .log_lag_records = count_at(replay, "log_lag_records"),
                      .inputs_since_commit = count_at(replay, "inputs_since_commit"),
                      .replay_estimate_ms = number_at(replay, "replay_estimate_ms")};
}

std::optional<ReplayOutcome> replay_outcome_of(const boost::json::object& timeline) {
  const auto& replay = object_at(timeline, "replay");
  if (!replay.contains("last_flow_ms")) {
    return std::nullopt;
  }
  return ReplayOutcome{.replay_ms = number_at(replay, "replay_ms"),
                       .covered_ms = number_at(replay, "covered_ms"),
                       .inputs = count_at(replay, "inputs"),
                       .flows_diverged = count_at(replay, "flows_diverged")};
}

}  // namespace understudy::scene
