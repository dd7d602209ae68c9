#include "failover/failback.h"

#include <algorithm>

namespace understudy {

std::string_view to_string(FailbackMode mode) {
  switch (mode) {
    case FailbackMode::never:
      return "never";
    case FailbackMode::manual:
      return "manual";
    case FailbackMode::when_healthy:
      return "when-healthy";
  }
  return "never";
}

Result<FailbackMode> failback_mode_from(std::string_view text) {
  for (const auto mode : {FailbackMode::never, FailbackMode::manual, FailbackMode::when_healthy}) {
    if (to_string(mode) == text) return mode;
  }
  return fail(ErrorCode::usage, "failback '{}': expected never, manual or when-healthy", text);
}

Failback::Advice Failback::advise(Instant now, const Config& config, const Facts& facts) {
  if (!facts.runs_here) {
    here_since_.reset();
    home_well_since_.reset();
    return Advice::stay;
  }
  if (!here_since_) {
    here_since_ = now;
    // It is back from a return home that did not last.
    if (sent_home_at_)
      short_returns_ = now < *sent_home_at_ + stay(config) ? short_returns_ + 1 : 0;
    sent_home_at_.reset();
  }
  if (!facts.home_heard) home_well_since_.reset();
  if (facts.home_heard && !home_well_since_) home_well_since_ = now;
  if (config.mode == FailbackMode::never || facts.home_is_here || !facts.protected_here ||
      !home_well_since_ || now < *home_well_since_ + config.delay ||
      now < *here_since_ + stay(config))
    return Advice::stay;
  return config.mode == FailbackMode::manual ? Advice::possible : Advice::move;
}

void Failback::on_moved(Instant now) {
  sent_home_at_ = now;
}

void Failback::on_move_failed(Instant now) {
  here_since_ = now;
}

std::chrono::seconds Failback::stay(const Config& config) const {
  auto stay = config.minimum_stay;
  for (unsigned time = 0; time < short_returns_ && stay < config.longest_stay; ++time) stay *= 2;
  return std::max(config.minimum_stay, std::min(stay, config.longest_stay));
}

}  // namespace understudy
