// drill, drills, hooks: whether what is prepared for the worst day would work on it.
#include <optional>

#include "cli/drill_view.h"
#include "cli/interrupt.h"
#include "cli/json_view.h"
#include "cli/table.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

constexpr auto kPollInterval = std::chrono::milliseconds(300);

Option report_output() {
  return {.flags = "-o,--output",
          .value = "FORMAT",
          .help = "How to print: text, the agent's JSON as it came, or an HTML page",
          .choices = {"text", "json", "html"}};
}

// What can stand in a path as it is.
Result<std::string> checked_drill(const std::string& id) {
  const bool allowed = !id.empty() && id.size() <= 120 && id.front() != '.' &&
                       id.find_first_not_of(
                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                           "0123456789._-") == std::string::npos;
  if (!allowed) return fail(ErrorCode::usage, "'{}' is not a drill's id", printable(id));
  return id;
}

int show_report(Session& session, const Arguments& arguments, const Reply& reply) {
  const std::string format = arguments.text("--output", "text");
  if (format == "json") {
    print_json(session, reply);
  } else if (format == "html") {
    session.terminal.out(drill_page({&reply.json}));
  } else {
    session.terminal.out(drill_details(reply.json, session.terminal));
  }
  return text_at(reply.json, "outcome") == "passed" ? 0 : static_cast<int>(ErrorCode::failed);
}

Result<int> drill(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  const std::string kind = arguments.text("--kind", "dry");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/drill"));
  if (kind == "real") {
    BOOST_OUTCOME_TRY(confirm(
        session, arguments,
        {.explanation = fmt::format(
             "{0} is killed on this host, as by a crash, and its backup takes over. Clients see an "
             "outage;\nuntil its protection is renewed {0} has no backup.\n",
             name),
         .question = fmt::format("Kill {} here?", name),
         .answer = "yes"}));
  }
  // Not broken off by Ctrl-C before its answer is there: without the drill's id it could not be
  // taken back.
  std::optional<Interrupt> interrupt(std::in_place);
  const ApiClient& client = session.client;
  BOOST_OUTCOME_TRY(const Reply begun,
                    client.post(target, {{"kind", kind}}, Patience::asks_other_host));
  const std::string id = text_at(begun.json, "id");
  BOOST_OUTCOME_TRY(const std::string checked, checked_drill(id));
  session.terminal.talk(fmt::format("{} drill of {} begun: {}\n", kind, name, id));
  const auto begin = std::chrono::steady_clock::now();
  bool taken_back = false;
  while (true) {
    if (session.timeout && std::chrono::steady_clock::now() - begin >= *session.timeout) {
      session.terminal.talk(fmt::format("It goes on; see 'understudy drills {}'.\n", name));
      return static_cast<int>(ErrorCode::timed_out);
    }
    if (interrupt->wait_for(kPollInterval)) {
      if (taken_back || kind == "real") {
        session.terminal.talk(fmt::format("It goes on; see 'understudy drills {}'.\n", name));
        return interrupted_status;
      }
      taken_back = true;
      interrupt.reset();
      interrupt.emplace();
      session.terminal.talk("The drill is taken back; Ctrl-C once more leaves it to the agent.\n");
      // An error is told by the report: it has ended meanwhile, or goes on.
      (void)client.post("/v1/drills/" + checked + "/cancel", {}, Patience::asks_other_host);
    }
    BOOST_OUTCOME_TRY(const Reply report, client.get("/v1/drills/" + checked));
    if (text_at(report.json, "outcome") == "in_progress") continue;
    const int status = show_report(session, arguments, report);
    return taken_back ? interrupted_status : status;
  }
}

Result<int> drills(Session& session, const Arguments& arguments) {
  std::string target = "/v1/drills";
  if (arguments.has("--id")) {
    BOOST_OUTCOME_TRY(const std::string id, checked_drill(arguments.text("--id")));
    BOOST_OUTCOME_TRY(const Reply report, session.client.get(target + "/" + id));
    show_report(session, arguments, report);
    return 0;
  }
  if (arguments.has("NAME")) {
    BOOST_OUTCOME_TRY(const std::string name, checked_name(arguments.text("NAME")));
    target += "?domain=" + name;
  }
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get(target));
  const std::string format = arguments.text("--output", "text");
  if (format == "json") return print_json(session, reply);
  const auto reports = objects_at(reply.json, "drills");
  session.terminal.out(format == "html" ? drill_page(reports)
                                        : drill_overview(reports, session.terminal));
  return 0;
}

Result<int> hooks_list(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get("/v1/hooks"));
  if (wants_json(arguments)) return print_json(session, reply);
  Table table({"HOOK", "RUNS", "FAILED", "LAST"});
  for (const json::object* hook : objects_at(reply.json, "hooks")) {
    table.add({{text_at(*hook, "name")},
               {digits_at(*hook, "runs")},
               {digits_at(*hook, "failures")},
               {text_at(*hook, "last_ending")}});
  }
  session.terminal.out(table.empty() ? "no hook is configured\n" : table.render(session.terminal));
  return 0;
}

Result<int> hooks_test(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const std::string name, checked_name(arguments.text("HOOK")));
  json::object body;
  if (arguments.has("--event")) body["event"] = arguments.text("--event");
  if (arguments.has("--domain")) body["domain"] = arguments.text("--domain");
  // The agent ends the hook when its own time is over, so that is how long an answer may take.
  BOOST_OUTCOME_TRY(const Reply hooks, session.client.get("/v1/hooks"));
  std::chrono::milliseconds limit(10'000);
  for (const json::object* hook : objects_at(hooks.json, "hooks")) {
    if (text_at(*hook, "name") == name)
      limit += std::chrono::milliseconds(
          static_cast<std::int64_t>(number_at(*hook, "timeout_ms").value_or(0)));
  }
  const Interrupt interrupt;
  const ApiClient client = (session.timeout ? session.client : session.client.with_timeout(limit))
                               .cancelled_by(interrupt.descriptor());
  BOOST_OUTCOME_TRY(const Reply reply, client.post("/v1/hooks/" + name + "/test", body));
  const bool succeeded = bool_at(reply.json, "succeeded").value_or(false);
  if (wants_json(arguments)) {
    print_json(session, reply);
  } else {
    session.terminal.out(fmt::format("{} for {}: {} after {} ms\n", name,
                                     text_at(reply.json, "event"),
                                     session.terminal.paint(text_at(reply.json, "ending"),
                                                            succeeded ? Colour::good : Colour::bad),
                                     digits_at(reply.json, "took_ms")));
    if (const std::string output = text_at(reply.json, "output"); !output.empty())
      session.terminal.out(output + "\n");
  }
  return succeeded ? 0 : static_cast<int>(ErrorCode::failed);
}

}  // namespace

CommandFamily operations_verbs() {
  Positional one_or_all = domain_positional();
  one_or_all.required = false;
  one_or_all.help = "The domain; without it all of this host";
  return {
      "Before the worst day",
      {
          {.path = "drill",
           .summary = "Try whether the backup would do its work",
           .description =
               "A dry drill starts a copy of the last commit on the backup, cut off from every "
               "network, asks it what the configured probes ask (or pings it), and throws it away; "
               "the domain runs on, protected, and nobody notices. It needs as much memory again "
               "there as the domain has.\n\nA planned drill hands the domain over to the backup "
               "and, once it "
               "is protected again, back.\n\nA real drill kills the domain on this host, as a "
               "crash "
               "would, and the backup takes over.\n\nThe report is kept: see 'understudy drills'.",
           .positionals = {domain_positional()},
           .options = {{.flags = "--kind",
                        .value = "KIND",
                        .help = "dry (the default), planned or real",
                        .choices = {"dry", "planned", "real"}},
                       {.flags = "-y,--yes",
                        .value = "",
                        .help =
                            "Do not ask before a real drill. Needed where there is no terminal"},
                       report_output()},
           .exits = {{1, "it was held, and something is to be mended"},
                     {107, "a real drill was not agreed to"},
                     {130, "Ctrl-C: a dry or planned drill was taken back; a real one goes on"}},
           .examples = {{"understudy drill web1", "Would the image boot on?"},
                        {"understudy drill web1 --kind real --yes", "Kill it, and see"}},
           .run = drill},
          {.path = "drills",
           .summary = "List the reports of drills",
           .description = "The newest first. The last 100 of this host are kept.",
           .positionals = {one_or_all},
           .options = {{.flags = "--id", .value = "ID", .help = "Only this report, whole"},
                       report_output()},
           .examples = {{"understudy drills web1", "How did the last ones end?"},
                        {"understudy drills -o html > drills.html", "For the wall"}},
           .run = drills},
          {.path = "hooks list",
           .summary = "List the hooks of this host",
           .description = "Commands that are run when something happens; see understudy.toml(5).",
           .options = {output_option()},
           .examples = {{"understudy hooks list", "Which are there, and how did they end?"}},
           .run = hooks_list},
          {.path = "hooks test",
           .summary = "Run a hook once, as if its event had happened",
           .description = "Its command gets the environment that it would get, and "
                          "UNDERSTUDY_TEST=1. Nothing else happens.",
           .positionals = {{.name = "HOOK", .help = "The hook, by its name"}},
           .options = {{.flags = "--event",
                        .value = "KIND",
                        .help = "The kind of event. Default: the first that the hook asks for"},
                       {.flags = "--domain",
                        .value = "NAME",
                        .help = "The domain that it is told of",
                        .completes = Completes::domain},
                       output_option()},
           .exits = {{1, "the hook failed"}, {105, "no such hook"}},
           .examples = {{"understudy hooks test dns --event promoted --domain web1",
                         "Would the name be moved?"}},
           .run = hooks_test},
      }};
}

}  // namespace understudy::cli
