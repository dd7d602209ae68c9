#include "agent/drill_reports.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <ctime>

#include "agent/json_fields.h"
#include "transport/private_file.h"

namespace understudy {
namespace {

namespace json = boost::json;

// What new_id() makes, and nothing that could leave the directory.
bool is_id(const std::string& id) {
  return !id.empty() && id.size() <= 120 && id.front() != '.' &&
         std::ranges::all_of(id, [](unsigned char letter) {
           return std::isalnum(letter) != 0 || letter == '-' || letter == '_' || letter == '.';
         });
}

// "2026-03-01T12:00:00.000Z", as rfc3339() writes it. What is none is from long ago.
std::chrono::system_clock::time_point begun_at(const json::object& report) {
  std::tm parts{};
  const std::string started = text_at(report, "started");
  if (::strptime(started.c_str(), "%Y-%m-%dT%H:%M:%S", &parts) == nullptr) return {};
  return std::chrono::system_clock::from_time_t(::timegm(&parts));
}

double rounded_ms(std::chrono::steady_clock::duration time) {
  return std::round(std::chrono::duration<double, std::micro>(time).count()) / 1000.0;
}

}  // namespace

DrillReports::DrillReports(std::filesystem::path directory) : directory_(std::move(directory)) {
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    if (file.path().extension() != ".json") continue;
    const auto content = transport::read_private_file(file.path());
    if (!content || !content.value()) continue;
    boost::system::error_code unreadable;
    json::value value = json::parse(*content.value(), unreadable);
    if (unreadable || !value.is_object() ||
        text_at(value.get_object(), "id") != file.path().stem()) {
      spdlog::warn("{}: not a drill's report; it is left alone", file.path().string());
      continue;
    }
    json::object report = std::move(value.get_object());
    if (text_at(report, "outcome") == "in_progress") {
      report["outcome"] = "failed";
      report["summary"] = "the agent ended while it was held";
      left_unfinished_.push_back(report);
    }
    reports_.push_back(std::move(report));
  }
  std::ranges::sort(reports_, {}, [](const json::object& report) { return text_at(report, "id"); });
}

std::string DrillReports::new_id(const std::string& domain, const std::string& kind) const {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  for (unsigned number = 1;; ++number) {
    std::string id = fmt::format("{:04}{:02}{:02}-{:02}{:02}{:02}-{:02}-{}-{}",
                                 parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                                 parts.tm_hour, parts.tm_min, parts.tm_sec, number, domain, kind);
    if (!find(id)) return id;
  }
}

std::filesystem::path DrillReports::file_of(const std::string& id) const {
  return directory_ / (id + ".json");
}

Result<void> DrillReports::save(json::object report) {
  const std::string id = text_at(report, "id");
  if (!is_id(id)) return fail(ErrorCode::bad_data, "'{}' cannot name a drill", id);
  const std::string content = json::serialize(report);
  const auto same = std::ranges::find_if(
      reports_, [&id](const json::object& other) { return text_at(other, "id") == id; });
  if (same != reports_.end()) {
    *same = std::move(report);
  } else {
    reports_.push_back(std::move(report));
    std::ranges::sort(reports_, {}, [](const json::object& one) { return text_at(one, "id"); });
  }
  while (reports_.size() > kReportsMax) {
    std::error_code ignored;
    std::filesystem::remove(file_of(text_at(reports_.front(), "id")), ignored);
    reports_.erase(reports_.begin());
  }
  return transport::write_private_file(file_of(id), content);
}

std::optional<std::chrono::system_clock::time_point> DrillReports::last_scheduled(
    const std::string& domain, const std::string& kind) const {
  std::optional<std::chrono::system_clock::time_point> last;
  for (const json::object& report : reports_) {
    if (text_at(report, "domain") != domain || text_at(report, "kind") != kind ||
        text_at(report, "asked_by") != "schedule")
      continue;
    last = std::max(last.value_or(begun_at(report)), begun_at(report));
  }
  return last;
}

bool DrillReports::under_way(const std::string& domain,
                             std::chrono::system_clock::time_point now) const {
  return std::ranges::any_of(reports_, [&](const json::object& report) {
    return text_at(report, "domain") == domain && text_at(report, "outcome") == "in_progress" &&
           now - begun_at(report) < kUnderWayMax;
  });
}

std::vector<json::object> DrillReports::list(const std::string& domain) const {
  std::vector<json::object> found;
  for (auto report = reports_.rbegin(); report != reports_.rend(); ++report) {
    if (domain.empty() || text_at(*report, "domain") == domain) found.push_back(*report);
  }
  return found;
}

Result<json::object> DrillReports::find(const std::string& id) const {
  for (const json::object& report : reports_) {
    if (text_at(report, "id") == id) return report;
  }
  return fail(ErrorCode::no_such, "no drill '{}' is on record here", id);
}

void DrillClock::step(std::string_view name) {
  const auto now = std::chrono::steady_clock::now();
  phases_.push_back({{"name", name}, {"took_ms", rounded_ms(now - last_)}});
  last_ = now;
}

double DrillClock::total_ms() const {
  return rounded_ms(std::chrono::steady_clock::now() - begun_);
}

}  // namespace understudy
