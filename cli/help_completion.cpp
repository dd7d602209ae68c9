// Completion for bash, written from the table of commands.
//
// The script walks the words before the cursor: options (and their values) are skipped, words that
// continue a known path of commands extend it, all others are positionals. Then it offers what fits
// at the cursor. Bash splits words at '=' by default, so "--to=hos" arrives as three words; the
// walk knows that.
#include "cli/help.h"

namespace understudy::cli {
namespace {

constexpr std::string_view script_head =
    R"(# bash completion for understudy. Written by 'understudy completion bash'.

_understudy_names() {
  # Keeps the options that say which agent to ask; silent and quick, whatever state the agent is in.
  understudy "${_understudy_globals[@]}" --timeout 1s "$1" list -o name 2>/dev/null </dev/null
}

_understudy() {
  local current=${COMP_WORDS[COMP_CWORD]} path="" option="" word i position=0
  local -a _understudy_globals=()
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case "$word" in
)";

constexpr std::string_view script_walk = R"(        option=$word
        [[ ${COMP_WORDS[i + 1]} == "=" ]] && ((i++))
        if ((i + 1 >= COMP_CWORD)); then
          break
        fi
        ((i++))
        [[ $option == --socket ]] && _understudy_globals+=(--socket "${COMP_WORDS[i]}")
        option=""
        ;;
      -?*) ;;
      *)
        case "${path:+$path }$word" in
)";

constexpr std::string_view script_after_walk = R"( path=${path:+$path }$word ;;
          *) ((++position)) ;;
        esac
        ;;
    esac
  done
  [[ $current == "=" ]] && current=""

  local words="" kind=""
  if [[ -n $option ]]; then
    case "$path:$option" in
)";

constexpr std::string_view script_tail = R"(    esac
  fi
  case "$kind" in
    domain) words=$(_understudy_names domain) ;;
    peer) words=$(_understudy_names pair) ;;
    file) mapfile -t COMPREPLY < <(compgen -f -- "$current") ; compopt -o filenames 2>/dev/null ; return ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _understudy understudy
)";

std::string_view kind_name(Completes completes) {
  switch (completes) {
    case Completes::nothing:
      break;
    case Completes::domain:
      return "domain";
    case Completes::peer:
      return "peer";
    case Completes::file:
      return "file";
  }
  return "";
}

/// "-o|--output"
std::string pattern(const Option& option) {
  std::string text = option.flags;
  for (char& letter : text) {
    letter = letter == ',' ? '|' : letter;
  }
  return text;
}

void append_unique(std::vector<std::string>& list, const std::string& entry) {
  for (const std::string& known : list) {
    if (known == entry) {
      return;
    }
  }
  list.push_back(entry);
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : std::string(between)) + word;
  }
  return text;
}

/// A line of the case statement over "path:option".
std::string option_value_case(const std::string& path, const Option& option) {
  std::string patterns;
  std::string flags = option.flags + ",";
  for (std::size_t at = 0; at < flags.size(); at = flags.find(',', at) + 1) {
    patterns += (patterns.empty() ? "" : "|") +
                std::string(path.empty() ? "*" : "\"" + path + "\"") + ":" +
                flags.substr(at, flags.find(',', at) - at);
  }
  const std::string does = option.choices.empty()
                               ? fmt::format("kind=\"{}\"", kind_name(option.completes))
                               : fmt::format("words=\"{}\"", joined(option.choices, " "));
  return fmt::format("      {}) {} ;;\n", patterns, does);
}

}  // namespace

std::string bash_completion() {
  std::vector<std::string> with_value;
  std::vector<std::string> paths;
  std::vector<std::string> groups;
  std::vector<std::string> first_words;
  std::string values;
  std::string places;
  std::string globals;
  for (const Option& option : global_options()) {
    globals += " " + option.name();
    if (!option.value.empty()) {
      append_unique(with_value, pattern(option));
    }
  }
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      const std::size_t blank = command.path.find(' ');
      append_unique(first_words, command.path.substr(0, blank));
      if (blank != std::string::npos) {
        append_unique(groups, command.path.substr(0, blank));
        append_unique(paths, "\"" + command.path.substr(0, blank) + "\"");
      }
      append_unique(paths, "\"" + command.path + "\"");

      std::string names;
      for (const Option& option : command.options) {
        names += option.name() + " ";
        if (!option.value.empty()) {
          append_unique(with_value, pattern(option));
          values += option_value_case(command.path, option);
        }
      }
      places += fmt::format("      \"{}\":-*) words=\"{}{}\" ;;\n", command.path, names,
                            globals.substr(1));
      for (std::size_t i = 0; i < command.positionals.size(); ++i) {
        const Positional& positional = command.positionals[i];
        if (command.path == "completion") {
          places += fmt::format("      \"{}\":{}:*) words=\"bash\" ;;\n", command.path, i);
        } else if (positional.completes != Completes::nothing) {
          places += fmt::format("      \"{}\":{}:*) kind={} ;;\n", command.path, i,
                                kind_name(positional.completes));
        }
      }
    }
  }
  for (const Option& option : global_options()) {
    if (!option.value.empty()) {
      values += option_value_case("", option);
    }
  }
  std::string entries = fmt::format("      \"\":-*) words=\"{}\" ;;\n", globals.substr(1));
  entries +=
      fmt::format("      \"\":0:*|\"help\":0:*) words=\"{}\" ;;\n", joined(first_words, " "));
  for (const std::string& group : groups) {
    std::vector<std::string> members;
    for (const CommandFamily& family : command_table()) {
      for (const Command& command : family.commands) {
        if (command.path.starts_with(group + " ")) {
          members.push_back(command.path.substr(group.size() + 1));
        }
      }
    }
    entries += fmt::format("      \"{}\":-*) words=\"{}\" ;;\n", group, globals.substr(1));
    entries += fmt::format("      \"{}\":0:*) words=\"{}\" ;;\n", group, joined(members, " "));
  }

  std::string text(script_head);
  text += "      " + joined(with_value, "|") + ")\n";
  text += script_walk;
  text += "          " + joined(paths, "|") + ")";
  text += script_after_walk;
  text += values;
  text += "    esac\n  elif [[ $current == -* ]]; then\n    case \"$path:$current\" in\n";
  // Options and positionals are told apart by the cursor's word, so each gets its own case
  // statement.
  std::string option_cases;
  std::string positional_cases;
  const std::string all = entries + places;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = all.find('\n', at) + 1;
    const std::string line = all.substr(at, end - at);
    (line.find(":-*)") != std::string::npos ? option_cases : positional_cases) += line;
    at = end;
  }
  text += option_cases;
  text += "    esac\n  else\n    case \"$path:$position:$current\" in\n";
  text += positional_cases;
  text += script_tail;
  return text;
}

}  // namespace understudy::cli
