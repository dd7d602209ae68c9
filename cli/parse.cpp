#include "cli/parse.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <memory>
#include <numeric>

#include "cli/terminal.h"

namespace understudy::cli {
namespace {

/// Edits (insert, delete, replace, swap neighbours) from `a` to `b`: the optimal string alignment
/// distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> now(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t differs = a[i - 1] == b[j - 1] ? 0 : 1;
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + differs});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

/// Where CLI11 puts the values of one option or positional.
struct Slot {
  std::vector<std::string> values;
  CLI::Option* option = nullptr;
};

/// A CLI::App that follows the table, and the slots that it fills.
struct Parser {
  CLI::App app;
  std::map<std::string, CLI::App*> apps;                           // by path, groups too
  std::map<std::pair<std::string, std::string>, Slot> slots = {};  // by path and name

  Parser() {
    app.set_help_flag();
    prepare(app);
    for (const Option& option : global_options()) {
      add(app, "", option);
    }
    for (const CommandFamily& family : command_table()) {
      for (const Command& command : family.commands) {
        CLI::App& place = app_for(command.path);
        for (const Option& option : command.options) {
          add(place, command.path, option);
        }
        for (const Positional& positional : command.positionals) {
          Slot& slot = slots[{command.path, positional.name}];
          slot.option = place.add_option(positional.name, slot.values);
          slot.option->expected(1)->allow_extra_args(false);
        }
      }
    }
  }

  static void prepare(CLI::App& place) {
    place.allow_extras();
    place.fallthrough();
    place.require_subcommand(0, 1);
  }

  CLI::App& app_for(const std::string& path) {
    if (path.empty()) {
      return app;
    }
    const auto found = apps.find(path);
    if (found != apps.end()) {
      return *found->second;
    }
    const std::size_t blank = path.rfind(' ');
    CLI::App& parent = app_for(blank == std::string::npos ? "" : path.substr(0, blank));
    CLI::App* const made =
        parent.add_subcommand(blank == std::string::npos ? path : path.substr(blank + 1));
    made->set_help_flag();
    prepare(*made);
    apps[path] = made;
    return *made;
  }

  void add(CLI::App& place, const std::string& path, const Option& option) {
    Slot& slot = slots[{path, option.name()}];
    if (option.value.empty()) {
      slot.option = place.add_flag(option.flags);
    } else {
      slot.option = place.add_option(option.flags, slot.values);
      slot.option->allow_extra_args(false);
    }
  }
};

std::string quoted_list(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    text += i == 0 ? "" : i + 1 == words.size() ? " or " : ", ";
    text += "'" + words[i] + "'";
  }
  return text;
}

std::string did_you_mean(const std::vector<std::string>& words) {
  return words.empty() ? "" : fmt::format(": did you mean {}?", quoted_list(words));
}

Error unknown_command(const std::string& group, const std::string& word) {
  // 'understudy list' means 'domain list' or 'pair list': a verb is looked for by its last word
  // too.
  std::vector<std::string> candidates;
  std::vector<std::string> same_last_word;
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      const std::size_t blank = command.path.rfind(' ');
      if (group.empty()) {
        candidates.push_back(command.path.substr(0, command.path.find(' ')));
        if (blank != std::string::npos && command.path.substr(blank + 1) == word) {
          same_last_word.push_back(command.path);
        }
      } else if (command.path.starts_with(group + " ")) {
        candidates.push_back(command.path.substr(group.size() + 1));
      }
    }
  }
  const std::string shown = printable(group.empty() ? word : group + " " + word);
  std::vector<std::string> near =
      same_last_word.empty() ? nearest(word, candidates) : same_last_word;
  if (!group.empty()) {
    for (std::string& one : near) {
      one.insert(0, group + " ");
    }
  }
  if (near.empty()) {
    return fail(ErrorCode::usage, "there is no command '{}': 'understudy {}help' lists them", shown,
                group.empty() ? "" : group + " --");
  }
  return fail(ErrorCode::usage, "there is no command '{}'{}", shown, did_you_mean(near));
}

Error unknown_option(const Command* command, const std::string& word) {
  std::vector<std::string> candidates;
  const auto collect = [&](const std::vector<Option>& options) {
    for (const Option& option : options) {
      candidates.push_back(option.name());
    }
  };
  collect(global_options());
  if (command != nullptr) {
    collect(command->options);
  }
  return fail(ErrorCode::usage, "{} has no option '{}'{}",
              command == nullptr ? "understudy" : "'" + command->path + "'", printable(word),
              did_you_mean(nearest(word.substr(0, word.find('=')), candidates)));
}

Result<void> check(const Command& command, const Arguments& arguments) {
  for (const Positional& positional : command.positionals) {
    if (positional.required && !arguments.has(positional.name)) {
      return fail(ErrorCode::usage, "'{}' needs {}: {}", command.path, positional.name,
                  positional.help);
    }
  }
  for (const Option& option : command.options) {
    if (!arguments.has(option.name())) {
      if (option.required) {
        return fail(ErrorCode::usage, "'{}' needs {} {}: {}", command.path, option.name(),
                    option.value, option.help);
      }
      continue;
    }
    for (const std::string& value : arguments.texts(option.name())) {
      if (!option.choices.empty() &&
          std::find(option.choices.begin(), option.choices.end(), value) == option.choices.end()) {
        return fail(ErrorCode::usage, "{} cannot be '{}': use {}", option.name(), printable(value),
                    quoted_list(option.choices));
      }
    }
    if (!option.repeatable && arguments.texts(option.name()).size() > 1) {
      return fail(ErrorCode::usage, "{} is given twice", option.name());
    }
  }
  return ok();
}

}  // namespace

std::vector<std::string> nearest(std::string_view word,
                                 const std::vector<std::string>& candidates) {
  std::vector<std::pair<std::size_t, std::string>> found;
  for (const std::string& candidate : candidates) {
    const bool prefix = word.size() >= 3 && candidate.starts_with(word);
    const std::size_t distance = prefix ? 1 : edit_distance(word, candidate);
    const std::size_t allowed =
        std::max<std::size_t>(1, std::min(word.size(), candidate.size()) / 3);
    if (distance <= allowed) {
      found.emplace_back(distance, candidate);
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  std::vector<std::string> result;
  for (auto& [distance, candidate] : found) {
    if (distance == found.front().first && result.size() < 3) {
      result.push_back(std::move(candidate));
    }
  }
  return result;
}

Result<Parsed> parse_command_line(const std::vector<std::string>& words) {
  Parser parser;
  try {
    parser.app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ParseError& error) {
    return fail(ErrorCode::usage, "{}", printable(error.what()));
  } catch (const std::exception& error) {
    return fail(ErrorCode::usage, "the command line cannot be read: {}", printable(error.what()));
  }

  Parsed parsed;
  std::string path;
  for (CLI::App* place = &parser.app; !place->get_subcommands().empty();) {
    place = place->get_subcommands().front();
    path += (path.empty() ? "" : " ") + place->get_name();
  }
  parsed.command = find_command(path);
  if (parsed.command == nullptr) {
    parsed.group = path;
  }

  // The first word that starts with a dash is the mistake; what follows it may just be its value.
  const std::vector<std::string> extras = parser.app.remaining(true);
  const auto stray_option = std::find_if(extras.begin(), extras.end(), [](const std::string& word) {
    return word.size() > 1 && word.front() == '-';
  });
  if (stray_option != extras.end()) {
    return unknown_option(parsed.command, *stray_option);
  }
  if (!extras.empty() && parsed.command == nullptr) {
    return unknown_command(path, extras.front());
  }
  if (!extras.empty()) {
    return fail(ErrorCode::usage, "'{}' takes no further word '{}'", path,
                printable(extras.front()));
  }

  for (auto& [key, slot] : parser.slots) {
    const bool here = key.first.empty() || (parsed.command != nullptr && key.first == path);
    if (here && slot.option->count() > 0) {
      parsed.arguments.set(key.second, std::move(slot.values));
    }
  }
  if (parsed.command != nullptr && !parsed.arguments.has("--help")) {
    BOOST_OUTCOME_TRY(check(*parsed.command, parsed.arguments));
  }
  return parsed;
}

}  // namespace understudy::cli
