// Heartbeats between two hosts over loopback. Goal: beats flow in both directions on every path, a
// path that breaks is noticed and mended, and bulk traffic does not silence them.
#include "transport/heartbeat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/transport/two_hosts.h"

namespace understudy::transport {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;

// A host with its listener and its heartbeats, as an agent has them.
struct Beating {
  LocalHost self;
  std::vector<std::unique_ptr<Link>> others;
  std::map<std::string, int> heard;  // by path
  std::string last_payload;
  BootId last_boot;
  std::vector<std::pair<std::string, bool>> changes;
  std::string news = "all well";
  std::unique_ptr<Heartbeats> heartbeats;
  std::unique_ptr<Listener> listener;

  Beating(TwoHosts& hosts, LocalHost host, HeartbeatSettings settings = {})
      : self(std::move(host)) {
    HeartbeatHooks hooks;
    hooks.on_heartbeat = [this](const HeartbeatPath& path, const Heartbeat& beat) {
      ++heard[name(path)];
      last_payload = text_of({beat.payload.begin(), beat.payload.end()});
      last_boot = beat.boot_id;
    };
    hooks.on_path_change = [this](const HeartbeatPathStatus& status) {
      changes.emplace_back(name(status.path), status.up);
    };
    hooks.payload = [this](const std::string&) { return octets(news); };
    heartbeats = std::make_unique<Heartbeats>(hosts.io.get_executor(), self, settings, hooks);
  }
  static std::string name(const HeartbeatPath& path) {
    return (path.outgoing ? "to " : "from ") + path.remote.address;
  }
  Endpoint listen(TwoHosts& hosts, std::uint16_t port = 0) {
    listener = Listener::open(hosts.io.get_executor(), {"0.0.0.0", port}, self, nullptr,
                              [this](std::unique_ptr<Link> link) -> Task<void> {
                                if (link->purpose() == LinkPurpose::heartbeat) {
                                  heartbeats->adopt(std::move(link));
                                } else {
                                  others.push_back(std::move(link));
                                }
                                co_return;
                              })
                   .value();
    return {"127.0.0.1", listener->endpoint().port};
  }
  [[nodiscard]] int beats(const std::string& path) const {
    const auto found = heard.find(path);
    return found == heard.end() ? 0 : found->second;
  }
};

struct Scene : TwoHosts {
  HeartbeatSettings settings{.interval = milliseconds(10), .silence = milliseconds(2000)};
  Beating left{*this, a, settings};
  Beating right{*this, b, settings};
  Endpoint right_at = right.listen(*this);

  [[nodiscard]] Peer peer_b(std::vector<PeerAddress> addresses) const {
    return {"hostB", b.identity->fingerprint(), std::move(addresses)};
  }
};

TEST(Heartbeats, flow_in_both_directions_and_carry_the_agents_words) {
  Scene scene;
  scene.right.news = "web1 primary";
  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] {
    return scene.left.beats("to 127.0.0.1") > 5 && scene.right.beats("from 127.0.0.1") > 5;
  });
  EXPECT_EQ(scene.left.last_payload, "web1 primary");
  EXPECT_EQ(scene.right.last_payload, "all well");
  EXPECT_EQ(scene.left.last_boot, scene.b.boot_id);
  const auto paths = scene.left.heartbeats->paths();
  ASSERT_EQ(paths.size(), 1U);
  EXPECT_TRUE(paths[0].up);
  EXPECT_EQ(paths[0].path.remote, scene.right_at);
  EXPECT_GT(paths[0].beats_sent, 5U);
  EXPECT_GT(paths[0].round_trip.count(), 0);
  EXPECT_LT(paths[0].round_trip, std::chrono::seconds(1));
  EXPECT_EQ(scene.left.changes.size(), 1U);
}

TEST(Heartbeats, keep_their_pace) {
  Scene scene;
  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] { return scene.right.beats("from 127.0.0.1") > 0; });
  const int before = scene.right.beats("from 127.0.0.1");
  scene.run_for(milliseconds(1000));
  const int beats = scene.right.beats("from 127.0.0.1") - before;
  // 100 are due; never many more, and on a busy machine some are skipped.
  EXPECT_LE(beats, 105);
  EXPECT_GE(beats, 30);
}

TEST(Heartbeats, go_on_while_a_bulk_link_beside_them_is_completely_stuffed) {
  Scene scene;
  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  Connector connector(scene.io.get_executor(), scene.a);
  auto bulk =
      scene.run(connector.connect({scene.right_at, {}}, scene.b.identity->fingerprint(),
                                  LinkPurpose::bulk, LinkSettings::for_purpose(LinkPurpose::bulk)));
  ASSERT_TRUE(bulk);
  const auto flood = [](Link& link) -> Task<void> {
    while (co_await link.send(FrameType::page_batch, {}, Octets(200000))) {
    }
  };
  scene.start(flood(*bulk.value()));
  // Nobody reads: wait until nothing moves any more.
  std::uint64_t sent = 1;
  while (sent != bulk.value()->bytes_sent()) {
    sent = bulk.value()->bytes_sent();
    scene.run_for(milliseconds(100));
  }
  ASSERT_GT(bulk.value()->bytes_queued(), 1U << 20);
  scene.left.heard.clear();
  scene.right.heard.clear();
  scene.run_until([&] {
    return scene.left.beats("to 127.0.0.1") > 20 && scene.right.beats("from 127.0.0.1") > 20;
  });
  EXPECT_TRUE(scene.left.heartbeats->paths()[0].up);
  bulk.value()->close();
  scene.run_for(milliseconds(10));
}

TEST(Heartbeats, every_path_to_a_peer_beats_and_one_that_is_cut_does_not_matter_to_the_other) {
  Scene scene;
  Wire wire(scene.io);
  const Endpoint other = wire.carry_to(scene.right_at);
  scene.left.heartbeats->watch(
      scene.peer_b({{{"127.0.0.2", scene.right_at.port}, "127.0.0.3"}, {other, {}}}));
  scene.run_until([&] {
    return scene.left.beats("to 127.0.0.2") > 3 && scene.left.beats("to 127.0.0.1") > 3 &&
           scene.right.beats("from 127.0.0.3") > 3;
  });
  wire.cut();
  scene.run_until([&] {
    const auto paths = scene.left.heartbeats->paths();
    return paths[0].up && !paths[1].up;
  });
  const auto paths = scene.left.heartbeats->paths();
  EXPECT_FALSE(paths[1].last_error.empty());
  const int before = scene.left.beats("to 127.0.0.2");
  scene.run_until([&] { return scene.left.beats("to 127.0.0.2") > before + 3; });
}

TEST(Heartbeats, a_peer_that_comes_back_is_heard_within_some_intervals) {
  Scene scene;
  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] { return scene.left.beats("to 127.0.0.1") > 0; });
  scene.right.heartbeats->stop();
  scene.right.listener.reset();
  scene.run_until([&] { return !scene.left.heartbeats->paths()[0].up; });
  scene.run_for(milliseconds(200));
  EXPECT_THAT(scene.left.heartbeats->paths()[0].last_error, HasSubstr("refused"));

  LocalHost again = scene.b;
  again.boot_id = BootId::random();
  Beating restarted(scene, again, scene.settings);
  restarted.listen(scene, scene.right_at.port);
  const auto started = steady_clock::now();
  scene.run_until([&] { return scene.left.heartbeats->paths()[0].up; });
  EXPECT_LT(steady_clock::now() - started, milliseconds(1000));
  EXPECT_EQ(scene.left.last_boot, again.boot_id);
}

TEST(Heartbeats, a_silent_peer_is_shown_as_down_though_its_connection_stands) {
  Scene scene;
  scene.settings.silence = milliseconds(100);
  Beating impatient(scene, scene.a, scene.settings);
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = scene.listen(accepted);
  impatient.heartbeats->watch(scene.peer_b({{listener->endpoint(), {}}}));
  scene.run_until([&] { return !accepted.empty(); });
  ASSERT_TRUE(scene.run(accepted[0]->send(FrameType::heartbeat, Octets(32))));
  scene.run_until([&] { return impatient.changes.size() == 2; });
  EXPECT_TRUE(impatient.changes[0].second);
  EXPECT_FALSE(impatient.changes[1].second);
  EXPECT_TRUE(accepted[0]->open());
}

TEST(Heartbeats, a_peer_that_talks_nonsense_loses_its_link) {
  Scene scene;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = scene.listen(accepted);
  scene.left.heartbeats->watch(scene.peer_b({{listener->endpoint(), {}}}));
  scene.run_until([&] { return !accepted.empty(); });
  ASSERT_TRUE(scene.run(accepted[0]->send(FrameType::heartbeat, Octets(31))));
  scene.run_until([&] { return accepted.size() == 2; });  // it was closed, and opened anew
  EXPECT_EQ(scene.left.beats("to 127.0.0.1"), 0);
}

TEST(Heartbeats, are_skipped_and_not_queued_while_the_peer_does_not_read) {
  Scene scene;
  scene.settings.interval = milliseconds(1);
  Beating talkative(scene, scene.a, scene.settings);
  talkative.news = std::string(16000, 'x');
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = scene.listen(accepted);
  talkative.heartbeats->watch(scene.peer_b({{listener->endpoint(), {}}}));
  scene.run_until([&] {
    const auto paths = talkative.heartbeats->paths();
    return paths[0].beats_skipped > 20;
  });
  EXPECT_LT(talkative.heartbeats->paths()[0].beats_sent, 1000U);
}

TEST(Heartbeats, urgent_news_does_not_wait_for_the_next_beat) {
  Scene scene;
  scene.settings.interval = milliseconds(10000);
  Beating slow(scene, scene.a, scene.settings);
  slow.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] { return scene.right.beats("from 127.0.0.1") == 1; });
  slow.news = "promoted";
  slow.heartbeats->beat_now();
  scene.run_until([&] { return scene.right.last_payload == "promoted"; }, std::chrono::seconds(5));
}

TEST(Heartbeats, a_change_of_addresses_opens_and_closes_what_differs) {
  Scene scene;
  const PeerAddress one{scene.right_at, {}};
  const PeerAddress two{{"127.0.0.2", scene.right_at.port}, {}};
  scene.left.heartbeats->watch(scene.peer_b({one}));
  scene.run_until([&] { return scene.left.beats("to 127.0.0.1") > 0; });
  scene.left.heartbeats->watch(scene.peer_b({one, two}));
  scene.run_until([&] { return scene.left.beats("to 127.0.0.2") > 0; });
  EXPECT_EQ(scene.left.changes.size(), 2U);  // the first one was not disturbed
  scene.left.heartbeats->watch(scene.peer_b({two}));
  ASSERT_EQ(scene.left.heartbeats->paths().size(), 1U);
  EXPECT_EQ(scene.left.heartbeats->paths()[0].path.remote, two.remote);
}

TEST(Heartbeats, forgotten_peers_and_stopped_heartbeats_are_silent) {
  Scene scene;
  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] { return scene.left.beats("to 127.0.0.1") > 0; });
  scene.left.heartbeats->forget("hostB");
  scene.left.heard.clear();
  scene.run_for(milliseconds(100));
  EXPECT_TRUE(scene.left.heard.empty());
  EXPECT_TRUE(scene.left.heartbeats->paths().empty());

  scene.left.heartbeats->watch(scene.peer_b({{scene.right_at, {}}}));
  scene.run_until([&] { return scene.left.beats("to 127.0.0.1") > 0; });
  scene.left.heartbeats.reset();
  scene.left.heard.clear();
  scene.left.changes.clear();
  scene.run_for(milliseconds(100));
  EXPECT_TRUE(scene.left.heard.empty());
  EXPECT_TRUE(scene.left.changes.empty());
}

}  // namespace
}  // namespace understudy::transport
