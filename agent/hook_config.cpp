#include "agent/hook_config.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace understudy {
namespace {

constexpr auto kKinds = std::to_array<std::string_view>({
    "acknowledgement_refused",
    "agent_started",
    "agent_stopped",
    "arbiter_refused",
    "asking_arbiter",
    "backup_lost",
    "backup_resigned",
    "backup_returned",
    "capture_failed",
    "capture_keeps_failing",
    "checkpoint_dropped",
    "connection_differs",
    "contents_differ",
    "datagram_differs",
    "destroy_failed",
    "domain_failed",
    "domain_found",
    "domain_restarted",
    "domain_started",
    "domain_stopped",
    "drill_ended",
    "drill_failed",
    "drill_started",
    "ended_early",
    "evacuated",
    "evacuation_failed",
    "evacuation_started",
    "failback",
    "failback_possible",
    "fell_back",
    "gate_fault",
    "goes_on",
    "grant_unused",
    "handed_over",
    "hook_failed",
    "hooks_dropped",
    "host_healthy",
    "host_unhealthy",
    "image_dropped",
    "image_lost",
    "image_outdated",
    "image_ready",
    "image_reserved",
    "image_void",
    "keeping_up",
    "left_closed",
    "log_restarted",
    "move_cancelled",
    "move_failed",
    "move_started",
    "moved",
    "newer_copy_lost",
    "no_progress",
    "options_set",
    "pairing_failed",
    "peer_alive",
    "peer_dead",
    "peer_outdated",
    "peer_paired",
    "peer_promoting",
    "peer_removed",
    "peer_suspected",
    "primary_domain_died",
    "promoted",
    "promotion_completed",
    "promotion_cut_off",
    "promotion_failed",
    "promotion_refused",
    "promotion_started",
    "protected",
    "protection_failed",
    "renewal_waits",
    "renewed",
    "repair",
    "restart_failed",
    "replay_mode",
    "replayed",
    "resume_failed",
    "service_healthy",
    "service_unhealthy",
    "solo",
    "split_brain",
    "state_damaged",
    "state_not_saved",
    "stretched",
    "superseded",
    "synchronisation_stalled",
    "synchronisation_started",
    "taken_up",
    "too_many_translations",
    "translations_ended",
    "unprotected",
});

// Levenshtein's distance.
std::size_t distance(std::string_view left, std::string_view right) {
  std::vector<std::size_t> row(right.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < left.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < right.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = std::min({above + 1, row[j] + 1, diagonal + (left[i] == right[j] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row.back();
}

}  // namespace

bool is_event_kind(std::string_view kind) {
  return std::ranges::find(kKinds, kind) != kKinds.end();
}

std::string event_kind_like(std::string_view kind) {
  // The list of kinds is open, so only what looks like a slip of the pen is taken for one.
  const auto best = std::ranges::min_element(
      kKinds, {}, [kind](std::string_view known) { return distance(kind, known); });
  return distance(kind, *best) <= 2 ? std::string(*best) : std::string();
}

}  // namespace understudy
