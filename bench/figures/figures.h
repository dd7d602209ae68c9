// Figures of repeated measurements: kept one by one, told as median and spread.
#pragma once

#include <boost/json/value.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace understudy::bench {

/// One figure, measured again and again.
class Series {
 public:
  void add(double value) { values_.push_back(value); }
  [[nodiscard]] bool empty() const { return values_.empty(); }
  /// Half of the values are below it; of an even number, the mean of the two in the middle. 0 of
  /// none.
  [[nodiscard]] double median() const;
  /// {"median","mean","deviation","min","max","n"}, to three decimals; the deviation is that of a
  /// sample.
  [[nodiscard]] boost::json::value to_json() const;

 private:
  std::vector<double> values_;
};

/// Figures by name, in the order of their names.
using Figures = std::map<std::string, Series>;
boost::json::value to_json(const Figures& figures);

/// The value that `share` (0…1) of `values` do not exceed; one that really occurred. 0 of none.
double percentile(std::vector<float> values, double share);

/// Writes `value` to `file`, with a line for each member of the outermost object.
Result<void> write_json(const std::filesystem::path& file, const boost::json::object& value);

}  // namespace understudy::bench
