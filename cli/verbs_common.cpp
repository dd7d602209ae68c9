#include "cli/verbs_common.h"

#include <algorithm>

#include "cli/json_view.h"
#include "cli/progress.h"

namespace understudy::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// Five times a second: a bar that moves, and a load on the agent that cannot be measured.
constexpr auto poll_interval = std::chrono::milliseconds(200);
constexpr auto restart_patience = std::chrono::seconds(10);

bool letter_or_digit(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
         (letter >= '0' && letter <= '9');
}

}  // namespace

Result<std::string> checked_name(const std::string& name) {
  const bool allowed =
      !name.empty() && name.size() <= 64 && name.front() != '.' && name.front() != '-' &&
      std::all_of(name.begin(), name.end(), [](char letter) {
        return letter_or_digit(letter) || letter == '.' || letter == '_' || letter == '-';
      });
  if (!allowed) {
    return fail(
        ErrorCode::usage,
        "'{}' is not a name: 1 to 64 letters, digits, '.', '_' or '-', neither dot nor dash first",
        printable(name));
  }
  return name;
}

Result<std::vector<std::string>> host_list(const std::string& text) {
  std::vector<std::string> hosts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    BOOST_OUTCOME_TRY(auto host, checked_name(text.substr(begin, end - begin)));
    hosts.push_back(std::move(host));
    begin = end + 1;
  }
  return hosts;
}

Result<std::string> domain_target(const std::string& name, std::string_view action) {
  BOOST_OUTCOME_TRY(const std::string checked, checked_name(name));
  return fmt::format("/v1/domains/{}{}", checked, action);
}

Option output_option(bool with_names) {
  Option option{.flags = "-o,--output",
                .value = "FORMAT",
                .help = "How to print: a table, or the agent's JSON as it came",
                .choices = {"table", "json"}};
  if (with_names) {
    option.choices.emplace_back("name");
    option.help = "How to print: a table, the agent's JSON as it came, or names only";
  }
  return option;
}

bool wants_json(const Arguments& arguments) {
  return arguments.text("--output") == "json";
}

Positional domain_positional() {
  return {.name = "NAME", .help = "The domain", .completes = Completes::domain};
}

Option to_option() {
  return {.flags = "--to",
          .value = "HOST",
          .help = "The host that is to be the backup, by the name it was paired with",
          .required = true,
          .completes = Completes::peer};
}

int print_json(Session& session, const Reply& reply) {
  session.terminal.out(reply.body + "\n");
  return 0;
}

Result<Waited> wait_while(Session& session, const Interrupt& interrupt, const std::string& name,
                          const std::vector<std::string>& busy_states) {
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name));
  const ApiClient client = session.client.cancelled_by(interrupt.descriptor());
  ProgressReporter progress(session.terminal, name);
  const Clock::time_point begin = Clock::now();
  Clock::time_point heard = begin;
  while (true) {
    std::optional<std::chrono::milliseconds> left;
    if (session.timeout) {
      left = std::chrono::ceil<std::chrono::milliseconds>(begin + *session.timeout - Clock::now());
      if (left->count() <= 0) {
        return Waited{Waited::End::timed_out, {}};
      }
    }
    Result<Reply> reply =
        left ? client.with_timeout(std::min(*left, std::chrono::milliseconds(12'000))).get(target)
             : client.get(target);
    if (interrupt.raised()) {
      return Waited{Waited::End::interrupted, {}};
    }
    if (reply) {
      heard = Clock::now();
      const std::string state = text_at(reply.value().json, "state");
      if (std::find(busy_states.begin(), busy_states.end(), state) == busy_states.end()) {
        return Waited{Waited::End::reached, std::move(reply).value()};
      }
      if (const auto& now = object_at(reply.value().json, "synchronisation"); !now.empty()) {
        progress.show(Progress::from_json(now));
      }
    } else {
      const bool restarting = reply.error().code() == ErrorCode::unavailable ||
                              reply.error().code() == ErrorCode::timed_out;
      if (!restarting || Clock::now() - heard >= restart_patience) {
        progress.finish();
        return reply.error();
      }
    }
    if (interrupt.wait_for(left ? std::min(*left, poll_interval) : poll_interval)) {
      return Waited{Waited::End::interrupted, {}};
    }
  }
}

Result<void> confirm(Session& session, const Arguments& arguments, const Danger& danger) {
  if (arguments.has("--yes")) {
    return ok();
  }
  session.terminal.talk(danger.explanation);
  if (!session.terminal.can_ask()) {
    return fail(
        ErrorCode::needs_force,
        "this is dangerous and there is nobody to ask: give --yes if that is what you want");
  }
  session.terminal.talk(fmt::format("{} Type {} to go on: ", danger.question, danger.answer));
  BOOST_OUTCOME_TRY(const std::string answer, session.terminal.read_line());
  if (answer != danger.answer) {
    return fail(ErrorCode::needs_force, "nothing was done");
  }
  return ok();
}

std::vector<Option> danger_options() {
  return {
      {.flags = "-y,--yes", .value = "", .help = "Do not ask. Needed where there is no terminal"},
      {.flags = "-n,--dry-run", .value = "", .help = "Say what would be done, and do nothing"},
  };
}

}  // namespace understudy::cli
