// Links between two paired hosts: order, back-pressure, time limits, and every way in which a link
// can end. Goal: pending operations always end with an error that names the peer, memory stays
// bounded, nothing is used after it is gone (run under AddressSanitizer too).
#include "transport/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tests/transport/two_hosts.h"

namespace understudy::transport {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;

Result<void> send(TwoHosts& hosts, Link& link, Octets payload) {
  return hosts.run(link.send(FrameType::control, {}, std::move(payload)));
}

TEST(Link, tells_both_sides_who_the_other_is) {
  TwoHosts hosts;
  const LinkPair pair(hosts, LinkPurpose::control);
  EXPECT_EQ(pair.a->peer().name, "hostB");
  EXPECT_EQ(pair.b->peer().name, "hostA");
  EXPECT_EQ(pair.a->peer().fingerprint, hosts.b.identity->fingerprint());
  EXPECT_EQ(pair.b->peer().fingerprint, hosts.a.identity->fingerprint());
  EXPECT_EQ(pair.a->peer().boot_id, hosts.b.boot_id);
  EXPECT_EQ(pair.b->peer().boot_id, hosts.a.boot_id);
  EXPECT_EQ(pair.a->peer().remote, pair.listener->endpoint());
  EXPECT_EQ(pair.b->peer().local, pair.listener->endpoint());
  EXPECT_EQ(pair.b->purpose(), LinkPurpose::control);
  EXPECT_EQ(pair.b->peer().software, UNDERSTUDY_VERSION);
}

TEST(Link, carries_frames_of_all_sizes_in_order_in_both_directions) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  const std::vector<std::size_t> sizes = {0,     1,     31,    4096,   4097,    16383,
                                          16384, 16385, 65536, 200000, 1000000, 5};
  const auto pattern = [](std::size_t size, std::size_t seed) {
    Octets made(size);
    for (std::size_t i = 0; i < size; ++i) made[i] = static_cast<std::byte>(i * 7 + seed);
    return made;
  };
  const auto talk = [&](Link& link) -> Task<Result<void>> {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const Octets whole = pattern(sizes[i], i);
      const std::size_t cut = std::min<std::size_t>(sizes[i] / 2, 24);
      BOOST_OUTCOME_CO_TRY(co_await link.send(
          FrameType::page_batch, std::span(whole).first(cut),
          Octets(whole.begin() + static_cast<std::ptrdiff_t>(cut), whole.end())));
    }
    co_return co_await link.flush();
  };
  hosts.start(talk(*pair.b));
  hosts.start(talk(*pair.a));
  for (Link* link : {pair.b.get(), pair.a.get()}) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const auto frame = hosts.run(link->receive());
      ASSERT_TRUE(frame) << frame.error().message();
      EXPECT_EQ(frame.value().type, FrameType::page_batch);
      EXPECT_TRUE(frame.value().payload == pattern(sizes[i], i)) << i;
    }
  }
  EXPECT_EQ(pair.a->bytes_sent(), pair.b->bytes_received());
}

TEST(Link, urgent_frames_overtake_what_waits_and_keep_their_own_order) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  // Queued in one turn of the loop, so that nothing is on its way yet.
  const auto talk = [&]() -> Task<Result<void>> {
    for (int i = 0; i < 6; ++i) {
      BOOST_OUTCOME_CO_TRY(co_await pair.a->send(FrameType::page_batch, {}, Octets(1'000'000)));
    }
    BOOST_OUTCOME_CO_TRY(pair.a->send_urgent(FrameType::input_log, octets("one")));
    BOOST_OUTCOME_CO_TRY(pair.a->send_urgent(FrameType::input_log, octets("two")));
    co_return ok();
  };
  hosts.start(talk());
  std::vector<std::string> urgent;
  std::size_t before_last_urgent = 0;
  for (int i = 0; i < 8; ++i) {
    const auto frame = hosts.run(pair.b->receive());
    ASSERT_TRUE(frame) << frame.error().message();
    if (frame.value().type == FrameType::input_log) {
      urgent.push_back(text_of(frame.value().payload));
      before_last_urgent = static_cast<std::size_t>(i) + 1 - urgent.size();
    }
  }
  EXPECT_THAT(urgent, testing::ElementsAre("one", "two"));
  EXPECT_LE(before_last_urgent, 2U) << "they wait behind what is numbered already, no more";
}

TEST(Link, an_urgent_frame_on_a_dead_link_is_an_error) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  pair.a->close();
  const auto sent = pair.a->send_urgent(FrameType::input_log, octets("late"));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), ErrorCode::unavailable);
}

TEST(Link, renewing_the_key_in_the_middle_of_the_stream_goes_unnoticed) {
  TwoHosts hosts;
  auto settings = LinkSettings::for_purpose(LinkPurpose::bulk);
  settings.key_update_bytes = 10000;
  const LinkPair pair(hosts, LinkPurpose::bulk, settings);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(send(hosts, *pair.a, Octets(3000 + 400 * i)));
    const auto frame = hosts.run(pair.b->receive());
    ASSERT_TRUE(frame) << frame.error().message();
    ASSERT_EQ(frame.value().payload.size(), 3000U + 400U * i);
  }
}

TEST(Link, a_frame_above_the_limit_is_refused_at_home_and_the_link_stays_good) {
  TwoHosts hosts;
  const LinkPair pair(hosts, LinkPurpose::heartbeat);
  const auto sent = send(hosts, *pair.a, Octets(40000));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), ErrorCode::usage);
  ASSERT_TRUE(send(hosts, *pair.a, octets("small")));
  EXPECT_EQ(text_of(hosts.run(pair.b->receive()).value().payload), "small");
}

TEST(Link, a_peer_that_stops_reading_bounds_our_memory_and_then_ends_the_link) {
  TwoHosts hosts;
  auto settings = LinkSettings::for_purpose(LinkPurpose::bulk);
  settings.send_queue_bytes_max = 1 << 20;
  settings.send_stall_limit = milliseconds(400);
  const LinkPair pair(hosts, LinkPurpose::bulk, settings);
  std::size_t most = 0;
  const auto flood = [&]() -> Task<Result<void>> {
    for (;;) {
      BOOST_OUTCOME_CO_TRY(co_await pair.a->send(FrameType::page_batch, {}, Octets(200000)));
      most = std::max(most, pair.a->bytes_queued());
    }
  };
  const auto ended = hosts.run(flood());
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code(), ErrorCode::timed_out);
  EXPECT_THAT(ended.error().message(), HasSubstr("link to hostB (bulk"));
  EXPECT_THAT(ended.error().message(), HasSubstr("for 400 ms"));
  EXPECT_LE(most, (1U << 20) + 200032);
  EXPECT_GE(most, 1U << 20);
  EXPECT_EQ(pair.a->bytes_queued(), 0U);
}

TEST(Link, senders_that_wait_for_room_go_on_in_the_order_in_which_they_came) {
  TwoHosts hosts;
  auto settings = LinkSettings::for_purpose(LinkPurpose::bulk);
  settings.send_queue_bytes_max = 100000;
  const LinkPair pair(hosts, LinkPurpose::bulk, settings);
  constexpr int kSenders = 300;
  int done = 0;
  const auto sender = [&](int number) -> Task<void> {
    const Octets head = {static_cast<std::byte>(number), static_cast<std::byte>(number >> 8)};
    const auto sent = co_await pair.a->send(FrameType::control, head, Octets(50000));
    EXPECT_TRUE(sent);
    ++done;
  };
  for (int i = 0; i < kSenders; ++i) {
    hosts.start(sender(i));
  }
  hosts.run_for(milliseconds(100));
  EXPECT_LT(done, kSenders);
  for (int i = 0; i < kSenders; ++i) {
    const auto frame = hosts.run(pair.b->receive());
    ASSERT_TRUE(frame) << frame.error().message();
    EXPECT_EQ(std::to_integer<int>(frame.value().payload[0]) |
                  (std::to_integer<int>(frame.value().payload[1]) << 8),
              i);
  }
  hosts.run_until([&] { return done == kSenders; });
}

TEST(Link, closing_ends_every_pending_operation_with_an_error_that_names_the_link) {
  TwoHosts hosts;
  auto settings = LinkSettings::for_purpose(LinkPurpose::bulk);
  settings.send_queue_bytes_max = 100000;
  LinkPair pair(hosts, LinkPurpose::bulk, settings);
  std::vector<std::string> errors;
  const auto note = [&](const auto& result) {
    if (!result) errors.push_back(result.error().message());
  };
  const auto receiver = [&]() -> Task<void> { note(co_await pair.a->receive()); };
  const auto sender = [&]() -> Task<void> {
    for (;;) {
      auto sent = co_await pair.a->send(FrameType::control, {}, Octets(1000000));
      if (!sent) {
        note(sent);
        co_return;
      }
    }
  };
  const auto flusher = [&]() -> Task<void> { note(co_await pair.a->flush()); };
  hosts.start(receiver());
  hosts.start(sender());
  hosts.run_for(milliseconds(100));
  hosts.start(flusher());
  hosts.run_for(milliseconds(20));
  EXPECT_TRUE(errors.empty());
  pair.a->close();
  hosts.run_until([&] { return errors.size() == 3; });
  for (const auto& error : errors) EXPECT_THAT(error, HasSubstr("link to hostB"));
  for (const auto& error : errors) EXPECT_THAT(error, HasSubstr("closed"));
  EXPECT_FALSE(send(hosts, *pair.a, octets("late")));
  EXPECT_FALSE(pair.a->open());
}

TEST(Link, destroyed_with_operations_pending_it_leaves_nothing_behind) {
  TwoHosts hosts;
  LinkPair pair(hosts);
  std::optional<Result<Frame>> got;
  hosts.start(TwoHosts::keep(pair.a->receive(), got));
  hosts.run_for(milliseconds(20));
  pair.a.reset();
  hosts.run_until([&] { return got.has_value(); });
  EXPECT_EQ(got->error().code(), ErrorCode::unavailable);
}

TEST(Link, the_loop_may_go_while_links_are_in_use) {
  std::optional<TwoHosts> hosts(std::in_place);
  std::optional<LinkPair> pair(std::in_place, *hosts);
  hosts->start(pair->a->receive());
  hosts->start(pair->b->receive());
  hosts->run_for(milliseconds(20));
  pair.reset();
  hosts.reset();
}

TEST(Link, a_receive_with_a_limit_gives_up_and_the_link_stays_good) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  const auto started = steady_clock::now();
  const auto nothing = hosts.run(pair.b->receive(milliseconds(100)));
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code(), ErrorCode::timed_out);
  EXPECT_GE(steady_clock::now() - started, milliseconds(100));
  ASSERT_TRUE(send(hosts, *pair.a, octets("x")));
  EXPECT_TRUE(hosts.run(pair.b->receive(milliseconds(10000))));
}

TEST(Link, an_idle_link_with_an_idle_limit_ends) {
  TwoHosts hosts;
  auto settings = LinkSettings::for_purpose(LinkPurpose::control);
  settings.idle_limit = milliseconds(150);
  const LinkPair pair(hosts, LinkPurpose::control, settings);
  const auto nothing = hosts.run(pair.b->receive());
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code(), ErrorCode::timed_out);
  EXPECT_THAT(nothing.error().message(), HasSubstr("link to hostA"));
  EXPECT_FALSE(pair.b->open());
}

TEST(Link, a_goodbye_arrives_after_everything_else_and_with_its_reason) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(send(hosts, *pair.a, Octets(100000)));
  // Unread data in the other direction must not turn the farewell into a reset.
  ASSERT_TRUE(send(hosts, *pair.b, octets("unread")));
  bool said = false;
  const auto leave = [&]() -> Task<void> {
    co_await pair.a->say_goodbye("maintenance");
    said = true;
  };
  hosts.start(leave());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(hosts.run(pair.b->receive()));
  const auto last = hosts.run(pair.b->receive());
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(last.error().message(), HasSubstr("the peer ended the link: maintenance"));
  hosts.run_until([&] { return said; });
}

TEST(Link, a_refusal_arrives_with_its_code) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  hosts.run(pair.a->refuse({ErrorCode::no_resources, "no memory for web1"}, milliseconds(100)));
  const auto got = hosts.run(pair.b->receive());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code(), ErrorCode::no_resources);
  EXPECT_THAT(got.error().message(), HasSubstr("no memory for web1"));
}

TEST(Link, writing_to_a_peer_that_is_gone_is_an_error_and_no_signal) {
  TwoHosts hosts;
  LinkPair pair(hosts);
  pair.b.reset();
  Result<void> sent = ok();
  for (int i = 0; i < 1000 && sent; ++i) {
    sent = send(hosts, *pair.a, Octets(100000));
    hosts.run_for(milliseconds(1));
  }
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), ErrorCode::unavailable);
}

TEST(Link, a_bit_flipped_below_TLS_ends_the_link_with_an_error_and_no_frame) {
  TwoHosts hosts;
  Wire wire(hosts.io);
  const LinkPair pair(hosts, LinkPurpose::bulk, {},
                      [&](const Endpoint& to) { return wire.carry_to(to); });
  wire.meddle = [](Octets& piece) { piece[piece.size() / 2] ^= std::byte{4}; };
  ASSERT_TRUE(send(hosts, *pair.a, Octets(1000)));
  const auto got = hosts.run(pair.b->receive());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code(), ErrorCode::protocol);
  EXPECT_THAT(got.error().message(), HasSubstr("link to hostA"));
}

TEST(Link, octets_replayed_below_TLS_end_the_link_with_an_error_and_no_frame) {
  TwoHosts hosts;
  Wire wire(hosts.io);
  const LinkPair pair(hosts, LinkPurpose::bulk, {},
                      [&](const Endpoint& to) { return wire.carry_to(to); });
  wire.meddle = [](Octets& piece) {
    const Octets again = piece;
    piece.insert(piece.end(), again.begin(), again.end());
  };
  ASSERT_TRUE(send(hosts, *pair.a, octets("pay 100")));
  EXPECT_TRUE(hosts.run(pair.b->receive()));
  EXPECT_FALSE(hosts.run(pair.b->receive()));
}

TEST(Link, a_wire_cut_inside_a_frame_is_no_orderly_end) {
  TwoHosts hosts;
  Wire wire(hosts.io);
  const LinkPair pair(hosts, LinkPurpose::bulk, {},
                      [&](const Endpoint& to) { return wire.carry_to(to); });
  std::size_t passed = 0;
  wire.meddle = [&](Octets& piece) {
    passed += piece.size();
    if (passed > 100000) piece.clear();
  };
  ASSERT_TRUE(send(hosts, *pair.a, Octets(200000)));
  hosts.run_for(milliseconds(50));
  wire.cut();
  const auto got = hosts.run(pair.b->receive());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code(), ErrorCode::unavailable);
}

TEST(Link, frames_that_lie_inside_good_TLS_end_the_link) {
  const auto claim = [](std::size_t length) {
    const auto header = encode_frame_header(FrameType::control, kFrameNoFlags, 2, {});
    Octets octets(header.begin(), header.end());
    for (std::size_t i = 0; i < 4; ++i) octets[8 + i] = static_cast<std::byte>(length >> (8 * i));
    return octets;
  };
  const struct {
    std::function<void(RudePeer&)> act;
    ErrorCode code;
    std::string complaint;
  } cases[] = {
      {[](RudePeer& peer) { peer.say(FrameType::control, octets("again"), 1); },
       ErrorCode::bad_data, "replayed"},
      {[](RudePeer& peer) { peer.say(FrameType::control, octets("later"), 7); },
       ErrorCode::bad_data, "frames lost"},
      {[&](RudePeer& peer) { peer.raw(claim(0xfffffff0)); }, ErrorCode::bad_data,
       "announces 4294967280 octets"},
      {[](RudePeer& peer) { peer.say(FrameType{4000}, {}); }, ErrorCode::protocol,
       "unknown type 4000"},
      {[](RudePeer& peer) { peer.raw(octets("GET / HTTP/1.0\r\nAccept: anything\r\n\r\n")); },
       ErrorCode::protocol, "'UNDS'"},
      {[&](RudePeer& peer) {
         peer.raw(claim(100));
         peer.stream().end_writing();
       },
       ErrorCode::bad_data, "ends inside a frame"},
  };
  for (const auto& [act, code, complaint] : cases) {
    TwoHosts hosts;
    std::vector<std::unique_ptr<Link>> accepted;
    const auto listener = hosts.listen(accepted);
    RudePeer peer(hosts, listener->endpoint(), hosts.a.identity);
    ASSERT_TRUE(peer.shake());
    peer.hello(LinkPurpose::control);
    ASSERT_TRUE(peer.hear());
    hosts.run_until([&] { return !accepted.empty(); });
    act(peer);
    const auto got = hosts.run(accepted.front()->receive());
    ASSERT_FALSE(got) << complaint;
    EXPECT_EQ(got.error().code(), code) << got.error().message();
    EXPECT_THAT(got.error().message(), HasSubstr(complaint));
    EXPECT_FALSE(accepted.front()->open());
  }
}

TEST(Link, a_killed_peer_process_is_noticed_at_once) {
  TwoHosts hosts;
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Host B in a process of its own, until it is killed (or after a minute, by itself).
    ::alarm(60);
    hosts.io.notify_fork(boost::asio::io_context::fork_child);
    std::vector<std::unique_ptr<Link>> accepted;
    const auto listener = hosts.listen(accepted);
    const std::uint16_t port = listener->endpoint().port;
    if (::write(pipe_ends[1], &port, sizeof(port)) != sizeof(port)) ::_exit(1);
    hosts.io.run();
    ::_exit(1);
  }
  std::uint16_t port = 0;
  const bool told = ::read(pipe_ends[0], &port, sizeof(port)) == sizeof(port);
  auto link = hosts.connect({"127.0.0.1", port}, LinkPurpose::bulk);
  const auto killed_at = steady_clock::now();
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  ASSERT_TRUE(told);
  ASSERT_TRUE(link) << link.error().message();
  const auto got = hosts.run(link.value()->receive());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(got.error().message(), HasSubstr("link to hostB"));
  EXPECT_LT(steady_clock::now() - killed_at, milliseconds(1000));
}

TEST(Link, a_busy_bulk_link_leaves_the_loop_to_others) {
  TwoHosts hosts;
  const LinkPair pair(hosts);
  bool stop = false;
  const auto flood = [&]() -> Task<void> {
    while (!stop && co_await pair.a->send(FrameType::page_batch, {}, Octets(200000))) {
    }
  };
  const auto drain = [&]() -> Task<void> {
    while (!stop && co_await pair.b->receive()) {
    }
  };
  // What others wait for is what the link moves between two of their turns; octets are counted, not
  // milliseconds, because a busy machine or a sanitizer stretches those and not these.
  std::vector<std::uint64_t> moved;
  const auto others = [&]() -> Task<Result<void>> {
    std::uint64_t before = 0;
    while (pair.b->bytes_received() < (std::uint64_t{32} << 20)) {
      co_await boost::asio::post(hosts.io, boost::asio::as_tuple(boost::asio::use_awaitable));
      const std::uint64_t now = pair.a->bytes_sent() + pair.b->bytes_received();
      moved.push_back(now - before);
      before = now;
    }
    co_return ok();
  };
  hosts.start(flood());
  hosts.start(drain());
  ASSERT_TRUE(hosts.run(others()));
  stop = true;
  pair.a->close();
  hosts.run_for(milliseconds(20));
  EXPECT_LT(*std::ranges::max_element(moved), 2U << 20);
}

}  // namespace
}  // namespace understudy::transport
