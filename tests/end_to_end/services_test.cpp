// Goal: what a guest offers over datagrams, in bulk, to many at once, and with a program of the
// real world survives as the ledger does. Method: as in survival_test, with the guest that runs
// redis. Not tested here: services that cannot be the same twice (whims).
#include <thread>

#include "tests/end_to_end/protected_guest.h"
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/datagram_traffic.h"
#include "tests/scene/redis_traffic.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class Services : public ProtectedGuest {
 protected:
  static SceneOptions with_redis() {
    SceneOptions options = options_from_environment();
    options.initramfs = "initramfs-redis.gz";
    return options;
  }

  void make_clients() override {
    auto redis_clients = std::make_unique<RedisTraffic>(scene->client_options(4));
    auto names_clients = std::make_unique<NamesTraffic>(scene->client_options(3));
    redis = redis_clients.get();
    names = names_clients.get();
    others.push_back(std::move(redis_clients));
    others.push_back(std::move(names_clients));
    others.push_back(std::make_unique<DatagramEchoTraffic>(version_6(2)));
    others.push_back(
        std::make_unique<HttpTraffic>(scene->client_options(1), 200'000, HttpSource::generated));
    others.push_back(std::make_unique<UploadTraffic>(scene->client_options(1), 200'000));
  }

  [[nodiscard]] ClientOptions version_6(unsigned connections) const {
    ClientOptions options = scene->client_options(connections);
    options.address = guest_address_6;
    return options;
  }

  RedisTraffic* redis = nullptr;  ///< Of `others`.
  NamesTraffic* names = nullptr;
};

TEST_F(Services, datagrams_redis_and_web_programs_survive_a_kill) {
  ASSERT_NO_FATAL_FAILURE(play(with_redis()));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  expect_everyone_goes_on(killed.value().steady + 100ms);
  expect_nothing_lost();
  ASSERT_OK(redis->audit());
  auto named = names->audit();
  ASSERT_OK(named);
  EXPECT_EQ(named.value().contradictions, 0U) << named.value().first_contradiction;
  // The tools that people use reach it, too.
  auto answer = run_checked({"redis-cli", "-h", std::string(guest_address), "PING"}, 10s,
                            scene->client_namespace());
  ASSERT_OK(answer);
  EXPECT_EQ(answer.value(), "PONG\n");
}

}  // namespace
}  // namespace understudy::scene
