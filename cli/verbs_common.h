// What several families of verbs share: names in paths, common options, waiting for a domain,
// asking first.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/command.h"
#include "cli/interrupt.h"

namespace understudy::cli {

/// `name` if it can be the name of a domain or a host (docs/api.md, "names"); else usage. What
/// comes out can stand in a path as it is.
Result<std::string> checked_name(const std::string& name);

/// "/v1/domains/web1" + `action` ("/protect", or empty). Errors as checked_name.
Result<std::string> domain_target(const std::string& name, std::string_view action = "");

/// -o table|json, and `name` too where names alone are useful.
Option output_option(bool with_names = false);

/// True if `-o json` was given.
bool wants_json(const Arguments& arguments);

/// Reads "hostB,hostC": at least one name, each as checked_name wants it.
Result<std::vector<std::string>> host_list(const std::string& text);

Positional domain_positional();
Option to_option();

/// Prints `reply` as it came, one JSON document on a line.
int print_json(Session& session, const Reply& reply);

/// How a wait for a domain ended.
struct Waited {
  enum class End { reached, interrupted, timed_out } end = End::reached;
  Reply domain;  ///< The last answer; valid when reached.
};

/// Asks for the domain again and again (five times a second) until its state is none of
/// `busy_states`, showing the progress of a synchronisation meanwhile. Ctrl-C and --timeout end the
/// wait, never the work. An agent that does not answer for up to ten seconds (it is being
/// restarted) is waited for; other errors are returned.
Result<Waited> wait_while(Session& session, const Interrupt& interrupt, const std::string& name,
                          const std::vector<std::string>& busy_states);

/// What a person has to agree to before a dangerous verb goes on.
struct Danger {
  std::string explanation;  ///< Lines that say what happens and what is promised.
  std::string question;     ///< "Promote web1 on this host?"
  std::string answer;       ///< What has to be typed.
};

/// Success if --yes was given or the person at the terminal typed the answer. needs_force without a
/// terminal, and when another answer was typed.
Result<void> confirm(Session& session, const Arguments& arguments, const Danger& danger);

/// --yes and --dry-run.
std::vector<Option> danger_options();

}  // namespace understudy::cli
