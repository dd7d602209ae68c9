// Goal: a domain that lost a host is protected again without anyone asking, so that the next fault
// is as harmless as the first. Method: the scene with three hosts; hosts are killed one after
// another under checking clients, and a capture of the client network tells who spoke. Not tested
// here: which host is next and when (tests/failover/renewal_test.cpp).
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class RenewalStory : public ProtectedGuest {
 protected:
  void play_with_three(const std::string& to, const std::string& more = {}) {
    SceneOptions options = options_from_environment();
    options.hosts = 3;
    options.agent_toml = more;
    Protection protection;
    protection.to = to;
    ASSERT_NO_FATAL_FAILURE(play(options, protection));
  }
  std::string peer_of(HostId host) {
    auto domain = scene->domain(host);
    return domain ? text_at(domain.value(), "peer") : domain.error().message();
  }
  std::string renewal_of(HostId host, std::string_view field) {
    auto domain = scene->domain(host);
    return domain ? text_at(object_at(domain.value(), "renewal"), field) : "";
  }
  /// Kills the host where it runs; the other one takes it over, and everybody goes on.
  void kill_and_take_over(HostId dies, HostId takes) {
    auto killed = scene->kill_host(dies);
    ASSERT_OK(killed);
    mark(killed.value());
    ASSERT_OK(scene->wait_for(takes, "the domain to run here", 30s, [](const auto& domain) {
      return text_at(domain, "role") != "backup";
    }));
    expect_everyone_goes_on(Clock::now());
  }
};

TEST_F(RenewalStory, two_hosts_die_one_after_another_and_nothing_is_lost) {
  ASSERT_NO_FATAL_FAILURE(play_with_three("hostB,hostC"));
  EXPECT_EQ(renewal_of(HostId::a, "next"), "hostC");
  ASSERT_NO_FATAL_FAILURE(kill_and_take_over(HostId::a, HostId::b));
  ASSERT_OK(scene->wait_for_state(HostId::b, "protected", 90s));
  EXPECT_EQ(peer_of(HostId::b), "hostC");
  ASSERT_NO_FATAL_FAILURE(kill_and_take_over(HostId::b, HostId::c));
  auto last = scene->domain(HostId::c);
  ASSERT_OK(last);
  EXPECT_EQ(number_at(last.value(), "generation"), 3);
  // Nobody is left, and that is said.
  ASSERT_OK(scene->wait_for(HostId::c, "the reason why it waits", 20s, [](const auto& domain) {
    return text_at(object_at(domain, "renewal"), "reason") ==
           "hostA is not heard; hostB is not heard";
  }));
  expect_voices("ABC");
  expect_nothing_lost();
}

TEST_F(RenewalStory, goes_home_by_itself_once_its_home_is_well_and_stays_where_it_is_put) {
  SceneOptions options = options_from_environment();
  Protection protection;
  ASSERT_NO_FATAL_FAILURE(play(options, protection));
  ASSERT_OK(
      scene->understudy_checked(HostId::a, {"set", "web1", "--failback", "when-healthy",
                                            "--failback-delay", "2s", "--minimum-stay", "4s"}));
  ASSERT_NO_FATAL_FAILURE(kill_and_take_over(HostId::a, HostId::b));
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->wait_for(
      HostId::a, "the domain to be home and protected", 120s, [](const auto& domain) {
        return text_at(domain, "role") == "primary" && text_at(domain, "state") == "protected";
      }));
  expect_everyone_goes_on(Clock::now());
  auto events = scene->understudy_checked(HostId::b, {"events"});
  ASSERT_OK(events);
  EXPECT_NE(events.value().find("hostA has been well for long enough: it goes home"),
            std::string::npos)
      << events.value();
  // An operator's move is not undone.
  ASSERT_OK(scene->understudy_checked(HostId::a, {"move", "web1"}, 60s));
  ASSERT_OK(scene->wait_for_state(HostId::b, "protected", 60s));
  std::this_thread::sleep_for(8s);
  auto stayed = scene->domain(HostId::b);
  ASSERT_OK(stayed);
  EXPECT_EQ(text_at(stayed.value(), "role"), "primary");
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABAB");
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
