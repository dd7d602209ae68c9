// Goal: in replay mode no client notices the death of a host either, although its answers did not
// wait for a checkpoint: those that were released since the last one are made again by replay, and
// are the same. Method: the scene; checking clients judge; hosts are killed at moments drawn from
// fixed seeds, and the survivor is protected again to the host that comes back, so that one boot
// serves many kills. Not tested here: the decisions themselves (tests/replay), Xen.
//
// UNDERSTUDY_TEST_MODE=remus plays the same stories in remus mode.
#include <boost/json.hpp>
#include <csignal>
#include <iostream>
#include <random>
#include <thread>

#include "tests/end_to_end/protected_guest.h"
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/datagram_traffic.h"
#include "tests/scene/redis_traffic.h"
#include "tests/scene/replay_fields.h"
#include "tests/scene/whims_traffic.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

std::string mode_under_test() {
  const char* mode = std::getenv("UNDERSTUDY_TEST_MODE");
  return mode != nullptr ? mode : "replay";
}

class Replay : public ProtectedGuest {
 protected:
  static Protection protection(const std::string& interval = "2s") {
    return {.mode = mode_under_test(), .interval = interval};
  }

  static SceneOptions with_redis() {
    SceneOptions options = options_from_environment();
    options.initramfs = "initramfs-redis.gz";
    return options;
  }

  [[nodiscard]] ClientOptions over_ip_6(unsigned connections) const {
    ClientOptions options = scene->client_options(connections);
    options.address = guest_address_6;
    return options;
  }

  /// Kills `primary` and waits until every client goes on with the other host.
  void kill_and_go_on(HostId primary) {
    voices_ += primary == HostId::a ? 'B' : 'A';
    auto killed = scene->kill_host(primary);
    ASSERT_OK(killed);
    mark(killed.value());
    expect_everyone_goes_on(killed.value().steady + 100ms);
    ASSERT_FALSE(HasFailure());
    ASSERT_OK(scene->wait_for_state(other(primary), "running", 20s));
    auto timeline = scene->understudy_json(other(primary), {"timeline", "web1"});
    ASSERT_OK(timeline);
    EXPECT_EQ(text_at(timeline.value().as_object(), "outcome"), "promoted");
    if (const auto replayed = replay_outcome_of(timeline.value().as_object())) {
      std::cout << "replayed " << replayed->inputs << " inputs of " << replayed->covered_ms
                << " ms in " << replayed->replay_ms << " ms, " << replayed->flows_diverged
                << " divergences\n";
      EXPECT_EQ(replayed->flows_diverged, expected_divergences_)
          << json::serialize(timeline.value());
    }
  }

  /// Brings the dead host back, and protects the guest to it.
  void protect_back(HostId survivor, const Protection& how) {
    ASSERT_OK(scene->start_agent(other(survivor)));
    const auto end = Clock::now() + 20s;
    auto protected_again = scene->protect(how, {}, survivor);
    // The agents may not have met again yet.
    while (!protected_again && Clock::now() < end) {
      std::this_thread::sleep_for(100ms);
      protected_again = scene->protect(how, {}, survivor);
    }
    ASSERT_OK(protected_again);
  }

  /// Kills at a moment that `seed` draws, between a checkpoint and the next but one.
  void kill_at_random_moments(unsigned first_seed, unsigned count, const Protection& how) {
    HostId primary = HostId::a;
    for (unsigned seed = first_seed; seed < first_seed + count; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      std::mt19937 random(seed);
      const std::chrono::milliseconds delay(std::uniform_int_distribution<int>(300, 2'500)(random));
      std::cout << "seed " << seed << ": kill of " << name_of(primary) << " after " << delay.count()
                << " ms\n";
      std::this_thread::sleep_for(delay);
      ASSERT_NO_FATAL_FAILURE(kill_and_go_on(primary));
      primary = other(primary);
      if (seed + 1 < first_seed + count) {
        ASSERT_NO_FATAL_FAILURE(protect_back(primary, how));
      }
    }
  }

  /// To and fro, and at each moment one.
  void expect_nothing_lost_and_one_voice() {
    expect_voices(voices_);
    expect_nothing_lost();
  }

  std::uint64_t expected_divergences_ = 0;
  std::string voices_ = "A";  ///< Who is to be heard, one after the other.
};

/// Kills in series, ten for each boot: thirty in all. One interval for each boot.
class ReplayKills : public Replay,
                    public ::testing::WithParamInterface<std::pair<unsigned, const char*>> {};

TEST_P(ReplayKills, at_random_moments_lose_nothing) {
  const auto [seed, interval] = GetParam();
  ASSERT_NO_FATAL_FAILURE(play(options_from_environment(), protection(interval)));
  ASSERT_NO_FATAL_FAILURE(kill_at_random_moments(seed, 10, protection(interval)));
  expect_nothing_lost_and_one_voice();
}

INSTANTIATE_TEST_SUITE_P(Seeds, ReplayKills,
                         ::testing::Values(std::pair{100U, "500ms"}, std::pair{200U, "1s"},
                                           std::pair{300U, "2s"}),
                         [](const auto& parameter) {
                           return std::string("checkpoints_every_") + parameter.param.second;
                         });

class ReplayServices : public Replay {
 protected:
  void make_clients() override {
    auto redis_clients = std::make_unique<RedisTraffic>(scene->client_options(4));
    auto names_clients = std::make_unique<NamesTraffic>(scene->client_options(3));
    redis = redis_clients.get();
    names = names_clients.get();
    others.push_back(std::move(redis_clients));
    others.push_back(std::move(names_clients));
    others.push_back(std::make_unique<DatagramEchoTraffic>(over_ip_6(2)));
    others.push_back(std::make_unique<EchoTraffic>(over_ip_6(2)));
    others.push_back(
        std::make_unique<HttpTraffic>(scene->client_options(1), 200'000, HttpSource::generated));
    others.push_back(std::make_unique<UploadTraffic>(scene->client_options(1), 200'000));
  }

  /// Debian's own load generator, eight connections at once, round after round. It ends at the
  /// first connection that breaks.
  void start_redis_benchmark() {
    auto started =
        scene->start_client({"redis-benchmark", "-h", std::string(guest_address), "-c", "8", "-n",
                             "2000", "-l", "-q", "-t", "set,get,incr,lpush", "-r", "1000"},
                            "redis-benchmark.log");
    ASSERT_OK(started);
    benchmark = std::move(started.value());
  }

  /// It still runs, and the server is still asked by it (nobody else is at work any more).
  void expect_redis_benchmark_goes_on() {
    // The checking clients have stopped: whatever is counted now is the benchmark's.
    const auto commands = [this] {
      return run_checked({"redis-cli", "-h", std::string(guest_address), "INFO", "commandstats"},
                         10s, scene->client_namespace());
    };
    const auto increments = [](const std::string& statistics) {
      const auto at = statistics.find("cmdstat_incr:");
      return at == std::string::npos ? std::string() : statistics.substr(at, 40);
    };
    auto before = commands();
    ASSERT_OK(before);
    const auto end = Clock::now() + 30s;
    auto after = commands();
    while (after && increments(after.value()) == increments(before.value()) && Clock::now() < end) {
      std::this_thread::sleep_for(100ms);
      after = commands();
    }
    ASSERT_OK(after);
    EXPECT_NE(increments(after.value()), increments(before.value()))
        << "redis-benchmark does not get on";
    EXPECT_TRUE(benchmark.running()) << "redis-benchmark lost a connection";
    benchmark.signal(SIGTERM);
  }

  void expect_services_true() {
    expect_nothing_lost_and_one_voice();
    ASSERT_OK(redis->audit());
    auto named = names->audit();
    ASSERT_OK(named);
    EXPECT_EQ(named.value().contradictions, 0U) << named.value().first_contradiction;
    std::cout << "names: " << named.value().requests << " requests, " << named.value().sent_again
              << " sent again, " << named.value().repeated << " replies repeated\n";
  }

  RedisTraffic* redis = nullptr;  ///< Of `others`.
  NamesTraffic* names = nullptr;
  Process benchmark;
};

TEST_F(ReplayServices, datagrams_ip_6_redis_and_web_programs_survive_two_kills_in_a_row) {
  ASSERT_NO_FATAL_FAILURE(play(with_redis(), protection()));
  ASSERT_NO_FATAL_FAILURE(start_redis_benchmark());
  std::this_thread::sleep_for(1200ms);
  ASSERT_NO_FATAL_FAILURE(kill_and_go_on(HostId::a));
  ASSERT_NO_FATAL_FAILURE(protect_back(HostId::b, protection()));
  // Connections that were opened before the first kill, translated now, go through a second one.
  std::this_thread::sleep_for(1500ms);
  ASSERT_NO_FATAL_FAILURE(kill_and_go_on(HostId::b));
  expect_services_true();
  ASSERT_NO_FATAL_FAILURE(expect_redis_benchmark_goes_on());
}

/// A hundred megabytes each way, over plain TCP and over HTTP, with the kill in the middle.
class ReplayBulk : public Replay {
 protected:
  static constexpr std::uint64_t bytes = 110'000'000;

  void make_clients() override {
    others.push_back(
        std::make_unique<BulkTraffic>(scene->client_options(1), Direction::down, bytes));
    others.push_back(std::make_unique<BulkTraffic>(over_ip_6(1), Direction::up, bytes));
    others.push_back(
        std::make_unique<HttpTraffic>(scene->client_options(1), bytes, HttpSource::generated, 1));
    others.push_back(std::make_unique<UploadTraffic>(scene->client_options(1), bytes, 1));
  }
};

TEST_F(ReplayBulk, a_hundred_megabytes_each_way_survive_a_kill) {
  ASSERT_NO_FATAL_FAILURE(set_the_stage());
  for (const auto& traffic : others) {
    traffic->start();
  }
  // Only the first one tells how far it is: an upload over HTTP is confirmed at its end.
  ASSERT_OK(others[0]->wait_for_progress(30s));
  ASSERT_OK(scene->protect(protection("1s")));
  ASSERT_OK(others[0]->wait_for_progress(30s, Clock::now() + 700ms));
  ASSERT_LT(others[0]->bytes_verified(), bytes) << "too quick: the kill must meet it";
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  for (const auto& traffic : others) {
    ASSERT_OK(traffic->wait_for_end(200s));
  }
  for (const auto& traffic : others) {
    traffic->stop();
    for (const ConnectionReport& report : traffic->report()) {
      EXPECT_EQ(report.failure, "") << report.kind;
      EXPECT_EQ(report.bytes_wrong, 0U) << report.kind;
      EXPECT_EQ(report.bytes_verified, bytes) << report.kind;
      EXPECT_EQ(report.operations, 1U) << report.kind;
    }
  }
}

class ReplayCrowd : public Replay {
 protected:
  void make_clients() override {
    others.push_back(std::make_unique<EchoTraffic>(scene->client_options(200), 64));
  }
};

TEST_F(ReplayCrowd, two_hundred_connections_at_once_survive_a_kill) {
  ASSERT_NO_FATAL_FAILURE(play(options_from_environment(), protection("1s")));
  std::this_thread::sleep_for(700ms);
  ASSERT_NO_FATAL_FAILURE(kill_and_go_on(HostId::a));
  expect_nothing_lost();
}

class ReplayWhims : public Replay {
 protected:
  void make_clients() override {
    ledger = std::make_unique<LedgerTraffic>(scene->client_options(2));
    auto whimsical = std::make_unique<WhimsTraffic>(scene->client_options(3));
    whims = whimsical.get();
    others.push_back(std::move(whimsical));
  }

  WhimsTraffic* whims = nullptr;  ///< Of `others`.
};

TEST_F(ReplayWhims, a_service_that_answers_differently_is_reset_told_and_never_mixed) {
  ASSERT_NO_FATAL_FAILURE(play(options_from_environment(), protection("2s")));
  std::this_thread::sleep_for(1500ms);
  ASSERT_EQ(whims->resets(), 0U);
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  whims->stop();
  EXPECT_EQ(whims->mixtures(), 0U);
  if (mode_under_test() == "replay") {
    EXPECT_GE(whims->resets(), 3U) << "each connection was told what nobody can say again";
    // A flow that diverged is led on, its client told again and again: that takes its time.
    std::optional<ReplayOutcome> replayed;
    for (const auto end = Clock::now() + 20s; !replayed && Clock::now() < end;) {
      std::this_thread::sleep_for(50ms);
      auto timeline = scene->understudy_json(HostId::b, {"timeline", "web1"});
      ASSERT_OK(timeline);
      replayed = replay_outcome_of(timeline.value().as_object());
    }
    const auto domain = scene->domain(HostId::b);
    ASSERT_TRUE(replayed) << "the replay does not end: "
                          << (domain ? json::serialize(domain.value()) : "no domain");
    EXPECT_GE(replayed->flows_diverged, 3U);
    auto events = scene->understudy_checked(HostId::b, {"events"});
    ASSERT_OK(events);
    EXPECT_NE(events.value().find("port 9004"), std::string::npos) << "the events name the flow";
  }
  expect_nothing_lost();  // the ledger's connections, beside them
}

}  // namespace
}  // namespace understudy::scene
