#include "agent/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

#include "agent/operator_config.h"
#include "agent/toml_reader.h"
#include "base/toml_text.h"

namespace understudy {
namespace {

Reader into(std::string& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* text = node.as_string();
    if (text == nullptr) return fail(ErrorCode::config, "expected a string in quotes");
    target = text->get();
    return ok();
  };
}

Reader into(std::filesystem::path& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* text = node.as_string();
    if (text == nullptr || text->get().empty() || text->get().front() != '/') {
      return fail(ErrorCode::config, "expected an absolute path in quotes");
    }
    target = text->get();
    return ok();
  };
}

Reader into(std::chrono::microseconds& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* text = node.as_string();
    if (text == nullptr) return fail(ErrorCode::config, "expected a duration such as \"50ms\"");
    BOOST_OUTCOME_TRY(const auto duration, parse_duration(text->get()));
    if (duration < std::chrono::milliseconds(1) || duration > std::chrono::hours(1)) {
      return fail(ErrorCode::config, "{} is outside 1ms to 1h", text->get());
    }
    target = duration;
    return ok();
  };
}

Reader into(std::vector<std::string>& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* list = node.as_array();
    if (list == nullptr) return fail(ErrorCode::config, "expected a list of \"address:port\"");
    target.clear();
    for (const auto& element : *list) {
      const auto* text = element.as_string();
      if (text == nullptr || text->get().find(':') == std::string::npos) {
        return fail(ErrorCode::config, "each element has the form \"address:port\"");
      }
      target.push_back(text->get());
    }
    return ok();
  };
}

Reader words_into(std::vector<std::string>& target) {
  return [&target](const toml::node& node) -> Result<void> {
    const auto* list = node.as_array();
    target.clear();
    for (std::size_t index = 0; list != nullptr && index < list->size(); ++index) {
      const auto* text = (*list)[index].as_string();
      if (text == nullptr || text->get().empty())
        return fail(ErrorCode::config, "expected strings");
      target.push_back(text->get());
    }
    if (target.empty()) return fail(ErrorCode::config, "expected a list of strings");
    return ok();
  };
}

// One [arbiter.PEER] section.
Result<ArbiterConfig> read_arbiter(std::string_view file_name, const std::string& where,
                                   const toml::node& node) {
  const auto* section = node.as_table();
  if (section == nullptr)
    return at(file_name, node, where, "expected a section, [arbiter.PEER] or [arbiter.default]");
  ArbiterConfig arbiter;
  const Keys keys = {
      {"kind", one_of(arbiter.kind, {"none", "etcd", "fence"})},
      {"solo_after", into(arbiter.solo_after)},
      {"timeout", into(arbiter.timeout)},
      {"endpoints", into(arbiter.endpoints)},
      {"ca_file", into(arbiter.ca_file)},
      {"certificate_file", into(arbiter.certificate_file)},
      {"key_file", into(arbiter.key_file)},
      {"prefix", into(arbiter.prefix)},
      {"command", words_into(arbiter.command)},
      {"options_file", into(arbiter.options_file)},
  };
  BOOST_OUTCOME_TRY(read_table(file_name, where, *section, keys));
  if (arbiter.kind == "etcd" && (arbiter.endpoints.empty() || arbiter.ca_file.empty()))
    return at(file_name, node, where, "etcd needs endpoints and ca_file");
  if (arbiter.kind == "fence" && arbiter.command.empty())
    return at(file_name, node, where, "fence needs a command");
  if (arbiter.certificate_file.empty() != arbiter.key_file.empty())
    return at(file_name, node, where, "certificate_file and key_file belong together");
  return arbiter;
}

bool valid_host_name(std::string_view name) {
  return !name.empty() && name.size() <= 63 &&
         std::isalnum(static_cast<unsigned char>(name.front())) != 0 &&
         std::ranges::all_of(name, [](unsigned char character) {
           return std::isalnum(character) != 0 || character == '-' || character == '_' ||
                  character == '.';
         });
}

}  // namespace

Result<std::chrono::microseconds> parse_duration(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double microseconds = -1;
  if (error == std::errc()) {
    if (unit == "us") microseconds = number;
    if (unit == "ms") microseconds = number * 1e3;
    if (unit == "s") microseconds = number * 1e6;
    if (unit == "min") microseconds = number * 60e6;
    if (unit == "h") microseconds = number * 3600e6;
    if (unit == "d") microseconds = number * 86'400e6;
  }
  if (!(microseconds >= 0 && microseconds <= 31 * 86'400e6)) {
    return fail(ErrorCode::usage,
                "'{}' is no duration; expected a number with us, ms, s, min, h or d, at most 31d",
                text);
  }
  return std::chrono::microseconds(static_cast<std::int64_t>(microseconds));
}

Result<AgentConfig> AgentConfig::from_toml(std::string_view text, std::string_view file_name) {
  BOOST_OUTCOME_TRY(check_toml_characters(text, file_name));
  toml::table document;
  try {
    document = toml::parse(text, file_name);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::config, "{}:{}: {}", file_name, error.source().begin.line,
                error.description());
  }

  AgentConfig config;
  const Keys keys = {
      {"name", into(config.name)},
      {"listen.addresses", into(config.listen_addresses)},
      {"runtime_directory", into(config.runtime_directory)},
      {"state_directory", into(config.state_directory)},
      {"control_socket", into(config.control_socket)},
      {"control_group", into(config.control_group)},
      {"detection.heartbeat_interval", into(config.heartbeat_interval)},
      {"detection.deadline", into(config.deadline)},
      {"metrics.listen", into(config.metrics_listen)},
      {"hypervisor", one_of(config.hypervisor, {"auto", "qemu", "xen"})},
      {"xen.method", one_of(config.xen_method, {"auto", "cooperative", "transparent"})},
      {"xen.suspend_timeout", into(config.xen_suspend_timeout)},
      {"qemu.binary", into(config.qemu_binary)},
      {"qemu.memory_directory", into(config.memory_directory)},
      {"qemu.preload_library", into(config.preload_library)},
      {"qemu.tracking", one_of(config.tracking, {"auto", "pagemap_scan", "full_compare"})},
      {"health.memory_mib_min", number(config.health_memory_mib_min, 0, 1 << 24)},
      {"health.disk_mib_min", number(config.health_disk_mib_min, 0, 1 << 24)},
      {"health.loop_lag_max", into(config.health_loop_lag_max)},
      {"health.load_percent_max", number(config.health_load_percent_max, 0, 1 << 24)},
      {"health.memory_pressure_percent_max",
       number(config.health_memory_pressure_percent_max, 0, 100)},
      {"health.action", one_of(config.health_action, {"event", "move"})},
      {"log.level", one_of(config.log_level, {"trace", "debug", "info", "warning", "error"})},
  };

  for (const auto& [key, node] : document) {
    const std::string name(key.str());
    if (const auto* section = node.as_table(); name == "arbiter" && section != nullptr) {
      for (const auto& [peer, inner_node] : *section) {
        const std::string peer_name(peer.str());
        BOOST_OUTCOME_TRY(config.arbiters[peer_name],
                          read_arbiter(file_name, "arbiter." + peer_name, inner_node));
      }
    } else if (name == "hook") {
      BOOST_OUTCOME_TRY(config.hooks, read_hooks(file_name, node));
    } else if (name == "probe") {
      BOOST_OUTCOME_TRY(config.probes, read_probes(file_name, node));
    } else if (name == "drill") {
      BOOST_OUTCOME_TRY(config.drills, read_drills(file_name, node));
    } else if (section != nullptr) {
      for (const auto& [inner_key, inner_node] : *section) {
        const std::string whole = name + "." + std::string(inner_key.str());
        BOOST_OUTCOME_TRY(read_key(file_name, whole, keys, whole, inner_node));
      }
    } else {
      BOOST_OUTCOME_TRY(read_key(file_name, name, keys, name, node));
    }
  }

  if (!valid_host_name(config.name)) {
    return fail(ErrorCode::config,
                "{}: name: missing or malformed; it is this host's name, e.g. name = \"hostA\"",
                file_name);
  }
  if (config.deadline < 2 * config.heartbeat_interval) {
    return fail(ErrorCode::config,
                "{}: detection.deadline: must be at least twice the heartbeat interval, or a "
                "single late heartbeat counts as a death",
                file_name);
  }
  if (!config.metrics_listen.empty() && !config.metrics_listen.starts_with("127.") &&
      !config.metrics_listen.starts_with("[::1]")) {
    return fail(ErrorCode::config, "{}: metrics.listen: '{}' is not a loopback address", file_name,
                config.metrics_listen);
  }
  if (config.control_socket.empty())
    config.control_socket = config.runtime_directory / "understudyd.sock";
  return config;
}

const ArbiterConfig& AgentConfig::arbiter_for(const std::string& peer) const {
  static const ArbiterConfig kNone;
  for (const std::string& wanted : {peer, std::string("default")}) {
    if (const auto found = arbiters.find(wanted); found != arbiters.end()) return found->second;
  }
  return kNone;
}

Result<AgentConfig> AgentConfig::from_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return system_error(errno, path.string());
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return from_toml(text, path.filename().string());
}

}  // namespace understudy
