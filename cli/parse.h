// The command line, read by CLI11 after the table of commands; what is wrong with it is said in our
// own words.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command.h"

namespace understudy::cli {

/// What the user asked for. `command` is null where only help or the version was asked for, or
/// nothing at all.
struct Parsed {
  const Command* command = nullptr;
  Arguments arguments;
  std::string group;  ///< "pair", where only a group was named.
};

/// Reads `words` (without the program's name). Errors (usage) name the word and, where one is near,
/// what was probably meant; `--help` anywhere suspends the check for what is missing.
Result<Parsed> parse_command_line(const std::vector<std::string>& words);

/// The entries of `candidates` that `word` is likely a misspelling of, nearest first, at most
/// three.
std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace understudy::cli
