// What is left of a schedule that went wrong when everything is taken away that it does not need.
#include <cstddef>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"

namespace understudy::sim {
namespace {

/// A schedule with a fault less goes another way from there on; these many ways are tried before
/// the fault counts as needed.
constexpr std::uint64_t kVariations = 24;

/// Whether `less` goes wrong in one of its variations; then it is that one.
template <typename AnyOptions>
bool still_wrong(AnyOptions& less) {
  for (less.variation = 0; less.variation < kVariations; ++less.variation) {
    if (!run(less).violation.empty()) return true;
  }
  return false;
}

template <typename AnyOptions>
AnyOptions shorten(const AnyOptions& wrong) {
  AnyOptions best = wrong;
  best.blows = run(wrong).blows;
  best.given = true;
  // Without the faults that were still to come when it went wrong.
  if (!still_wrong(best)) return wrong;
  AnyOptions easy = best;
  easy.no_small_troubles = true;
  if (still_wrong(easy)) best = easy;
  // From the last fault to the first: what comes late is needed least often.
  for (std::size_t index = best.blows.size(); index-- > 0;) {
    AnyOptions less = best;
    less.blows.erase(less.blows.begin() + static_cast<std::ptrdiff_t>(index));
    if (still_wrong(less)) best = less;
  }
  return best;
}

}  // namespace

Options shortened(const Options& wrong) {
  return shorten(wrong);
}

ClusterOptions shortened(const ClusterOptions& wrong) {
  return shorten(wrong);
}

}  // namespace understudy::sim
