// pair create-token, pair join, pair list, pair remove: hosts that trust each other.
#include <boost/json/array.hpp>

#include "cli/json_view.h"
#include "cli/status_view.h"
#include "cli/table.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

Result<int> create_token(Session& session, const Arguments& arguments) {
  json::object body;
  if (arguments.has("--address")) {
    json::array addresses;
    for (const std::string& address : arguments.texts("--address")) {
      addresses.emplace_back(address);
    }
    body["addresses"] = std::move(addresses);
  }
  if (arguments.has("--valid")) {
    BOOST_OUTCOME_TRY(const Microseconds valid,
                      parse_duration_between("--valid", arguments.text("--valid"),
                                             std::chrono::seconds(1), std::chrono::hours(24)));
    body["valid_seconds"] = std::chrono::ceil<std::chrono::seconds>(valid).count();
  }
  BOOST_OUTCOME_TRY(const Reply reply, session.client.post("/v1/pair/token", body));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  const std::string token = text_at(reply.json, "token");
  if (token.empty()) {
    return fail(ErrorCode::protocol, "the agent's answer has no token");
  }
  session.terminal.out(token + "\n");
  session.terminal.talk(
      fmt::format("This token works once, until {}. It is a secret: whoever has it can pair.\n"
                  "On the other host run 'understudy pair join' and paste it there.\n"
                  "This host's fingerprint is {}\n",
                  text_at(reply.json, "expires"), text_at(reply.json, "fingerprint")));
  return 0;
}

Result<int> join(Session& session, const Arguments& arguments) {
  std::string token = arguments.text("TOKEN", "-");
  if (token == "-") {
    const Interrupt interrupt;  // Ctrl-C must not leave the terminal without echo.
    if (session.terminal.can_ask()) {
      session.terminal.talk("Token of the other host (not shown): ");
    }
    auto line = session.terminal.read_line(true);
    if (interrupt.raised()) {
      return interrupted_status;
    }
    BOOST_OUTCOME_TRY(token, std::move(line));
  } else {
    session.terminal.talk(
        "warning: a token on the command line can be read by every user of this host while the "
        "command runs; 'understudy pair join' reads it from standard input\n");
  }
  const std::size_t begin = token.find_first_not_of(" \t");
  if (begin == std::string::npos) {
    return fail(ErrorCode::usage, "the token is empty");
  }
  token = token.substr(begin, token.find_last_not_of(" \t") - begin + 1);
  BOOST_OUTCOME_TRY(const Reply reply, session.client.post("/v1/pair/join", {{"token", token}},
                                                           Patience::asks_other_host));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  session.terminal.talk(fmt::format("paired with {}, fingerprint {}\n", text_at(reply.json, "peer"),
                                    text_at(reply.json, "fingerprint")));
  return 0;
}

Result<int> list(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get("/v1/peers"));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  if (arguments.text("--output") == "name") {
    for (const json::object* peer : objects_at(reply.json, "peers")) {
      session.terminal.out(text_at(*peer, "name") + "\n");
    }
    return 0;
  }
  session.terminal.out(peer_list(reply.json, session.terminal, WallClock::now()));
  return 0;
}

Result<int> remove(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const std::string host, checked_name(arguments.text("HOST")));
  BOOST_OUTCOME_TRY(session.client.remove("/v1/peers/" + host));
  session.terminal.talk(
      fmt::format("{} is no longer trusted here; run 'understudy pair remove' on it too\n", host));
  return 0;
}

}  // namespace

CommandFamily pairing_verbs() {
  return {
      "Hosts",
      {
          {.path = "pair create-token",
           .summary = "Make a one-time token with which another host can pair",
           .description =
               "Hosts authenticate each other by certificates. The first contact is made with a "
               "token: created here, used once on the other host, void after that.\n\nThe token is "
               "printed alone on standard output.",
           .options = {{.flags = "--address",
                        .value = "ADDRESS:PORT",
                        .help =
                            "Where the other host reaches this one. Default: the agent's listen "
                            "addresses",
                        .repeatable = true},
                       {.flags = "--valid",
                        .value = "TIME",
                        .help = "How long the token can be used, from 1s to 24h. Default: 10min"},
                       output_option()},
           .examples =
               {{"understudy pair create-token", "Make a token and show it"},
                {"understudy pair create-token --address 10.0.0.1:7420 | ssh hostB understudy pair "
                 "join",
                 "Pair two hosts in one line, the token never seen"}},
           .run = create_token},
          {.path = "pair join",
           .summary = "Pair with the host that made a token",
           .description =
               "Uses a token from 'understudy pair create-token' on the other host. Certificates "
               "are "
               "made and exchanged; from then on both hosts know each other.\n\nGive the token on "
               "standard input: on the command line every user of this host could read it.",
           .positionals = {{.name = "TOKEN",
                            .help = "The token; '-' or nothing reads it from standard input",
                            .required = false}},
           .options = {output_option()},
           .exits = {{65, "this is not a token, or it is damaged"},
                     {77, "the token was used before or has expired"},
                     {108, "the hosts are paired already"}},
           .examples = {{"understudy pair join", "Paste the token at the prompt"},
                        {"understudy pair join - < token", "Read it from a file"}},
           .run = join},
          {.path = "pair list",
           .summary = "Show the hosts that this one is paired with",
           .description =
               "Each path is an address over which heartbeats go; a host is dead when all "
               "its paths have been silent for the deadline.",
           .options = {output_option(true)},
           .examples = {{"understudy pair list", "See whether the other host is heard"}},
           .run = list},
          {.path = "pair remove",
           .summary = "Stop trusting a host",
           .description =
               "Forgets the host's certificate. Refused while a domain is protected with "
               "it: unprotect that first.",
           .positionals = {{.name = "HOST",
                            .help = "The host, by the name it was paired with",
                            .completes = Completes::peer}},
           .exits = {{108, "a domain is still protected with this host"}},
           .examples = {{"understudy pair remove hostB", "Forget hostB"}},
           .run = remove},
      }};
}

}  // namespace understudy::cli
