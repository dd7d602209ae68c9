// Places where a test may kill or stop this very process: 'crash before the n-th step', with the
// real programs.
//
// A promise like 'the generation is on disk before the domain speaks' is about what a crash at the
// worst moment leaves. Waiting for luck finds such moments once in a thousand runs; here they have
// names. The environment variable UNDERSTUDY_FAULT_POINT arms one:
//
//   promote.stored=kill           SIGKILL to ourselves when it is reached
//   checkpoint.paused=stop@5      SIGSTOP at the fifth time
//
// Without the variable a fault point is one comparison. Nothing else in the product looks at it.
#pragma once

#include <string_view>

namespace understudy {

namespace fault_points {
extern const bool armed;
void reached(std::string_view name);
}  // namespace fault_points

/// The named step is about to follow. Does nothing unless armed by the environment.
inline void fault_point(std::string_view name) {
  if (fault_points::armed) fault_points::reached(name);
}

}  // namespace understudy
