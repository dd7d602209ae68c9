// Goal and method as in renewal_test.cpp: the stories that take longer.
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

class RenewalLong : public ProtectedGuest {
 protected:
  void play_with(std::size_t hosts, const std::string& to) {
    SceneOptions options = options_from_environment();
    options.hosts = hosts;
    Protection protection;
    protection.to = to;
    ASSERT_NO_FATAL_FAILURE(play(options, protection));
  }
  std::string renewal_of(HostId host, std::string_view field) {
    auto domain = scene->domain(host);
    return domain ? text_at(object_at(domain.value(), "renewal"), field) : "";
  }
};

TEST_F(RenewalLong, a_host_that_hung_and_is_back_destroys_its_copy_and_is_the_backup) {
  ASSERT_NO_FATAL_FAILURE(play_with(2, "hostB"));
  auto hung = scene->hang(HostId::a);
  ASSERT_OK(hung);
  mark(hung.value());
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 30s));
  expect_everyone_goes_on(Clock::now());
  ASSERT_OK(scene->resume(HostId::a));
  ASSERT_OK(scene->wait_for_state(HostId::b, "protected", 90s));
  // As good a backup as any.
  auto killed = scene->kill_host(HostId::b);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->wait_for_state(HostId::a, "running", 30s));
  expect_everyone_goes_on(Clock::now());
  expect_voices("ABA");
  expect_nothing_lost();
}

TEST_F(RenewalLong, a_host_that_died_and_is_back_is_the_backup) {
  ASSERT_NO_FATAL_FAILURE(play_with(2, "hostB"));
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->wait_for_state(HostId::b, "running", 30s));
  ASSERT_OK(scene->start_agent(HostId::a));
  ASSERT_OK(scene->wait_for_state(HostId::b, "protected", 90s));
  expect_everyone_goes_on(Clock::now());
  expect_voices("AB");
  expect_nothing_lost();
}

TEST_F(RenewalLong, lost_backup_that_could_promote_is_not_replaced_until_somebody_says_solo) {
  ASSERT_NO_FATAL_FAILURE(play_with(3, "hostB,hostC"));
  auto killed = scene->kill_host(HostId::b);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->wait_for_state(HostId::a, "backup_lost", 20s));
  EXPECT_TRUE(silent_for(3s)) << "no arbiter: the backup could be about to promote";
  EXPECT_EQ(renewal_of(HostId::a, "state"), "held");
  EXPECT_EQ(renewal_of(HostId::a, "next"), "hostC");
  ASSERT_OK(scene->understudy_checked(HostId::a, {"solo", "web1", "--yes"}));
  auto renewed = scene->wait_for_state(HostId::a, "protected", 90s);
  ASSERT_OK(renewed);
  EXPECT_EQ(text_at(renewed.value(), "peer"), "hostC");
  expect_everyone_goes_on(Clock::now());
  expect_nothing_lost();
}

TEST_F(RenewalLong, backup_that_resigns_is_followed_by_the_next_and_hosts_come_and_go) {
  ASSERT_NO_FATAL_FAILURE(play_with(3, "hostB"));
  ASSERT_OK(scene->understudy_checked(HostId::a, {"set", "web1", "--add-host", "hostC"}));
  ASSERT_OK(scene->stop_agent(HostId::b));
  auto renewed = scene->wait_for(HostId::a, "protection on hostC", 90s, [](const auto& domain) {
    return text_at(domain, "state") == "protected" && text_at(domain, "peer") == "hostC";
  });
  ASSERT_OK(renewed);
  expect_everyone_goes_on(Clock::now());
  // The list has travelled with the protection.
  auto killed = scene->kill_host(HostId::a);
  ASSERT_OK(killed);
  mark(killed.value());
  ASSERT_OK(scene->start_agent(HostId::b));
  auto home = scene->wait_for_state(HostId::c, "protected", 90s);
  ASSERT_OK(home);
  EXPECT_EQ(text_at(home.value(), "peer"), "hostB");
  expect_everyone_goes_on(Clock::now());
  expect_voices("AC");
  expect_nothing_lost();
}

}  // namespace
}  // namespace understudy::scene
