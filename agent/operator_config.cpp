#include "agent/operator_config.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

#include "agent/config.h"
#include "agent/toml_reader.h"
#include "base/network_address.h"

namespace understudy {
namespace {

// Values that only these tables have.
Reader text(std::string& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* value = node.as_string();
    if (value == nullptr || value->get().empty())
      return fail(ErrorCode::config, "expected text in quotes");
    target = value->get();
    return ok();
  };
}

Reader texts(std::vector<std::string>& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* list = node.as_array();
    target.clear();
    for (std::size_t index = 0; list != nullptr && index < list->size(); ++index) {
      const auto* value = (*list)[index].as_string();
      if (value == nullptr || value->get().empty())
        return fail(ErrorCode::config, "expected a list of strings");
      target.push_back(value->get());
    }
    if (target.empty()) return fail(ErrorCode::config, "expected a list of strings, not empty");
    return ok();
  };
}

Reader duration(std::chrono::microseconds& target, std::chrono::microseconds least,
                std::chrono::microseconds most) {
  return [&target, least, most](const toml::node& node) -> Result<void> {
    const auto* value = node.as_string();
    if (value == nullptr) return fail(ErrorCode::config, "expected a duration such as \"2s\"");
    BOOST_OUTCOME_TRY(target, parse_duration(value->get()));
    if (target < least || target > most)
      return fail(ErrorCode::config, "{} is outside {} ms to {} ms", value->get(),
                  least.count() / 1000, most.count() / 1000);
    return ok();
  };
}

// "03:30"
Reader time_of_day(std::optional<unsigned>& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto wrong = [] {
      return fail(ErrorCode::config, "expected a time of day such as \"03:30\"");
    };
    const auto* value = node.as_string();
    if (value == nullptr || value->get().size() != 5 || value->get()[2] != ':') return wrong();
    unsigned hours = 0;
    unsigned minutes = 0;
    const char* const data = value->get().data();
    if (std::from_chars(data, data + 2, hours).ptr != data + 2 ||
        std::from_chars(data + 3, data + 5, minutes).ptr != data + 5 || hours > 23 || minutes > 59)
      return wrong();
    target = hours * 60 + minutes;
    return ok();
  };
}

// The tables of [[NAME]].
Result<std::vector<const toml::table*>> tables_of(std::string_view file, const std::string& name,
                                                  const toml::node& node) {
  std::vector<const toml::table*> tables;
  const auto* list = node.as_array();
  for (std::size_t index = 0; list != nullptr && index < list->size(); ++index)
    tables.push_back((*list)[index].as_table());
  if (list == nullptr || std::ranges::find(tables, nullptr) != tables.end())
    return at(file, node, name, fmt::format("expected sections of the form [[{}]]", name));
  return tables;
}

constexpr auto kSecond = std::chrono::microseconds(1'000'000);

}  // namespace

Result<std::vector<HookConfig>> read_hooks(std::string_view file, const toml::node& node) {
  BOOST_OUTCOME_TRY(const auto tables, tables_of(file, "hook", node));
  std::vector<HookConfig> hooks;
  for (const toml::table* table : tables) {
    HookConfig hook;
    BOOST_OUTCOME_TRY(
        read_table(file, "hook", *table,
                   {{"name", text(hook.name)},
                    {"on", texts(hook.on)},
                    {"domains", texts(hook.domains)},
                    {"command", texts(hook.command)},
                    {"timeout", duration(hook.timeout, kSecond / 10, 600 * kSecond)}}));
    if (hook.name.empty()) return at(file, *table, "hook", "name is missing");
    const std::string where = "hook " + hook.name;
    if (hook.on.empty())
      return at(file, *table, where, "on is missing: the kinds of events that it is run for");
    if (hook.command.empty())
      return at(file, *table, where, "command is missing: the program and its arguments");
    if (hook.command.front().front() != '/')
      return at(file, *table, where,
                fmt::format("command: the program '{}' needs an absolute path (for a shell write "
                            "[\"/bin/sh\", \"-c\", \"…\"])",
                            hook.command.front()));
    for (const std::string& kind : hook.on) {
      if (kind == "*" || is_event_kind(kind)) continue;
      if (const std::string meant = event_kind_like(kind); !meant.empty())
        return at(file, *table, where,
                  fmt::format("on: no event of kind '{}'; is '{}' meant?", kind, meant));
      spdlog::warn("{}: on: no event of kind '{}' is known to this version", where, kind);
    }
    if (std::ranges::any_of(hooks, [&](const auto& other) { return other.name == hook.name; }))
      return at(file, *table, where, "there are two hooks of that name");
    hooks.push_back(std::move(hook));
  }
  return hooks;
}

Result<std::vector<ProbeConfig>> read_probes(std::string_view file, const toml::node& node) {
  BOOST_OUTCOME_TRY(const auto tables, tables_of(file, "probe", node));
  std::vector<ProbeConfig> probes;
  for (const toml::table* table : tables) {
    ProbeConfig probe;
    BOOST_OUTCOME_TRY(
        read_table(file, "probe", *table,
                   {{"domain", text(probe.domain)},
                    {"name", text(probe.name)},
                    {"kind", one_of(probe.kind, {"icmp", "tcp", "echo", "http", "command"})},
                    {"address", text(probe.address)},
                    {"port", number(probe.port, 1, 65535)},
                    {"path", text(probe.path)},
                    {"status", number(probe.status, 100, 599)},
                    {"expect", text(probe.expect)},
                    {"command", texts(probe.command)},
                    {"interval", duration(probe.interval, kSecond / 10, 3600 * kSecond)},
                    {"timeout", duration(probe.timeout, kSecond / 100, 60 * kSecond)},
                    {"failures", number(probe.failures, 1, 1000)},
                    {"successes", number(probe.successes, 1, 1000)},
                    {"grace", duration(probe.grace, std::chrono::microseconds(0), 3600 * kSecond)},
                    {"action", one_of(probe.action, {"event", "restart", "move"})}}));
    if (probe.domain.empty()) return at(file, *table, "probe", "domain is missing");
    if (probe.kind.empty())
      return at(file, *table, "probe of " + probe.domain,
                "kind is missing: icmp, tcp, echo, http or command");
    if (probe.name.empty()) probe.name = probe.kind;
    const std::string where = fmt::format("probe {} of {}", probe.name, probe.domain);
    if (probe.kind == "command") {
      if (probe.command.empty()) return at(file, *table, where, "command is missing");
      if (probe.command.front().front() != '/')
        return at(file, *table, where, "command: the program needs an absolute path");
    } else {
      if (!probe.command.empty())
        return at(file, *table, where,
                  fmt::format("command is of kind command, not {}", probe.kind));
      if (auto parsed = IpAddress::parse(probe.address); !parsed)
        return at(
            file, *table, where,
            fmt::format("address: expected the guest's IP address, found '{}'", probe.address));
    }
    if (probe.port == 0 && probe.kind == "echo") probe.port = 7;
    if (probe.port == 0 && probe.kind == "http") probe.port = 80;
    if (probe.port == 0 && probe.kind == "tcp") return at(file, *table, where, "port is missing");
    if (probe.kind == "http" &&
        (probe.path.front() != '/' || probe.path.find_first_of(" \r\n") != std::string::npos))
      return at(file, *table, where, "path: expected something like \"/health\"");
    if (std::ranges::any_of(probes, [&](const auto& other) {
          return other.domain == probe.domain && other.name == probe.name;
        }))
      return at(file, *table, where, "there are two probes of that name; give them a name");
    probes.push_back(std::move(probe));
  }
  return probes;
}

Result<std::vector<DrillConfig>> read_drills(std::string_view file, const toml::node& node) {
  BOOST_OUTCOME_TRY(const auto tables, tables_of(file, "drill", node));
  std::vector<DrillConfig> drills;
  for (const toml::table* table : tables) {
    DrillConfig drill;
    std::chrono::microseconds every{0};
    BOOST_OUTCOME_TRY(read_table(file, "drill", *table,
                                 {{"domain", text(drill.domain)},
                                  {"kind", one_of(drill.kind, {"dry", "planned"})},
                                  {"every", duration(every, 10 * kSecond, 31 * 86'400 * kSecond)},
                                  {"at", time_of_day(drill.at_minute)}}));
    if (drill.domain.empty()) return at(file, *table, "drill", "domain is missing");
    if (every.count() > 0) drill.every = every;
    if (drill.every.has_value() == drill.at_minute.has_value())
      return at(file, *table, "drill of " + drill.domain,
                "expected either every = \"12h\" or at = \"03:30\"");
    drills.push_back(std::move(drill));
  }
  return drills;
}

}  // namespace understudy
