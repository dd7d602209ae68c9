// How a value of understudy.toml is taken: each key has a reader, and a table of keys is the whole
// grammar of a section. Errors name file, line and key, and what was expected.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace understudy {

/// Takes one value into what it was made for. Error: what was expected instead, without a place.
using Reader = std::function<Result<void>(const toml::node&)>;
using Keys = std::map<std::string, Reader>;

/// "FILE:LINE: WHERE: MESSAGE".
Error at(std::string_view file, const toml::node& node, std::string_view where,
         std::string_view message);

/// A string that is one of `choices`.
Reader one_of(std::string& target, std::vector<std::string> choices);

/// A whole number from `least` to `most`.
template <typename Number>
Reader number(Number& target, std::int64_t least, std::int64_t most) {
  return [&target, least, most](const toml::node& node) -> Result<void> {
    const auto* value = node.as_integer();
    if (value == nullptr || value->get() < least || value->get() > most)
      return fail(ErrorCode::config, "expected a whole number from {} to {}", least, most);
    target = static_cast<Number>(value->get());
    return ok();
  };
}

/// Gives `value` to the reader of `key`. `where` is the key as messages name it. Errors: there is
/// no such key (and which there are), or the reader's.
Result<void> read_key(std::string_view file, std::string_view where, const Keys& keys,
                      const std::string& key, const toml::node& value);

/// One table: each key by its reader, none other.
Result<void> read_table(std::string_view file, const std::string& where, const toml::table& table,
                        const Keys& keys);

}  // namespace understudy
