// Goal: QEMU's monitor is read whole, in any pieces, and nonsense is a named error.
// Method: lines as QEMU 7.2 writes them, cut at random places; and lines that no QEMU writes.
#include "hypervisor/qemu/qmp_message.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <vector>

namespace understudy {
namespace {

TEST(QmpMessageTest, GreetingTellsTheVersion) {
  const auto message = parse_qmp_line(
      R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}})");
  ASSERT_TRUE(message);
  EXPECT_EQ(std::get<QmpGreeting>(message.value()).version, "7.2.22");
  const auto odd = parse_qmp_line(R"({"QMP": 7})");
  ASSERT_TRUE(odd);
  EXPECT_EQ(std::get<QmpGreeting>(odd.value()).version, "");
}

TEST(QmpMessageTest, RepliesAndEventsAreToldApart) {
  const auto reply = parse_qmp_line(R"({"return": {"status": "running"}, "id": 7})");
  ASSERT_TRUE(reply);
  EXPECT_EQ(std::get<QmpReply>(reply.value()).id, 7u);
  EXPECT_FALSE(std::get<QmpReply>(reply.value()).error);
  const auto refusal =
      parse_qmp_line(R"({"id": 8, "error": {"class": "GenericError", "desc": "no such thing"}})");
  ASSERT_TRUE(refusal);
  EXPECT_EQ(std::get<QmpReply>(refusal.value()).error, "no such thing");
  const auto event = parse_qmp_line(
      R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "completed"}})");
  ASSERT_TRUE(event);
  EXPECT_EQ(std::get<QmpEvent>(event.value()).name, "MIGRATION");
  EXPECT_EQ(std::get<QmpEvent>(event.value()).data.at("status").as_string(), "completed");
}

TEST(QmpMessageTest, NonsenseIsNamedAndQuoted) {
  for (const char* line :
       {"", "hello", "[]", "{}", R"({"event": 7})", R"({"event": "X", "data": 3})",
        R"({"return": {}, "id": "x"})", R"({"return": {}, "id": -1})", R"({"error": {}})",
        R"({"error": {"desc": 3}})", R"({"id": 3})", "{\"return\": \x01}"}) {
    const auto message = parse_qmp_line(line);
    ASSERT_FALSE(message) << line;
    EXPECT_EQ(message.error().code(), ErrorCode::bad_data);
    EXPECT_NE(message.error().message().find("QEMU's monitor"), std::string::npos);
    for (const char c : message.error().message()) EXPECT_NE(c, '\x01');
  }
  EXPECT_FALSE(parse_qmp_line(std::string(100000, '[')));
}

TEST(QmpLineReaderTest, LinesCutAnywhereArriveWhole) {
  EXPECT_TRUE(rc::check([] {
    const auto lines = *rc::gen::container<std::vector<std::string>>(
        rc::gen::container<std::string>(rc::gen::inRange<char>('a', 'z')));
    std::string stream;
    for (const std::string& line : lines) stream += line + (line.size() % 2 ? "\r\n" : "\n");
    QmpLineReader reader(4096);
    std::vector<std::string> got;
    std::string_view rest = stream;
    while (!rest.empty()) {
      const auto piece = *rc::gen::inRange<std::size_t>(1, 20);
      RC_ASSERT(static_cast<bool>(reader.feed(rest.substr(0, piece))));
      rest.remove_prefix(std::min(piece, rest.size()));
      while (const auto line = reader.next()) got.emplace_back(*line);
    }
    RC_ASSERT(got == lines);
  }));
}

TEST(QmpLineReaderTest, EndlessLineIsRefusedAtTheLimit) {
  QmpLineReader reader(1000);
  ASSERT_TRUE(reader.feed(std::string(600, 'x')));
  EXPECT_FALSE(reader.next());
  const auto more = reader.feed(std::string(600, 'x'));
  ASSERT_FALSE(more);
  EXPECT_NE(more.error().message().find("1000"), std::string::npos);
}

}  // namespace
}  // namespace understudy
