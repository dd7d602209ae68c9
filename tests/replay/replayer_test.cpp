// The replayer, rule by rule, with a guest that says exactly what the test wants. (With guests and
// clients that speak TCP: sim_test.cpp.)
#include "replay/replayer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replay/flow_table.h"
#include "tests/replay/frames.h"

namespace understudy::replay {
namespace {

using namespace std::chrono_literals;
using test::octets;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint32_t kGuestBase = 5000;  // In the first execution.
constexpr std::uint32_t kClientBase = 9000;

TcpSegment between(std::uint8_t client, bool from_guest) {
  const auto client_port = static_cast<std::uint16_t>(4000 + client);
  return {.source_mac = from_guest ? test::kGuestMac : test::kClientMac,
          .destination_mac = from_guest ? test::kClientMac : test::kGuestMac,
          .source = from_guest ? test::v4(1) : test::v4(client),
          .destination = from_guest ? test::v4(client) : test::v4(1),
          .source_port = from_guest ? std::uint16_t{80} : client_port,
          .destination_port = from_guest ? client_port : std::uint16_t{80}};
}

Frame from_client(std::uint8_t client, std::uint32_t offset, std::uint32_t acknowledges,
                  std::string_view text, std::uint8_t flags = kAck) {
  TcpSegment segment = between(client, false);
  segment.header.flags = flags;
  segment.header.sequence = kClientBase + offset;
  segment.header.acknowledgement = kGuestBase + acknowledges;
  segment.header.window = 10'000;
  segment.payload = octets(text);
  return build_tcp(segment);
}

Frame from_guest(std::uint8_t client, std::uint32_t offset, std::uint32_t acknowledges,
                 std::string_view text, std::uint8_t flags = kAck,
                 std::uint32_t base = kGuestBase) {
  TcpSegment segment = between(client, true);
  segment.header.flags = flags;
  segment.header.sequence = base + offset;
  segment.header.acknowledgement = kClientBase + acknowledges;
  segment.header.window = 10'000;
  segment.payload = octets(text);
  return build_tcp(segment);
}

/// Writes a story, as the primary's log would have it, and replays it.
class Story : public testing::Test {
 protected:
  void input(const Frame& frame) { add(InputRecord{0, ChecksumState::complete, frame}); }
  void output(const Frame& frame) { add(*flows_.on_output({}, parse(frame), frame)); }
  void replay(Replayer::Config config = {}) {
    replayer_.emplace(config, now_, std::move(records_), Translator{});
    note(replayer_->on_tick(now_));
  }
  void guest_says(Frame frame) {
    note(replayer_->on_guest_frame(now_, 0, std::move(frame), ChecksumState::complete));
  }
  void client_says(Frame frame) {
    note(replayer_->on_client_frame(now_, 0, std::move(frame), ChecksumState::complete));
  }
  void wait(std::chrono::milliseconds time, bool guest_has_work = false) {
    for (const Instant end = now_ + time; now_ < end;) {
      now_ += 5ms;
      note(replayer_->on_tick(now_, guest_has_work));
    }
  }
  /// Payloads that went one way since the last question; "" for bare segments, "RST" for resets.
  std::vector<std::string> heard_by_guest() { return std::exchange(to_guest_, {}); }
  std::vector<std::string> heard_by_clients() { return std::exchange(to_network_, {}); }

  std::vector<Replayer::Event> events_;
  std::optional<Replayer> replayer_;
  Frame last_to_guest_;
  Frame last_to_network_;

 private:
  void add(LogContent content) {
    records_.push_back({LogPosition(records_.size() + 1), std::move(content)});
  }
  static std::string said(const Frame& frame) {
    const Packet packet = parse(frame);
    if (packet.kind == FrameKind::tcp && packet.tcp.has(kRst)) return "RST";
    const auto payload = payload_of(frame, packet);
    return {payload.begin(), payload.end()};
  }
  void note(Replayer::Actions actions) {
    for (auto& action : actions) {
      if (auto* to_guest = std::get_if<Replayer::ToGuest>(&action)) {
        to_guest_.push_back(said(to_guest->frame));
        last_to_guest_ = to_guest->frame;
      } else if (auto* to_network = std::get_if<Replayer::ToNetwork>(&action)) {
        to_network_.push_back(said(to_network->frame));
        last_to_network_ = to_network->frame;
      } else {
        events_.push_back(std::get<Replayer::Report>(action).event);
      }
    }
  }

  Instant now_ = Instant{} + 1h;
  FlowTable flows_{100};
  std::vector<LogRecord> records_;
  std::vector<std::string> to_guest_;
  std::vector<std::string> to_network_;
};

TEST_F(Story, an_answer_is_made_again_compared_and_suppressed_then_life_goes_on) {
  input(from_client(2, 0, 0, "question"));
  output(from_guest(2, 0, 8, "answer"));
  input(from_client(2, 8, 6, "next"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("question")) << "the next acknowledges the answer";
  client_says(from_client(2, 12, 6, "live"));
  guest_says(from_guest(2, 0, 8, "ans"));
  guest_says(from_guest(2, 3, 8, "wer"));
  EXPECT_THAT(heard_by_clients(), IsEmpty()) << "it was released before";
  EXPECT_THAT(heard_by_guest(), testing::Contains("next"));
  guest_says(from_guest(2, 6, 12, "more"));
  EXPECT_THAT(heard_by_clients(), ElementsAre("more"));
  EXPECT_FALSE(replayer_->replaying());
  guest_says(from_guest(2, 10, 16, "answer to live"));
  EXPECT_THAT(heard_by_clients(), ElementsAre("answer to live"));
}

TEST_F(Story, another_answer_is_never_heard_and_both_sides_are_reset) {
  input(from_client(2, 0, 0, "question"));
  output(from_guest(2, 0, 8, "answer"));
  replay();
  guest_says(from_guest(2, 0, 8, "ansehr"));
  EXPECT_THAT(events_, testing::Contains(Replayer::Event::contents_differ));
  EXPECT_THAT(heard_by_clients(), ElementsAre("RST", "RST")) << "behind the answer, or before it";
  client_says(from_client(2, 8, 3, "still there"));
  EXPECT_THAT(heard_by_clients(), ElementsAre("RST"));
  EXPECT_EQ(parse(last_to_network_).tcp.sequence, kGuestBase + 3) << "where the client is";
  wait(1s);
  EXPECT_THAT(heard_by_guest(), testing::Contains("RST"));
  EXPECT_FALSE(replayer_->replaying());
}

TEST_F(Story, what_a_diverged_client_asked_for_later_is_still_done) {
  input(from_client(2, 0, 0, "first"));
  output(from_guest(2, 0, 5, "one"));
  input(from_client(2, 5, 3, "second"));
  output(from_guest(2, 3, 11, "two"));
  replay();
  guest_says(from_guest(2, 0, 5, "another length"));
  EXPECT_THAT(heard_by_guest(), testing::IsSupersetOf({"first", "second"}));
  EXPECT_EQ(parse(last_to_guest_).tcp.acknowledgement, kGuestBase + 14) << "heard out";
}

TEST_F(Story, tolerated_differences_go_on_where_positions_fit) {
  input(from_client(2, 0, 0, "question"));
  output(from_guest(2, 0, 8, "answer"));
  replay({.on_divergence = OnDivergence::tolerate});
  guest_says(from_guest(2, 0, 8, "ansehr"));
  guest_says(from_guest(2, 6, 8, "more"));
  EXPECT_THAT(heard_by_clients(), ElementsAre("more"));
}

TEST_F(Story, a_connection_opened_after_the_checkpoint_is_translated) {
  input(from_client(2, -1, 0, "", kSyn));
  output(from_guest(2, -1, 0, "", kSyn | kAck));
  input(from_client(2, 0, 0, "question"));
  output(from_guest(2, 0, 8, "answer"));
  replay();
  heard_by_guest();
  constexpr std::uint32_t kNewBase = 777'000;
  guest_says(from_guest(2, -1, 0, "", kSyn | kAck, kNewBase));
  EXPECT_THAT(heard_by_guest(), ElementsAre("question"));
  EXPECT_EQ(parse(last_to_guest_).tcp.acknowledgement, kNewBase);
  guest_says(from_guest(2, 0, 8, "answer", kAck, kNewBase));
  EXPECT_THAT(heard_by_clients(), IsEmpty());
  guest_says(from_guest(2, 6, 8, "more", kAck, kNewBase));
  EXPECT_THAT(heard_by_clients(), ElementsAre("more"));
  EXPECT_EQ(parse(last_to_network_).tcp.sequence, kGuestBase + 6);
  EXPECT_EQ(replayer_->translator().size(), 1U);
}

TEST_F(Story, order_is_kept_over_flows_and_one_that_is_stuck_holds_nobody_for_long) {
  input(from_client(2, 0, 0, "first"));
  output(from_guest(2, 0, 5, "one"));
  input(from_client(3, 0, 0, "second"));
  output(from_guest(3, 0, 6, "two"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("first")) << "the second came after an answer";
  wait(395ms);
  EXPECT_THAT(heard_by_guest(), testing::Not(testing::Contains("second")));
  wait(10ms);
  EXPECT_THAT(heard_by_guest(), testing::Contains("second"));
  EXPECT_THAT(events_, ElementsAre(Replayer::Event::not_waited_for));
  guest_says(from_guest(3, 0, 6, "two"));
  EXPECT_THAT(events_, testing::Contains(Replayer::Event::order_complete));
  wait(6s);
  EXPECT_THAT(events_, testing::Contains(Replayer::Event::no_progress));
  EXPECT_FALSE(replayer_->replaying());
}

TEST_F(Story, a_guest_that_is_at_work_gets_more_time_before_the_order_is_left) {
  input(from_client(2, 0, 0, "first"));
  output(from_guest(2, 0, 5, "one"));
  input(from_client(3, 0, 0, "second"));
  output(from_guest(3, 0, 6, "two"));
  replay();
  wait(1500ms, true);
  EXPECT_THAT(heard_by_guest(), testing::Not(testing::Contains("second")))
      << "it is slow, not stuck";
  wait(1000ms, true);
  EXPECT_THAT(heard_by_guest(), testing::Contains("second")) << "or it is: there is a limit";
}

TEST_F(Story, requests_are_served_in_the_order_of_their_answers) {
  input(from_client(2, 0, 0, "first"));
  input(from_client(3, 0, 0, "second"));
  input(from_client(4, 0, 0, "unanswered"));
  output(from_guest(3, 0, 6, "two"));
  output(from_guest(2, 0, 5, "one"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("second")) << "its answer was the first";
  guest_says(from_guest(3, 0, 6, "two"));
  EXPECT_THAT(heard_by_guest(), ElementsAre("first"));
  guest_says(from_guest(2, 0, 5, "one"));
  EXPECT_THAT(heard_by_guest(), ElementsAre("unanswered"));
}

TEST_F(Story, an_answer_that_depends_on_a_later_one_is_not_waited_for_in_vain) {
  // A subscriber's message comes out before the publisher's receipt.
  input(from_client(2, 0, 0, "subscribe"));
  output(from_guest(2, 0, 9, "yes"));
  input(from_client(2, 9, 3, "next?"));
  input(from_client(3, 0, 0, "publish"));
  output(from_guest(2, 3, 14, "published"));
  output(from_guest(3, 0, 7, "done"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("subscribe"));
  guest_says(from_guest(2, 0, 9, "yes"));
  EXPECT_THAT(heard_by_guest(), testing::Contains("next?"));
  wait(195ms);
  EXPECT_THAT(heard_by_guest(), testing::Not(testing::Contains("publish")));
  wait(10ms);
  EXPECT_THAT(heard_by_guest(), testing::Contains("publish"));
  EXPECT_THAT(events_, testing::IsEmpty());
}

TEST_F(Story, what_nobody_asked_for_is_not_waited_for_by_others) {
  input(from_client(2, 0, 0, "watch"));
  output(from_guest(2, 0, 5, "one"));
  output(from_guest(2, 3, 5, "two"));  // A clock's tick.
  input(from_client(3, 0, 0, "question"));
  output(from_guest(3, 0, 8, "answer"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("watch"));
  guest_says(from_guest(2, 0, 5, "one"));
  EXPECT_THAT(heard_by_guest(), ElementsAre("question"));
}

TEST_F(Story, what_the_guest_lost_is_given_again) {
  input(from_client(2, 0, 0, "question"));
  output(from_guest(2, 0, 8, "answer"));
  replay();
  wait(150ms);
  EXPECT_THAT(heard_by_guest(), ElementsAre("question"));
  wait(100ms);
  EXPECT_THAT(heard_by_guest(), ElementsAre("question"));
}

TEST_F(Story, datagrams_are_compared_one_by_one) {
  const auto ask = [](std::string_view text) {
    return test::udp_frame(test::v4(2), 4000, test::v4(1), 53, octets(text));
  };
  const auto answer = [](std::string_view text) {
    return test::udp_frame(test::v4(1), 53, test::v4(2), 4000, octets(text));
  };
  input(ask("a?"));
  output(answer("a!"));
  input(ask("b?"));
  output(answer("b!"));
  input(ask("c?"));
  replay();
  EXPECT_THAT(heard_by_guest(), ElementsAre("a?"));
  guest_says(answer("a!"));
  EXPECT_THAT(heard_by_guest(), ElementsAre("b?"));
  guest_says(answer("b, but another"));
  EXPECT_THAT(heard_by_clients(), IsEmpty()) << "contradicts what was released";
  EXPECT_THAT(heard_by_guest(), ElementsAre("c?"));
  guest_says(answer("c!"));
  EXPECT_THAT(heard_by_clients(), ElementsAre("c!")) << "nobody has had it before";
}

}  // namespace
}  // namespace understudy::replay
