// promote and solo: the two decisions that only a person, or proof, may make.
//
// At no moment may two hosts let out what the same domain says. promote is safe by itself, because
// a primary whose backup no longer acknowledges is mute, but it throws away what was not committed.
// solo is safe only if the backup will never run its image; the command cannot know that, so it
// asks for a promise and says what is promised.
#include "cli/json_view.h"
#include "cli/status_view.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

std::string peer_state(Session& session, const std::string& peer) {
  const Result<Reply> peers = session.client.get("/v1/peers");
  if (peers) {
    for (const json::object* one : objects_at(peers.value().json, "peers")) {
      if (text_at(*one, "name") == peer) {
        return text_at(*one, "state");
      }
    }
  }
  return "unknown";
}

Result<int> promote(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  const bool force = arguments.has("--force");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name));
  BOOST_OUTCOME_TRY(const Reply before, session.client.get(target));
  const std::string state = text_at(before.json, "state");
  const std::string primary = text_at(before.json, "peer");
  if (text_at(before.json, "role") != "backup") {
    return fail(ErrorCode::usage,
                "this host is not the backup of {} (it is {} here): promote is for the backup",
                name, state);
  }
  if (state == "image_incomplete") {
    return fail(ErrorCode::failed, "the image of {} is incomplete: there is nothing to promote",
                name);
  }
  const std::string explanation = fmt::format(
      "{0} would run on this host from checkpoint {1}. What the primary, {2} ({3}), ran since then "
      "is "
      "thrown away;\nno client was told of it. {2} may never run {0} again under its old "
      "generation.\n",
      name, digits_at(before.json, "committed_epoch"), primary, peer_state(session, primary));
  if (arguments.has("--dry-run")) {
    session.terminal.talk(explanation + "Nothing was done.\n");
    return 0;
  }
  BOOST_OUTCOME_TRY(confirm(session, arguments,
                            {.explanation = explanation,
                             .question = fmt::format("Promote {} on this host?", name),
                             .answer = "yes"}));
  const Interrupt interrupt;
  const Result<Reply> begun = session.client.cancelled_by(interrupt.descriptor())
                                  .post(target + "/promote", {{"force", force}});
  if (interrupt.raised()) {
    session.terminal.talk(fmt::format(
        "Interrupted. Whether {} was promoted is shown by 'understudy status {}'.\n", name, name));
    return interrupted_status;
  }
  if (!begun) {
    return begun.error();
  }
  BOOST_OUTCOME_TRY(const Waited waited, wait_while(session, interrupt, name, {"promoting"}));
  if (waited.end != Waited::End::reached) {
    session.terminal.talk(
        fmt::format("The promotion of {} goes on; see 'understudy timeline {}'.\n", name, name));
    return waited.end == Waited::End::interrupted ? interrupted_status
                                                  : static_cast<int>(ErrorCode::timed_out);
  }
  if (const std::string now = text_at(waited.domain.json, "state");
      now == "failed" || text_at(waited.domain.json, "role") == "backup") {
    return fail(ErrorCode::failed,
                "the promotion of {} did not succeed, it is {}: see 'understudy events {}'", name,
                now, name);
  }
  session.terminal.talk(fmt::format("{} runs on this host, generation {}\n", name,
                                    digits_at(waited.domain.json, "generation")));
  if (const Result<Reply> timeline = session.client.get(target + "/timeline")) {
    session.terminal.talk(
        fmt::format("detect {} ms, promote {} ms; 'understudy timeline {}' has the phases\n",
                    digits_at(timeline.value().json, "detect_ms"),
                    digits_at(timeline.value().json, "promote_ms"), name));
  }
  return 0;
}

Result<int> solo(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name));
  BOOST_OUTCOME_TRY(const Reply before, session.client.get(target));
  const std::string state = text_at(before.json, "state");
  const std::string backup = text_at(before.json, "peer");
  if (state != "backup_lost") {
    return fail(ErrorCode::usage, "{} is {}: solo is for a primary that lost its backup", name,
                state);
  }
  const json::object& gate = object_at(before.json, "gate");
  const std::string explanation = fmt::format(
      "{0} holds back its output ({1} frames) because its backup {2} ({3}) does not answer.\n"
      "Going solo lets that output go. You promise that {2} does not run {0}, and will not:\n"
      "it is switched off, or 'understudy domain stop {0} --force' was run on it.\n"
      "If {2} is only cut off, it may have promoted {0} already, and two copies would answer.\n",
      name, digits_at(gate, "held_frames").empty() ? "?" : digits_at(gate, "held_frames"), backup,
      peer_state(session, backup));
  if (arguments.has("--dry-run")) {
    session.terminal.talk(explanation + "Nothing was done.\n");
    return 0;
  }
  BOOST_OUTCOME_TRY(
      confirm(session, arguments,
              {.explanation = explanation,
               .question = fmt::format("The name of the domain is the promise.", name),
               .answer = name}));
  BOOST_OUTCOME_TRY(
      session.client.post(target + "/solo", {{"promise", "backup_will_not_promote"}}));
  session.terminal.talk(fmt::format(
      "{} runs solo, its output flows. Protect it again with 'understudy protect {} --to HOST'\n",
      name, name));
  return 0;
}

std::vector<Option> repair_options() {
  std::vector<Option> options = danger_options();
  options.insert(options.begin(), {.flags = "--choose", .value = "CHOICE", .help = "Do this one"});
  options.push_back(output_option());
  return options;
}

Result<int> repair(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, "/repair"));
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get(target));
  const std::string choice = arguments.text("--choose");
  if (choice.empty() && wants_json(arguments)) {
    return print_json(session, reply);
  }
  std::string listed = fmt::format("{}: {}\n", name, text_at(reply.json, "trouble"));
  if (const std::string message = text_at(reply.json, "message"); !message.empty()) {
    listed += message + "\n";
  }
  std::string chosen;
  for (const json::object* one : objects_at(reply.json, "choices")) {
    const std::string described =
        fmt::format("\n  {}\n      does:  {}\n      risks: {}\n", text_at(*one, "command"),
                    text_at(*one, "what"), text_at(*one, "risk"));
    listed += described;
    if (!choice.empty() && text_at(*one, "choice") == choice) {
      chosen = described;
    }
  }
  if (choice.empty()) {
    session.terminal.out(listed);
    return 0;
  }
  if (chosen.empty()) {
    return fail(ErrorCode::usage, "'{}' is no choice for {}; 'understudy repair {}' lists them",
                choice, name, name);
  }
  if (arguments.has("--dry-run")) {
    session.terminal.talk(chosen + "Nothing was done.\n");
    return 0;
  }
  BOOST_OUTCOME_TRY(confirm(session, arguments,
                            {.explanation = chosen,
                             .question = "The name of the domain, if that is what you want.",
                             .answer = name}));
  BOOST_OUTCOME_TRY(session.client.post(target, {{"choice", choice}}));
  session.terminal.talk(fmt::format("{}: done ({})\n", name, choice));
  return 0;
}

}  // namespace

CommandFamily dangerous_verbs() {
  std::vector<Option> promote_options = danger_options();
  promote_options.insert(
      promote_options.begin(),
      {.flags = "--force", .value = "", .help = "Promote even though the primary is still heard"});
  return {
      "Decisions (ask first; need --yes where there is no terminal)",
      {
          {.path = "promote",
           .summary = "Make this host, the backup, run the domain",
           .description = "Run on the backup. It resumes the domain from the last commit and "
                          "raises its generation; the "
                          "old primary stays mute. The backup does this by itself when the primary "
                          "dies; by hand it is "
                          "for when you know more than the heartbeats do.",
           .positionals = {domain_positional()},
           .options = promote_options,
           .exits = {{1, "the image is incomplete, or the promotion failed"},
                     {64, "this host is not the domain's backup"},
                     {107, "not confirmed, or the primary is still heard (--force)"}},
           .examples = {{"understudy promote web1 --dry-run",
                         "See from which checkpoint it would go on"},
                        {"understudy promote web1 --yes", "In a script"}},
           .run = promote},
          {.path = "solo",
           .summary = "Let a primary that lost its backup run on alone",
           .description =
               "When the backup is not heard, the primary holds back its output: the backup may "
               "have promoted "
               "itself, and two hosts must never speak for one domain.\n\nBy this command you "
               "promise that "
               "the backup does not run the domain and will not. Make it true first: switch the "
               "backup off, "
               "or run 'understudy domain stop NAME --force' on it. Then the output that was held, "
               "and all that follows, leaves.",
           .positionals = {domain_positional()},
           .options = danger_options(),
           .exits = {{64, "the domain has not lost its backup"}, {107, "not confirmed"}},
           .examples = {{"understudy solo web1", "After the backup was switched off"}},
           .run = solo},
          {.path = "repair",
           .summary = "List the ways out of a trouble, and what each risks",
           .description =
               "Whatever is unclear leaves a domain mute: that costs availability, never safety. "
               "This command says what the trouble is, which ways out there are and what each "
               "costs "
               "if you are wrong.\n\nA way out that is a command of its own is typed as it is "
               "shown; the others are done with --choose.",
           .positionals = {domain_positional()},
           .options = repair_options(),
           .exits = {{64, "no such choice in this trouble"},
                     {105, "nothing is known of the domain here"},
                     {107, "not confirmed"}},
           .examples = {{"understudy repair web1", "What can be done"},
                        {"understudy repair web1 --choose forget --yes", "In a script"}},
           .run = repair},
      }};
}

}  // namespace understudy::cli
