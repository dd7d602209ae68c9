#include "hypervisor/domain_config.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <optional>
#include <sstream>
#include <vector>

// Errors come back as values; the shared library that Debian ships throws, so this is header-only.
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include "base/toml_text.h"

namespace understudy {

namespace json = boost::json;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kMemoryMin = 16 * kMiB;
constexpr std::uint64_t kMemoryMax = std::uint64_t{16} << 40;
constexpr unsigned kVcpusMax = 255;
constexpr std::size_t kNicsMax = 8;
constexpr std::size_t kNameCharactersMax = 40;
constexpr std::size_t kPathCharactersMax = 1024;
constexpr std::size_t kCommandLineCharactersMax =
    2047;  // COMMAND_LINE_SIZE of x86 Linux, less one.
constexpr std::size_t kXenCharactersMax = std::size_t{768} << 10;
constexpr std::size_t kInterfaceCharactersMax = 15;
constexpr std::size_t kTomlBytesMax = std::size_t{1} << 20;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool consists_of(std::string_view text, std::string_view others) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return is_alphanumeric(c) || others.find(c) != std::string_view::npos;
  });
}

bool has_control_characters(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
  });
}

Result<void> check_path(std::string_view key, const std::string& path) {
  if (path.empty()) return ok();
  if (path.front() != '/') {
    return fail(ErrorCode::config,
                "{}: \"{}\" must be an absolute path, because the backup uses it too", key, path);
  }
  if (path.size() > kPathCharactersMax || has_control_characters(path)) {
    return fail(ErrorCode::config,
                "{}: not a usable path (at most {} characters, no control characters)", key,
                kPathCharactersMax);
  }
  return ok();
}

Result<Accelerator> parse_accelerator(std::string_view text) {
  for (const Accelerator value : {Accelerator::automatic, Accelerator::kvm, Accelerator::tcg}) {
    if (text == to_string(value)) return value;
  }
  return fail(ErrorCode::config, "accelerator: \"{}\" is not one of automatic, kvm, tcg", text);
}

/// "256 MiB", "1GiB": a whole number and a binary unit.
Result<std::uint64_t> parse_memory(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  std::uint64_t factor = 0;
  if (unit == "KiB") factor = 1024;
  if (unit == "MiB") factor = kMiB;
  if (unit == "GiB") factor = kMiB * 1024;
  if (error != std::errc{} || factor == 0 || number > kMemoryMax / factor) {
    return fail(ErrorCode::config,
                "memory: \"{}\" is not an amount of memory, such as \"256 MiB\" or \"2 GiB\"",
                text);
  }
  return number * factor;
}

/// How many insertions, deletions, replacements and swaps of neighbours turn `left` into `right`
/// (optimal string alignment distance).
std::size_t edit_distance(std::string_view left, std::string_view right) {
  std::vector<std::vector<std::size_t>> cost(left.size() + 1,
                                             std::vector<std::size_t>(right.size() + 1));
  for (std::size_t i = 0; i <= left.size(); ++i) cost[i][0] = i;
  for (std::size_t j = 0; j <= right.size(); ++j) cost[0][j] = j;
  for (std::size_t i = 1; i <= left.size(); ++i) {
    for (std::size_t j = 1; j <= right.size(); ++j) {
      const std::size_t replace = cost[i - 1][j - 1] + (left[i - 1] == right[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[left.size()][right.size()];
}

/// "; did you mean \"memory\"?", or the list of known keys if none is near.
std::string advice(std::string_view unknown, const std::vector<std::string_view>& known) {
  constexpr std::size_t kLongestKey = 32;
  std::string_view nearest;
  std::size_t nearest_distance = 3;
  if (unknown.size() <= kLongestKey) {
    for (const std::string_view key : known) {
      const std::size_t distance = edit_distance(unknown, key);
      // Half the letters must be right: "cpu" is no answer to "xyz".
      if (distance < nearest_distance && distance * 2 <= key.size()) {
        nearest = key;
        nearest_distance = distance;
      }
    }
  }
  if (!nearest.empty()) return fmt::format("; did you mean \"{}\"?", nearest);
  return fmt::format("; known keys are {}", fmt::join(known, ", "));
}

const std::vector<std::string_view> kTomlKeys{"name",   "memory",       "vcpus",       "kernel",
                                              "initrd", "command_line", "image",       "machine",
                                              "cpu",    "accelerator",  "console_log", "nic"};
const std::vector<std::string_view> kNicKeys{"bridge", "mac"};

/// Text for a message: as it is if it can be printed, without surprises for the terminal otherwise.
std::string printable(std::string_view text) {
  constexpr std::size_t kCharactersMax = 60;
  std::string result(text.substr(0, kCharactersMax));
  for (char& c : result) {
    if (has_control_characters(std::string_view(&c, 1))) c = '?';
  }
  return result;
}

/// Reads one TOML document; every error names the file, and the line where there is one.
class TomlReader {
 public:
  explicit TomlReader(std::string_view file_name) : file_name_(file_name) {}

  Result<DomainConfig> read(const toml::table& table) {
    DomainConfig config;
    for (auto&& [key, node] : table) {
      BOOST_OUTCOME_TRY(read_key(config, key.str(), line_of(key), node));
      lines_.emplace_back(key.str(), line_of(key));
    }
    for (const std::string_view required : {"name", "memory"}) {
      if (!table.contains(required)) {
        return fail(ErrorCode::config, "{}: missing key \"{}\"{}", file_name_, required,
                    required == "memory" ? ", for example memory = \"256 MiB\"" : "");
      }
    }
    for (std::size_t i = 0; i < config.nics.size(); ++i) {
      if (config.nics[i].mac != MacAddress{}) continue;
      return fail(
          ErrorCode::config,
          "{}:{}: nic: missing key \"mac\"; it must stay the same on every host, for example "
          "mac = \"{}\"",
          file_name_, nic_lines_[i], suggested_mac(config.name, i).to_string());
    }
    if (auto valid = config.validate(); !valid) {
      const std::string& message = valid.error().message();
      return fail(ErrorCode::config, "{}{}: {}", file_name_, where_of(message), message);
    }
    return config;
  }

  static std::uint32_t line_of(const toml::key& key) { return key.source().begin.line; }

 private:
  Error wrong(std::uint32_t line, const Error& error) const {
    return fail(ErrorCode::config, "{}:{}: {}", file_name_, line, error.message());
  }

  /// ":7" if the message starts with a key that stands in line 7.
  std::string where_of(std::string_view message) const {
    for (const auto& [key, line] : lines_) {
      if (message.starts_with(key) && message.substr(key.size()).starts_with(":")) {
        return fmt::format(":{}", line);
      }
    }
    return {};
  }

  Result<std::string> text(std::string_view key, std::uint32_t line, const toml::node& node) const {
    if (const auto* value = node.as_string()) return value->get();
    return wrong(line, fail(ErrorCode::config, "{}: expected text in quotes{}", key,
                            key == "memory" ? ", such as \"256 MiB\"" : ""));
  }

  Result<void> read_key(DomainConfig& config, std::string_view key, std::uint32_t line,
                        const toml::node& node) {
    if (key == "vcpus") {
      const auto* value = node.as_integer();
      if (!value || value->get() < 1 || value->get() > kVcpusMax) {
        return wrong(line,
                     fail(ErrorCode::config, "vcpus: expected a number from 1 to {}", kVcpusMax));
      }
      config.vcpus = static_cast<unsigned>(value->get());
      return ok();
    }
    if (key == "nic") {
      const auto* tables = node.as_array();
      if (!tables) {
        return wrong(line,
                     fail(ErrorCode::config, "nic: expected tables, each under a line [[nic]]"));
      }
      for (const toml::node& element : *tables) {
        const auto* nic = element.as_table();
        if (!nic)
          return wrong(line,
                       fail(ErrorCode::config, "nic: expected tables, each under a line [[nic]]"));
        BOOST_OUTCOME_TRY(read_nic(config, *nic));
      }
      return ok();
    }
    if (std::find(kTomlKeys.begin(), kTomlKeys.end(), key) == kTomlKeys.end()) {
      return wrong(line, fail(ErrorCode::config, "unknown key \"{}\"{}", printable(key),
                              advice(key, kTomlKeys)));
    }
    BOOST_OUTCOME_TRY(std::string value, text(key, line, node));
    if (key == "memory") {
      const auto bytes = parse_memory(value);
      if (!bytes) return wrong(line, bytes.error());
      config.memory_bytes = bytes.value();
    } else if (key == "accelerator") {
      const auto accelerator = parse_accelerator(value);
      if (!accelerator) return wrong(line, accelerator.error());
      config.accelerator = accelerator.value();
    } else {
      std::string* const field = key == "name"           ? &config.name
                                 : key == "kernel"       ? &config.kernel
                                 : key == "initrd"       ? &config.initrd
                                 : key == "command_line" ? &config.command_line
                                 : key == "image"        ? &config.image
                                 : key == "machine"      ? &config.machine
                                 : key == "cpu"          ? &config.cpu
                                                         : &config.console_log;
      *field = std::move(value);
    }
    return ok();
  }

  Result<void> read_nic(DomainConfig& config, const toml::table& table) {
    NicConfig nic;
    for (auto&& [key, node] : table) {
      const std::uint32_t line = line_of(key);
      if (std::find(kNicKeys.begin(), kNicKeys.end(), key.str()) == kNicKeys.end()) {
        return wrong(line, fail(ErrorCode::config, "nic: unknown key \"{}\"{}",
                                printable(key.str()), advice(key.str(), kNicKeys)));
      }
      BOOST_OUTCOME_TRY(std::string value, text(fmt::format("nic.{}", key.str()), line, node));
      if (key.str() == "bridge") {
        nic.bridge = std::move(value);
      } else {
        const auto mac = MacAddress::parse(value);
        if (!mac) return wrong(line, mac.error().in("nic.mac"));
        nic.mac = mac.value();
      }
    }
    if (nic.bridge.empty()) {
      return wrong(table.source().begin.line,
                   fail(ErrorCode::config, "nic: missing key \"bridge\""));
    }
    config.nics.push_back(std::move(nic));
    nic_lines_.push_back(table.source().begin.line);
    return ok();
  }

  /// An address out of QEMU's own range that differs from name to name.
  static MacAddress suggested_mac(std::string_view name, std::size_t index) {
    std::uint32_t hash = 2166136261u;  // FNV-1a
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    hash += static_cast<std::uint32_t>(index);
    return {{0x52, 0x54, 0x00, static_cast<std::uint8_t>(hash >> 16),
             static_cast<std::uint8_t>(hash >> 8), static_cast<std::uint8_t>(hash)}};
  }

  std::string file_name_;
  std::vector<std::pair<std::string, std::uint32_t>> lines_;
  std::vector<std::uint32_t> nic_lines_;
};

}  // namespace

std::string_view to_string(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::automatic:
      return "automatic";
    case Accelerator::kvm:
      return "kvm";
    case Accelerator::tcg:
      return "tcg";
  }
  return "automatic";
}

Result<DomainConfig> DomainConfig::from_toml(std::string_view text, std::string_view file_name) {
  if (text.size() > kTomlBytesMax) {
    return fail(ErrorCode::config, "{}: {} bytes are too many for a domain file", file_name,
                text.size());
  }
  BOOST_OUTCOME_TRY(check_toml_characters(text, file_name));
  const toml::parse_result parsed = toml::parse(text, file_name);
  if (!parsed) {
    return fail(ErrorCode::config, "{}:{}: {}", file_name, parsed.error().source().begin.line,
                printable(parsed.error().description()));
  }
  return TomlReader(file_name).read(parsed.table());
}

Result<DomainConfig> DomainConfig::from_json(const json::value& value) {
  const auto bad = [](std::string_view key, std::string_view expected) {
    return fail(ErrorCode::bad_data, "domain config: {}: expected {}", printable(key), expected);
  };
  const auto* object = value.if_object();
  if (!object) return bad("top level", "an object");
  DomainConfig config;
  for (const auto& [json_key, member] : *object) {
    const std::string_view key(json_key.data(), json_key.size());
    std::string* field = key == "name"           ? &config.name
                         : key == "kernel"       ? &config.kernel
                         : key == "initrd"       ? &config.initrd
                         : key == "command_line" ? &config.command_line
                         : key == "image"        ? &config.image
                         : key == "machine"      ? &config.machine
                         : key == "cpu"          ? &config.cpu
                         : key == "console_log"  ? &config.console_log
                         : key == "xen"          ? &config.xen
                                                 : nullptr;
    if (field) {
      if (!member.is_string()) return bad(key, "text");
      *field = std::string(member.get_string());
    } else if (key == "memory_bytes") {
      if (!member.is_int64() || member.get_int64() < 0) return bad(key, "a number of bytes");
      config.memory_bytes = static_cast<std::uint64_t>(member.get_int64());
    } else if (key == "vcpus") {
      if (!member.is_int64() || member.get_int64() < 1 || member.get_int64() > kVcpusMax) {
        return bad(key, "a number from 1 to 255");
      }
      config.vcpus = static_cast<unsigned>(member.get_int64());
    } else if (key == "accelerator") {
      if (!member.is_string()) return bad(key, "text");
      const auto accelerator = parse_accelerator(std::string_view(member.get_string()));
      if (!accelerator) return bad(key, "automatic, kvm or tcg");
      config.accelerator = accelerator.value();
    } else if (key == "nics") {
      if (!member.is_array()) return bad(key, "an array");
      for (const json::value& element : member.get_array()) {
        const auto* nic = element.if_object();
        const auto* bridge = nic ? nic->if_contains("bridge") : nullptr;
        const auto* mac = nic ? nic->if_contains("mac") : nullptr;
        if (!bridge || !bridge->is_string() || !mac || !mac->is_string() || nic->size() != 2) {
          return bad(key, "objects with exactly bridge and mac, both text");
        }
        const auto address = MacAddress::parse(std::string_view(mac->get_string()));
        if (!address) return bad(key, "an Ethernet address under mac");
        config.nics.push_back({std::string(bridge->get_string()), address.value()});
      }
    } else {
      return bad(key, "no such key (is the sender a later version?)");
    }
  }
  if (auto valid = config.validate(); !valid) {
    return fail(ErrorCode::bad_data, "domain config: {}", valid.error().message());
  }
  return config;
}

json::value DomainConfig::to_json() const {
  const DomainConfig defaults;
  json::object object;
  const auto put = [&](const char* key, const std::string& value, const std::string& usual) {
    if (value != usual) object[key] = value;
  };
  object["name"] = name;
  object["memory_bytes"] = static_cast<std::int64_t>(memory_bytes);
  if (vcpus != defaults.vcpus) object["vcpus"] = vcpus;
  put("kernel", kernel, defaults.kernel);
  put("initrd", initrd, defaults.initrd);
  put("command_line", command_line, defaults.command_line);
  put("image", image, defaults.image);
  put("machine", machine, defaults.machine);
  put("cpu", cpu, defaults.cpu);
  put("console_log", console_log, defaults.console_log);
  put("xen", xen, defaults.xen);
  if (accelerator != defaults.accelerator) object["accelerator"] = to_string(accelerator);
  if (!nics.empty()) {
    json::array list;
    for (const NicConfig& nic : nics) {
      json::object element;
      element["bridge"] = nic.bridge;
      element["mac"] = nic.mac.to_string();
      list.push_back(std::move(element));
    }
    object["nics"] = std::move(list);
  }
  return object;
}

Result<void> DomainConfig::validate() const {
  if (name.empty() || name.size() > kNameCharactersMax || !consists_of(name, "._-") ||
      !is_alphanumeric(name.front())) {
    return fail(ErrorCode::config,
                "name: \"{}\" is not 1 to {} of a-z A-Z 0-9 . _ - beginning with a letter or digit",
                printable(name), kNameCharactersMax);
  }
  if (memory_bytes < kMemoryMin || memory_bytes > kMemoryMax || memory_bytes % kMiB != 0) {
    return fail(ErrorCode::config, "memory: {} bytes; expected whole MiB, from 16 MiB to 16 TiB",
                memory_bytes);
  }
  if (vcpus < 1 || vcpus > kVcpusMax) {
    return fail(ErrorCode::config, "vcpus: expected a number from 1 to {}", kVcpusMax);
  }
  if (xen.size() > kXenCharactersMax) {
    return fail(ErrorCode::config, "xen: more than {} characters", kXenCharactersMax);
  }
  if (kernel.empty() && image.empty() && xen.empty()) {
    return fail(ErrorCode::config, "kernel: a domain needs a kernel or an image to start from");
  }
  if (kernel.empty() && !initrd.empty()) {
    return fail(ErrorCode::config, "initrd: only together with a kernel");
  }
  if (kernel.empty() && !command_line.empty()) {
    return fail(ErrorCode::config, "command_line: only together with a kernel");
  }
  BOOST_OUTCOME_TRY(check_path("kernel", kernel));
  BOOST_OUTCOME_TRY(check_path("initrd", initrd));
  BOOST_OUTCOME_TRY(check_path("image", image));
  BOOST_OUTCOME_TRY(check_path("console_log", console_log));
  if (command_line.size() > kCommandLineCharactersMax || has_control_characters(command_line)) {
    return fail(ErrorCode::config, "command_line: at most {} characters, no control characters",
                kCommandLineCharactersMax);
  }
  if (machine.empty() || machine.size() > kNameCharactersMax || !consists_of(machine, "._-")) {
    return fail(ErrorCode::config, "machine: \"{}\" is not the name of a machine type",
                printable(machine));
  }
  if (cpu.empty() || cpu.size() > kPathCharactersMax || !consists_of(cpu, "._-,=+")) {
    return fail(ErrorCode::config, "cpu: \"{}\" is not a processor model with features",
                printable(cpu));
  }
  if (nics.size() > kNicsMax) {
    return fail(ErrorCode::config, "nic: {} of them, at most {}", nics.size(), kNicsMax);
  }
  for (std::size_t i = 0; i < nics.size(); ++i) {
    const std::string& bridge = nics[i].bridge;
    if (bridge.empty() || bridge.size() > kInterfaceCharactersMax ||
        !consists_of(bridge, "._-@+") || bridge == "." || bridge == "..") {
      return fail(ErrorCode::config, "nic: \"{}\" is not the name of a bridge", printable(bridge));
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (nics[j].mac == nics[i].mac) {
        return fail(ErrorCode::config, "nic: two of them have the address {}",
                    nics[i].mac.to_string());
      }
    }
  }
  return ok();
}

}  // namespace understudy
