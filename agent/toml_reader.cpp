#include "agent/toml_reader.h"

#include <algorithm>
#include <utility>

namespace understudy {

Error at(std::string_view file, const toml::node& node, std::string_view where,
         std::string_view message) {
  return fail(ErrorCode::config, "{}:{}: {}: {}", file, node.source().begin.line, where, message);
}

Reader one_of(std::string& target, std::vector<std::string> choices) {
  return [&target, choices = std::move(choices)](const toml::node& node) -> Result<void> {
    const auto* value = node.as_string();
    if (value == nullptr || std::ranges::find(choices, value->get()) == choices.end())
      return fail(ErrorCode::config, "expected one of: {}", fmt::join(choices, ", "));
    target = value->get();
    return ok();
  };
}

Result<void> read_key(std::string_view file, std::string_view where, const Keys& keys,
                      const std::string& key, const toml::node& value) {
  const auto reader = keys.find(key);
  if (reader == keys.end()) {
    std::vector<std::string> known;
    known.reserve(keys.size());
    for (const auto& [known_key, unused] : keys) known.push_back(known_key);
    return at(file, value, where, fmt::format("no such key; known are {}", fmt::join(known, ", ")));
  }
  if (auto taken = reader->second(value); !taken)
    return at(file, value, where, taken.error().message());
  return ok();
}

Result<void> read_table(std::string_view file, const std::string& where, const toml::table& table,
                        const Keys& keys) {
  for (const auto& [key, value] : table) {
    const std::string name(key.str());
    BOOST_OUTCOME_TRY(read_key(file, where + "." + name, keys, name, value));
  }
  return ok();
}

}  // namespace understudy
