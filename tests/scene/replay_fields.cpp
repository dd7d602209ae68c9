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
  return ReplayStatus{.inputs = count_at(replay, "inputs"),
                      .input_bytes = count_at(replay, "input_bytes"),
                      .outputs = count_at(replay, "outputs"),
                      .sent_bytes = count_at(replay, "sent_bytes"),
                      .log_bytes = count_at(replay, "log_bytes"),
                      .log_inputs = count_at(replay, "log_inputs"),
                      .lag_records = count_at(replay, "lag_records"),
                      .estimate_ms = number_at(replay, "estimate_ms"),
                      .fallbacks = count_at(replay, "fallbacks")};
}

std::optional<ReplayOutcome> replay_outcome_of(const boost::json::object& timeline) {
  const auto& replay = object_at(timeline, "replay");
  if (!replay.contains("replay_ms")) {
    return std::nullopt;
  }
  return ReplayOutcome{.replay_ms = number_at(replay, "replay_ms"),
                       .log_ms = number_at(replay, "log_ms"),
                       .inputs = count_at(replay, "inputs"),
                       .outputs = count_at(replay, "outputs"),
                       .divergences = count_at(replay, "divergences")};
}

}  // namespace understudy::scene
