// Help, the manual page and shell completion: three renderings of the table of commands.
#pragma once

#include <string>

#include "cli/command.h"

namespace understudy::cli {

/// All verbs in one line each, in families.
std::string overview();

/// The verbs of one group ("pair") in one line each.
std::string group_overview(const std::string& group);

/// Everything about one verb: usage, description, options, exit statuses, examples. At most 80
/// columns.
std::string command_help(const Command& command);

/// "understudy protect NAME --to HOST [--mode MODE] …"
std::string usage_line(const Command& command);

/// understudy(1) in roff (man macros).
std::string manual_page();

/// The completion script for bash. It needs nothing but bash itself; names of domains and hosts are
/// asked from the agent while completing, with a time limit of one second.
std::string bash_completion();

/// `text` filled into lines of at most `width` columns, each preceded by `indent` blanks;
/// paragraphs stay apart.
std::string fill(std::string_view text, std::size_t indent, std::size_t width = 80);

}  // namespace understudy::cli
