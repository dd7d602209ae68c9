// What happened, in order: the answer to 'why did it fail over?' the morning after.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace understudy {

/// How much an event should wake somebody.
enum class Severity { info, warning, critical };
std::string_view to_string(Severity severity);

/// Something worth telling an operator. `kind` is a stable word for scripts ("promoted",
/// "backup_lost").
struct Event {
  std::uint64_t sequence = 0;  ///< Counts from 1 for ever, also over restarts of the agent.
  std::chrono::system_clock::time_point time;
  Severity severity = Severity::info;
  std::string domain;  ///< Empty: concerns the host.
  std::string kind;
  std::string message;
  boost::json::object fields;
};

boost::json::value to_json(const Event& event);

/// RFC 3339 in UTC with milliseconds: "2026-01-31T23:59:59.123Z".
std::string rfc3339(std::chrono::system_clock::time_point time);

/// Keeps the newest events in memory and appends each to a file of JSON lines, which is started
/// anew (the old one kept as .1) when it exceeds a limit. A full disk costs the file, never the
/// agent.
class EventLog {
 public:
  static constexpr std::size_t kEventsInMemory = 2000;
  static constexpr std::uintmax_t kFileBytesMax = 8u << 20;

  /// Goes on in `file`, taking up the newest events of earlier runs.
  explicit EventLog(std::filesystem::path file);

  /// Records an event and writes it to the agent's log, too.
  void record(Severity severity, std::string domain, std::string kind, std::string message,
              boost::json::object fields = {});
  /// From now on `listener` is told each event after it was stored, within record(): list() has it.
  /// It must be quick and must not record events itself before it returned.
  void subscribe(std::function<void(const Event&)> listener);
  /// Events with a sequence above `after`, oldest first, of `domain` (empty: all); at most `limit`:
  /// the oldest ones if `oldest_first` (somebody follows), else the newest.
  [[nodiscard]] std::deque<Event> list(const std::string& domain, std::uint64_t after,
                                       std::size_t limit, bool oldest_first) const;
  /// Bounds of what is kept, over all domains; 0 where nothing is.
  [[nodiscard]] std::uint64_t oldest() const {
    return events_.empty() ? 0 : events_.front().sequence;
  }
  [[nodiscard]] std::uint64_t last() const { return last_sequence_; }

 private:
  void append_to_file(const Event& event);

  std::filesystem::path file_name_;
  std::ofstream file_;
  std::deque<Event> events_;
  std::uint64_t last_sequence_ = 0;
  std::vector<std::function<void(const Event&)>> listeners_;
};

}  // namespace understudy
