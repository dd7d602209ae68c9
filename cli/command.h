// What a verb is: its words, its options, its examples, its exit statuses, and the function that
// does it.
//
// The list of these (command_table) is the one source of parsing, help, the manual page and
// completion, so that they cannot disagree. A verb is data plus one function; a family of verbs is
// one file (verbs_*.cpp) that adds its commands to the list.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/api_client.h"
#include "cli/duration.h"
#include "cli/terminal.h"

namespace understudy::cli {

/// What the shell offers at this place.
enum class Completes { nothing, domain, peer, file };

/// A word of the command line that is told by its place.
struct Positional {
  std::string name;  ///< "NAME"
  std::string help;
  bool required = true;
  Completes completes = Completes::nothing;
};

/// An option. Values are strings here; the verb reads them.
struct Option {
  std::string flags;  ///< "-o,--output"; the last one is its name
  std::string value;  ///< "FORMAT"; empty for a switch
  std::string help;
  std::vector<std::string> choices = {};  ///< The only values allowed, if any.
  bool required = false;
  bool repeatable = false;
  Completes completes = Completes::nothing;

  /// The long form: "--output".
  [[nodiscard]] std::string name() const;
};

struct Example {
  std::string line;
  std::string what;
};

/// An exit status that this verb gives a meaning of its own.
struct ExitMeaning {
  int status;
  std::string meaning;
};

/// What was given on the command line, after it was checked against the command.
class Arguments {
 public:
  /// True if the switch or option `name` ("--yes") or positional ("NAME") was given.
  [[nodiscard]] bool has(std::string_view name) const;
  /// The value of `name`, or `fallback`.
  [[nodiscard]] std::string text(std::string_view name, std::string_view fallback = "") const;
  /// All values of a repeatable option.
  [[nodiscard]] std::vector<std::string> texts(std::string_view name) const;

  void set(std::string name, std::vector<std::string> values);

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

/// What a verb works with. `timeout` is what --timeout said, if anything.
struct Session {
  Terminal& terminal;
  ApiClient client;
  std::optional<Microseconds> timeout;
};

/// Does the verb; the exit status, or the error whose code becomes it.
using Action = std::function<Result<int>(Session&, const Arguments&)>;

struct Command {
  std::string path;         ///< "pair join"
  std::string summary;      ///< One line, no full stop.
  std::string description;  ///< Paragraphs, parted by an empty line.
  std::vector<Positional> positionals = {};
  std::vector<Option> options = {};
  std::vector<ExitMeaning> exits = {};
  std::vector<Example> examples = {};
  Action run;
};

/// A heading of the overview with its commands.
struct CommandFamily {
  std::string title;
  std::vector<Command> commands;
};

using CommandTable = std::vector<CommandFamily>;

/// Every verb of `understudy`, in the order of the overview.
const CommandTable& command_table();

/// Options that every verb takes.
const std::vector<Option>& global_options();

/// Exit statuses of all verbs, after sysexits and Pacemaker.
const std::vector<ExitMeaning>& common_exits();

/// The command of that path, or nothing.
const Command* find_command(std::string_view path);

// The families, one file each.
CommandFamily pairing_verbs();
CommandFamily domain_verbs();
CommandFamily protection_verbs();
CommandFamily dangerous_verbs();
CommandFamily watching_verbs();
CommandFamily operations_verbs();
CommandFamily own_verbs();

}  // namespace understudy::cli
