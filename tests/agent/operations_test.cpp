// Hooks, probes and drills as far as no guest is needed: what the configuration says, what a
// command is told, what becomes of one that hangs or floods, when a drill is due.

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "agent/command_run.h"
#include "agent/config.h"
#include "agent/drill_reports.h"
#include "agent/drill_schedule.h"
#include "agent/dry_drill.h"
#include "agent/hooks.h"
#include "agent/output_holds.h"

namespace understudy {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

std::string message_of(const std::string& text) {
  auto config = AgentConfig::from_toml("name = \"hostA\"\n" + text, "a.toml");
  return config ? "accepted" : config.error().message();
}

TEST(OperationsConfig, hooks_probes_and_drills_are_read) {
  auto config = AgentConfig::from_toml(R"(
name = "hostA"
[[hook]]
name = "dns"
on = ["promoted", "moved"]
domains = ["web1"]
command = ["/bin/true", "x"]
timeout = "5s"
[[probe]]
domain = "web1"
kind = "http"
address = "10.0.0.9"
path = "/health"
action = "restart"
[[probe]]
domain = "web1"
kind = "tcp"
address = "10.0.0.9"
port = 22
[[drill]]
domain = "web1"
every = "7d"
[health]
memory_mib_min = 0
load_percent_max = 400
action = "move"
)",
                                       "a.toml");
  ASSERT_TRUE(config) << config.error().message();
  ASSERT_EQ(config.value().hooks.size(), 1U);
  EXPECT_EQ(config.value().hooks[0].timeout, 5s);
  ASSERT_EQ(config.value().probes.size(), 2U);
  EXPECT_EQ(config.value().probes[0].port, 80);
  EXPECT_EQ(config.value().probes[1].name, "tcp");
  EXPECT_EQ(config.value().drills[0].every, 7 * 24h);
  EXPECT_EQ(config.value().health_memory_mib_min, 0U);
  EXPECT_EQ(config.value().health_load_percent_max, 400U);
  EXPECT_EQ(config.value().health_action, "move");
}

TEST(OperationsConfig, mistakes_are_named_with_line_and_remedy) {
  const std::string hook = "[[hook]]\nname = \"n\"\ncommand = [\"/bin/true\"]\n";
  const auto has = [](const std::string& message, const std::string& part) {
    return message.find(part) != std::string::npos ? std::string() : message;
  };
  EXPECT_EQ(has(message_of(hook), "on is missing"), "");
  EXPECT_EQ(has(message_of(hook + "on = [\"promotd\"]\n"), "is 'promoted' meant?"), "");
  EXPECT_EQ(has(message_of(hook + "on = [\"promoted\"]\ntimout = \"1s\"\n"), "a.toml:6"), "");
  EXPECT_EQ(has(message_of("[[hook]]\nname = \"n\"\non = [\"*\"]\ncommand = [\"true\"]\n"),
                "absolute path"),
            "");
  EXPECT_EQ(has(message_of("[hook]\nname = \"n\"\n"), "[[hook]]"), "");
  EXPECT_EQ(has(message_of("[[probe]]\ndomain = \"w\"\nkind = \"tcp\"\naddress = \"web1\"\n"),
                "IP address"),
            "");
  EXPECT_EQ(has(message_of("[[probe]]\ndomain = \"w\"\nkind = \"tcp\"\naddress = \"10.0.0.1\"\n"),
                "port is missing"),
            "");
  EXPECT_EQ(has(message_of("[[drill]]\ndomain = \"w\"\n"), "either every"), "");
  EXPECT_EQ(has(message_of("[[drill]]\ndomain = \"w\"\nat = \"25:00\"\n"), "time of day"), "");
}

// The list of kinds is written by hand; whoever records a new kind and forgets it there is told
// here.
TEST(HookTest, every_kind_that_the_agent_records_can_be_asked_for) {
  const std::regex recorded(R"(record\(\s*Severity::\w+,\s*[^",;]+,\s*"([a-z_]+)\")");
  std::set<std::string> kinds;
  for (const auto& file : std::filesystem::directory_iterator(AGENT_SOURCES)) {
    if (file.path().extension() != ".cpp") continue;
    std::ifstream stream(file.path());
    const std::string source{std::istreambuf_iterator<char>(stream), {}};
    for (std::sregex_iterator found(source.begin(), source.end(), recorded), end; found != end;
         ++found) {
      kinds.insert((*found)[1]);
      EXPECT_TRUE(is_event_kind((*found)[1].str())) << (*found)[1] << " in " << file.path();
    }
  }
  EXPECT_GE(kinds.size(), 40U) << "the search finds what is recorded";
}

TEST(HookTest, environment_tells_what_happened_and_the_event_knows_best) {
  Event event;
  event.kind = "promoted";
  event.domain = "web1";
  event.fields = {{"peer", "hostC"}, {"generation", 4}};
  const HookContext context{"hostB", "hostA", 3, 17, {"10.0.0.9"}};
  std::map<std::string, std::string> told;
  for (const auto& [name, value] : hook_environment(event, context)) told[name] = value;
  EXPECT_EQ(told["UNDERSTUDY_EVENT"], "promoted");
  EXPECT_EQ(told["UNDERSTUDY_HOST"], "hostB");
  EXPECT_EQ(told["UNDERSTUDY_PEER"], "hostC");
  EXPECT_EQ(told["UNDERSTUDY_GENERATION"], "4");
  EXPECT_EQ(told["UNDERSTUDY_EPOCH"], "17");
  EXPECT_EQ(told["UNDERSTUDY_ADDRESSES"], "10.0.0.9");
}

CommandEnd run(const std::string& script, std::chrono::milliseconds limit,
               std::size_t output_bytes_max = 100) {
  boost::asio::io_context context;
  CommandLine line;
  line.words = {"/bin/sh", "-c", script};
  line.time_max = limit;
  line.output_bytes_max = output_bytes_max;
  std::optional<Result<CommandEnd>> result;
  const auto body = [&]() -> Task<void> {
    result.emplace(co_await run_command_line(context.get_executor(), std::move(line)));
  };
  boost::asio::co_spawn(context, body, [](const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  });
  context.run();
  EXPECT_TRUE(result && *result);
  return result && *result ? std::move(result->value()) : CommandEnd{};
}

TEST(CommandRun, output_is_kept_on_one_line_and_its_failure_told) {
  const CommandEnd end = run("echo one; echo two >&2; exit 3", 20s);
  EXPECT_FALSE(end.succeeded);
  EXPECT_EQ(end.ending, "exit status 3");
  EXPECT_EQ(end.output, "one two");
}

TEST(CommandRun, one_that_hangs_is_killed_with_its_children) {
  const std::string file = testing::TempDir() + "child-" + std::to_string(::getpid());
  const CommandEnd end = run("sleep 1000 & echo $! >" + file + "; wait", 500ms);
  EXPECT_TRUE(end.timed_out);
  int child = 0;
  std::ifstream(file) >> child;
  ASSERT_GT(child, 1);
  // Gone, or a zombie that waits for whoever adopted it.
  for (int tries = 0; tries < 500; ++tries) {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string pid, name, state;
    if (!(stat >> pid >> name >> state) || state == "Z") break;
    ::usleep(10'000);
    EXPECT_LT(tries, 499) << "the child lives";
  }
  std::filesystem::remove(file);
}

TEST(CommandRun, one_that_floods_is_cut_and_does_not_block) {
  const CommandEnd end = run("yes | head -c 1000000", 20s, 50);
  EXPECT_TRUE(end.succeeded) << end.ending;
  EXPECT_LT(end.output.size(), 60U);
}

TEST(DrillTest, due_by_interval_and_by_time_of_day) {
  const auto now = std::chrono::system_clock::now();
  DrillConfig every{.domain = "w", .every = 1h, .at_minute = {}};
  EXPECT_FALSE(drill_due(every, now, 0, std::nullopt, now - 59min));
  EXPECT_TRUE(drill_due(every, now, 0, std::nullopt, now - 61min));
  EXPECT_FALSE(drill_due(every, now, 0, now - 5min, now - 5h));
  DrillConfig daily{.domain = "w", .every = {}, .at_minute = 23 * 60 + 55};
  EXPECT_FALSE(drill_due(daily, now, 23 * 60 + 54, std::nullopt, now));
  EXPECT_TRUE(drill_due(daily, now, 2, std::nullopt, now));  // Seven minutes past, over midnight.
  EXPECT_FALSE(drill_due(daily, now, 2, now - 6min, now));
}

TEST(DrillTest, schedule_goes_by_what_is_on_record_also_after_a_restart) {
  std::string pattern = testing::TempDir() + "drills-XXXXXX";
  const std::filesystem::path folder = ::mkdtemp(pattern.data());
  const auto now = std::chrono::system_clock::now();
  const auto report = [&](const std::string& id, const std::string& by, auto ago) {
    return json::object{{"id", id},       {"domain", "w"},       {"kind", "dry"},
                        {"asked_by", by}, {"outcome", "passed"}, {"started", rfc3339(now - ago)}};
  };
  {
    DrillReports reports(folder);
    EXPECT_EQ(reports.last_scheduled("w", "dry"), std::nullopt);
    ASSERT_TRUE(reports.save(report("1", "schedule", 5h)));
    ASSERT_TRUE(reports.save(report("2", "schedule", 2h)));
    ASSERT_TRUE(reports.save(report("3", "operator", 1h)));
  }
  const DrillReports reports(folder);
  const auto last = reports.last_scheduled("w", "dry");
  ASSERT_TRUE(last);
  EXPECT_LT(std::chrono::abs(now - 2h - *last), 2s);
  EXPECT_EQ(reports.last_scheduled("w", "planned"), std::nullopt);
  std::filesystem::remove_all(folder);
}

TEST(DrillTest, other_hosts_drill_is_under_way_until_it_ends_or_is_forgotten) {
  std::string pattern = testing::TempDir() + "drills-XXXXXX";
  const std::filesystem::path folder = ::mkdtemp(pattern.data());
  DrillReports reports(folder);
  const auto now = std::chrono::system_clock::now();
  json::object report = {
      {"id", "1"}, {"domain", "w"}, {"outcome", "in_progress"}, {"started", rfc3339(now)}};
  ASSERT_TRUE(reports.save(report));
  EXPECT_TRUE(reports.under_way("w", now + 1min));
  EXPECT_FALSE(reports.under_way("v", now + 1min));
  EXPECT_FALSE(reports.under_way("w", now + DrillReports::kUnderWayMax + 1min));
  report["outcome"] = "passed";
  ASSERT_TRUE(reports.save(report));
  EXPECT_FALSE(reports.under_way("w", now + 1min));
  std::filesystem::remove_all(folder);
}

TEST(DrillTest, full_disk_costs_the_file_but_not_the_report) {
  DrillReports reports("/proc/no/such/folder");
  EXPECT_FALSE(reports.save({{"id", "1"}, {"domain", "w"}, {"outcome", "passed"}}));
  EXPECT_EQ(reports.list("w").size(), 1U);
}

TEST(OutputHolds, closure_in_between_is_counted_and_long_silence_too) {
  const OutputHolds::Moment begin{1h};
  OutputHolds holds;
  holds.on_state(begin, true, true);
  const auto open = holds.tally(begin + 10s);
  EXPECT_EQ(open.held, 0us);
  // The gate is closed for a new protection; its first commit comes.
  holds.on_state(begin + 10s, false, false);
  holds.on_released(begin + 10s + 20ms);
  holds.on_state(begin + 10s + 20ms, false, true);
  const auto committed = holds.tally(begin + 10s + 50ms);
  EXPECT_TRUE(held_by_gate(open, committed, 1s));
  EXPECT_EQ(committed.held, 0us);
  // Epochs as they should be.
  for (int i = 1; i <= 100; ++i) holds.on_released(begin + 10s + 20ms + i * 50ms);
  const auto later = holds.tally(begin + 15s + 20ms);
  EXPECT_FALSE(held_by_gate(committed, later, 1s));
  // A backup that hangs, not yet declared lost.
  EXPECT_FALSE(held_by_gate(later, holds.tally(begin + 15s + 300ms), 1s));
  EXPECT_TRUE(held_by_gate(later, holds.tally(begin + 15s + 700ms), 1s));
  // Lost, and back before anybody looked.
  const auto before = holds.tally(begin + 15s + 700ms);
  holds.on_state(begin + 15s + 700ms, false, false);
  holds.on_released(begin + 15s + 710ms);
  holds.on_state(begin + 15s + 710ms, false, true);
  EXPECT_TRUE(held_by_gate(before, holds.tally(begin + 15s + 720ms), 1s));
}

TEST(DrillTest, our_end_of_the_wire_is_a_neighbour_whatever_the_prefix) {
  for (unsigned last = 1; last < 255; ++last) {
    const auto guest = IpAddress::v4({10, 0, 0, static_cast<std::uint8_t>(last)});
    const unsigned ours = neighbour_of(guest).octets()[3];
    EXPECT_NE(ours, last);
    EXPECT_EQ(ours / 4, last / 4);
    EXPECT_TRUE(ours % 4 == 1 || ours % 4 == 2);
  }
}

TEST(DrillTest, reports_are_kept_bounded_and_one_that_was_cut_off_has_failed) {
  std::string pattern = testing::TempDir() + "drills-XXXXXX";
  const std::filesystem::path folder = ::mkdtemp(pattern.data());
  {
    DrillReports reports(folder / "d");
    for (std::size_t i = 0; i < DrillReports::kReportsMax + 5; ++i) {
      ASSERT_TRUE(reports.save({{"id", fmt::format("2026-{:04}", i)},
                                {"domain", i % 2 == 0 ? "a" : "b"},
                                {"outcome", "in_progress"}}));
    }
    EXPECT_FALSE(reports.save({{"id", "../x"}}));
  }
  const DrillReports reports(folder / "d");
  EXPECT_EQ(reports.list("").size(), DrillReports::kReportsMax);
  EXPECT_EQ(reports.list("a").size(), DrillReports::kReportsMax / 2);
  EXPECT_EQ(reports.list("").front().at("outcome"), "failed");
  EXPECT_FALSE(reports.find("2026-0000"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace understudy
