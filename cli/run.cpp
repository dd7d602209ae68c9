#include "cli/run.h"

#include <exception>

#include "cli/command.h"
#include "cli/help.h"
#include "cli/parse.h"

namespace understudy::cli {
namespace {

constexpr std::string_view default_socket = "/run/understudy/understudyd.sock";

int complain(const Terminal& terminal, const Error& error) {
  terminal.talk(fmt::format("understudy: {}\n", error.message()));
  return static_cast<int>(error.code());
}

Result<int> perform(const std::vector<std::string>& words, Terminal& terminal,
                    const std::string& socket_from_environment) {
  BOOST_OUTCOME_TRY(const Parsed parsed, parse_command_line(words));
  const Arguments& arguments = parsed.arguments;
  if (arguments.has("--help")) {
    terminal.out(parsed.command != nullptr ? command_help(*parsed.command)
                 : parsed.group.empty()    ? overview()
                                           : group_overview(parsed.group));
    return 0;
  }
  if (arguments.has("--version")) {
    terminal.out("understudy " UNDERSTUDY_VERSION "\n");
    return 0;
  }
  if (parsed.command == nullptr) {
    terminal.talk(parsed.group.empty() ? overview() : group_overview(parsed.group));
    return static_cast<int>(ErrorCode::usage);
  }

  ApiClient::Settings settings;
  settings.socket_path =
      socket_from_environment.empty() ? std::string(default_socket) : socket_from_environment;
  settings.socket_path = arguments.text("--socket", settings.socket_path);
  std::optional<Microseconds> timeout;
  if (arguments.has("--timeout")) {
    BOOST_OUTCOME_TRY(timeout,
                      parse_duration_between("--timeout", arguments.text("--timeout"),
                                             std::chrono::milliseconds(1), std::chrono::hours(24)));
    settings.timeout = std::chrono::ceil<std::chrono::milliseconds>(*timeout);
  }
  Session session{terminal, ApiClient(std::move(settings)), timeout};
  return parsed.command->run(session, arguments);
}

}  // namespace

int run_understudy(const std::vector<std::string>& words, Terminal& terminal,
                   const std::string& socket_from_environment) {
  try {
    const Result<int> status = perform(words, terminal, socket_from_environment);
    if (terminal.write_failed()) {
      return complain(terminal, fail(ErrorCode::io, "standard output could not be written"));
    }
    return status ? status.value() : complain(terminal, status.error());
  } catch (const std::exception& error) {
    // Libraries throw where memory runs out; nothing of ours does.
    return complain(terminal, fail(ErrorCode::internal, "{}", printable(error.what())));
  }
}

}  // namespace understudy::cli
