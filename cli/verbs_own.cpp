// version, completion, help: the command about itself.
#include "cli/help.h"
#include "cli/json_view.h"
#include "cli/parse.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

Result<int> version(Session& session, const Arguments& arguments) {
  const Result<Reply> agent = session.client.get("/v1/version");
  if (wants_json(arguments)) {
    session.terminal.out(fmt::format("{{\"client\":\"{}\",\"agent\":{}}}\n", UNDERSTUDY_VERSION,
                                     agent ? agent.value().body : "null"));
    return 0;
  }
  session.terminal.out("understudy " UNDERSTUDY_VERSION "\n");
  if (agent) {
    session.terminal.out(fmt::format("understudyd {} on {}\n",
                                     text_at(agent.value().json, "version"),
                                     text_at(agent.value().json, "host")));
  } else {
    session.terminal.talk("understudyd: " + agent.error().message() + "\n");
  }
  return 0;
}

Result<int> completion(Session& session, const Arguments& arguments) {
  if (const std::string shell = arguments.text("SHELL"); shell != "bash") {
    return fail(ErrorCode::usage, "there is no completion for '{}': bash is what there is",
                printable(shell));
  }
  session.terminal.out(bash_completion());
  return 0;
}

Result<int> help(Session& session, const Arguments& arguments) {
  if (arguments.has("--man")) {
    session.terminal.out(manual_page());
    return 0;
  }
  std::string path = arguments.text("COMMAND");
  if (arguments.has("VERB")) {
    path += " " + arguments.text("VERB");
  }
  if (path.empty()) {
    session.terminal.out(overview());
    return 0;
  }
  if (path == "exit-status") {
    for (const ExitMeaning& exit : common_exits()) {
      session.terminal.out(fmt::format("{:>3}  {}\n", exit.status, exit.meaning));
    }
    return 0;
  }
  if (const Command* command = find_command(path)) {
    session.terminal.out(command_help(*command));
    return 0;
  }
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      if (command.path.starts_with(path + " ")) {
        session.terminal.out(group_overview(path));
        return 0;
      }
    }
  }
  // What the parser says about a wrong command is right here too.
  const Result<Parsed> wrong =
      parse_command_line(arguments.has("VERB") ? std::vector<std::string>{arguments.text("COMMAND"),
                                                                          arguments.text("VERB")}
                                               : std::vector<std::string>{path});
  return wrong ? fail(ErrorCode::usage, "there is no help for '{}'", printable(path))
               : wrong.error();
}

}  // namespace

CommandFamily own_verbs() {
  return {
      "This program",
      {
          {.path = "version",
           .summary = "Show the versions of this program and of the agent",
           .description =
               "An agent that is not running is told on standard error; that is no failure.",
           .options = {output_option()},
           .examples = {{"understudy version", "Before reporting a problem"}},
           .run = version},
          {.path = "completion",
           .summary = "Print a completion script for the shell",
           .description = "Domains and hosts are completed too, asked from the agent.",
           .positionals = {{.name = "SHELL", .help = "bash"}},
           .examples = {{"source <(understudy completion bash)", "For this shell"},
                        {"understudy completion bash > /etc/bash_completion.d/understudy",
                         "For every shell"}},
           .run = completion},
          {.path = "help",
           .summary = "Show help, for everything or one command",
           .description = "'help exit-status' lists the exit statuses of all commands.",
           .positionals = {{.name = "COMMAND", .help = "The command", .required = false},
                           {.name = "VERB", .help = "Its second word", .required = false}},
           .options = {{.flags = "--man", .value = "", .help = "Print the manual page, in roff"}},
           .examples = {{"understudy help protect", "Everything about protect"}},
           .run = help},
      }};
}

}  // namespace understudy::cli
