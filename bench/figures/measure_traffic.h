// Figures of checking traffic: how much, how quick, and that it was right.
#pragma once

#include <chrono>
#include <string>

#include "bench/figures/figures.h"
#include "tests/scene/traffic.h"

namespace understudy::bench {

/// Runs `traffic` for `time` and adds NAME_per_s, NAME_mb_per_s, NAME_ms_p50 and NAME_ms_p99.
/// Error: a connection did not survive, or got a wrong byte.
Result<void> measure_traffic(scene::Traffic& traffic, const std::string& name,
                             std::chrono::seconds time, Figures& figures);

}  // namespace understudy::bench
