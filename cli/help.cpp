#include "cli/help.h"

#include <algorithm>

#include "cli/terminal.h"

namespace understudy::cli {
namespace {

/// "  -o, --output FORMAT", the left side of an option's help.
std::string option_label(const Option& option) {
  std::string label;
  for (const char letter : option.flags) {
    label += letter;
    if (letter == ',') {
      label += ' ';
    }
  }
  return option.value.empty() ? label : label + " " + option.value;
}

std::string option_text(const Option& option) {
  std::string text = option.help;
  if (!option.choices.empty()) {
    text += " (";
    for (std::size_t i = 0; i < option.choices.size(); ++i) {
      text += (i == 0 ? "" : ", ") + option.choices[i];
    }
    text += ")";
  }
  if (option.required) {
    text += ". Required";
  }
  if (option.repeatable) {
    text += ". May be given several times";
  }
  return text;
}

/// Two columns: labels, and text filled beside them; a label that is too long stands on its own
/// line.
std::string definitions(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::size_t widest = 0;
  for (const auto& [label, text] : entries) {
    widest = std::max(widest, display_width(label));
  }
  const std::size_t column = std::min<std::size_t>(widest + 4, 26);
  std::string result;
  for (const auto& [label, text] : entries) {
    std::string filled = fill(text, column);
    std::string line = "  " + label;
    if (display_width(line) + 2 <= column) {
      line.append(column - display_width(line), ' ');
      filled.erase(0, column);
    } else {
      line += '\n';
    }
    result += line + filled;
  }
  return result;
}

}  // namespace

std::string fill(std::string_view text, std::size_t indent, std::size_t width) {
  std::string result;
  std::string line;
  const auto finish = [&] {
    if (!line.empty()) {
      result += line + "\n";
      line.clear();
    }
  };
  std::size_t at = 0;
  while (at < text.size()) {
    if (text.substr(at, 2) == "\n\n") {
      finish();
      result += '\n';
      at += 2;
      continue;
    }
    if (text[at] == ' ' || text[at] == '\n') {
      ++at;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(" \n", at), text.size());
    const std::string_view word = text.substr(at, end - at);
    if (!line.empty() && display_width(line) + 1 + display_width(word) > width) {
      finish();
    }
    if (line.empty()) {
      line.assign(indent, ' ');
    } else {
      line += ' ';
    }
    line += word;
    at = end;
  }
  finish();
  return result;
}

std::string usage_line(const Command& command) {
  std::string line = "understudy " + command.path;
  for (const Positional& positional : command.positionals) {
    line += positional.required ? " " + positional.name : " [" + positional.name + "]";
  }
  for (const Option& option : command.options) {
    const std::string form = option.name() + (option.value.empty() ? "" : " " + option.value);
    line += option.required ? " " + form : " [" + form + "]";
    if (option.repeatable) {
      line += "...";
    }
  }
  return line;
}

std::string overview() {
  std::string text =
      "understudy keeps virtual machines alive when their host dies: a second host\n"
      "holds an up-to-date image of each, and resumes it when the first one fails.\n\n"
      "Usage: understudy COMMAND [ARGUMENTS] [OPTIONS]\n";
  for (const CommandFamily& family : command_table()) {
    text += "\n" + family.title + "\n";
    for (const Command& command : family.commands) {
      text += fmt::format("  {:<18}  {}\n", command.path, command.summary);
    }
  }
  text += "\nOptions of every command\n";
  std::vector<std::pair<std::string, std::string>> entries;
  for (const Option& option : global_options()) {
    entries.emplace_back(option_label(option), option_text(option));
  }
  text += definitions(entries);
  text +=
      "\n'understudy help COMMAND' shows examples and exit statuses of a command;\n"
      "'man understudy' has it all.\n";
  return text;
}

std::string group_overview(const std::string& group) {
  std::string text = fmt::format("Usage: understudy {} COMMAND [ARGUMENTS] [OPTIONS]\n\n", group);
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      if (command.path.starts_with(group + " ")) {
        text += fmt::format("  {:<18}  {}\n", command.path, command.summary);
      }
    }
  }
  return text;
}

std::string command_help(const Command& command) {
  std::string text = fill("understudy " + command.path + ": " + command.summary, 0) + "\n";
  std::string usage = fill(usage_line(command), 9);
  usage.replace(0, 7, "Usage: ");
  usage.erase(7, 2);
  text += usage + "\n" + fill(command.description, 0);
  if (!command.positionals.empty()) {
    text += "\nArguments\n";
    std::vector<std::pair<std::string, std::string>> entries;
    entries.reserve(command.positionals.size());
    for (const Positional& positional : command.positionals) {
      entries.emplace_back(positional.name, positional.help);
    }
    text += definitions(entries);
  }
  text += "\nOptions\n";
  std::vector<std::pair<std::string, std::string>> options;
  options.reserve(command.options.size() + global_options().size());
  for (const Option& option : command.options) {
    options.emplace_back(option_label(option), option_text(option));
  }
  for (const Option& option : global_options()) {
    options.emplace_back(option_label(option), option_text(option));
  }
  text += definitions(options);
  if (!command.exits.empty()) {
    text += "\nExit status (see 'understudy help exit-status' for those of all commands)\n";
    std::vector<std::pair<std::string, std::string>> exits;
    exits.reserve(command.exits.size());
    for (const ExitMeaning& exit : command.exits) {
      exits.emplace_back(fmt::format("{:>3}", exit.status), exit.meaning);
    }
    text += definitions(exits);
  }
  if (!command.examples.empty()) {
    text += "\nExamples\n";
    for (const Example& example : command.examples) {
      text += fill(example.what + ":", 2) + "      " + example.line + "\n";
    }
  }
  return text;
}

}  // namespace understudy::cli
