#include "demo/report.h"

#include <algorithm>
#include <boost/json.hpp>

namespace understudy::demo {
namespace {

namespace json = boost::json;

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// The value that `share` (0…1) of `values` do not exceed; nothing of none.
std::optional<double> percentile(std::vector<double> values, double share) {
  if (values.empty()) {
    return std::nullopt;
  }
  const auto last = static_cast<double>(values.size() - 1);
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(share * last);
  std::ranges::nth_element(values, place);
  return *place;
}

json::value or_null(const std::optional<double>& value) {
  return value ? json::value(*value) : json::value(nullptr);
}

std::string outage_text(const std::optional<double>& ms) {
  return ms ? fmt::format("{:.0f} ms", *ms) : "-";
}

}  // namespace

KindSummary summarise(std::string kind, std::string what, bool long_lived,
                      const std::vector<scene::ConnectionReport>& reports) {
  KindSummary summary{.kind = std::move(kind), .what = std::move(what), .long_lived = long_lived};
  std::vector<double> outages;
  for (const scene::ConnectionReport& report : reports) {
    ++summary.connections;
    summary.survived += static_cast<unsigned>(report.survived);
    summary.bytes_verified += report.bytes_verified;
    summary.bytes_wrong += report.bytes_wrong;
    summary.operations += report.operations;
    summary.quiet_before_ms = std::max(summary.quiet_before_ms, report.longest_gap_before_ms);
    if (report.outage_ms) {
      outages.push_back(*report.outage_ms);
    }
    if (!report.survived) {
      summary.failures.push_back(
          fmt::format("{} connection {}: {}", report.kind, report.index,
                      report.failure.empty() ? "silent since the kill" : report.failure));
    }
  }
  if (!outages.empty()) {
    summary.outage_ms_median = median(outages);
    summary.outage_ms_worst = std::ranges::max(outages);
  }
  return summary;
}

unsigned Report::connections() const {
  unsigned sum = 0;
  for (const KindSummary& kind : kinds) {
    sum += kind.long_lived ? kind.connections : 0;
  }
  return sum;
}

unsigned Report::survived() const {
  unsigned sum = 0;
  for (const KindSummary& kind : kinds) {
    sum += kind.long_lived ? kind.survived : 0;
  }
  return sum;
}

std::uint64_t Report::bytes_verified() const {
  std::uint64_t sum = 0;
  for (const KindSummary& kind : kinds) {
    sum += kind.bytes_verified;
  }
  return sum;
}

std::uint64_t Report::bytes_wrong() const {
  std::uint64_t sum = 0;
  for (const KindSummary& kind : kinds) {
    sum += kind.bytes_wrong;
  }
  return sum;
}

std::optional<double> Report::outage_ms_median() const {
  return outages_ms.empty() ? std::nullopt : std::optional(median(outages_ms));
}

std::optional<double> Report::outage_ms_worst() const {
  return outages_ms.empty() ? std::nullopt : std::optional(std::ranges::max(outages_ms));
}

bool Report::nothing_lost() const {
  return audit.clean() && audit.acknowledged > 0 && bytes_wrong() == 0 && connections() > 0 &&
         std::ranges::all_of(
             kinds, [](const KindSummary& kind) { return kind.survived == kind.connections; }) &&
         std::ranges::all_of(real_clients, [](const RealClient& client) { return client.fine; });
}

json::object Report::to_json() const {
  json::array kinds_json;
  for (const KindSummary& kind : kinds) {
    kinds_json.push_back({{"kind", kind.kind},
                          {"what", kind.what},
                          {"long_lived", kind.long_lived},
                          {"connections", kind.connections},
                          {"connections_survived", kind.survived},
                          {"outage_ms_median", or_null(kind.outage_ms_median)},
                          {"outage_ms_worst", or_null(kind.outage_ms_worst)},
                          {"longest_silence_before_ms", kind.quiet_before_ms},
                          {"bytes_verified", kind.bytes_verified},
                          {"bytes_wrong", kind.bytes_wrong},
                          {"operations", kind.operations}});
  }
  json::array real_json;
  for (const RealClient& client : real_clients) {
    real_json.push_back({{"name", client.name},
                         {"what", client.what},
                         {"fine", client.fine},
                         {"outcome", client.outcome}});
  }
  return {{"schema", 1},
          {"nothing_lost", nothing_lost()},
          {"outage_ms", or_null(outage_ms_median())},
          {"outage_ms_worst", or_null(outage_ms_worst())},
          {"detect_ms", or_null(detect_ms)},
          {"promote_ms", or_null(promote_ms)},
          // From the kill; what the outage is beyond this, the first packets took.
          {"running_ms", or_null(running_ms)},
          {"connections", connections()},
          {"connections_survived", survived()},
          {"bytes_verified", bytes_verified()},
          {"bytes_wrong", bytes_wrong()},
          {"acknowledged", audit.acknowledged},
          {"acknowledged_lost", audit.lost},
          {"applied_twice", audit.repeated},
          {"invented", audit.invented},
          {"answer_ms_p50", or_null(percentile(answers_ms, 0.5))},
          {"answer_ms_p99", or_null(percentile(answers_ms, 0.99))},
          {"replay_ms", replay ? json::value(replay->replay_ms) : json::value(nullptr)},
          {"covered_ms", replay ? json::value(replay->covered_ms) : json::value(nullptr)},
          {"inputs_replayed", replay ? json::value(replay->inputs) : json::value(nullptr)},
          {"flows_diverged", replay ? json::value(replay->flows_diverged) : json::value(nullptr)},
          {"timeline", timeline},
          {"checkpoints", checkpoints},
          {"pause_ms_p50", pause_ms_p50},
          {"pause_ms_p99", pause_ms_p99},
          {"interval", interval},
          {"mode", mode},
          {"hypervisor", hypervisor},
          {"accelerator", accelerator},
          {"clients", std::move(kinds_json)},
          {"real_clients", std::move(real_json)},
          {"ping",
           {{"sent", ping.sent},
            {"received", ping.received},
            {"duplicates", ping.duplicates},
            {"outage_ms", or_null(ping.outage_ms)}}}};
}

void Report::tell(Narrator& narrator) const {
  narrator.act("What the clients saw");
  narrator.line(fmt::format("{:<48}{:>7}{:>10}{:>12}{:>11}{:>12}", "checking every byte", "alive",
                            "outage:", "median", "worst", "verified"));
  for (const KindSummary& kind : kinds) {
    const std::string alive = kind.long_lived
                                  ? fmt::format("{}/{}", kind.survived, kind.connections)
                              : kind.survived == kind.connections ? "all"
                                                                  : "not all";
    narrator.line(fmt::format("{:<48}{:>7}{:>22}{:>11}{:>12}",
                              fmt::format("{}: {}", kind.kind, kind.what), alive,
                              outage_text(kind.outage_ms_median), outage_text(kind.outage_ms_worst),
                              bytes_text(static_cast<double>(kind.bytes_verified))));
    for (const std::string& failure : kind.failures) {
      narrator.line("  " + narrator.bad(failure));
    }
  }
  narrator.line("");
  for (const RealClient& client : real_clients) {
    narrator.line(
        fmt::format("{:<48}{}", fmt::format("{}: {}", client.name, client.what),
                    client.fine ? narrator.good(client.outcome) : narrator.bad(client.outcome)));
  }
  narrator.line(fmt::format(
      "{:<48}{} of {} answered{}{}", "ping: 50 a second", grouped(ping.received),
      grouped(ping.sent),
      ping.outage_ms && ping.received < ping.sent
          ? fmt::format(", silent for {:.0f} ms", *ping.outage_ms)
          : std::string(),
      ping.duplicates > 0 ? fmt::format(", {} twice", ping.duplicates) : std::string()));
  narrator.line("");

  const auto verdict = [&](bool fine, std::string_view text) {
    narrator.line(fine ? narrator.good(text) : narrator.bad(text));
  };
  verdict(audit.lost == 0, fmt::format("{} acknowledged transfers, {} lost",
                                       grouped(audit.acknowledged), audit.lost));
  verdict(
      audit.repeated + audit.invented == 0 && audit.chain_true && audit.sum_true,
      fmt::format("{} applied twice, {} invented, history and balances {}", audit.repeated,
                  audit.invented, audit.chain_true && audit.sum_true ? "add up" : "DO NOT add up"));
  verdict(bytes_wrong() == 0,
          fmt::format("{} verified, {} bytes wrong",
                      bytes_text(static_cast<double>(bytes_verified())), bytes_wrong()));
  verdict(survived() == connections(),
          fmt::format("{} of {} connections lived on", survived(), connections()));
  if (!audit.first_fault.empty()) {
    verdict(false, "first fault: " + audit.first_fault);
  }
  narrator.line("");
  std::string phases;
  if (detect_ms && promote_ms) {
    phases = fmt::format(" ({} until hostB was sure, {} until the guest ran there)",
                         ms_text(*detect_ms), ms_text(*promote_ms));
  }
  narrator.line(outages_ms.empty() ? "The outage has not ended."
                                   : fmt::format("Outage at the clients: median {}, worst {}{}",
                                                 outage_text(outage_ms_median()),
                                                 outage_text(outage_ms_worst()), phases));
  narrator.line(fmt::format("{} checkpoints every {}; the guest stood still for {} each (p99 {})",
                            grouped(checkpoints), interval, ms_text(pause_ms_p50),
                            ms_text(pause_ms_p99)));
  if (!answers_ms.empty()) {
    narrator.line(fmt::format("Before the kill a transfer was acknowledged after {} (p99 {})",
                              ms_text(*percentile(answers_ms, 0.5)),
                              ms_text(*percentile(answers_ms, 0.99))));
  }
  if (replay) {
    narrator.line(
        fmt::format("{} inputs of {} replayed in {}: {}", grouped(replay->inputs),
                    ms_text(replay->covered_ms), ms_text(replay->replay_ms),
                    replay->flows_diverged == 0
                        ? "the guest said the same again, on every connection"
                        : fmt::format("{} connections diverged", replay->flows_diverged)));
  }
  narrator.line("");
  narrator.line(nothing_lost() ? narrator.strong(narrator.good("Nothing was lost."))
                               : narrator.bad("Something was lost."));
}

}  // namespace understudy::demo
