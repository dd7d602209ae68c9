// How far the first synchronisation is: a bar on a terminal, a line a second elsewhere.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <optional>
#include <string>

#include "cli/terminal.h"

namespace understudy::cli {

/// "1.5 GB": decimal units, at most one decimal.
std::string format_bytes(double bytes);

/// A domain's `synchronisation` as numbers.
struct Progress {
  double pages_sent = 0;
  double pages_total = 0;
  double bytes_sent = 0;
  double rate_bytes_per_second = 0;
  double round = 1;
  std::optional<double> eta_seconds;

  static Progress from_json(const boost::json::object& synchronisation);

  /// From 0 to 1, whatever the agent wrote.
  [[nodiscard]] double share() const;
};

/// "round 1, 27000 of 65536 pages (41%), 52 MB/s, 4 s left"
std::string progress_text(const Progress& progress);

/// progress_text behind `name` and a bar, cut to `columns`.
std::string progress_bar(std::string_view name, const Progress& progress, std::size_t columns);

/// Shows progress on stderr for as long as something is waited for.
class ProgressReporter {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressReporter(const Terminal& terminal, std::string name)
      : terminal_(terminal), name_(std::move(name)) {}
  /// Ends the bar's line.
  ~ProgressReporter() { finish(); }
  ProgressReporter(const ProgressReporter&) = delete;
  ProgressReporter& operator=(const ProgressReporter&) = delete;

  /// Redraws the bar, or prints a line if a second has passed since the last one.
  void show(const Progress& progress, Clock::time_point now = Clock::now());

  /// Removes the bar, so that a line can be printed where it stood.
  void finish();

 private:
  const Terminal& terminal_;
  std::string name_;
  bool drawn_ = false;
  std::optional<Clock::time_point> last_line_;
};

}  // namespace understudy::cli
