// Several hosts with several domains, each protected from one of the hosts to another.
//
// Intuition: what domains of one host share is the machine: its power, its agent, its clock, its
// disk, its networks, and the arbiter. So a cluster is one world (world.h) for each domain, all on
// one time line, and machines that strike every world that has a side on them. A fence that one
// domain's backup asks for kills whatever else runs on that host, and the backups of others there.
//
// Each domain has an oracle of its own: what is right for one is right for all. A host's own names
// in a story are the domain's sides: 'host 0' is where it began, 'host 1' its backup's place.
//
// Not modelled: one failure detector for all domains of a pair (here each has its own, with
// heartbeats of its own), memory and processor time that domains take from each other.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/world.h"

namespace understudy::sim {

struct ClusterOptions {
  std::uint64_t seed = 1;
  Canary canary = Canary::none;
  std::optional<int> hosts;  ///< 2 to 5; without it drawn from the seed.
  /// With `given`: the faults, and no others. Their hosts are the cluster's.
  bool given = false;
  std::vector<Blow> blows;
  bool no_small_troubles = false;
  std::uint64_t variation = 0;
  bool trace = false;
};

struct ClusterOutcome {
  std::string violation;  ///< Empty if all went well; else it begins with the domain's name.
  int hosts = 0;
  std::vector<std::pair<int, int>> domains;  ///< Where each began, and its backup's place.
  std::array<std::uint32_t, kReached> reached{};
  std::uint64_t released = 0;
  std::uint64_t trace_digest = 0;
  int domains_hit_by_a_fence_of_another = 0;
  std::vector<std::string> story;
  std::vector<Blow> blows;
};

/// Runs one schedule of a whole cluster. Equal options give equal outcomes.
ClusterOutcome run(const ClusterOptions& options);

/// As for a single world.
ClusterOptions shortened(const ClusterOptions& wrong);

}  // namespace understudy::sim
