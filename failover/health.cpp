#include "failover/health.h"

namespace understudy {

Health::Health(const Config& config, Moment now)
    : config_(config), counts_from_(now + config.grace) {}

std::optional<Health::Change> Health::on_outcome(Moment now, Outcome outcome) {
  held_ = outcome == Outcome::held;
  switch (outcome) {
    case Outcome::held:
      return std::nullopt;
    case Outcome::passed:
      return passed();
    case Outcome::failed:
      // A service that answers is well, grace or not; one that does not may still be starting.
      successes_ = 0;
      if (now < counts_from_) return std::nullopt;
      return failed();
  }
  return std::nullopt;
}

std::optional<Health::Change> Health::failed() {
  if (failures_ < config_.failures) ++failures_;
  if (failures_ < config_.failures) return std::nullopt;
  Change change{state_, State::unhealthy, false};
  state_ = State::unhealthy;
  const bool may_act = well_here_ || !config_.acts_only_after_well;
  if (may_act && !acted_ && acts_ < config_.acts_max) {
    acted_ = true;
    ++acts_;
    change.act = true;
  }
  if (change.from == change.to && !change.act) return std::nullopt;
  return change;
}

std::optional<Health::Change> Health::passed() {
  failures_ = 0;
  if (successes_ < config_.successes) ++successes_;
  // The first word about a service needs no proof that an illness is over.
  if (state_ == State::unhealthy && successes_ < config_.successes) return std::nullopt;
  acted_ = false;
  acts_ = 0;
  well_here_ = true;
  if (state_ == State::healthy) return std::nullopt;
  const Change change{state_, State::healthy, false};
  state_ = State::healthy;
  return change;
}

void Health::on_begun(Moment now) {
  counts_from_ = now + config_.grace;
  failures_ = 0;
  successes_ = 0;
  acted_ = false;
  well_here_ = false;
}

std::string_view to_string(Health::State state) {
  switch (state) {
    case Health::State::unknown:
      return "unknown";
    case Health::State::healthy:
      return "healthy";
    case Health::State::unhealthy:
      return "unhealthy";
  }
  return "unknown";
}

std::vector<HostHealth::Change> HostHealth::on_reading(const Reading& reading) {
  std::vector<Change> changes;
  const auto level = [&](Check check, std::uint64_t value, std::uint64_t least) {
    if (least > 0) judge(check, value < least, value >= least + least / 4, changes);
  };
  level(Check::memory, reading.memory_bytes, config_.memory_bytes_min);
  level(Check::disk, reading.disk_bytes, config_.disk_bytes_min);
  const auto most = [&](Check check, std::uint64_t value, std::uint64_t most_of_it) {
    if (most_of_it > 0) judge(check, value > most_of_it, value <= most_of_it * 3 / 4, changes);
  };
  most(Check::loop, static_cast<std::uint64_t>(reading.loop_lag.count()),
       static_cast<std::uint64_t>(config_.loop_lag_max.count()));
  most(Check::load, reading.load_percent, config_.load_percent_max);
  most(Check::memory_pressure, reading.memory_pressure_percent,
       config_.memory_pressure_percent_max);
  return changes;
}

void HostHealth::judge(Check check, bool ill, bool well, std::vector<Change>& changes) {
  One& one = checks_[static_cast<std::size_t>(check)];
  const bool speaks_against = one.healthy ? ill : well;
  one.against = speaks_against ? one.against + 1 : 0;
  if (one.against < config_.readings) return;
  one.healthy = !one.healthy;
  one.against = 0;
  changes.push_back({check, one.healthy});
}

bool HostHealth::healthy() const {
  for (const One& one : checks_) {
    if (!one.healthy) return false;
  }
  return true;
}

std::string_view to_string(HostHealth::Check check) {
  switch (check) {
    case HostHealth::Check::memory:
      return "memory";
    case HostHealth::Check::disk:
      return "disk";
    case HostHealth::Check::loop:
      return "loop";
    case HostHealth::Check::load:
      return "load";
    case HostHealth::Check::memory_pressure:
      return "memory_pressure";
  }
  return "memory";
}

}  // namespace understudy
