// What has to be checked before the TOML library may see a text.
#pragma once

#include <string_view>

#include "base/result.h"

namespace understudy {

/// Refuses characters outside ASCII except in comments: toml++ 3.3 asks of most others whether they
/// are whitespace, by a table that ends in undefined behaviour for them. Within quoted text they
/// can be written as escapes. Error: config, naming `file_name` and the line.
Result<void> check_toml_characters(std::string_view text, std::string_view file_name);

}  // namespace understudy
