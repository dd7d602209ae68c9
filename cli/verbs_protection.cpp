// check, protect, unprotect, set: how a domain gets a backup, keeps it, and gives it up.
#include "cli/json_view.h"
#include "cli/progress.h"
#include "cli/status_view.h"
#include "cli/table.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

Result<Microseconds> interval_from(const Arguments& arguments) {
  return parse_duration_between("--interval", arguments.text("--interval"),
                                std::chrono::milliseconds(1), std::chrono::seconds(10));
}

/// Reads "80=replay" of each --port, and --on-divergence, into the request's fields.
Result<void> add_replay_options(const Arguments& arguments, json::object& body) {
  json::object ports;
  for (const std::string& text : arguments.texts("--port")) {
    const auto equals = text.find('=');
    const std::string port = text.substr(0, equals);
    const std::string policy = equals == std::string::npos ? "" : text.substr(equals + 1);
    const bool digits =
        !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == port.npos;
    if (!digits || (policy != "remus" && policy != "replay" && policy != "open")) {
      return fail(ErrorCode::usage,
                  "--port {}: expected PORT=POLICY, where POLICY is remus, replay or open", text);
    }
    ports[port] = policy;
  }
  if (!ports.empty()) body["ports"] = std::move(ports);
  if (arguments.has("--on-divergence")) {
    body["on_divergence"] = arguments.text("--on-divergence");
  }
  return ok();
}

Result<int> check(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/check"));
  BOOST_OUTCOME_TRY(const std::string host, checked_name(arguments.text("--to")));
  json::object body{{"to", host}};
  if (arguments.has("--mode")) {
    body["mode"] = arguments.text("--mode");
  }
  BOOST_OUTCOME_TRY(const Reply reply,
                    session.client.post(target, body, Patience::asks_other_host));
  std::size_t warnings = 0;
  std::size_t refusals = 0;
  Table table({"RESULT", "SUBJECT", "FINDING"});
  for (const json::object* finding : objects_at(reply.json, "findings")) {
    const std::string severity = text_at(*finding, "severity");
    warnings += severity == "warning" ? 1 : 0;
    refusals += severity == "refusal" ? 1 : 0;
    const Colour colour = severity == "ok"        ? Colour::good
                          : severity == "warning" ? Colour::warning
                                                  : Colour::bad;
    table.add({{severity, colour}, {text_at(*finding, "subject")}, {text_at(*finding, "message")}});
  }
  const bool possible = refusals == 0 && bool_at(reply.json, "ok").value_or(true);
  if (wants_json(arguments)) {
    print_json(session, reply);
  } else {
    session.terminal.out(table.render(session.terminal));
    session.terminal.talk(fmt::format(
        "{} {} be protected on {}: {} refusal{}, {} warning{}\n", name, possible ? "can" : "cannot",
        host, refusals, refusals == 1 ? "" : "s", warnings, warnings == 1 ? "" : "s"));
  }
  return possible ? 0 : 1;
}

json::value list_of(const std::vector<std::string>& hosts) {
  return json::array(hosts.begin(), hosts.end());
}

/// Reads --to, --add-host, --remove-host and the options of failback into the request's fields.
Result<void> add_renewal_options(const Arguments& arguments, json::object& body) {
  for (const auto& [option, field] :
       {std::pair{"--to", "to"}, {"--add-host", "add_hosts"}, {"--remove-host", "remove_hosts"}}) {
    if (!arguments.has(option)) continue;
    BOOST_OUTCOME_TRY(const auto hosts, host_list(arguments.text(option)));
    body[field] = list_of(hosts);
  }
  if (arguments.has("--failback")) body["failback"] = arguments.text("--failback");
  for (const auto& [option, field] :
       {std::pair{"--failback-delay", "failback_delay_s"}, {"--minimum-stay", "minimum_stay_s"}}) {
    if (!arguments.has(option)) continue;
    BOOST_OUTCOME_TRY(
        const Microseconds time,
        parse_duration_between(option, arguments.text(option), std::chrono::seconds(1),
                               std::chrono::hours(24 * 365)));
    body[field] = std::chrono::duration_cast<std::chrono::seconds>(time).count();
  }
  return ok();
}

/// Why protection ended before it began, from the events; empty if they do not say.
std::string reason_of_failure(Session& session, const std::string& name) {
  const Result<Reply> events =
      session.client.get(fmt::format("/v1/events?domain={}&limit=50", name));
  if (!events) {
    return {};
  }
  std::string reason;
  for (const json::object* event : objects_at(events.value().json, "events")) {
    if (text_at(*event, "kind") == "protection_failed") {
      reason = text_at(*event, "message");
    }
  }
  return reason;
}

Result<int> wait_for_protection(Session& session, const Arguments& arguments,
                                const Interrupt& interrupt, const std::string& name) {
  const auto begin = std::chrono::steady_clock::now();
  BOOST_OUTCOME_TRY(const Waited waited,
                    wait_while(session, interrupt, name, {"starting", "synchronising"}));
  if (waited.end != Waited::End::reached) {
    session.terminal.talk(fmt::format(
        "{}; the synchronisation of {} goes on.\n"
        "Watch it with 'understudy status {} --watch', end it with 'understudy unprotect {}'.\n",
        waited.end == Waited::End::interrupted ? "No longer waiting" : "Not done in time", name,
        name, name));
    return waited.end == Waited::End::interrupted ? interrupted_status
                                                  : static_cast<int>(ErrorCode::timed_out);
  }
  const std::string state = text_at(waited.domain.json, "state");
  if (wants_json(arguments)) {
    print_json(session, waited.domain);
  }
  if (state == "protected") {
    const auto took =
        std::chrono::duration_cast<Microseconds>(std::chrono::steady_clock::now() - begin);
    session.terminal.talk(fmt::format("{} is protected on {} after {}\n", name,
                                      text_at(waited.domain.json, "peer"), format_duration(took)));
    return 0;
  }
  const std::string reason = reason_of_failure(session, name);
  if (state == "running") {
    return fail(ErrorCode::failed, "{} is not protected: {}", name,
                reason.empty() ? "see 'understudy events " + name + "'" : reason);
  }
  return fail(ErrorCode::failed, "{} is {} now: see 'understudy status {}'", name, state, name);
}

Result<int> protect(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/protect"));
  BOOST_OUTCOME_TRY(const auto hosts, host_list(arguments.text("--to")));
  if (arguments.has("--wait") && arguments.has("--no-wait")) {
    return fail(ErrorCode::usage, "--wait and --no-wait exclude each other");
  }
  json::object body{{"to", hosts.size() == 1 ? json::value(hosts.front()) : list_of(hosts)},
                    {"mode", arguments.text("--mode", "remus")}};
  if (arguments.has("--interval")) {
    BOOST_OUTCOME_TRY(const Microseconds interval, interval_from(arguments));
    body["interval_us"] = interval.count();
  }
  BOOST_OUTCOME_TRY(add_replay_options(arguments, body));
  const Interrupt interrupt;
  const Result<Reply> begun = session.client.cancelled_by(interrupt.descriptor())
                                  .post(target, body, Patience::asks_other_host);
  if (interrupt.raised()) {
    session.terminal.talk(fmt::format(
        "Interrupted while asking. Whether protection began is shown by 'understudy status {}'.\n",
        name));
    return interrupted_status;
  }
  if (!begun) {
    return begun.error();
  }
  if (arguments.has("--no-wait")) {
    if (wants_json(arguments)) {
      print_json(session, begun.value());
    }
    session.terminal.talk(fmt::format(
        "{} is being synchronised with {}; watch it with 'understudy status {} --watch'\n", name,
        text_at(begun.value().json, "peer"), name));
    return 0;
  }
  return wait_for_protection(session, arguments, interrupt, name);
}

Result<int> move(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name));
  BOOST_OUTCOME_TRY(const Reply before, session.client.get(target));
  const std::string state = text_at(before.json, "state");
  const std::string backup = text_at(before.json, "peer");
  std::string to = backup;
  if (arguments.has("--to")) {
    BOOST_OUTCOME_TRY(to, checked_name(arguments.text("--to")));
  }
  const bool warm = state == "protected" && to == backup;
  if (to.empty())
    return fail(ErrorCode::usage, "{} is {} and has no backup: say --to HOST", name, state);
  if (arguments.has("--dry-run")) {
    session.terminal.talk(fmt::format(
        "{0} would {2}stand still for some ten milliseconds and run on {1} from there on.\n"
        "Nothing was done.\n",
        name, to, warm ? "" : "be copied while it runs, not protected meanwhile, then "));
    return 0;
  }
  if (!warm) {
    session.terminal.talk(fmt::format(
        "Copying {0} to {1} while it runs; 'understudy status {0} --watch' shows how far it is, "
        "'understudy unprotect {0}' breaks it off\n",
        name, to));
  }
  BOOST_OUTCOME_TRY(session.client.post(
      target + "/move", {{"to", to}}, warm ? Patience::asks_other_host : Patience::copies_memory));
  session.terminal.talk(
      fmt::format("{0} runs on {1}; 'understudy timeline {0}' there has the phases\n", name, to));
  return 0;
}

Result<int> unprotect(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/unprotect"));
  BOOST_OUTCOME_TRY(session.client.post(target, {}, Patience::asks_other_host));
  session.terminal.talk(fmt::format("{} runs on without a backup; its output flows\n", name));
  return 0;
}

Result<int> set(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/set"));
  json::object body;
  if (arguments.has("--mode")) body["mode"] = arguments.text("--mode");
  if (arguments.has("--interval")) {
    BOOST_OUTCOME_TRY(const Microseconds interval, interval_from(arguments));
    body["interval_us"] = interval.count();
  }
  BOOST_OUTCOME_TRY(add_replay_options(arguments, body));
  const bool about_epochs = !body.empty();
  BOOST_OUTCOME_TRY(add_renewal_options(arguments, body));
  if (body.empty()) {
    return fail(ErrorCode::usage,
                "nothing to set: give --interval, --mode, --port, --on-divergence, --to, "
                "--add-host, --remove-host, --failback, --failback-delay or --minimum-stay");
  }
  BOOST_OUTCOME_TRY(const Reply reply, session.client.post(target, body));
  if (!about_epochs) {
    session.terminal.talk(
        fmt::format("{}: {}\n", name, renewal_line(object_at(reply.json, "renewal"))));
    return 0;
  }
  const Microseconds interval(
      static_cast<std::int64_t>(number_at(reply.json, "interval_us").value_or(0)));
  session.terminal.talk(fmt::format("{}: {} mode, epochs last {}, from the next one on\n", name,
                                    text_at(reply.json, "mode"), format_duration(interval)));
  return 0;
}

Option mode_option() {
  return {.flags = "--mode",
          .value = "MODE",
          .help =
              "When output is released: with the commit of the epoch that made it (remus, the "
              "default), or as soon as the backup has the inputs that made it (replay)",
          .choices = {"remus", "replay"}};
}

Option port_option() {
  return {.flags = "--port",
          .value = "PORT=POLICY",
          .help =
              "In replay mode, how a port of the guest is treated: replay (the default), remus "
              "(its output waits for the commit), or open (it waits for nothing, and nothing is "
              "promised)",
          .repeatable = true};
}

Option divergence_option() {
  return {.flags = "--on-divergence",
          .value = "WHAT",
          .help =
              "In replay mode, what becomes of a connection whose replay differs from what its "
              "client was told: it is reset (the default), or goes on all the same (tolerate)",
          .choices = {"reset", "tolerate"}};
}

Option hosts_option(bool for_protect) {
  return {.flags = "--to",
          .value = "HOST[,HOST]",
          .help = for_protect
                      ? "The host that is to be the backup, by the name it was paired with; "
                        "more of them, in the order in which they are to follow"
                      : "The list anew: who may be the backup, in their order",
          .required = for_protect,
          .completes = Completes::peer};
}

Option interval_option(bool for_set) {
  return {.flags = "--interval",
          .value = "TIME",
          .help = for_set ? "How long an epoch lasts, from 1ms to 10s"
                          : "How long an epoch lasts, from 1ms to 10s. Default: 25ms, in replay "
                            "mode 1s",
          .required = false};
}

}  // namespace

CommandFamily protection_verbs() {
  return {
      "Protection",
      {
          {.path = "check",
           .summary = "See what would keep a domain from being protected",
           .description = "Asks both hosts everything that 'protect' needs: memory, CPU features, "
                          "versions, bridge, kernel features, link. Touches nothing.",
           .positionals = {domain_positional()},
           .options = {to_option(), mode_option(), output_option()},
           .exits = {{0, "nothing stands in the way; there may be warnings"},
                     {1, "at least one refusal"}},
           .examples = {{"understudy check web1 --to hostB", "Before anything is touched"}},
           .run = check},
          {.path = "protect",
           .summary = "Give a domain a backup on another host",
           .description =
               "Runs the checks, copies the domain's memory to the other host while it runs, then "
               "renews the image with every epoch. From then on output leaves the domain only when "
               "the "
               "epoch that made it is committed on the backup.\n\nThe first copy is waited for, "
               "and its "
               "progress shown. Ctrl-C ends the waiting, not the work.\n\nAfter a promotion, and "
               "when a backup is lost whose place may be filled, the domain is protected again by "
               "itself: to the next host of the list, round robin; the host on which it was first "
               "protected belongs to the list, too.",
           .positionals = {domain_positional()},
           .options =
               {hosts_option(true),
                mode_option(),
                interval_option(false),
                port_option(),
                divergence_option(),
                {.flags = "--wait",
                 .value = "",
                 .help = "Wait until it is protected (the default)"},
                {.flags = "--no-wait", .value = "", .help = "Return once the work has begun"},
                output_option()},
           .exits = {{1, "a check refused it, or the synchronisation failed; the message says why"},
                     {108, "it is protected already"},
                     {124, "not done within --timeout; the synchronisation goes on"},
                     {130, "Ctrl-C; the synchronisation goes on"}},
           .examples = {{"understudy protect web1 --to hostB", "Protect web1 and wait for it"},
                        {"understudy protect web1 --to hostB,hostC",
                         "hostB is the backup; hostC when hostA or hostB is lost"},
                        {"understudy protect web1 --to hostB --interval 10ms --no-wait",
                         "Shorter epochs (quicker answers, more work), and do not wait"},
                        {"understudy protect web1 --to hostB --mode replay --port 5432=remus",
                         "Answers leave at once, but for the database's, which wait for commits"}},
           .run = protect},
          {.path = "unprotect",
           .summary = "Give up a domain's backup",
           .description =
               "The backup drops its image and the domain runs on, its output free. Where the "
               "backup cannot be reached this is refused; see 'understudy help solo'.",
           .positionals = {domain_positional()},
           .exits = {{107, "the backup cannot be reached: 'understudy solo' is the verb for that"}},
           .examples = {{"understudy unprotect web1", "Before maintenance of the backup"}},
           .run = unprotect},
          {.path = "move",
           .summary = "Move a domain to its backup, or to any paired host",
           .description =
               "A last checkpoint, then the domain runs on the backup, which has it warm, and is "
               "protected from there to this host. Clients keep their connections. Until the "
               "backup has the word the domain goes on here whatever happens; from then on this "
               "host is mute until it knows what became of it.\n\nTo another host than its "
               "backup the domain is copied first, while it runs (live migration). It is not "
               "protected meanwhile; from its new place it is protected to its old backup again, "
               "if it had one.",
           .positionals = {domain_positional()},
           .options = {{.flags = "--to", .value = "HOST", .help = "Where to (the backup)"},
                       {.flags = "--dry-run", .value = "", .help = "Only say what would be done"}},
           .exits = {{1, "it was not moved, and goes on here"},
                     {64, "it has no backup, and --to was not said"},
                     {69, "the backup is not warm at this moment"},
                     {105, "no such domain, or --to is not paired"},
                     {124, "the backup has not said yet that it runs it"}},
           .examples = {{"understudy move web1", "Before maintenance of this host"},
                        {"understudy move web1 --to hostC", "To a third host"}},
           .run = move},
          {.path = "set",
           .summary = "Change how a domain is replicated, and to which hosts",
           .description =
               "Takes effect with the next epoch. What is not named stays as it is. A "
               "change of mode loses the output that is held at that moment, as a network "
               "might.\n\nThe list of hosts says who is the next backup; a change moves nothing "
               "by itself. The domain's own host is always in it.",
           .positionals = {domain_positional()},
           .options = {interval_option(true),
                       mode_option(),
                       port_option(),
                       divergence_option(),
                       hosts_option(false),
                       {.flags = "--add-host",
                        .value = "HOST[,HOST]",
                        .help = "Hosts to put at the end of the list",
                        .completes = Completes::peer},
                       {.flags = "--remove-host",
                        .value = "HOST[,HOST]",
                        .help = "Hosts to take out of the list",
                        .completes = Completes::peer},
                       {.flags = "--failback",
                        .value = "WHEN",
                        .help = "Whether it goes home, to the host where it was first protected: "
                                "never (the default), manual (an event says when it could), or "
                                "when-healthy (it is moved, after the two times below)",
                        .choices = {"never", "manual", "when-healthy"}},
                       {.flags = "--failback-delay",
                        .value = "TIME",
                        .help = "How long its home has to be heard without a break. Default: 5m"},
                       {.flags = "--minimum-stay",
                        .value = "TIME",
                        .help = "How long it stays where it is, at least. Default: 10m"}},
           .examples = {{"understudy set web1 --interval 50ms",
                         "Longer epochs: less work, later answers"},
                        {"understudy set web1 --add-host hostD", "One more host to be a backup"}},
           .run = set},
      }};
}

}  // namespace understudy::cli
