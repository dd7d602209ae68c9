// A fixed piece of work for the guest's processor, timed from outside.
#pragma once

#include "tests/scene/traffic.h"

namespace understudy::scene {

struct ComputationReport {
  double outside_ms = 0;  ///< As the client waits.
  double inside_ms = 0;   ///< As the guest's clock tells; it stands still in a pause.
};

/// Has the guest compute `rounds` rounds (port 9005) and checks the result. Takes as long as it
/// takes; `options.patience` limits it.
Result<ComputationReport> compute_in_guest(const ClientOptions& options, std::uint64_t rounds);

}  // namespace understudy::scene
