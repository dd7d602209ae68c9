// Reports of drills, kept on disk: what was tried, what came of it, and what to mend.
//
// The other host of a drill has its report, too, so that whichever of them asks when the last one
// was held (a schedule, after a failover) knows.
//
// A report is JSON (docs/api.md, "drills"), one file each in the state directory, replaced
// atomically while a drill is under way. The newest kReportsMax are kept.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace understudy {

class DrillReports {
 public:
  static constexpr std::size_t kReportsMax = 100;
  static constexpr std::chrono::minutes kUnderWayMax{15};

  /// In `directory`, which need not exist. Reports that an earlier run of the agent left
  /// unfinished are told as failed from now on.
  explicit DrillReports(std::filesystem::path directory);

  /// A new report's name: time and domain, unique here.
  [[nodiscard]] std::string new_id(const std::string& domain, const std::string& kind) const;
  /// Keeps `report` under its "id"; the oldest go. The error is that of writing it; it is listed
  /// all the same until the agent ends.
  Result<void> save(boost::json::object report);
  /// When the newest drill of `domain` and `kind` began that a schedule asked for, here or on the
  /// other host; nothing if none is on record.
  [[nodiscard]] std::optional<std::chrono::system_clock::time_point> last_scheduled(
      const std::string& domain, const std::string& kind) const;
  /// Reports that an earlier run of the agent left unfinished; the disk still has them as they
  /// were.
  [[nodiscard]] const std::vector<boost::json::object>& left_unfinished() const {
    return left_unfinished_;
  }
  /// Whether a drill of `domain` that was heard of within the last kUnderWayMax has not ended.
  [[nodiscard]] bool under_way(const std::string& domain,
                               std::chrono::system_clock::time_point now) const;
  /// Newest first, of `domain` (empty: all).
  [[nodiscard]] std::vector<boost::json::object> list(const std::string& domain) const;
  /// Errors: no_such.
  [[nodiscard]] Result<boost::json::object> find(const std::string& id) const;

 private:
  [[nodiscard]] std::filesystem::path file_of(const std::string& id) const;
  std::filesystem::path directory_;
  std::vector<boost::json::object> reports_;  ///< Oldest first.
  std::vector<boost::json::object> left_unfinished_;
};

/// Steps of a drill with their times, for its report.
class DrillClock {
 public:
  /// The step since the last call (or the beginning) was `name`.
  void step(std::string_view name);
  [[nodiscard]] boost::json::array phases() const { return phases_; }
  [[nodiscard]] double total_ms() const;

 private:
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_ = begun_;
  boost::json::array phases_;
};

}  // namespace understudy
