#include "failover/failure_detector.h"

#include <algorithm>

#include "base/result.h"

namespace understudy {

FailureDetector::FailureDetector(const Config& config, Instant now)
    : config_(config),
      heard_(config.paths, Instant::min()),
      listening_since_(now),
      started_(now),
      last_tick_(now),
      now_(now) {
  UNDERSTUDY_CHECK(config.paths > 0, "a peer has at least one path");
  UNDERSTUDY_CHECK(config.deadline >= 2 * config.interval,
                   "the deadline covers at least two heartbeat intervals");
}

std::optional<FailureDetector::Change> FailureDetector::on_heartbeat(std::size_t path,
                                                                     Instant now) {
  UNDERSTUDY_CHECK(path < heard_.size(), "a heartbeat names a configured path");
  now_ = std::max(now_, now);
  heard_[path] = now_;
  return change_to(Verdict::alive);
}

std::optional<FailureDetector::Change> FailureDetector::on_tick(Instant now) {
  now_ = std::max(now_, now);
  if (now_ - last_tick_ > config_.stall_after) {
    ++stalls_;
    listening_since_ = now_;
  }
  last_tick_ = now_;
  // Time alone makes a verdict worse, never better: a dead peer is alive again when it is heard.
  const auto silence = now_ - std::max(last_sign_of_life(), listening_since_);
  if (silence >= config_.deadline) return change_to(Verdict::dead);
  if (silence >= 2 * config_.interval && verdict_ == Verdict::alive) {
    return change_to(Verdict::suspected);
  }
  return std::nullopt;
}

Instant FailureDetector::last_sign_of_life() const {
  return std::max(started_, *std::max_element(heard_.begin(), heard_.end()));
}

bool FailureDetector::path_alive(std::size_t path) const {
  UNDERSTUDY_CHECK(path < heard_.size(), "only configured paths can be asked for");
  return now_ - std::max(heard_[path], listening_since_) < config_.deadline;
}

Instant FailureDetector::next_deadline() const {
  const Instant tick = last_tick_ + config_.interval;
  if (verdict_ == Verdict::dead) return tick;
  return std::min(tick, std::max(last_sign_of_life(), listening_since_) + config_.deadline);
}

std::optional<FailureDetector::Change> FailureDetector::change_to(Verdict verdict) {
  if (verdict == verdict_) return std::nullopt;
  verdict_ = verdict;
  return Change{verdict, last_sign_of_life()};
}

std::string_view to_string(FailureDetector::Verdict verdict) {
  switch (verdict) {
    case FailureDetector::Verdict::alive:
      return "alive";
    case FailureDetector::Verdict::suspected:
      return "suspected";
    case FailureDetector::Verdict::dead:
      return "dead";
  }
  return "unknown";
}

}  // namespace understudy
