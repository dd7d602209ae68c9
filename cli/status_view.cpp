#include "cli/status_view.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <ctime>

#include "cli/duration.h"
#include "cli/json_view.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

struct StateMeaning {
  std::string_view state;
  int status;
  Colour colour;
};

/// docs/api.md, "States".
constexpr std::array states = {
    StateMeaning{"starting", degraded_status, Colour::warning},
    StateMeaning{"running", not_protected_status, Colour::none},
    StateMeaning{"synchronising", degraded_status, Colour::warning},
    StateMeaning{"protected", 0, Colour::good},
    StateMeaning{"backup_lost", degraded_status, Colour::bad},
    StateMeaning{"solo", degraded_status, Colour::bad},
    StateMeaning{"image_incomplete", degraded_status, Colour::warning},
    StateMeaning{"standby", 0, Colour::good},
    StateMeaning{"promoting", degraded_status, Colour::warning},
    StateMeaning{"superseded", degraded_status, Colour::bad},
    StateMeaning{"stopping", degraded_status, Colour::warning},
    StateMeaning{"stopped", not_protected_status, Colour::none},
    StateMeaning{"failed", degraded_status, Colour::bad},
};

const StateMeaning* meaning_of(std::string_view state) {
  for (const StateMeaning& meaning : states) {
    if (meaning.state == state) {
      return &meaning;
    }
  }
  return nullptr;
}

std::string milliseconds(const json::object& object, std::string_view key) {
  const std::optional<double> value = number_at(object, key);
  return value ? fmt::format("{:.1f}", *value) : "-";
}

std::string interval_of(const json::object& domain) {
  const std::optional<double> interval = number_at(domain, "interval_us");
  return interval && *interval >= 0 && *interval < 1e12
             ? format_duration(Microseconds(static_cast<Microseconds::rep>(*interval)))
             : "";
}

const json::object* condition(const json::object& domain, std::string_view type) {
  for (const json::object* one : objects_at(domain, "conditions")) {
    if (text_at(*one, "type") == type) {
      return one;
    }
  }
  return nullptr;
}

Cell output_cell(const json::object& domain) {
  const json::object* const flowing = condition(domain, "OutputFlowing");
  if (flowing == nullptr) {
    return {""};
  }
  if (bool_at(*flowing, "status").value_or(false)) {
    return {"flowing"};
  }
  // The image on a backup is meant to be silent.
  const bool meant = text_at(*flowing, "reason") == "HeldAsImage";
  return {meant ? "" : "HELD", meant ? Colour::none : Colour::bad};
}

Cell state_cell(const std::string& state) {
  return {state, colour_of_state(state)};
}

Colour colour_of_peer(std::string_view state) {
  if (state == "alive") {
    return Colour::good;
  }
  return state == "dead" ? Colour::bad : Colour::warning;
}

std::string progress_lines(const json::object& domain, const Terminal& terminal) {
  const json::object& synchronisation = object_at(domain, "synchronisation");
  if (synchronisation.empty()) {
    return {};
  }
  return progress_bar(text_at(domain, "name"), Progress::from_json(synchronisation),
                      terminal.size().columns) +
         "\n";
}

/// One condition that is not as wanted, as a line. Conditions that only say "nobody asked for it"
/// are left out.
std::string complaint(const std::string& name, const json::object& one, const Terminal& terminal,
                      WallClock::time_point now) {
  const std::string reason = text_at(one, "reason");
  if (bool_at(one, "status").value_or(false) || reason == "NotRequested" ||
      reason == "HeldAsImage" || reason == "Stopped" || reason == "FullCompare") {
    return {};
  }
  const std::string type = text_at(one, "type");
  const Colour colour =
      type == "OutputFlowing" || type == "Running" ? Colour::bad : Colour::warning;
  return fmt::format("{} {}: {} ({}, {})\n", terminal.paint("!", colour), name,
                     text_at(one, "message"), terminal.paint(type + " " + reason, colour),
                     age_of(text_at(one, "since"), now));
}

}  // namespace

int status_for_state(std::string_view state) {
  const StateMeaning* const meaning = meaning_of(state);
  return meaning == nullptr ? degraded_status : meaning->status;
}

Colour colour_of_state(std::string_view state) {
  const StateMeaning* const meaning = meaning_of(state);
  return meaning == nullptr ? Colour::warning : meaning->colour;
}

std::string age_of(std::string_view rfc3339, WallClock::time_point now) {
  // "2026-03-01T12:00:00.123Z"
  const auto field = [&](std::size_t at, std::size_t length) {
    int value = -1;
    if (at + length <= rfc3339.size()) {
      std::from_chars(rfc3339.data() + at, rfc3339.data() + at + length, value);
    }
    return value;
  };
  if (rfc3339.size() < 20 || rfc3339[10] != 'T' || !rfc3339.ends_with('Z')) {
    return std::string(rfc3339);
  }
  std::tm parts{};
  parts.tm_year = field(0, 4) - 1900;
  parts.tm_mon = field(5, 2) - 1;
  parts.tm_mday = field(8, 2);
  parts.tm_hour = field(11, 2);
  parts.tm_min = field(14, 2);
  parts.tm_sec = field(17, 2);
  // In whole seconds: nanoseconds would overflow for a year that only a broken clock can produce.
  const std::int64_t age_seconds = WallClock::to_time_t(now) - ::timegm(&parts);
  if (age_seconds < 1) {
    return "just now";
  }
  if (age_seconds >= std::int64_t{48} * 3600) {
    return fmt::format("{} days ago", age_seconds / (std::int64_t{24} * 3600));
  }
  return format_duration(std::chrono::seconds(age_seconds)) + " ago";
}

std::string domain_list(const json::object& status, const Terminal& terminal) {
  Table table({"DOMAIN", "ROLE", "STATE", "PEER", "HYPERVISOR", "GENERATION"});
  for (const json::object* domain : objects_at(status, "domains")) {
    std::string hypervisor = text_at(*domain, "hypervisor");
    const std::string accelerator = text_at(*domain, "accelerator");
    hypervisor += accelerator.empty() ? "" : "/" + accelerator;
    table.add({{text_at(*domain, "name")},
               {text_at(*domain, "role")},
               state_cell(text_at(*domain, "state")),
               {text_at(*domain, "peer")},
               {hypervisor},
               {digits_at(*domain, "generation")}});
  }
  return table.empty() ? "no domains\n" : table.render(terminal);
}

std::string peer_list(const json::object& peers, const Terminal& terminal,
                      WallClock::time_point now) {
  Table table({"PEER", "STATE", "SINCE", "PATH", "PATH STATE", "HEARTBEAT", "FINGERPRINT"});
  for (const json::object* peer : objects_at(peers, "peers")) {
    const std::string state = text_at(*peer, "state");
    bool first = true;
    const auto add = [&](Cell path, Cell path_state, Cell heartbeat) {
      // A second path belongs to the peer above it.
      table.add({{first ? text_at(*peer, "name") : " "},
                 {first ? state : " ", colour_of_peer(state)},
                 {first ? age_of(text_at(*peer, "since"), now) : " "},
                 std::move(path),
                 std::move(path_state),
                 std::move(heartbeat),
                 {first ? text_at(*peer, "fingerprint") : " "}});
      first = false;
    };
    for (const json::object* path : objects_at(*peer, "paths")) {
      const std::string path_state = text_at(*path, "state");
      const std::optional<double> heartbeat = number_at(*path, "last_heartbeat_ms");
      add({text_at(*path, "address")}, {path_state, colour_of_peer(path_state)},
          {heartbeat ? fmt::format("{:.0f} ms ago", *heartbeat) : ""});
    }
    if (first) {
      add({""}, {""}, {""});
    }
  }
  return table.empty() ? "no peers\n" : table.render(terminal);
}

namespace {

// "! hostA: disk: 12 MiB, limit 256 MiB", a line for each check of the host's that is ill.
std::string complaints_of_host(const json::object& status, const Terminal& terminal) {
  std::string lines;
  for (const json::object* check : objects_at(object_at(status, "health"), "checks")) {
    if (bool_at(*check, "healthy").value_or(true)) continue;
    std::string figures;
    if (const auto now = number_at(*check, "now_bytes"); now)
      figures = fmt::format("{:.0f} MiB, limit {:.0f} MiB", *now / (1 << 20),
                            number_at(*check, "threshold_bytes").value_or(0) / (1 << 20));
    if (const auto now = number_at(*check, "now_us"); now)
      figures = fmt::format("{:.0f} ms, limit {:.0f} ms", *now / 1000,
                            number_at(*check, "threshold_us").value_or(0) / 1000);
    if (const auto now = number_at(*check, "now_percent"); now)
      figures = fmt::format("{:.0f} %, limit {:.0f} %", *now,
                            number_at(*check, "threshold_percent").value_or(0));
    lines += fmt::format("{} {}: {}: {}\n", terminal.paint("!", Colour::warning),
                         text_at(status, "host"), text_at(*check, "check"), figures);
  }
  return lines;
}

}  // namespace

std::string status_overview(const json::object& status, const Terminal& terminal,
                            WallClock::time_point now) {
  std::string text =
      fmt::format("{}  understudyd {}\n\n", terminal.paint(text_at(status, "host"), Colour::strong),
                  text_at(status, "version"));
  Table table({"DOMAIN", "ROLE", "STATE", "PEER", "MODE", "INTERVAL", "COMMITTED", "PAUSE P50/P99",
               "OUTPUT"});
  std::string below = complaints_of_host(status, terminal);
  for (const json::object* domain : objects_at(status, "domains")) {
    const json::object& pause = object_at(*domain, "pause_ms");
    const std::string name = text_at(*domain, "name");
    table.add({{name},
               {text_at(*domain, "role")},
               state_cell(text_at(*domain, "state")),
               {text_at(*domain, "peer")},
               {text_at(*domain, "mode")},
               {interval_of(*domain)},
               {digits_at(*domain, "committed_epoch")},
               {pause.empty() ? ""
                              : fmt::format("{}/{} ms", milliseconds(pause, "p50"),
                                            milliseconds(pause, "p99"))},
               output_cell(*domain)});
    below += progress_lines(*domain, terminal);
    for (const json::object* one : objects_at(*domain, "conditions")) {
      below += complaint(name, *one, terminal, now);
    }
  }
  text += table.empty() ? "no domains\n" : table.render(terminal);
  if (!objects_at(status, "peers").empty()) {
    Table peers({"PEER", "STATE", "SINCE", "PATHS"});
    for (const json::object* peer : objects_at(status, "peers")) {
      std::string paths;
      for (const json::object* path : objects_at(*peer, "paths")) {
        const std::optional<double> heartbeat = number_at(*path, "last_heartbeat_ms");
        paths += fmt::format("{}{} {}", paths.empty() ? "" : ", ", text_at(*path, "address"),
                             text_at(*path, "state"));
        paths += heartbeat ? fmt::format(" ({:.0f} ms ago)", *heartbeat) : "";
      }
      const std::string state = text_at(*peer, "state");
      peers.add({{text_at(*peer, "name")},
                 {state, colour_of_peer(state)},
                 {age_of(text_at(*peer, "since"), now)},
                 {paths}});
    }
    text += "\n" + peers.render(terminal);
  }
  return below.empty() ? text : text + "\n" + below;
}

// Of a primary in replay mode: how far the log goes, and what it would cost to use it now.
std::string input_log_of(const json::object& replay) {
  if (text_at(replay, "state").empty()) return {};
  return fmt::format(
      "{}; {} in the log, {} records behind on the other host, {} inputs since the "
      "last commit, {} ms to replay",
      text_at(replay, "state") == "replay"
          ? "output goes with the log"
          : "output waits for commits (" + text_at(replay, "state") + ")",
      format_bytes(number_at(replay, "log_bytes").value_or(0)),
      digits_at(replay, "log_lag_records"), digits_at(replay, "inputs_since_commit"),
      milliseconds(replay, "replay_estimate_ms"));
}

// Of a domain that was promoted with a log.
std::string replay_of(const json::object& replay) {
  if (digits_at(replay, "inputs_to_replay").empty()) return {};
  return fmt::format("{}, {} of {} inputs given again, {} connections differed, {} translated",
                     bool_at(replay, "replaying").value_or(false) ? "under way" : "done",
                     digits_at(replay, "inputs_replayed"), digits_at(replay, "inputs_to_replay"),
                     digits_at(replay, "flows_diverged"),
                     digits_at(replay, "translated_connections"));
}

std::string renewal_line(const json::object& renewal) {
  std::string hosts;
  if (const auto* list = renewal.if_contains("hosts"); list != nullptr && list->is_array()) {
    for (const json::value& host : list->get_array()) {
      if (!host.is_string()) continue;
      hosts += (hosts.empty() ? "" : ", ") + printable(host.get_string());
    }
  }
  if (hosts.empty()) return {};
  const std::string next = text_at(renewal, "next");
  const std::string failback = text_at(renewal, "failback");
  std::string line = hosts;
  line += next.empty() ? "" : "; next: " + next;
  line += failback.empty() || failback == "never"
              ? ""
              : fmt::format("; home: {}, failback {}", text_at(renewal, "home"), failback);
  return line;
}

std::string domain_details(const json::object& domain, const Terminal& terminal,
                           WallClock::time_point now) {
  std::string text = terminal.paint(text_at(domain, "name"), Colour::strong) + "\n";
  Table facts({});
  const auto fact = [&](std::string_view name, std::string value, Colour colour = Colour::none) {
    if (!value.empty()) {
      facts.add({{std::string(name), Colour::dim}, {std::move(value), colour}});
    }
  };
  const std::string state = text_at(domain, "state");
  fact("state", state, colour_of_state(state));
  const std::string peer = text_at(domain, "peer");
  const std::string role = text_at(domain, "role");
  fact("role", peer.empty() ? role : fmt::format("{}, the other host is {}", role, peer));
  const std::string accelerator = text_at(domain, "accelerator");
  fact("hypervisor",
       text_at(domain, "hypervisor") + (accelerator.empty() ? "" : ", " + accelerator));
  if (const std::string reason = text_at(domain, "checkpoint_method_reason"); !reason.empty())
    fact("checkpoints", text_at(domain, "checkpoint_method") + ": " + reason);
  if (const std::string mode = text_at(domain, "mode"); !mode.empty()) {
    std::string protection = mode;
    const std::string interval = interval_of(domain);
    protection += interval.empty() ? "" : ", every " + interval;
    protection += bool_at(domain, "stretched").value_or(false) ? " (stretched)" : "";
    const std::string tracking = text_at(domain, "tracking");
    protection += tracking.empty() ? "" : ", dirty pages by " + tracking;
    fact("protection", protection);
  }
  if (const json::object& renewal = object_at(domain, "renewal"); !renewal.empty()) {
    fact("hosts", renewal_line(renewal));
    const std::string reason = text_at(renewal, "reason");
    fact("renewal", text_at(renewal, "state") == "held" || !reason.empty() ? reason : "",
         Colour::warning);
  }
  fact("generation", digits_at(domain, "generation"));
  if (const std::string committed = digits_at(domain, "committed_epoch"); !committed.empty()) {
    std::string epochs = committed + " committed";
    const std::string running = digits_at(domain, "epoch");
    epochs += running.empty() ? "" : fmt::format(", {} running", running);
    const std::string count = digits_at(domain, "checkpoints");
    epochs += count.empty() ? "" : fmt::format(", {} checkpoints in all", count);
    fact("epoch", epochs);
  }
  if (const json::object& pause = object_at(domain, "pause_ms"); !pause.empty()) {
    fact("pause", fmt::format("p50 {} ms, p99 {} ms, mean {} ms, max {} ms",
                              milliseconds(pause, "p50"), milliseconds(pause, "p99"),
                              milliseconds(pause, "mean"), milliseconds(pause, "max")));
  }
  if (const json::object& parts = object_at(domain, "pause_parts_ms"); !parts.empty()) {
    std::string list;
    for (const auto& part : parts) {
      list += fmt::format(
          "{}{} {}", list.empty() ? "" : ", ", printable(part.key()),
          part.value().is_number() ? fmt::format("{:.2f}", part.value().to_number<double>()) : "-");
    }
    fact("of which", list + " (ms, means)");
  }
  if (const json::object& gate = object_at(domain, "gate"); !gate.empty()) {
    const auto count = [&](std::string_view key) {
      const std::string digits = digits_at(gate, key);
      return digits.empty() ? std::string("-") : digits;
    };
    fact("output", fmt::format("gate {}, {} frames ({}) held, {} released, {} dropped",
                               text_at(gate, "state"), count("held_frames"),
                               format_bytes(number_at(gate, "held_bytes").value_or(0)),
                               count("released_frames"), count("dropped_frames")));
  }
  if (const json::object& replay = object_at(domain, "replay"); !replay.empty()) {
    fact("input log", input_log_of(replay));
    fact("replay", replay_of(replay));
  }
  if (const json::object& bytes = object_at(domain, "bytes"); !bytes.empty()) {
    const double dirty = number_at(bytes, "dirty").value_or(0);
    const double wire = number_at(bytes, "wire").value_or(0);
    fact("traffic", fmt::format("{} dirty, {} sent{}", format_bytes(dirty), format_bytes(wire),
                                dirty > 0 ? fmt::format(" ({:.1f}%)", 100 * wire / dirty) : ""));
  }
  text += facts.render(terminal, 2);
  if (const std::string progress = progress_lines(domain, terminal); !progress.empty()) {
    text += "\n" + progress;
  }
  Table conditions({"CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"});
  for (const json::object* one : objects_at(domain, "conditions")) {
    const std::optional<bool> status = bool_at(*one, "status");
    conditions.add({{text_at(*one, "type")},
                    {status ? (*status ? "true" : "false") : "unknown",
                     status.value_or(false) ? Colour::good : Colour::warning},
                    {text_at(*one, "reason")},
                    {age_of(text_at(*one, "since"), now)},
                    {text_at(*one, "message")}});
  }
  if (!conditions.empty()) text += "\n" + conditions.render(terminal);
  Table probes({"PROBE", "STATE", "FOUND", "TOOK", "FAILED", "ACTION"});
  for (const json::object* one : objects_at(domain, "probes")) {
    const std::string verdict = text_at(*one, "state");
    const bool held = bool_at(*one, "held").value_or(false);
    probes.add(
        {{text_at(*one, "name")},
         {held ? verdict + ", held" : verdict, verdict == "unhealthy"          ? Colour::bad
                                               : verdict == "healthy" && !held ? Colour::good
                                                                               : Colour::warning},
         {text_at(*one, "message")},
         {fmt::format("{:.1f} ms", number_at(*one, "took_ms").value_or(0))},
         {fmt::format("{} of {}", digits_at(*one, "failed"), digits_at(*one, "asked"))},
         {text_at(*one, "action")}});
  }
  if (!probes.empty()) text += "\n" + probes.render(terminal);
  return text;
}

std::string timeline_view(const json::object& timeline, const Terminal& terminal) {
  const std::string outcome = text_at(timeline, "outcome");
  const Colour colour = outcome == "promoted" ? Colour::good
                        : outcome == "failed" ? Colour::bad
                                              : Colour::warning;
  std::string text = fmt::format(
      "{}: {} to generation {}", terminal.paint(text_at(timeline, "domain"), Colour::strong),
      terminal.paint(outcome, colour), digits_at(timeline, "generation"));
  const std::string cause = text_at(timeline, "cause");
  text += cause.empty() ? "" : fmt::format(" ({})", cause);
  const std::string message = text_at(timeline, "message");
  text += message.empty() ? "\n\n" : ": " + message + "\n\n";
  Table table({"PHASE", "AT", "AFTER START", "STEP"});
  std::optional<double> before;
  for (const json::object* phase : objects_at(timeline, "phases")) {
    const std::optional<double> since = number_at(*phase, "since_start_ms");
    table.add({{text_at(*phase, "name")},
               {text_at(*phase, "at")},
               {since ? fmt::format("{:>9.1f} ms", *since) : ""},
               {since && before ? fmt::format("{:>+9.1f} ms", *since - *before) : ""}});
    before = since ? since : before;
  }
  text += table.render(terminal);
  text += fmt::format("\ndetect {} ms, promote {} ms\n", milliseconds(timeline, "detect_ms"),
                      milliseconds(timeline, "promote_ms"));
  if (const json::object& replay = object_at(timeline, "replay"); !replay.empty()) {
    text += fmt::format("replay {} ms for {} ms of execution: {} inputs, {} connections differed\n",
                        milliseconds(replay, "replay_ms"), milliseconds(replay, "covered_ms"),
                        digits_at(replay, "inputs"), digits_at(replay, "flows_diverged"));
  }
  return text;
}

}  // namespace understudy::cli
