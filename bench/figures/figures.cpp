#include "bench/figures/figures.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <numeric>

namespace understudy::bench {
namespace {

namespace json = boost::json;

double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

}  // namespace

double Series::median() const {
  if (values_.empty()) return 0;
  std::vector<double> sorted = values_;
  std::ranges::sort(sorted);
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

json::value Series::to_json() const {
  if (values_.empty()) return nullptr;
  const auto [least, most] = std::ranges::minmax(values_);
  const auto count = static_cast<double>(values_.size());
  const double mean = std::accumulate(values_.begin(), values_.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values_) squares += (value - mean) * (value - mean);
  const double deviation = count > 1 ? std::sqrt(squares / (count - 1)) : 0;
  return {{"median", rounded(median())}, {"mean", rounded(mean)}, {"deviation", rounded(deviation)},
          {"min", rounded(least)},       {"max", rounded(most)},  {"n", values_.size()}};
}

json::value to_json(const Figures& figures) {
  json::object object;
  for (const auto& [name, series] : figures) object[name] = series.to_json();
  return object;
}

double percentile(std::vector<float> values, double share) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values[std::max<std::size_t>(rank, 1) - 1];
}

Result<void> write_json(const std::filesystem::path& file, const json::object& value) {
  std::ofstream out(file);
  const char* before = "{\n";
  for (const auto& member : value) {
    out << before << json::serialize(json::string(member.key())) << ": "
        << json::serialize(member.value());
    before = ",\n";
  }
  out << "\n}\n";
  out.close();
  if (!out) return fail(ErrorCode::failed, "{} could not be written", file.string());
  return ok();
}

}  // namespace understudy::bench
