// Domains on real Xen hosts, from protection to the death of a host.
//
// Goal: what docs/xen.md promises. Method: two Xen hosts of the lab, booted once; each story makes
// its domains, with clients that check every byte and keep every receipt, and takes them away
// again. Untested here: HVM (refused), several processors of a host, a host that ran out of memory,
// real machines.
#include <gtest/gtest.h>

#include <memory>

#include "tests/scene/traffic.h"
#include "tests/xen/lab.h"

namespace understudy::scene {
namespace {

using std::chrono::seconds;

#define ASSERT_OK(expression)                                        \
  do {                                                               \
    auto&& asserted = (expression);                                  \
    ASSERT_TRUE(asserted.has_value()) << asserted.error().message(); \
  } while (false)

class XenLab : public ::testing::Environment {
 public:
  void SetUp() override {
    if (!Lab::obstacle().empty()) GTEST_SKIP() << Lab::obstacle();
    ASSERT_OK(Lab::up());
  }
  void TearDown() override { Lab::down(); }
};

const auto* const kLab = ::testing::AddGlobalTestEnvironment(new XenLab);

class Xen : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Lab::obstacle().empty()) GTEST_SKIP() << Lab::obstacle();
    traces_a_ = Lab::traces("A");
    traces_b_ = Lab::traces("B");
  }

  void TearDown() override {
    if (!HasFailure()) return;
    for (const char* host : {"A", "B"}) {
      const auto log = Lab::command({"agent", host, "log"});
      const auto domains = Lab::exec(host, "xl list");
      std::printf(
          "--- %s\n%s\n%s\n", host, domains ? domains.value().c_str() : "-",
          log ? log.value()
                    .substr(log.value().size() - std::min<std::size_t>(log.value().size(), 6000))
                    .c_str()
              : "-");
    }
  }

  // Clients, as long as they are wanted.
  void begin_traffic(const std::string& address) {
    ClientOptions options;
    options.network_namespace = Lab::network_namespace();
    options.address = address;
    options.patience = seconds(120);
    ledger_ = std::make_unique<LedgerTraffic>(options);
    echo_ = std::make_unique<EchoTraffic>(options);
    ledger_->start();
    echo_->start();
    expect_progress(Clock::time_point());
  }
  void expect_progress(Clock::time_point since) {
    for (Traffic* traffic :
         {static_cast<Traffic*>(ledger_.get()), static_cast<Traffic*>(echo_.get())}) {
      const auto progress = traffic->wait_for_progress(seconds(120), since);
      EXPECT_TRUE(progress) << traffic->kind() << ": " << progress.error().message();
    }
  }
  // Every connection lived, every byte was right, every receipt is borne out.
  void expect_nothing_lost() {
    expect_progress(Clock::now());
    ledger_->stop();
    echo_->stop();
    const auto audit = ledger_->audit();
    ASSERT_TRUE(audit) << audit.error().message();
    EXPECT_TRUE(audit.value().clean()) << audit.value().first_fault;
    EXPECT_GT(audit.value().acknowledged, 0U);
    for (const Traffic* traffic :
         {static_cast<Traffic*>(ledger_.get()), static_cast<Traffic*>(echo_.get())}) {
      for (const auto& connection : traffic->report()) {
        EXPECT_TRUE(connection.survived) << connection.kind << ": " << connection.failure;
        EXPECT_EQ(connection.bytes_wrong, 0U);
        std::printf("%s: %llu operations, outage %.0f ms\n", connection.kind.c_str(),
                    static_cast<unsigned long long>(connection.operations),
                    connection.outage_ms.value_or(connection.longest_gap_ms));
      }
    }
  }

  void expect_no_traces() {
    EXPECT_TRUE(Lab::eventually([this] { return Lab::traces("A") == traces_a_; }))
        << traces_a_ << "---\n"
        << Lab::traces("A");
    EXPECT_TRUE(Lab::eventually([this] { return Lab::traces("B") == traces_b_; }))
        << traces_b_ << "---\n"
        << Lab::traces("B");
  }
  // Ends a domain that is not protected any more, as an operator does.
  static void destroy(const std::string& host, const std::string& name) {
    ASSERT_OK(Lab::exec(host, "xl destroy " + name));
    EXPECT_TRUE(Lab::eventually([&] { return Lab::state(host, name).empty(); }));
  }

  std::unique_ptr<LedgerTraffic> ledger_;
  std::unique_ptr<EchoTraffic> echo_;
  std::string traces_a_;
  std::string traces_b_;
};

TEST_F(Xen, what_cannot_be_protected_is_refused_by_name) {
  const auto unknown = Lab::exec("A", "understudy protect nobody --to hostB");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message().find("no domain 'nobody'"), std::string::npos)
      << unknown.error().message();

  ASSERT_OK(
      Lab::exec("A",
                "printf 'type=\"pv\"\\nname=\"pv1\"\\nmemory=192\\nkernel=\"/boot/vmlinux\"\\n' "
                "> /tmp/pv1.cfg; xl create -p /tmp/pv1.cfg"));
  const auto pv = Lab::exec("A", "understudy protect pv1 --to hostB");
  ASSERT_FALSE(pv);
  EXPECT_NE(pv.error().message().find("PV domain"), std::string::npos) << pv.error().message();
  ASSERT_OK(Lab::exec("A", "xl destroy pv1"));

  // Paused before its first instruction: it has shown nothing yet.
  ASSERT_OK(Lab::command({"domain", "A", "young", "--address", "10.77.0.30"}));
  ASSERT_OK(Lab::exec("A", "xl create -p /etc/xen/young.cfg"));
  const auto young = Lab::exec("A", "understudy protect young --to hostB");
  ASSERT_FALSE(young);
  EXPECT_NE(young.error().message().find("no PV drivers"), std::string::npos)
      << young.error().message();
  ASSERT_OK(Lab::exec("A", "xl destroy young"));
  expect_no_traces();
}

// Left out of the comparison of traces: nothing. What a protection made is gone with it.
TEST_F(Xen, a_protection_comes_and_goes_without_traces) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  const auto status = Lab::status("A", "web");
  EXPECT_EQ(status.at("checkpoint_method").as_string(), "cooperative");
  EXPECT_EQ(status.at("tracking").as_string(), "log_dirty");
  EXPECT_NE(Lab::exec("B", "xl list").value().find("web--standby"), std::string::npos);
  expect_progress(Clock::now());

  // The name is the operator's, the protection goes by the domain.
  ASSERT_OK(Lab::exec("A", "xl rename web other"));
  expect_progress(Clock::now());
  EXPECT_EQ(Lab::state("A", "web"), "protected");
  ASSERT_OK(Lab::exec("A", "xl rename other web"));

  ASSERT_OK(Lab::exec("A", "understudy unprotect web"));
  expect_nothing_lost();
  destroy("A", "web");
  expect_no_traces();
}

// Goal: whoever dies, the guest goes on and its clients lose nothing.
TEST_F(Xen, both_agents_may_die) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));

  // At any moment of a checkpoint, and most of the time that is a suspended guest.
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(Lab::command({"agent", "A", "kill"}));
    ASSERT_OK(Lab::start_agent("A"));
    ASSERT_TRUE(
        Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
    expect_progress(Clock::now());
  }

  ASSERT_OK(Lab::command({"agent", "B", "kill"}));
  ASSERT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "backup_lost"; }));
  ASSERT_OK(Lab::start_agent("B"));
  ASSERT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  // The old standby is gone, the new one is there.
  EXPECT_TRUE(Lab::eventually(
      [] { return Lab::exec("B", "xl list | grep -c -- --standby").value() == "1\n"; }));
  expect_progress(Clock::now());

  ASSERT_OK(Lab::exec("A", "understudy unprotect web"));
  expect_nothing_lost();
  destroy("A", "web");
  expect_no_traces();
}

TEST_F(Xen, a_guest_that_does_not_answer_runs_on) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  ASSERT_OK(Lab::exec("A", "xl pause web"));
  EXPECT_TRUE(Lab::eventually([] {
    return Lab::exec("A",
                     "understudy events web | grep -e 'did not answer' -e 'did not stand still'")
        .has_value();
  }));
  ASSERT_OK(Lab::exec("A", "xl unpause web"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  expect_nothing_lost();

  // An operator's request is not lost between ours, and ends the protection.
  ASSERT_OK(Lab::exec("A", "xl reboot web"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  expect_no_traces();
}

TEST_F(Xen, two_domains_in_opposite_directions) {
  ASSERT_OK(Lab::create_domain("A", "there", "10.77.0.30", 1));
  ASSERT_OK(Lab::create_domain("B", "back", "10.77.0.31", 1));
  ASSERT_OK(Lab::protect("A", "there", "hostB"));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("B", "back", "hostA"));
  EXPECT_EQ(Lab::state("B", "there"), "standby");
  EXPECT_EQ(Lab::state("A", "back"), "standby");
  expect_progress(Clock::now());
  ASSERT_OK(Lab::exec("A", "understudy unprotect there"));
  ASSERT_OK(Lab::exec("B", "understudy unprotect back"));
  expect_nothing_lost();
  destroy("A", "there");
  destroy("B", "back");
  expect_no_traces();
}

// Goal: host A loses its power; two vCPUs, clients at work. Everything goes on at B; then the same
// back to A, onto a host that knows nothing any more but its own name.
TEST_F(Xen, a_host_dies_and_later_the_other) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 2));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  expect_progress(Clock::now());
  const Instant first = Instant::now();
  ledger_->mark(first);
  echo_->mark(first);
  ASSERT_OK(Lab::command({"kill", "A"}));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web") == "running"; }));
  expect_progress(Clock::now());

  ASSERT_OK(Lab::start_host("A"));
  // What it remembers of the domain is out of date: the domain is not there any more.
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  ASSERT_OK(Lab::protect("B", "web", "hostA"));
  expect_progress(Clock::now());
  ASSERT_OK(Lab::command({"kill", "B"}));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "running"; }));
  expect_nothing_lost();
  ASSERT_OK(Lab::start_host("B"));
  destroy("A", "web");
}

}  // namespace
}  // namespace understudy::scene
