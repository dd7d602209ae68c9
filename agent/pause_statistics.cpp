#include "agent/pause_statistics.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <numeric>
#include <vector>

namespace understudy {
namespace {

double rounded_ms(double microseconds) {
  return std::round(microseconds) / 1000.0;
}

}  // namespace

double Pause::total_us() const {
  return std::accumulate(parts.begin() + 1, parts.end(), 0.0);
}

void PauseStatistics::add(const Pause& pause) {
  pauses_.push_back(pause);
  sum_seconds_ += pause.total_us() / 1e6;
  if (pauses_.size() > kKept) pauses_.pop_front();
}

boost::json::object PauseStatistics::summary_ms() const {
  if (pauses_.empty()) return {};
  std::vector<double> totals;
  totals.reserve(pauses_.size());
  for (const auto& pause : pauses_) totals.push_back(pause.total_us());
  std::ranges::sort(totals);
  // The nearest-rank percentile: a value that really occurred.
  const auto percentile = [&](double share) {
    const auto rank =
        static_cast<std::size_t>(std::ceil(share * static_cast<double>(totals.size())));
    return totals[std::max<std::size_t>(rank, 1) - 1];
  };
  const double sum = std::accumulate(totals.begin(), totals.end(), 0.0);
  return {{"p50", rounded_ms(percentile(0.50))},
          {"p99", rounded_ms(percentile(0.99))},
          {"mean", rounded_ms(sum / static_cast<double>(totals.size()))},
          {"max", rounded_ms(totals.back())}};
}

boost::json::object PauseStatistics::parts_ms() const {
  boost::json::object means;
  if (pauses_.empty()) return means;
  for (std::size_t part = 0; part < kPausePartNames.size(); ++part) {
    double sum = 0;
    for (const auto& pause : pauses_) sum += pause.parts[part];
    means[kPausePartNames[part]] = rounded_ms(sum / static_cast<double>(pauses_.size()));
  }
  return means;
}

}  // namespace understudy
