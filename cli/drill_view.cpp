#include "cli/drill_view.h"

#include <algorithm>
#include <boost/json/array.hpp>

#include "cli/json_view.h"
#include "cli/table.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

Colour colour_of(std::string_view outcome) {
  if (outcome == "passed") return Colour::good;
  return outcome == "failed" ? Colour::bad : Colour::warning;
}

// "12.3 ms" or "1.28 s".
std::string time_at(const json::object& object, std::string_view key) {
  const auto value = number_at(object, key);
  if (!value) return "-";
  return *value < 1000 ? fmt::format("{:.1f} ms", *value) : fmt::format("{:.2f} s", *value / 1000);
}

// The strings of a list.
std::vector<std::string> lines_at(const json::object& object, std::string_view key) {
  std::vector<std::string> lines;
  const json::value* list = object.if_contains(key);
  if (list == nullptr || !list->is_array()) return lines;
  for (const json::value& element : list->get_array()) {
    if (element.is_string()) lines.push_back(printable(std::string(element.get_string())));
  }
  return lines;
}

std::string in_html(std::string_view text) {
  std::string escaped;
  for (const char letter : text) {
    switch (letter) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += letter;
    }
  }
  return escaped;
}

// The same, with what stands in `backticks` set as code.
std::string prose_in_html(std::string_view text) {
  std::string html;
  bool code = false;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t tick = std::min(text.find('`', at), text.size());
    html += in_html(text.substr(at, tick - at));
    if (tick < text.size() && (code || text.find('`', tick + 1) != std::string_view::npos)) {
      html += code ? "</code>" : "<code>";
      code = !code;
    }
    at = tick + 1;
  }
  return html;
}

constexpr std::string_view kStyle = R"(
:root{--ink:#1c2430;--soft:#5d6b7d;--line:#e1e6ec;--paper:#fff;--ground:#f3f5f8;--good:#1a7f4b;--bad:#c0322b;--wait:#a86a00}
@media(prefers-color-scheme:dark){:root{--ink:#e7ecf2;--soft:#98a6b8;--line:#2c3745;--paper:#18202b;--ground:#10161e;
--good:#4cc38a;--bad:#ff7b72;--wait:#e0a84a}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:58rem;margin:0 auto;padding:2.5rem 1.25rem}h1{font-size:1.6rem;margin:0 0 .25rem}
.lead{color:var(--soft);margin:0 0 2rem}
article{background:var(--paper);border:1px solid var(--line);border-radius:.75rem;padding:1.5rem;margin-bottom:1.5rem}
header{display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}h2{font-size:1.15rem;margin:0}
.badge{font-size:.8rem;font-weight:600;padding:.1rem .6rem;border-radius:1rem;border:1px solid currentColor}
.passed{color:var(--good)}.failed{color:var(--bad)}.in_progress,.cancelled{color:var(--wait)}
.meta{color:var(--soft);font-size:.875rem;margin:.25rem 0 1rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:1rem;margin:1rem 0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:1.1rem;font-variant-numeric:tabular-nums}
table{width:100%;border-collapse:collapse;font-size:.9rem;margin:.5rem 0 1rem}
th{text-align:left;color:var(--soft);font-weight:500}th,td{padding:.35rem .5rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{padding-left:0}th:last-child,td:last-child{padding-right:0}
article{overflow-x:auto;overflow-wrap:break-word}td.passed,td.failed{white-space:nowrap}code{font-size:.9em}p.lost{margin:.25rem 0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
h3{font-size:.95rem;margin:1.25rem 0 .25rem}ul{margin:.25rem 0;padding-left:1.25rem}
)";

std::string article(const json::object& report) {
  const std::string outcome = text_at(report, "outcome");
  std::string html = fmt::format(
      "<article><header><h2>{}</h2><span class=\"badge {}\">{}</span></header>\n"
      "<p class=\"meta\">{} drill · {} · on {}{} · asked for by {}</p>\n<p>{}</p>\n<dl>",
      in_html(text_at(report, "domain")), in_html(outcome),
      outcome == "in_progress" ? "in progress" : in_html(outcome), in_html(text_at(report, "kind")),
      in_html(text_at(report, "started")), in_html(text_at(report, "host")),
      text_at(report, "peer").empty() ? "" : ", with " + in_html(text_at(report, "peer")),
      in_html(text_at(report, "asked_by")), in_html(text_at(report, "summary")));
  const auto figure = [&html](std::string_view name, const std::string& value) {
    if (!value.empty() && value != "-")
      html += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", name, in_html(value));
  };
  figure("outage", time_at(report, "outage_ms"));
  figure("took", time_at(report, "took_ms"));
  figure("epoch", digits_at(report, "epoch"));
  if (const auto bytes = number_at(report, "image_bytes"))
    figure("image", fmt::format("{:.0f} MiB", *bytes / (1 << 20)));
  html += "</dl>\n";
  if (const auto checks = objects_at(report, "checks"); !checks.empty()) {
    html +=
        "<h3>Checks</h3><table><tr><th>check</th><th>result</th><th>what was found</th>"
        "<th class=\"n\">took</th></tr>";
    for (const json::object* check : checks) {
      const bool passed = bool_at(*check, "passed").value_or(false);
      html += fmt::format(
          "<tr><td>{}</td><td class=\"{}\">{}</td><td>{}</td><td class=\"n\">{}</td></tr>",
          in_html(text_at(*check, "name")), passed ? "passed" : "failed",
          passed ? "passed" : "failed", in_html(text_at(*check, "message")),
          time_at(*check, "took_ms"));
    }
    html += "</table>\n";
  }
  if (const auto phases = objects_at(report, "phases"); !phases.empty()) {
    html += "<h3>Steps</h3><table><tr><th>step</th><th class=\"n\">took</th></tr>";
    for (const json::object* phase : phases) {
      html += fmt::format("<tr><td>{}</td><td class=\"n\">{}</td></tr>",
                          in_html(text_at(*phase, "name")), time_at(*phase, "took_ms"));
    }
    html += "</table>\n";
  }
  if (const std::string lost = text_at(report, "lost"); !lost.empty())
    html += fmt::format("<h3>Lost</h3><p class=\"lost\">{}</p>\n", in_html(lost));
  if (const auto to_mend = lines_at(report, "to_mend"); !to_mend.empty()) {
    html += "<h3>To mend</h3><ul>";
    for (const std::string& line : to_mend) html += fmt::format("<li>{}</li>", prose_in_html(line));
    html += "</ul>\n";
  }
  return html + "</article>\n";
}

}  // namespace

std::string drill_details(const json::object& report, const Terminal& terminal) {
  const std::string outcome = text_at(report, "outcome");
  std::string text = fmt::format(
      "{}: {} drill {}: {}\n", terminal.paint(text_at(report, "domain"), Colour::strong),
      text_at(report, "kind"), terminal.paint(outcome, colour_of(outcome)),
      text_at(report, "summary"));
  text +=
      fmt::format("{} on {}, asked for by {}; outage {}, took {}\n\n", text_at(report, "started"),
                  text_at(report, "host"), text_at(report, "asked_by"),
                  time_at(report, "outage_ms"), time_at(report, "took_ms"));
  Table checks({"CHECK", "RESULT", "FOUND", "TOOK"});
  for (const json::object* check : objects_at(report, "checks")) {
    const bool passed = bool_at(*check, "passed").value_or(false);
    checks.add({{text_at(*check, "name")},
                {passed ? "passed" : "failed", passed ? Colour::good : Colour::bad},
                {text_at(*check, "message")},
                {time_at(*check, "took_ms")}});
  }
  if (!checks.empty()) text += checks.render(terminal) + "\n";
  Table steps({"STEP", "TOOK"});
  for (const json::object* phase : objects_at(report, "phases"))
    steps.add({{text_at(*phase, "name")}, {time_at(*phase, "took_ms")}});
  if (!steps.empty()) text += steps.render(terminal) + "\n";
  if (const std::string lost = text_at(report, "lost"); !lost.empty())
    text += "lost: " + lost + "\n";
  for (const std::string& line : lines_at(report, "to_mend")) text += "to mend: " + line + "\n";
  return text;
}

std::string drill_overview(const std::vector<const json::object*>& reports,
                           const Terminal& terminal) {
  Table table({"STARTED", "DOMAIN", "KIND", "OUTCOME", "OUTAGE", "SUMMARY", "ID"});
  for (const json::object* report : reports) {
    const std::string outcome = text_at(*report, "outcome");
    table.add({{text_at(*report, "started")},
               {text_at(*report, "domain")},
               {text_at(*report, "kind")},
               {outcome, colour_of(outcome)},
               {time_at(*report, "outage_ms")},
               {text_at(*report, "summary")},
               {text_at(*report, "id")}});
  }
  return table.empty() ? "no drill is on record\n" : table.render(terminal);
}

std::string drill_page(const std::vector<const json::object*>& reports) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<title>Understudy: drills</title><style>";
  html += kStyle;
  html += fmt::format(
      "</style></head><body><main><h1>Drills</h1><p class=\"lead\">{} report{}, newest first</p>\n",
      reports.size(), reports.size() == 1 ? "" : "s");
  if (reports.empty())
    html += "<p>No drill is on record. <code>understudy drill NAME</code> holds one.</p>\n";
  for (const json::object* report : reports) html += article(*report);
  return html + "</main></body></html>\n";
}

}  // namespace understudy::cli
