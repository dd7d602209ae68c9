// The verbs against an agent that says what the test wants: what is asked, what is shown, how it
// ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/cli/command_run.h"
#include "tests/cli/fake_agent.h"

namespace understudy::cli {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

using Answers = std::vector<FakeAgent::Answer>;

FakeAgent::Answer domain_in(const std::string& state, const std::string& role = "primary",
                            const std::string& more = "") {
  return {200, R"({"name":"web1","role":")" + role + R"(","state":")" + state +
                   R"(","peer":"hostB","generation":1,"hypervisor":"qemu","accelerator":"tcg")" +
                   more + "}"};
}

const char* const full_domain =
    R"({"name":"web1","role":"primary","state":"backup_lost","hypervisor":"qemu",
 "accelerator":"tcg","mode":"remus","peer":"hostB","generation":1,"epoch":123,"committed_epoch":122,"checkpoints":122,
 "interval_us":25000,"tracking":"pagemap_scan","stretched":false,"pause_ms":{"p50":2.1,"p99":4,"mean":2.3,"max":6.25},
 "pause_parts_ms":{"stop":0.3,"copy":0.4},"gate":{"state":"closed","held_frames":2,"held_bytes":180,
 "released_frames":9120,"dropped_frames":0},"bytes":{"dirty":1000000,"wire":100000},"conditions":[
 {"type":"Running","status":true,"reason":"Running","message":"the guest runs","since":"2026-03-01T12:00:00.123Z"},
 {"type":"OutputFlowing","status":false,"reason":"BackupLost","message":"output is held \u001b[31m",
  "since":"2026-03-01T12:00:00.123Z"}]})";

std::string full_status() {
  return std::string(R"({"schema":1,"host":"hostA","version":"0.1.0","domains":[)") + full_domain +
         R"(],"peers":[{"name":"hostB","fingerprint":"SHA256:abc","state":"dead","since":"2026-03-01T12:00:00.123Z",
 "paths":[{"address":"10.0.0.2:7420","state":"dead","last_heartbeat_ms":900}]}]})";
}

constexpr Terminal::Nature person = {.in_is_terminal = true, .talk_is_terminal = true};

TEST(WithoutAnAgent, the_message_says_how_to_start_it) {
  const Outcome outcome = run({"status"}, "/nowhere/agent.sock");
  EXPECT_EQ(outcome.status, 69);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.talk, HasSubstr("/nowhere/agent.sock"));
  EXPECT_THAT(outcome.talk, HasSubstr("systemctl start understudyd"));
}

TEST(WithoutAnAgent, a_path_too_long_for_a_socket_is_named) {
  EXPECT_EQ(run({"status", "--socket", "/" + std::string(200, 'x')}).status, 64);
}

TEST(WithASilentAgent, a_request_ends_in_time) {
  FakeAgent agent;
  agent.on("GET /v1/status", {{.silent = true}});
  const Outcome outcome = run({"status", "--timeout", "100ms"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 124);
  EXPECT_THAT(outcome.talk, HasSubstr("no answer from the agent"));
}

TEST(WithAStrangeAgent, the_answer_is_an_error_and_not_a_crash) {
  FakeAgent agent;
  for (const char* body : {"", "no json", "[]", "{\"domains\":7}", "{\"domains\":[7,{}]}",
                           "{\"error\":\"x\"}", "[[[[[[[[[[[[[[[[[[[[[[[["}) {
    for (const unsigned status : {200U, 404U, 500U}) {
      agent.on("GET /v1/status", {{status, body}});
      agent.on("GET /v1/domains/web1", {{status, body}});
      agent.on("GET /v1/peers", {{status, body}});
      agent.on("GET /v1/events?limit=100", {{status, body}});
      agent.on("GET /v1/domains/web1/timeline", {{status, body}});
      const Answers answer = {{status, body}};
      for (const std::vector<std::string>& words : {std::vector<std::string>{"status"},
                                                    {"status", "web1"},
                                                    {"pair", "list"},
                                                    {"events"},
                                                    {"timeline", "web1"},
                                                    {"domain", "list"},
                                                    {"promote", "web1", "--yes"}}) {
        const Outcome outcome = run(words, agent.socket_path());
        EXPECT_NE(outcome.status, 70) << words[0] << ' ' << body;
        if (status != 200) {
          EXPECT_EQ(outcome.status, 76) << words[0] << ' ' << body << outcome.talk;
        }
      }
    }
  }
}

TEST(Errors, of_the_agent_become_the_exit_status_and_the_message) {
  FakeAgent agent;
  const std::vector<std::pair<std::string, int>> codes = {{"failed", 1},
                                                          {"usage", 64},
                                                          {"bad_data", 65},
                                                          {"unavailable", 69},
                                                          {"internal", 70},
                                                          {"no_resources", 71},
                                                          {"io", 74},
                                                          {"try_again", 75},
                                                          {"protocol", 76},
                                                          {"permission", 77},
                                                          {"config", 78},
                                                          {"no_such", 105},
                                                          {"not_authorized", 106},
                                                          {"needs_force", 107},
                                                          {"exists", 108},
                                                          {"timed_out", 124},
                                                          {"of a later version", 1}};
  for (const auto& [code, status] : codes) {
    agent.on("POST /v1/domains/web1/set", {error_answer(500, code, "the reason")});
    const Outcome outcome = run({"set", "web1", "--interval", "50ms"}, agent.socket_path());
    EXPECT_EQ(outcome.status, status) << code;
    EXPECT_EQ(outcome.talk, "understudy: the reason\n");
  }
}

TEST(Status, of_all_is_a_table_with_complaints_below) {
  FakeAgent agent;
  agent.on("GET /v1/status", {{200, full_status()}});
  const Outcome outcome = run({"status"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 3) << "a degraded domain";
  EXPECT_THAT(outcome.out, HasSubstr("hostA  understudyd 0.1.0"));
  EXPECT_THAT(
      outcome.out,
      HasSubstr(
          "DOMAIN  ROLE     STATE        PEER   MODE   INTERVAL  COMMITTED  PAUSE P50/P99  OUTPUT\n"
          "web1    primary  backup_lost  hostB  remus  25 ms     122        2.1/4.0 ms     "
          "HELD\n"));
  EXPECT_THAT(outcome.out, HasSubstr("! web1: output is held ?[31m (OutputFlowing BackupLost"));
  EXPECT_THAT(outcome.out, HasSubstr("10.0.0.2:7420 dead (900 ms ago)"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("\033"))) << "no colours into a file";
}

TEST(Status, of_one_shows_everything_and_its_exit_status_is_the_state) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {{200, full_domain}});
  const Outcome outcome = run({"status", "web1"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.out,
              HasSubstr("protection  remus, every 25 ms, dirty pages by pagemap_scan"));
  EXPECT_THAT(outcome.out, HasSubstr("p50 2.1 ms, p99 4.0 ms, mean 2.3 ms, max 6.2 ms"));
  EXPECT_THAT(outcome.out,
              HasSubstr("gate closed, 2 frames (180 B) held, 9120 released, 0 dropped"));
  EXPECT_THAT(outcome.out, HasSubstr("1.0 MB dirty, 100.0 kB sent (10.0%)"));
  EXPECT_THAT(outcome.out, HasSubstr("OutputFlowing  false   BackupLost"));
  agent.on("GET /v1/domains/web1", {domain_in("protected")});
  EXPECT_EQ(run({"status", "web1"}, agent.socket_path()).status, 0);
  agent.on("GET /v1/domains/web1", {domain_in("running", "unprotected")});
  EXPECT_EQ(run({"status", "web1"}, agent.socket_path()).status, 4);
  EXPECT_EQ(run({"status", "web2"}, agent.socket_path()).status, 105);
}

TEST(Status, as_json_is_what_the_agent_said_byte_for_byte) {
  FakeAgent agent;
  const std::string odd = R"({"domains" : [ ],"later": 1.50, "schema":1})";
  agent.on("GET /v1/status", {{200, odd}});
  const Outcome outcome = run({"status", "-o", "json"}, agent.socket_path());
  EXPECT_EQ(outcome.out, odd + "\n");
  EXPECT_EQ(outcome.talk, "");
  EXPECT_EQ(outcome.status, 0);
}

TEST(Status, an_unprotected_domain_does_not_make_the_host_degraded) {
  FakeAgent agent;
  agent.on("GET /v1/status",
           {{200, R"({"host":"a","domains":[)" + domain_in("running", "unprotected").body + "]}"}});
  EXPECT_EQ(run({"status"}, agent.socket_path()).status, 0);
}

TEST(Status, colours_appear_on_a_terminal) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {{200, full_domain}});
  const Outcome outcome =
      run({"status", "web1"}, agent.socket_path(), "", {.out_is_terminal = true, .colour = true});
  EXPECT_THAT(outcome.out, HasSubstr("\033[1;31mbackup_lost\033[0m"));
}

TEST(DomainStart, sends_the_text_and_the_whole_path_of_the_file) {
  FakeAgent agent;
  agent.on("POST /v1/domains", {domain_in("running", "unprotected")});
  const std::string file = (agent.directory() / "web1.toml").string();
  std::ofstream(file) << "name = \"web1\"\n";
  const Outcome outcome = run({"domain", "start", file}, agent.socket_path());
  EXPECT_EQ(outcome.status, 0) << outcome.talk;
  EXPECT_THAT(agent.requests(),
              ElementsAre(R"(POST /v1/domains {"config_toml":"name = \"web1\"\n","file":")" + file +
                          R"("})"));
  EXPECT_THAT(outcome.talk, HasSubstr("web1 runs (qemu, tcg)"));
}

TEST(DomainStart, a_file_that_is_not_there_is_named_and_the_agent_not_asked) {
  FakeAgent agent;
  const Outcome outcome = run({"domain", "start", "/nowhere/web1.toml"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 105);
  EXPECT_THAT(outcome.talk, HasSubstr("/nowhere/web1.toml: No such file"));
  EXPECT_NE(run({"domain", "start", "/tmp"}, agent.socket_path()).status, 0);
  EXPECT_THAT(agent.requests(), IsEmpty());
}

TEST(DomainStop, force_is_confirmed_and_passed_on) {
  FakeAgent agent;
  agent.on("DELETE /v1/domains/web1", {{200}});
  agent.on("DELETE /v1/domains/web1?force=true", {{200}});
  EXPECT_EQ(run({"domain", "stop", "web1"}, agent.socket_path()).status, 0);
  EXPECT_EQ(run({"domain", "stop", "web1", "--force"}, agent.socket_path()).status, 107);
  EXPECT_THAT(agent.requests(), ElementsAre("DELETE /v1/domains/web1"));
  EXPECT_EQ(run({"domain", "stop", "web1", "--force", "--yes"}, agent.socket_path()).status, 0);
  EXPECT_THAT(agent.requests(), Contains("DELETE /v1/domains/web1?force=true"));
}

TEST(DomainList, names_alone_are_for_scripts) {
  FakeAgent agent;
  agent.on("GET /v1/status", {{200, full_status()}});
  EXPECT_EQ(run({"domain", "list", "-o", "name"}, agent.socket_path()).out, "web1\n");
  EXPECT_THAT(run({"domain", "list"}, agent.socket_path()).out, HasSubstr("qemu/tcg"));
}

TEST(Pairing, the_token_stands_alone_on_stdout) {
  FakeAgent agent;
  agent.on(
      "POST /v1/pair/token",
      {{201,
        R"({"token":"abc.def","fingerprint":"SHA256:x","expires":"2026-03-01T12:00:00.000Z"})"}});
  const Outcome outcome = run({"pair", "create-token", "--address", "10.0.0.1:7420", "--address",
                               "10.1.0.1:7420", "--valid", "1min"},
                              agent.socket_path());
  EXPECT_EQ(outcome.out, "abc.def\n");
  EXPECT_THAT(outcome.talk, HasSubstr("SHA256:x"));
  EXPECT_THAT(
      agent.requests(),
      ElementsAre(
          R"(POST /v1/pair/token {"addresses":["10.0.0.1:7420","10.1.0.1:7420"],"valid_seconds":60})"));
}

TEST(Pairing, the_token_is_read_from_stdin_and_warned_about_on_the_command_line) {
  FakeAgent agent;
  agent.on("POST /v1/pair/join", {{201, R"({"peer":"hostA","fingerprint":"SHA256:x"})"}});
  const Outcome quiet = run({"pair", "join", "-"}, agent.socket_path(), " abc.def \r\nmore");
  EXPECT_EQ(quiet.status, 0) << quiet.talk;
  EXPECT_THAT(quiet.talk, Not(HasSubstr("warning")));
  EXPECT_THAT(quiet.talk, HasSubstr("paired with hostA"));
  const Outcome loud = run({"pair", "join", "abc.def"}, agent.socket_path());
  EXPECT_THAT(loud.talk, HasSubstr("warning: a token on the command line"));
  EXPECT_THAT(agent.requests(), ElementsAre(R"(POST /v1/pair/join {"token":"abc.def"})",
                                            R"(POST /v1/pair/join {"token":"abc.def"})"));
  EXPECT_EQ(run({"pair", "join"}, agent.socket_path(), "").status, 64);
  EXPECT_EQ(run({"pair", "join"}, agent.socket_path(), "  \n").status, 64);
}

TEST(Check, findings_are_a_table_and_a_refusal_is_status_one) {
  FakeAgent agent;
  agent.on(
      "POST /v1/domains/web1/check",
      {{200, R"({"ok":true,"findings":[{"severity":"ok","subject":"memory","message":"enough"},
                     {"severity":"warning","subject":"kernel","message":"full compare"}]})"},
       {200,
        R"({"ok":false,"findings":[{"severity":"refusal","subject":"bridge","message":"hostB has no br0"}]})"}});
  const Outcome fine = run({"check", "web1", "--to", "hostB"}, agent.socket_path());
  EXPECT_EQ(fine.status, 0);
  EXPECT_THAT(fine.out, HasSubstr("warning  kernel   full compare\n"));
  EXPECT_THAT(fine.talk, HasSubstr("web1 can be protected on hostB: 0 refusals, 1 warning\n"));
  const Outcome refused = run({"check", "web1", "--to", "hostB"}, agent.socket_path());
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.talk, HasSubstr("web1 cannot be protected on hostB: 1 refusal,"));
}

TEST(Protect, waits_with_progress_until_it_is_protected) {
  FakeAgent agent;
  const std::string half =
      R"(,"synchronisation":{"pages_sent":1,"pages_total":2,"round":1,"rate_bytes_per_second":1000})";
  agent.on("POST /v1/domains/web1/protect", {domain_in("synchronising")});
  agent.on("GET /v1/domains/web1",
           {domain_in("synchronising", "primary", half),
            domain_in("synchronising", "primary", half), domain_in("protected")});
  const Outcome outcome =
      run({"protect", "web1", "--to", "hostB", "--interval", "10ms"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.talk, HasSubstr("web1: round 1, 1 of 2 pages (50%), 1.0 kB/s\n"));
  EXPECT_THAT(outcome.talk, HasSubstr("web1 is protected on hostB after"));
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(agent.requests().front(),
            R"(POST /v1/domains/web1/protect {"to":"hostB","mode":"remus","interval_us":10000})");
}

TEST(Protect, a_refusal_lists_what_refused) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect",
           {{500, R"({"error":{"code":"failed","message":"checks refuse","findings":[
              {"severity":"ok","subject":"cpu","message":"fine"},
              {"severity":"refusal","subject":"memory","message":"hostB has too little"}]}})"}});
  const Outcome outcome = run({"protect", "web1", "--to", "hostB"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.talk, "understudy: checks refuse\n  memory: hostB has too little\n");
}

TEST(Protect, that_fails_on_the_way_tells_the_reason_from_the_events) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect", {domain_in("synchronising")});
  agent.on("GET /v1/domains/web1", {domain_in("running", "unprotected")});
  agent.on(
      "GET /v1/events?domain=web1&limit=50",
      {{200, R"({"events":[{"kind":"protection_failed","message":"hostB ran out of memory"}]})"}});
  const Outcome outcome = run({"protect", "web1", "--to", "hostB"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.talk, HasSubstr("web1 is not protected: hostB ran out of memory"));
}

TEST(Protect, no_wait_returns_at_once_and_says_how_to_watch) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect", {domain_in("synchronising")});
  const Outcome outcome =
      run({"protect", "web1", "--to", "hostB", "--no-wait"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.talk, HasSubstr("understudy status web1 --watch"));
  EXPECT_THAT(agent.requests("GET"), IsEmpty());
}

TEST(Protect, a_timeout_ends_the_wait_and_not_the_work) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect", {domain_in("synchronising")});
  agent.on("GET /v1/domains/web1", {domain_in("synchronising")});
  const Outcome outcome =
      run({"protect", "web1", "--to", "hostB", "--timeout", "300ms"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 124);
  EXPECT_THAT(outcome.talk, HasSubstr("goes on"));
  EXPECT_THAT(agent.requests("POST /v1/domains/web1/unprotect"), IsEmpty());
}

TEST(Protect, an_agent_that_is_restarted_meanwhile_is_waited_for) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect", {domain_in("synchronising")});
  agent.on("GET /v1/domains/web1",
           {domain_in("synchronising"), error_answer(503, "unavailable", "starting"),
            domain_in("protected")});
  EXPECT_EQ(run({"protect", "web1", "--to", "hostB"}, agent.socket_path()).status, 0);
}

TEST(Promote, without_a_terminal_is_refused_unless_yes) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {domain_in("standby", "backup", R"(,"committed_epoch":77)")});
  agent.on("POST /v1/domains/web1/promote", {domain_in("promoting", "backup")});
  const Outcome refused = run({"promote", "web1"}, agent.socket_path(), "yes\n");
  EXPECT_EQ(refused.status, 107);
  EXPECT_THAT(refused.talk, HasSubstr("--yes"));
  EXPECT_THAT(agent.requests("POST"), IsEmpty());

  agent.on("GET /v1/domains/web1",
           {domain_in("standby", "backup"), domain_in("promoting", "backup"),
            domain_in("running", "unprotected")});
  agent.on("GET /v1/domains/web1/timeline", {{200, R"({"detect_ms":0.0,"promote_ms":11.75})"}});
  const Outcome done = run({"promote", "web1", "--yes"}, agent.socket_path());
  EXPECT_EQ(done.status, 0) << done.talk;
  EXPECT_THAT(done.talk, HasSubstr("web1 runs on this host, generation 1"));
  EXPECT_THAT(agent.requests("POST"),
              ElementsAre(R"(POST /v1/domains/web1/promote {"force":false})"));
}

TEST(Promote, asks_a_person_and_takes_only_yes) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {domain_in("standby", "backup", R"(,"committed_epoch":77)")});
  agent.on("GET /v1/peers", {{200, R"({"peers":[{"name":"hostB","state":"dead"}]})"}});
  for (const char* answer : {"no\n", "y\n", "\n", ""}) {
    const Outcome outcome = run({"promote", "web1"}, agent.socket_path(), answer, person);
    EXPECT_NE(outcome.status, 0);
    EXPECT_THAT(outcome.talk, HasSubstr("from checkpoint 77"));
    EXPECT_THAT(outcome.talk, HasSubstr("hostB (dead)"));
  }
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
  run({"promote", "web1"}, agent.socket_path(), "yes\n", person);
  EXPECT_THAT(agent.requests("POST /v1/domains/web1/promote"), testing::SizeIs(1));
}

TEST(Promote, is_for_a_backup_with_a_whole_image) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {domain_in("protected")});
  EXPECT_EQ(run({"promote", "web1", "--yes"}, agent.socket_path()).status, 64);
  agent.on("GET /v1/domains/web1", {domain_in("image_incomplete", "backup")});
  EXPECT_EQ(run({"promote", "web1", "--yes", "--force"}, agent.socket_path()).status, 1);
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
}

TEST(Promote, dry_run_does_nothing) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {domain_in("standby", "backup")});
  EXPECT_EQ(run({"promote", "web1", "--dry-run"}, agent.socket_path()).status, 0);
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
}

TEST(Solo, the_promise_is_explained_and_only_the_domains_name_gives_it) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1",
           {domain_in("backup_lost", "primary", R"(,"gate":{"held_frames":17})")});
  agent.on("POST /v1/domains/web1/solo", {domain_in("solo")});
  EXPECT_EQ(run({"solo", "web1"}, agent.socket_path()).status, 107);
  const Outcome wrong = run({"solo", "web1"}, agent.socket_path(), "yes\n", person);
  EXPECT_EQ(wrong.status, 107);
  EXPECT_THAT(wrong.talk, HasSubstr("You promise that hostB does not run web1, and will not"));
  EXPECT_THAT(wrong.talk, HasSubstr("17 frames"));
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
  EXPECT_EQ(run({"solo", "web1"}, agent.socket_path(), "web1\n", person).status, 0);
  EXPECT_THAT(agent.requests("POST"),
              ElementsAre(R"(POST /v1/domains/web1/solo {"promise":"backup_will_not_promote"})"));
}

TEST(Solo, is_refused_while_the_backup_is_there) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {domain_in("protected")});
  EXPECT_EQ(run({"solo", "web1", "--yes"}, agent.socket_path()).status, 64);
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
}

const char* const two_events = R"({"oldest":1,"last":18,"events":[
 {"sequence":17,"time":"2026-03-01T12:00:00.123Z","severity":"info","domain":"web1","kind":"protected","message":"fine"},
 {"sequence":18,"time":"2026-03-01T12:00:01.123Z","severity":"critical","kind":"peer_dead","message":"evil\u001b[2J"}]})";

TEST(Events, are_lines_and_json_lines) {
  FakeAgent agent;
  agent.on("GET /v1/events?limit=100", {{200, two_events}});
  agent.on("GET /v1/events?limit=5&domain=web1&after=3", {{200, two_events}});
  const Outcome table = run({"events"}, agent.socket_path());
  EXPECT_EQ(table.status, 0);
  EXPECT_THAT(
      table.out,
      HasSubstr(
          "2026-03-01T12:00:00.123Z  info      web1        protected                 fine\n"));
  EXPECT_THAT(table.out, HasSubstr("critical  -           peer_dead                 evil?[2J\n"));
  const Outcome json =
      run({"events", "web1", "--limit", "5", "--after", "3", "-o", "json"}, agent.socket_path());
  EXPECT_THAT(json.out, StartsWith(R"({"sequence":17,)"));
  EXPECT_EQ(std::count(json.out.begin(), json.out.end(), '\n'), 2);
  EXPECT_EQ(run({"events", "--limit", "0"}, agent.socket_path()).status, 64);
  EXPECT_EQ(run({"events", "--after", "x"}, agent.socket_path()).status, 64);
}

TEST(Timeline, shows_each_phase_and_its_step) {
  FakeAgent agent;
  agent.on(
      "GET /v1/domains/web1/timeline",
      {{200,
        R"({"domain":"web1","generation":2,"outcome":"promoted","cause":"primary_dead","phases":[
              {"name":"last_heartbeat","at":"2026-03-01T12:00:00.000Z","since_start_ms":0},
              {"name":"decided","at":"2026-03-01T12:00:00.201Z","since_start_ms":201.3},
              {"name":"resumed","at":"2026-03-01T12:00:00.213Z","since_start_ms":213.1}],
              "detect_ms":201.3,"promote_ms":11.8})"}});
  const Outcome outcome = run({"timeline", "web1"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.out, HasSubstr("web1: promoted to generation 2 (primary_dead)"));
  EXPECT_THAT(outcome.out, HasSubstr("    213.1 ms      +11.8 ms"));
  EXPECT_THAT(outcome.out, HasSubstr("detect 201.3 ms, promote 11.8 ms"));
  EXPECT_EQ(run({"timeline", "web2"}, agent.socket_path()).status, 105);
}

TEST(Others, ask_what_the_api_documents) {
  FakeAgent agent;
  agent.on("GET /v1/metrics", {{200, "understudy_checkpoints_total 5\n"}});
  agent.on("GET /v1/version", {{200, R"({"version":"0.1.0","host":"hostA"})"}});
  agent.on("POST /v1/domains/web1/set", {domain_in("protected")});
  agent.on("POST /v1/domains/web1/unprotect", {domain_in("running", "unprotected")});
  agent.on("DELETE /v1/peers/hostB", {{200}});
  agent.on("GET /v1/peers", {{200, full_status()}});
  EXPECT_EQ(run({"metrics"}, agent.socket_path()).out, "understudy_checkpoints_total 5\n");
  EXPECT_THAT(run({"version"}, agent.socket_path()).out, HasSubstr("understudyd 0.1.0 on hostA"));
  EXPECT_EQ(run({"version", "-o", "json"}).out,
            R"({"client":")" UNDERSTUDY_VERSION R"(","agent":null})"
            "\n");
  EXPECT_EQ(run({"version"}).status, 0) << "an agent that is away is no failure of 'version'";
  EXPECT_EQ(run({"set", "web1", "--interval", "50ms"}, agent.socket_path()).status, 0);
  EXPECT_EQ(run({"unprotect", "web1"}, agent.socket_path()).status, 0);
  EXPECT_EQ(run({"pair", "remove", "hostB"}, agent.socket_path()).status, 0);
  EXPECT_THAT(run({"pair", "list"}, agent.socket_path()).out, HasSubstr("900 ms ago"));
  EXPECT_EQ(run({"pair", "list", "-o", "name"}, agent.socket_path()).out, "hostB\n");
  EXPECT_THAT(agent.requests(), Contains(R"(POST /v1/domains/web1/set {"interval_us":50000})"));
}

}  // namespace
}  // namespace understudy::cli
