#include "cli/command.h"

namespace understudy::cli {

std::string Option::name() const {
  const std::size_t comma = flags.rfind(',');
  return comma == std::string::npos ? flags : flags.substr(comma + 1);
}

bool Arguments::has(std::string_view name) const {
  return values_.find(name) != values_.end();
}

std::string Arguments::text(std::string_view name, std::string_view fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() || found->second.empty() ? std::string(fallback)
                                                         : found->second.back();
}

std::vector<std::string> Arguments::texts(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

void Arguments::set(std::string name, std::vector<std::string> values) {
  values_[std::move(name)] = std::move(values);
}

const CommandTable& command_table() {
  static const CommandTable table = {
      pairing_verbs(),  domain_verbs(),     protection_verbs(), dangerous_verbs(),
      watching_verbs(), operations_verbs(), own_verbs(),
  };
  return table;
}

const std::vector<Option>& global_options() {
  static const std::vector<Option> options = {
      {.flags = "--socket",
       .value = "PATH",
       .help = "The agent's socket. Default: the variable UNDERSTUDY_SOCKET, else "
               "/run/understudy/understudyd.sock",
       .completes = Completes::file},
      {.flags = "--timeout",
       .value = "TIME",
       .help =
           "Give up after this time: for verbs that wait, counted over the whole wait, else for "
           "the agent's answer. Default: 12s for an answer, 35s where another host is asked, no "
           "limit for a wait"},
      {.flags = "-h,--help", .value = "", .help = "Show help for the command"},
      {.flags = "--version", .value = "", .help = "Show the version of this program"},
  };
  return options;
}

const std::vector<ExitMeaning>& common_exits() {
  static const std::vector<ExitMeaning> exits = {
      {0, "done"},
      {1, "it did not work; the message says why"},
      {64, "the command line is wrong"},
      {65, "data of a peer, a file or a guest is malformed (a damaged token)"},
      {69, "the agent is not running, or a host cannot be reached"},
      {70, "a mistake of the program: please report it"},
      {71, "memory, disk or kernel objects are exhausted"},
      {74, "the operating system refused to read or write"},
      {75, "busy: try again"},
      {76, "versions do not fit, or the answer was not understood"},
      {77, "not permitted: not root, not in the group, not paired"},
      {78, "a configuration value is wrong; file, line and key are named"},
      {105, "no domain, host or object of that name"},
      {106, "the right to act is missing (arbiter, fence, operator's word)"},
      {107, "dangerous: give --yes (or --force, where the message says so)"},
      {108, "it is there already"},
      {124, "no answer in time; work that was begun goes on"},
      {130, "ended by Ctrl-C; work that was begun goes on"},
  };
  return exits;
}

const Command* find_command(std::string_view path) {
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      if (command.path == path) {
        return &command;
      }
    }
  }
  return nullptr;
}

}  // namespace understudy::cli
