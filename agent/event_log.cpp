#include "agent/event_log.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json.hpp>
#include <ctime>

namespace understudy {

std::string_view to_string(Severity severity) {
  switch (severity) {
    case Severity::info:
      return "info";
    case Severity::warning:
      return "warning";
    case Severity::critical:
      return "critical";
  }
  return "info";
}

std::string rfc3339(std::chrono::system_clock::time_point time) {
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const std::time_t seconds = static_cast<std::time_t>(milliseconds / 1000);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     milliseconds % 1000);
}

boost::json::value to_json(const Event& event) {
  return {{"sequence", event.sequence},
          {"time", rfc3339(event.time)},
          {"severity", to_string(event.severity)},
          {"domain", event.domain},
          {"kind", event.kind},
          {"message", event.message},
          {"fields", event.fields}};
}

namespace {

// Reads back what rfc3339 wrote; anything else gives the epoch, which is harmless in a history.
std::chrono::system_clock::time_point from_rfc3339(const std::string& text) {
  std::tm parts{};
  int milliseconds = 0;
  if (std::sscanf(text.c_str(), "%d-%d-%dT%d:%d:%d.%dZ", &parts.tm_year, &parts.tm_mon,  // NOLINT
                  &parts.tm_mday, &parts.tm_hour, &parts.tm_min, &parts.tm_sec,
                  &milliseconds) != 7) {
    return {};
  }
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  return std::chrono::system_clock::from_time_t(::timegm(&parts)) +
         std::chrono::milliseconds(milliseconds);
}

}  // namespace

EventLog::EventLog(std::filesystem::path file) : file_name_(std::move(file)) {
  std::ifstream earlier(file_name_);
  for (std::string line; std::getline(earlier, line);) {
    try {
      const auto json = boost::json::parse(line);
      Event event;
      event.sequence = json.at("sequence").to_number<std::uint64_t>();
      event.time = from_rfc3339(std::string(json.at("time").as_string()));
      const auto& severity = json.at("severity").as_string();
      event.severity = severity == "critical"  ? Severity::critical
                       : severity == "warning" ? Severity::warning
                                               : Severity::info;
      event.domain = json.at("domain").as_string();
      event.kind = json.at("kind").as_string();
      event.message = json.at("message").as_string();
      event.fields = json.at("fields").as_object();
      last_sequence_ = std::max(last_sequence_, event.sequence);
      events_.push_back(std::move(event));
      if (events_.size() > kEventsInMemory) events_.pop_front();
    } catch (const std::exception&) {
      continue;  // A line cut short by a crash is no event.
    }
  }
  file_.open(file_name_, std::ios::app);
}

void EventLog::record(Severity severity, std::string domain, std::string kind, std::string message,
                      boost::json::object fields) {
  Event event{++last_sequence_, std::chrono::system_clock::now(),
              severity,         std::move(domain),
              std::move(kind),  std::move(message),
              std::move(fields)};
  const auto level = severity == Severity::critical  ? spdlog::level::critical
                     : severity == Severity::warning ? spdlog::level::warn
                                                     : spdlog::level::info;
  spdlog::log(level, "event={} domain={} {}", event.kind, event.domain.empty() ? "-" : event.domain,
              event.message);
  append_to_file(event);
  events_.push_back(event);
  if (events_.size() > kEventsInMemory) events_.pop_front();
  for (const auto& listener : listeners_) listener(event);
}

void EventLog::subscribe(std::function<void(const Event&)> listener) {
  listeners_.push_back(std::move(listener));
}

void EventLog::append_to_file(const Event& event) {
  std::error_code error;
  if (std::filesystem::file_size(file_name_, error) > kFileBytesMax && !error) {
    file_.close();
    std::filesystem::rename(file_name_, file_name_.string() + ".1", error);
    file_.open(file_name_, std::ios::app);
  }
  file_ << boost::json::serialize(to_json(event)) << '\n' << std::flush;
  if (!file_) file_.clear();
}

std::deque<Event> EventLog::list(const std::string& domain, std::uint64_t after, std::size_t limit,
                                 bool oldest_first) const {
  std::deque<Event> chosen;
  for (const auto& event : events_) {
    if (event.sequence <= after || (!domain.empty() && event.domain != domain)) continue;
    chosen.push_back(event);
    if (chosen.size() <= limit) continue;
    if (oldest_first) {
      chosen.pop_back();
      break;
    }
    chosen.pop_front();
  }
  return chosen;
}

}  // namespace understudy
