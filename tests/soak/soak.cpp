// Goal: faults at random under load, for as long as one likes: nothing that a client was told is
// lost, never two voices, and nothing grows: memory, descriptors, kernel rules, namespaces, files.
// Method: the scene with one guest that moves between the two hosts as they fail; after each fault
// the domain must be protected again, and at each return to that state the same things must be
// there as at the first. Not a test of every run: `./run soak --minutes M [--seed S]` plays it.
//
// The agents that a fault kills begin anew; so that some live long, half of the faults kill nobody.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "tests/end_to_end/protected_guest.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

std::uint64_t number_from(const char* variable, std::uint64_t fallback) {
  const char* asked = std::getenv(variable);
  return asked != nullptr ? std::strtoull(asked, nullptr, 0) : fallback;
}

std::size_t entries_in(const std::filesystem::path& folder) {
  std::error_code error;
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    (void)entry;
    ++count;
  }
  return count;
}

/// What must not grow, at one moment with the domain protected.
struct Footprint {
  std::size_t descriptors = 0;  ///< Of the agent.
  std::size_t resident_kib = 0;
  std::size_t tables = 0;  ///< Of netfilter, in the host's namespace.
  std::size_t links = 0;   ///< Network interfaces in it.
  std::size_t processes = 0;
  std::size_t files = 0;  ///< In the agent's folders.
};

class Soak : public ProtectedGuest {
 protected:
  Footprint footprint(HostId host) {
    Footprint now;
    const auto proc = std::filesystem::path("/proc") / std::to_string(scene->agent(host).pid());
    now.descriptors = entries_in(proc / "fd");
    std::ifstream status(proc / "status");
    for (std::string word; status >> word;) {
      if (word == "VmRSS:") status >> now.resident_kib;
    }
    const auto lines = [&](const std::vector<std::string>& command) {
      auto out = run_command(command, 10s, scene->host_namespace(host));
      return out ? static_cast<std::size_t>(std::ranges::count(out.value().out, '\n')) : 0;
    };
    now.tables = lines({"nft", "list", "tables"});
    now.links = lines({"ip", "-o", "link"});
    now.processes = scene->processes(host).size();
    now.files = entries_in(scene->folder() / std::string(name_of(host)));
    return now;
  }
  static std::string text(const Footprint& one) {
    return fmt::format("{} descriptors, {} MiB, {} tables, {} links, {} processes, {} files",
                       one.descriptors, one.resident_kib / 1024, one.tables, one.links,
                       one.processes, one.files);
  }
  /// Small differences are the moment's (a connection in the making, a log that was rotated).
  void expect_no_growth(const char* who, const Footprint& first, const Footprint& now) {
    EXPECT_LE(now.descriptors, first.descriptors + 12) << who;
    EXPECT_LE(now.resident_kib, first.resident_kib + (64U << 10)) << who;
    EXPECT_LE(now.tables, first.tables) << who;
    EXPECT_LE(now.links, first.links) << who;
    EXPECT_LE(now.processes, first.processes + 1) << who;
    EXPECT_LE(now.files, first.files + 6) << who;
  }
  /// Waits until the old copy is destroyed and its host has put it out of its mind.
  void expect_gone_from(HostId host) {
    const auto gone = [&] {
      auto domain = scene->domain(host);
      return scene->processes(host, "qemu-system").empty() && !domain &&
             domain.error().code() == ErrorCode::no_such;
    };
    const auto end = Clock::now() + 20s;
    while (!gone() && Clock::now() < end) std::this_thread::sleep_for(20ms);
    ASSERT_TRUE(gone()) << "the old copy lives";
  }
  void takeover_by(HostId host) {
    ASSERT_OK(scene->wait_for_state(host, "running", 30s));
    turns_ += host == HostId::a ? 'A' : 'B';
  }
  void cut_both() {
    for (const HostId host : {HostId::a, HostId::b}) {
      ASSERT_OK(scene->cut(host, Network::replication));
      ASSERT_OK(scene->cut(host, Network::client));
    }
  }
  void heal_both() {
    ASSERT_OK(scene->heal(HostId::a));
    ASSERT_OK(scene->heal(HostId::b));
  }

  /// One fault and its repair. Afterwards `primary_` is protected to the other host.
  void strike(unsigned kind) {
    const HostId backup = other(primary_);
    switch (kind) {
      case 0: {  // The primary's host dies and is switched on again.
        ASSERT_OK(scene->kill_host(primary_));
        ASSERT_NO_FATAL_FAILURE(takeover_by(backup));
        ASSERT_OK(scene->start_agent(primary_));
        ASSERT_OK(scene->protect({}, {}, backup));
        primary_ = backup;
        return;
      }
      case 1: {  // It hangs, and wakes up late.
        ASSERT_OK(scene->hang(primary_));
        ASSERT_NO_FATAL_FAILURE(takeover_by(backup));
        ASSERT_OK(scene->resume(primary_));
        ASSERT_NO_FATAL_FAILURE(expect_gone_from(primary_));
        ASSERT_OK(scene->protect({}, {}, backup));
        primary_ = backup;
        return;
      }
      case 2: {  // A partition.
        ASSERT_NO_FATAL_FAILURE(cut_both());
        ASSERT_NO_FATAL_FAILURE(takeover_by(backup));
        ASSERT_NO_FATAL_FAILURE(heal_both());
        ASSERT_NO_FATAL_FAILURE(expect_gone_from(primary_));
        ASSERT_OK(scene->protect({}, {}, backup));
        primary_ = backup;
        return;
      }
      case 3: {  // The backup's agent dies.
        scene->kill_agent(backup);
        ASSERT_OK(scene->agent(backup).wait(5s));
        ASSERT_OK(scene->start_agent(backup));
        break;
      }
      case 4: {  // The replication network goes for a while; heartbeats find the other way.
        ASSERT_OK(scene->cut(primary_, Network::replication));
        ASSERT_OK(scene->cut(backup, Network::replication));
        std::this_thread::sleep_for(std::chrono::milliseconds(500 + random_() % 1500));
        ASSERT_NO_FATAL_FAILURE(heal_both());
        break;
      }
      case 5: {  // Nothing from the backup reaches the primary.
        ASSERT_OK(scene->cut(backup, Network::replication));
        std::this_thread::sleep_for(std::chrono::milliseconds(300 + random_() % 700));
        ASSERT_NO_FATAL_FAILURE(heal_both());
        break;
      }
      default: {  // Protection is taken off and put on.
        ASSERT_OK(scene->understudy_checked(primary_, {"unprotect", "web1"}));
        ASSERT_OK(scene->protect({}, {}, primary_));
        return;
      }
    }
    ASSERT_OK(scene->wait_for_state(primary_, "protected", 60s));
  }

  HostId primary_ = HostId::a;
  std::string turns_ = "A";
  std::mt19937_64 random_{number_from("UNDERSTUDY_SOAK_SEED", 1)};
};

TEST_F(Soak, faults_at_random_lose_nothing_and_leave_nothing_behind) {
  const auto minutes = std::chrono::minutes(number_from("UNDERSTUDY_SOAK_MINUTES", 2));
  ASSERT_NO_FATAL_FAILURE(play());
  static constexpr std::array<const char*, 7> kNames = {
      "primary's host killed",     "primary's host hung",     "partition",
      "backup's agent killed",     "replication network cut", "backup's words cut off",
      "unprotected, and protected"};
  std::map<std::string, unsigned> counted;
  // By what an agent is: the primary's holds a mirror, the backup's does not.
  Footprint first_primary;
  Footprint first_backup;
  const auto end = Clock::now() + minutes;
  unsigned rounds = 0;
  for (; Clock::now() < end; ++rounds) {
    // The first rounds are one of each kind: after them everything has been there once.
    const auto kind =
        static_cast<unsigned>(rounds < kNames.size() ? rounds : random_() % kNames.size());
    SCOPED_TRACE(fmt::format("round {}: {}", rounds, kNames[kind]));
    std::cout << fmt::format("round {:>3}: {}", rounds, kNames[kind]) << std::endl;
    ASSERT_NO_FATAL_FAILURE(strike(kind));
    ++counted[kNames[kind]];
    expect_everyone_goes_on(Clock::now(), 30s);
    ASSERT_EQ(voices->turns(), turns_) << voices->story();
    ASSERT_FALSE(HasFailure());
    std::this_thread::sleep_for(300ms);
    const Footprint primary_now = footprint(primary_);
    const Footprint backup_now = footprint(other(primary_));
    std::cout << "    primary: " << text(primary_now) << "\n    backup:  " << text(backup_now)
              << std::endl;
    if (rounds + 1 == kNames.size()) {
      first_primary = primary_now;
      first_backup = backup_now;
    } else if (rounds >= kNames.size()) {
      expect_no_growth("primary", first_primary, primary_now);
      expect_no_growth("backup", first_backup, backup_now);
    }
  }
  for (const auto& [name, count] : counted) std::cout << fmt::format("{:>4}  {}\n", count, name);
  std::cout << fmt::format("{:>4}  takeovers seen on the wire\n", turns_.size() - 1);
  expect_voices(turns_);
  expect_nothing_lost();
  // And at the end nothing is left.
  ASSERT_OK(scene->understudy_checked(primary_, {"domain", "stop", "web1", "--yes"}));
  for (const HostId host : {HostId::a, HostId::b}) {
    ASSERT_NO_FATAL_FAILURE(expect_gone_from(host));
    EXPECT_EQ(footprint(host).tables, 0U) << "rules are left on " << name_of(host);
    EXPECT_EQ(scene->processes(host).size(), 1U) << "only the agent is left on " << name_of(host);
  }
}

}  // namespace
}  // namespace understudy::scene
