// Events: numbered for ever, bounded, and still there after a restart.

#include "agent/event_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

class EventLogTest : public testing::Test {
 protected:
  EventLogTest() {
    std::string pattern = testing::TempDir() + "events-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~EventLogTest() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(EventLogTest, SequenceGoesOnAfterARestart) {
  {
    EventLog log(folder_ / "events.jsonl");
    log.record(Severity::info, "web1", "domain_started", "runs");
    log.record(Severity::critical, "", "peer_dead", "hostB", {{"peer", "hostB"}});
  }
  EventLog log(folder_ / "events.jsonl");
  log.record(Severity::warning, "web1", "promoted", "here");
  const auto events = log.list("", 0, 10, true);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[1].kind, "peer_dead");
  EXPECT_EQ(events[1].severity, Severity::critical);
  EXPECT_EQ(events[1].fields.at("peer"), "hostB");
  EXPECT_EQ(events[2].sequence, 3U);
  EXPECT_EQ(log.last(), 3U);
}

TEST_F(EventLogTest, FiltersAndLimits) {
  EventLog log(folder_ / "events.jsonl");
  for (int number = 1; number <= 6; ++number) {
    log.record(Severity::info, number % 2 == 0 ? "even" : "odd", "kind", std::to_string(number));
  }
  EXPECT_EQ(log.list("even", 0, 10, true).size(), 3U);
  EXPECT_EQ(log.list("", 4, 10, true).front().message, "5");
  EXPECT_EQ(log.list("", 0, 2, true).back().message, "2");
  EXPECT_EQ(log.list("", 0, 2, false).back().message, "6");
}

TEST_F(EventLogTest, ListenerFindsTheEventStored) {
  EventLog log(folder_ / "events.jsonl");
  std::size_t stored = 0;
  log.subscribe([&](const Event& event) {
    stored = log.list("web1", 0, 10, true).size();
    EXPECT_EQ(event.kind, "promoted");
  });
  log.record(Severity::info, "web1", "promoted", "here");
  EXPECT_EQ(stored, 1U);
}

TEST_F(EventLogTest, MemoryIsBounded) {
  EventLog log(folder_ / "events.jsonl");
  for (std::size_t number = 0; number < EventLog::kEventsInMemory + 5; ++number) {
    log.record(Severity::info, "", "kind", "x");
  }
  EXPECT_EQ(log.oldest(), 6U);
}

TEST_F(EventLogTest, DiskThatRefusesCostsTheFileOnly) {
  EventLog log("/proc/no/such/file");
  log.record(Severity::info, "", "kind", "still here");
  EXPECT_EQ(log.list("", 0, 10, true).size(), 1U);
}

TEST(Rfc3339Test, UtcWithMilliseconds) {
  EXPECT_EQ(
      rfc3339(std::chrono::system_clock::time_point(std::chrono::milliseconds(1'700'000'000'123))),
      "2023-11-14T22:13:20.123Z");
}

}  // namespace
}  // namespace understudy
