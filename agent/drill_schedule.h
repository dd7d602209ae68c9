// When a drill is due. Pure.
#pragma once

#include <chrono>
#include <optional>

#include "agent/probe_config.h"

namespace understudy {

/// Whether `drill` is due at `now`, given when the last of its kind began on this host (nothing:
/// never) and since when the agent runs. `minute_of_day` is now's, in local time. A daily drill is
/// due within ten minutes from its time and not twice within an hour; one that was missed, because
/// no agent ran or no image was whole, waits for the next day.
inline bool drill_due(const DrillConfig& drill, std::chrono::system_clock::time_point now,
                      unsigned minute_of_day,
                      std::optional<std::chrono::system_clock::time_point> last,
                      std::chrono::system_clock::time_point agent_since) {
  if (drill.every) return now - last.value_or(agent_since) >= *drill.every;
  if (!drill.at_minute) return false;
  constexpr unsigned kDay = 24 * 60;
  const unsigned past = (minute_of_day + kDay - *drill.at_minute) % kDay;
  return past < 10 && (!last || now - *last >= std::chrono::hours(1));
}

}  // namespace understudy
