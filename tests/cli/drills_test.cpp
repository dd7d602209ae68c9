// drill, drills, hooks against an agent that says what the test wants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "tests/cli/command_run.h"
#include "tests/cli/fake_agent.h"

namespace understudy::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string report(const std::string& outcome, const std::string& kind = "dry") {
  return R"({"id":"20260301-120000-01-web1-x","domain":"web1","kind":")" + kind +
         R"(","host":"hostB","peer":"hostA","asked_by":"operator","started":"2026-03-01T12:00:00.123Z",
 "outcome":")" +
         outcome +
         R"(","summary":"<script>alert(1)</script>","outage_ms":0,"took_ms":1281.04,"lost":"nothing",
 "phases":[{"name":"image copied","took_ms":80.12}],
 "checks":[{"name":"http","passed":false,"message":"HTTP status 500 & more","took_ms":3}],
 "to_mend":["mend the \u001b[31mservice, see `understudy <status>` ` there"]})";
}

const char* const by_id = "GET /v1/drills/20260301-120000-01-web1-x";

TEST(Drill, waits_for_the_report_and_its_outcome_is_the_status) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/drill", {{202, report("in_progress")}});
  agent.on(by_id, {{200, report("in_progress")}, {200, report("passed")}});
  const Outcome passed = run({"drill", "web1"}, agent.socket_path());
  EXPECT_EQ(passed.status, 0);
  EXPECT_THAT(passed.out, HasSubstr("took 1.28 s"));
  EXPECT_THAT(passed.out, HasSubstr("to mend: mend the"));
  EXPECT_THAT(passed.out, Not(HasSubstr("\x1b")));
  agent.on(by_id, {{200, report("failed")}});
  EXPECT_EQ(run({"drill", "web1"}, agent.socket_path()).status, 1);
}

TEST(Drill, real_one_asks_nobody_to_kill_before_it_was_agreed_to) {
  FakeAgent agent;
  EXPECT_EQ(run({"drill", "web1", "--kind", "real"}, agent.socket_path()).status, 107);
  EXPECT_THAT(agent.requests("POST"), IsEmpty());
}

TEST(Drill, kind_that_is_misspelt_is_named) {
  FakeAgent agent;
  const Outcome outcome = run({"drill", "web1", "--kind", "drie"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 64);
  EXPECT_THAT(outcome.talk, HasSubstr("dry"));
}

TEST(Drill, ctrl_c_takes_it_back_and_waits_for_its_end) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/drill", {{202, report("in_progress")}});
  agent.on("POST /v1/drills/20260301-120000-01-web1-x/cancel", {{202, report("in_progress")}});
  std::vector<FakeAgent::Answer> answers(3, {200, report("in_progress")});
  answers.push_back({200, report("cancelled")});
  agent.on(by_id, answers);
  std::jthread finger([&agent] {
    while (agent.requests(by_id).empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ::kill(::getpid(), SIGINT);
  });
  const Outcome outcome = run({"drill", "web1"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 130);
  EXPECT_EQ(agent.requests("POST /v1/drills").size(), 1U);
  EXPECT_THAT(outcome.out, HasSubstr("cancelled"));
}

TEST(Drills, page_shows_what_reports_say_and_runs_nothing_of_it) {
  FakeAgent agent;
  agent.on("GET /v1/drills", {{200, R"({"schema":1,"host":"hostA","drills":[)" + report("failed") +
                                        "," + report("cancelled", "planned") + "]}"}});
  const Outcome page = run({"drills", "-o", "html"}, agent.socket_path());
  EXPECT_EQ(page.status, 0);
  EXPECT_THAT(page.out, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(page.out, Not(HasSubstr("<script")));
  EXPECT_THAT(page.out, HasSubstr("HTTP status 500 &amp; more"));
  EXPECT_THAT(page.out, HasSubstr("see <code>understudy &lt;status&gt;</code>  there</li>"));
  EXPECT_THAT(page.out, HasSubstr("2 reports"));
  const Outcome table = run({"drills"}, agent.socket_path());
  EXPECT_THAT(table.out, HasSubstr("20260301-120000-01-web1-x"));
  EXPECT_EQ(run({"drills", "--id", "../secret"}, agent.socket_path()).status, 64);
}

TEST(Probes, stand_in_the_status_of_the_domain) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1",
           {{200, R"({"name":"web1","role":"primary","state":"protected","probes":[
    {"name":"http","kind":"http","state":"unhealthy","held":true,"message":"HTTP status 500","took_ms":3.14,
     "asked":20,"failed":4,"action":"move"}]})"}});
  const Outcome outcome = run({"status", "web1"}, agent.socket_path());
  EXPECT_THAT(outcome.out, HasSubstr("unhealthy, held"));
  EXPECT_THAT(outcome.out, HasSubstr("HTTP status 500  3.1 ms  4 of 20  move"));
}

TEST(Health, ill_host_complains_in_the_status) {
  FakeAgent agent;
  agent.on(
      "GET /v1/status",
      {{200,
        R"({"schema":1,"host":"hostA","version":"1","domains":[],"peers":[],"health":{"healthy":false,"checks":[
    {"check":"memory","healthy":true,"now_bytes":999999999,"threshold_bytes":134217728},
    {"check":"disk","healthy":false,"now_bytes":12582912,"threshold_bytes":268435456},
    {"check":"loop","healthy":false,"now_us":250000,"threshold_us":100000}]}})"}});
  const Outcome outcome = run({"status"}, agent.socket_path());
  EXPECT_THAT(outcome.out, HasSubstr("! hostA: disk: 12 MiB, limit 256 MiB"));
  EXPECT_THAT(outcome.out, HasSubstr("! hostA: loop: 250 ms, limit 100 ms"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("memory")));
}

TEST(HooksTest, shows_how_the_hook_ended_and_what_it_said) {
  FakeAgent agent;
  agent.on("GET /v1/hooks", {{200, R"({"schema":1,"hooks":[{"name":"dns","timeout_ms":20000}]})"}});
  agent.on("POST /v1/hooks/dns/test",
           {{200, R"({"hook":"dns","event":"promoted","succeeded":false,"ending":"exit status 1",
                      "took_ms":12,"output":"no key"})"}});
  const Outcome outcome = run({"hooks", "test", "dns"}, agent.socket_path());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.out, HasSubstr("exit status 1 after 12 ms"));
  EXPECT_THAT(outcome.out, HasSubstr("no key"));
}

}  // namespace
}  // namespace understudy::cli
