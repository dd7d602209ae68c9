// status, events, timeline, metrics: what is, what was, and in figures.
#include <boost/json/serialize.hpp>

#include "cli/json_view.h"
#include "cli/status_view.h"
#include "cli/table.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

/// What the verbs below show anew as long as they run.
constexpr auto watch_interval = std::chrono::seconds(1);

/// One look at the status: the text to show and the exit status that it means.
struct Look {
  std::string text;
  int status = 0;
};

Result<Look> look(Session& session, const ApiClient& client, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  std::string target = "/v1/status";
  if (!name.empty()) {
    BOOST_OUTCOME_TRY(target, domain_target(name));
  }
  BOOST_OUTCOME_TRY(const Reply reply, client.get(target));
  Look result;
  if (!name.empty()) {
    result.status = status_for_state(text_at(reply.json, "state"));
    result.text = domain_details(reply.json, session.terminal, WallClock::now());
  } else {
    for (const json::object* domain : objects_at(reply.json, "domains")) {
      // A domain that nobody wants protected does not make the host degraded.
      if (status_for_state(text_at(*domain, "state")) == degraded_status) {
        result.status = degraded_status;
      }
    }
    result.text = status_overview(reply.json, session.terminal, WallClock::now());
  }
  if (wants_json(arguments)) {
    result.text = reply.body + "\n";
  }
  return result;
}

/// `text` as a full screen: each line cut, its rest cleared, and everything below too.
std::string as_screen(std::string_view text, Terminal::Size size) {
  std::string screen = "\033[H";
  std::size_t row = 0;
  while (!text.empty() && ++row < size.rows) {
    const std::size_t end = text.find('\n');
    screen += cut_to_width(text.substr(0, end), size.columns) + "\033[K\r\n";
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return screen + "\033[J";
}

/// The terminal's second screen, without a cursor, for as long as it lives.
class SecondScreen {
 public:
  explicit SecondScreen(Terminal& terminal) : terminal_(terminal) {
    terminal_.out("\033[?1049h\033[?25l\033[2J");
  }
  ~SecondScreen() { terminal_.out("\033[?25h\033[?1049l"); }
  SecondScreen(const SecondScreen&) = delete;
  SecondScreen& operator=(const SecondScreen&) = delete;

 private:
  Terminal& terminal_;
};

Result<int> watch_on_screen(Session& session, const Arguments& arguments) {
  const Interrupt interrupt;
  const ApiClient client = session.client.cancelled_by(interrupt.descriptor());
  std::string last;
  std::optional<Error> end;
  {
    const SecondScreen screen(session.terminal);
    while (!interrupt.raised()) {
      Result<Look> now = look(session, client, arguments);
      if (interrupt.raised()) {
        break;
      }
      std::string shown = last;
      if (now) {
        last = shown = now.value().text;
      } else if (now.error().code() == ErrorCode::unavailable ||
                 now.error().code() == ErrorCode::timed_out) {
        // An agent that is restarted comes back; whoever watches wants to see that.
        shown += "\n" + session.terminal.paint(now.error().message(), Colour::bad) + "\n";
      } else {
        end = now.error();
        break;
      }
      session.terminal.out(
          as_screen(shown + "\nCtrl-C ends watching, nothing else.\n", session.terminal.size()));
      if (interrupt.wait_for(watch_interval)) {
        break;
      }
    }
  }
  session.terminal.out(last);
  if (end) {
    return *end;
  }
  return interrupted_status;
}

Result<int> watch_plainly(Session& session, const Arguments& arguments) {
  const Interrupt interrupt;
  const ApiClient client = session.client.cancelled_by(interrupt.descriptor());
  while (true) {
    Result<Look> now = look(session, client, arguments);
    if (interrupt.raised()) {
      return interrupted_status;
    }
    if (!now) {
      return now.error();
    }
    session.terminal.out(now.value().text);
    if (!wants_json(arguments)) {
      session.terminal.out("\n");
    }
    if (session.terminal.write_failed() || interrupt.wait_for(watch_interval)) {
      return interrupted_status;
    }
  }
}

Result<int> status(Session& session, const Arguments& arguments) {
  if (arguments.has("--watch")) {
    return session.terminal.nature().out_is_terminal && !wants_json(arguments)
               ? watch_on_screen(session, arguments)
               : watch_plainly(session, arguments);
  }
  BOOST_OUTCOME_TRY(const Look now, look(session, session.client, arguments));
  session.terminal.out(now.text);
  return now.status;
}

std::string event_line(const json::object& event, const Terminal& terminal) {
  const std::string severity = text_at(event, "severity");
  const Colour colour = severity == "critical"  ? Colour::bad
                        : severity == "warning" ? Colour::warning
                                                : Colour::none;
  const std::string domain = text_at(event, "domain");
  return fmt::format(
      "{}  {}  {:<10}  {:<24}  {}\n", terminal.paint(text_at(event, "time"), Colour::dim),
      terminal.paint(fmt::format("{:<8}", severity), colour), domain.empty() ? "-" : domain,
      text_at(event, "kind"), text_at(event, "message"));
}

Result<int> events(Session& session, const Arguments& arguments) {
  std::string filter;
  if (arguments.has("NAME")) {
    BOOST_OUTCOME_TRY(const std::string name, checked_name(arguments.text("NAME")));
    filter = "&domain=" + name;
  }
  const auto number = [&](std::string_view option,
                          std::uint64_t fallback) -> Result<std::uint64_t> {
    const std::string text = arguments.text(option);
    if (text.empty()) {
      return fallback;
    }
    if (text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos) {
      return fail(ErrorCode::usage, "{}: '{}' is not a whole number", option, printable(text));
    }
    return std::stoull(text);
  };
  BOOST_OUTCOME_TRY(const std::uint64_t limit, number("--limit", 100));
  if (limit < 1 || limit > 1000) {
    return fail(ErrorCode::usage, "--limit: {} is out of range: from 1 to 1000", limit);
  }
  BOOST_OUTCOME_TRY(std::uint64_t after, number("--after", 0));
  std::string target = fmt::format("/v1/events?limit={}{}", limit, filter);
  if (arguments.has("--after")) {
    target += fmt::format("&after={}", after);
  }

  std::optional<Interrupt> interrupt;
  ApiClient client = session.client;
  if (arguments.has("--follow")) {
    interrupt.emplace();
    client = client.cancelled_by(interrupt->descriptor());
  }
  while (true) {
    const Result<Reply> reply = client.get(target);
    if (interrupt && interrupt->raised()) {
      return interrupted_status;
    }
    if (!reply) {
      return reply.error();
    }
    const std::vector<const json::object*> found = objects_at(reply.value().json, "events");
    for (const json::object* event : found) {
      session.terminal.out(wants_json(arguments) ? json::serialize(*event) + "\n"
                                                 : event_line(*event, session.terminal));
      after = static_cast<std::uint64_t>(number_at(*event, "sequence").value_or(0));
    }
    if (!interrupt || session.terminal.write_failed()) {
      return 0;
    }
    const auto last = static_cast<std::uint64_t>(number_at(reply.value().json, "last").value_or(0));
    if (last < after) {
      session.terminal.talk("the agent was restarted and counts its events anew\n");
      after = 0;
    } else if (found.size() < limit) {
      // Nothing of ours lies between here and `last`, which may be another domain's.
      after = std::max(after, last);
    }
    target = fmt::format("/v1/events?limit=1000&after={}{}", after, filter);
    if (found.size() < limit && interrupt->wait_for(watch_interval)) {
      return interrupted_status;
    }
  }
}

Result<int> timeline(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const std::string target, domain_target(arguments.text("NAME"), "/timeline"));
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get(target));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  session.terminal.out(timeline_view(reply.json, session.terminal));
  return 0;
}

Result<int> metrics(Session& session, const Arguments& /*arguments*/) {
  BOOST_OUTCOME_TRY(const std::string text, session.client.get_text("/v1/metrics"));
  session.terminal.out(text);
  return 0;
}

}  // namespace

CommandFamily watching_verbs() {
  Positional one_or_all = domain_positional();
  one_or_all.required = false;
  one_or_all.help = "The domain; without it all of this host";
  return {
      "Watching",
      {
          {.path = "status",
           .summary = "Show how domains and hosts are",
           .description = "Without a name: all domains and peers of this host, and each condition "
                          "that is not as it "
                          "should be. With a name: everything about that domain, its conditions "
                          "with reason and "
                          "since.\n\nWith --watch it is shown anew every second until Ctrl-C; with "
                          "-o json that is "
                          "one document a line.",
           .positionals = {one_or_all},
           .options = {{.flags = "-w,--watch", .value = "", .help = "Show it anew every second"},
                       output_option()},
           .exits = {{0,
                      "the domain is protected, or its image here is whole (standby); without a "
                      "name: no domain is degraded"},
                     {degraded_status,
                      "degraded: starting, synchronising, backup_lost, solo, "
                      "image_incomplete, promoting, superseded, stopping or failed"},
                     {not_protected_status,
                      "not protected, as nobody asked for it: running or stopped"}},
           .examples = {{"understudy status", "The whole host"},
                        {"understudy status web1 --watch", "One domain, live"},
                        {"understudy status web1 -o json | jq -r .state", "For a script"}},
           .run = status},
          {.path = "events",
           .summary = "Show what happened, and why",
           .description =
               "The agent's record of decisions and changes, oldest first. With -o json each "
               "event is one line.",
           .positionals = {one_or_all},
           .options =
               {{.flags = "-f,--follow", .value = "", .help = "Go on with new events until Ctrl-C"},
                {.flags = "--after",
                 .value = "SEQUENCE",
                 .help = "Only events after this sequence number"},
                {.flags = "--limit",
                 .value = "COUNT",
                 .help = "How many at most, up to 1000. Default: the last 100"},
                output_option()},
           .examples = {{"understudy events web1", "Why did web1 fail over?"},
                        {"understudy events --follow -o json", "Feed another program"}},
           .run = events},
          {.path = "timeline",
           .summary = "Show the phases of a domain's last promotion",
           .description =
               "From the last heartbeat to the first frame that the domain sent from here, with "
               "the time that each step took.",
           .positionals = {domain_positional()},
           .options = {output_option()},
           .exits = {{105, "no such domain, or it was never promoted on this host"}},
           .examples = {{"understudy timeline web1",
                         "How long did the last failover take, and where?"}},
           .run = timeline},
          {.path = "metrics",
           .summary = "Print the agent's metrics",
           .description =
               "In the text format of Prometheus, the same as on the agent's metrics port.",
           .examples = {{"understudy metrics | promtool check metrics", "Check them"}},
           .run = metrics},
      }};
}

}  // namespace understudy::cli
