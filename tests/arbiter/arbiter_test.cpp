// Goal: whatever an arbiter does (be slow, be away, forget everything, be asked by both), at most
// one host is granted the right to a domain within a protection. Method: Debian's etcd-server in a
// namespace of its own, over TLS; a fence agent that is a script. Not tested here: what the agents
// do with a grant (tests/end_to_end/arbitration_test.cpp), clusters of several etcds, real power
// switches.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <fstream>
#include <iterator>
#include <thread>

#include "arbiter/arbiter_service.h"
#include "tests/scene/etcd_server.h"
#include "tests/scene/network_namespace.h"

namespace understudy {
namespace {

using namespace std::chrono_literals;
using Claim = Arbiter::Claim;
using Claimant = Arbiter::Claimant;
using Answer = Arbiter::Answer;

Claim claim_of(Claimant claimant, std::uint64_t protection, std::uint64_t generation = 2) {
  return {"web1", ProtectionId(protection), Generation(generation), claimant};
}

/// A host's arbiter, and what it was answered.
struct Side {
  std::unique_ptr<ArbiterService> arbiter;
  std::vector<std::pair<Claim, Answer>> answers;
};

class ArbiterTest : public ::testing::Test {
 protected:
  ArbiterTest() {
    std::string pattern = testing::TempDir() + "arbiter-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~ArbiterTest() override { std::filesystem::remove_all(folder_); }

  void make(Side& side, const ArbiterConfig& config, const std::string& self,
            const std::string& peer) {
    auto made = make_arbiter(
        context_.get_executor(), config, self, peer,
        [&side](const Claim& claim, Answer answer) { side.answers.emplace_back(claim, answer); });
    ASSERT_TRUE(made) << made.error().message();
    side.arbiter = std::move(made.value());
  }
  /// Runs the loop until `condition` or for `limit`.
  template <typename Condition>
  bool run_until(Condition condition, std::chrono::milliseconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!condition() && std::chrono::steady_clock::now() < end) {
      context_.restart();
      context_.run_for(5ms);
    }
    return condition();
  }
  template <typename T>
  T wait(Task<T> task) {
    std::optional<T> outcome;
    const auto body = [&]() -> Task<void> { outcome = co_await std::move(task); };
    boost::asio::co_spawn(context_, body, [](const std::exception_ptr&) {});
    run_until([&] { return outcome.has_value(); }, 20s);
    return std::move(*outcome);
  }

  std::filesystem::path folder_;
  boost::asio::io_context context_{1};
};

class EtcdArbiterTest : public ArbiterTest {
 protected:
  void SetUp() override {
    auto made = scene::NetworkNamespace::create(fmt::format("us-arbiter-{}", ::getpid()));
    ASSERT_TRUE(made) << made.error().message();
    network_ = std::move(made.value());
    auto started = scene::EtcdServer::start(folder_ / "etcd", network_.name(), "127.0.0.1");
    ASSERT_TRUE(started) << started.error().message();
    etcd_.emplace(std::move(started.value()));
    // This test's process lives in the namespace from here on: one test, one process of ctest.
    ASSERT_TRUE(scene::enter_network_namespace(network_.name()));
    config_.kind = "etcd";
    config_.endpoints = {etcd_->endpoint()};
    config_.ca_file = config_.certificate_file = etcd_->certificate();
    config_.key_file = etcd_->key();
    config_.timeout = 500ms;
    make(a_, config_, "hostA", "hostB");
    make(b_, config_, "hostB", "hostA");
  }
  void begin(std::uint64_t protection) {
    auto begun = wait(a_.arbiter->begin("web1", ProtectionId(protection), Generation(1)));
    ASSERT_TRUE(begun) << begun.error().message();
  }
  Answer answer(Side& side, const Claim& claim) {
    side.answers.clear();
    if (const Answer at_once = side.arbiter->ask(claim); at_once != Answer::pending) return at_once;
    run_until([&] { return !side.answers.empty(); }, 15s);
    return side.answers.empty() ? Answer::pending : side.answers.front().second;
  }

  scene::NetworkNamespace network_;
  std::optional<scene::EtcdServer> etcd_;
  ArbiterConfig config_;
  Side a_;
  Side b_;
};

TEST_F(EtcdArbiterTest, right_is_granted_once_and_found_again) {
  begin(7);
  const Claim theirs = claim_of(Claimant::backup, 7);
  EXPECT_EQ(answer(b_, theirs), Answer::granted);
  EXPECT_EQ(answer(b_, theirs), Answer::granted) << "the same claim again";
  EXPECT_EQ(answer(a_, claim_of(Claimant::primary, 7)), Answer::refused);
  EXPECT_EQ(answer(a_, claim_of(Claimant::primary, 7, 3)), Answer::refused)
      << "a higher generation is no other right";
  EXPECT_NE(a_.arbiter->explain(claim_of(Claimant::primary, 7, 3)).find("hostB"),
            std::string::npos);
  // The agent that was granted is restarted, and does not remember.
  Side again;
  make(again, config_, "hostB", "hostA");
  EXPECT_EQ(answer(again, theirs), Answer::granted);
}

TEST_F(EtcdArbiterTest, both_ask_at_once_and_exactly_one_is_granted) {
  for (std::uint64_t protection = 100; protection < 110; ++protection) {
    begin(protection);
    a_.answers.clear();
    b_.answers.clear();
    a_.arbiter->ask(claim_of(Claimant::primary, protection));
    b_.arbiter->ask(claim_of(Claimant::backup, protection));
    ASSERT_TRUE(run_until([&] { return !a_.answers.empty() && !b_.answers.empty(); }, 15s));
    EXPECT_NE(a_.answers[0].second == Answer::granted, b_.answers[0].second == Answer::granted)
        << protection;
  }
}

TEST_F(EtcdArbiterTest, protection_that_was_never_taken_down_is_refused) {
  EXPECT_EQ(answer(b_, claim_of(Claimant::backup, 8)), Answer::refused);
}

TEST_F(EtcdArbiterTest, etcd_that_comes_back_empty_grants_nobody) {
  begin(9);
  EXPECT_EQ(answer(b_, claim_of(Claimant::backup, 9)), Answer::granted);
  ASSERT_TRUE(etcd_->restart_empty());
  EXPECT_EQ(answer(a_, claim_of(Claimant::primary, 9)), Answer::refused);
}

TEST_F(EtcdArbiterTest, silent_etcd_leaves_the_claim_open_and_says_why) {
  begin(10);
  etcd_->freeze();
  const Claim claim = claim_of(Claimant::backup, 10);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(b_.arbiter->ask(claim), Answer::pending);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 50ms) << "asking blocks nobody";
  EXPECT_TRUE(run_until([&] { return !b_.arbiter->explain(claim).empty(); }, 10s));
  EXPECT_TRUE(b_.answers.empty());
  etcd_->thaw();
  EXPECT_TRUE(run_until([&] { return !b_.answers.empty(); }, 15s));
  EXPECT_EQ(b_.answers.at(0).second, Answer::granted);
}

TEST_F(EtcdArbiterTest, claim_that_was_forgotten_in_time_takes_nothing) {
  begin(11);
  etcd_->freeze();
  const Claim claim = claim_of(Claimant::backup, 11);
  b_.arbiter->ask(claim);
  run_until([] { return false; }, 200ms);
  b_.arbiter->forget(claim);
  run_until([] { return false; }, 1500ms);
  etcd_->thaw();
  run_until([] { return false; }, 2s);
  EXPECT_TRUE(b_.answers.empty());
  EXPECT_EQ(answer(a_, claim_of(Claimant::primary, 11)), Answer::granted);
}

TEST_F(EtcdArbiterTest, stranger_with_another_certificate_is_no_arbiter) {
  begin(12);
  auto stranger = scene::run_checked(
      {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
       "-nodes", "-keyout", (folder_ / "k").string(), "-out", (folder_ / "c").string(), "-subj",
       "/CN=arbiter", "-addext", "subjectAltName=IP:127.0.0.1"});
  ASSERT_TRUE(stranger);
  ArbiterConfig config = config_;
  config.ca_file = folder_ / "c";
  Side side;
  make(side, config, "hostB", "hostA");
  const Claim claim = claim_of(Claimant::backup, 12);
  side.arbiter->ask(claim);
  EXPECT_TRUE(run_until(
      [&] { return side.arbiter->explain(claim).find("TLS") != std::string::npos; }, 10s));
  EXPECT_TRUE(side.answers.empty());
}

class FenceArbiterTest : public ArbiterTest {
 protected:
  /// A fence agent that writes down how it was called and does `body`; $power is the switch.
  void agent(const std::string& body) {
    const auto path = folder_ / "fence_test";
    std::ofstream(path) << "#!/bin/sh\npower=" << (folder_ / "power").string()
                        << "\necho \"$@\" >> " << (folder_ / "calls").string() << "\n"
                        << body << "\n";
    ::chmod(path.c_str(), 0755);
    config_.kind = "fence";
    config_.command = {path.string(), "--ip=192.0.2.1"};
    config_.timeout = 1s;
  }
  [[nodiscard]] std::string calls() const {
    std::ifstream file(folder_ / "calls");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  /// What a claim comes to within `limit`.
  Answer claim(std::chrono::milliseconds limit) {
    make(side_, config_, "hostB", "hostA");
    EXPECT_EQ(side_.arbiter->ask(claim_), Answer::pending);
    run_until([&] { return !side_.answers.empty(); }, limit);
    return side_.answers.empty() ? Answer::pending : side_.answers[0].second;
  }

  static constexpr const char* kHonest = R"sh(case "$*" in
  *--action=off*) echo off > "$power";;
  *--action=status*) [ "$(cat "$power" 2>/dev/null)" = off ] && exit 2; exit 0;;
esac)sh";
  ArbiterConfig config_;
  Side side_;
  Claim claim_ = claim_of(Claimant::backup, 7);
};

TEST_F(FenceArbiterTest, grants_when_the_other_host_is_seen_off) {
  agent(kHonest);
  EXPECT_EQ(claim(10s), Answer::granted);
  EXPECT_EQ(calls(), "--ip=192.0.2.1 --action=off\n--ip=192.0.2.1 --action=status\n");
}

TEST_F(FenceArbiterTest, agent_that_fails_grants_nothing_and_is_asked_again) {
  agent("exit 1");
  EXPECT_EQ(claim(3s), Answer::pending);
  EXPECT_NE(side_.arbiter->explain(claim_).find("exit status 1"), std::string::npos);
  EXPECT_NE(calls().find("--action=off\n--ip=192.0.2.1 --action=off"), std::string::npos)
      << calls();
}

TEST_F(FenceArbiterTest, agent_that_says_off_of_a_host_that_is_on_grants_nothing) {
  agent("exit 0");
  EXPECT_EQ(claim(1500ms), Answer::pending);
  EXPECT_NE(side_.arbiter->explain(claim_).find("does not see it off"), std::string::npos);
}

TEST_F(FenceArbiterTest, agent_that_hangs_is_ended_in_time) {
  agent("exec sleep 1000");
  EXPECT_EQ(claim(2500ms), Answer::pending);
  EXPECT_NE(side_.arbiter->explain(claim_).find("did not end within"), std::string::npos);
}

TEST_F(FenceArbiterTest, secrets_go_to_its_stdin_and_not_to_its_command_line) {
  agent(R"sh(input=$(cat)
case "$input" in
  *action=off*) echo "$input" | grep -q 'password=hunter2' && echo off > "$power";;
  *action=status*) [ "$(cat "$power" 2>/dev/null)" = off ] && exit 2; exit 0;;
esac)sh");
  config_.command.pop_back();
  config_.options_file = folder_ / "options";
  std::ofstream(config_.options_file) << "ip=192.0.2.1\npassword=hunter2";
  ::chmod(config_.options_file.c_str(), 0600);
  EXPECT_EQ(claim(10s), Answer::granted);
  EXPECT_EQ(calls().find("hunter2"), std::string::npos);
}

TEST_F(FenceArbiterTest, secrets_that_others_can_read_are_refused) {
  agent(kHonest);
  config_.options_file = folder_ / "options";
  std::ofstream(config_.options_file) << "password=hunter2\n";
  ::chmod(config_.options_file.c_str(), 0644);
  auto made = make_arbiter(context_.get_executor(), config_, "hostB", "hostA", {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), ErrorCode::config);
}

TEST_F(ArbiterTest, none_lets_a_backup_promote_and_no_primary_go_solo) {
  Side side;
  make(side, {}, "hostA", "hostB");
  EXPECT_EQ(side.arbiter->ask(claim_of(Claimant::backup, 1)), Answer::granted);
  EXPECT_EQ(side.arbiter->ask(claim_of(Claimant::primary, 1)), Answer::refused);
  EXPECT_FALSE(side.arbiter->may_grant_solo());
}

}  // namespace
}  // namespace understudy
