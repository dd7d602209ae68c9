// Domains on real Xen hosts, from protection to the death of a host.
//
// Goal: what docs/xen.md promises. Method: two Xen hosts of the lab, booted once; each story makes
// its domains, with clients that check every byte and keep every receipt, and takes them away
// again. After each story both hosts are compared with what they were before it. Untested here:
// several processors of a host, a host that ran out of memory, real machines.
#include <gtest/gtest.h>

#include <memory>
#include <thread>

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
    // Whoever names this label wants these tests: that they cannot run is a failure.
    ASSERT_EQ(Lab::program().obstacle(), "");
    ASSERT_OK(Lab::up());
  }
  void TearDown() override { Lab::down(); }
};

const auto* const kLab = ::testing::AddGlobalTestEnvironment(new XenLab);

class Xen : public ::testing::Test {
 protected:
  void SetUp() override {
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
    options.network_namespace = Lab::program().network_namespace();
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
  // Protects a guest, lets an operator of the backup do `what` to the domain that holds the image,
  // and expects that this is told as an event of the backup's and a new image made, at no client's
  // expense.
  void expect_a_new_standby_after(const std::string& what, const std::string& told) {
    ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
    begin_traffic("10.77.0.30");
    ASSERT_OK(Lab::protect("A", "web", "hostB"));
    const auto before = Lab::exec("B", "xl domid web--standby").value();
    ASSERT_OK(Lab::exec("B", what));
    EXPECT_TRUE(Lab::eventually([&told] { return Lab::event("B", "web", told); }));
    EXPECT_TRUE(Lab::eventually(
        [&before] {
          const auto now = Lab::exec("B", "xl domid web--standby");
          return now && now.value() != before && Lab::state("A", "web") == "protected";
        },
        seconds(240)));
    expect_progress(Clock::now());
    ASSERT_OK(Lab::exec("A", "understudy unprotect web"));
    expect_nothing_lost();
    destroy("A", "web");
    expect_no_traces();
  }

  std::unique_ptr<LedgerTraffic> ledger_;
  std::unique_ptr<EchoTraffic> echo_;
  std::string traces_a_;
  std::string traces_b_;
};

// A domain that never runs, of this configuration ('; ' between lines), cannot be protected, and
// the refusal says why. Nothing of it stays behind.
void expect_refused(const std::string& name, const std::string& settings,
                    const std::string& reason) {
  ASSERT_OK(Lab::exec(
      "A", fmt::format("printf '%s\\n' '{}' | tr ';' '\\n' >/tmp/{}.cfg; xl create -p /tmp/{}.cfg",
                       settings, name, name)));
  const auto refused = Lab::exec("A", "understudy protect " + name + " --to hostB");
  EXPECT_FALSE(refused) << name;
  if (!refused) {
    EXPECT_NE(refused.error().message().find(reason), std::string::npos)
        << refused.error().message();
  }
  ASSERT_OK(Lab::exec("A", "xl destroy " + name));
}

TEST_F(Xen, what_cannot_be_protected_is_refused_by_name) {
  const auto unknown = Lab::exec("A", "understudy protect nobody --to hostB");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message().find("no domain 'nobody'"), std::string::npos)
      << unknown.error().message();

  expect_refused("pv1", R"(type="pv";name="pv1";memory=128;kernel="/boot/vmlinux")", "PV domain");
  // Built for more memory than it has.
  expect_refused("thin", R"(type="pvh";name="thin";memory=128;maxmem=160;kernel="/boot/vmlinux")",
                 "ballooned");
  // Paused before its first instruction: it has shown nothing yet.
  expect_refused("young", R"(type="pvh";name="young";memory=128;kernel="/boot/vmlinux")",
                 "no PV drivers");
  ASSERT_OK(Lab::exec(
      "A", "modprobe loop; truncate -s 1M /tmp/disk.img; losetup /dev/loop0 /tmp/disk.img"));
  expect_refused("stored",
                 R"(type="pvh";name="stored";memory=128;kernel="/boot/vmlinux";)"
                 R"(disk=["phy:/dev/loop0,xvda,w"])",
                 "it has disks");
  ASSERT_OK(Lab::exec("A", "losetup -d /dev/loop0; rm /tmp/disk.img"));
  expect_no_traces();
}

// An agent that is told to take Xen does not start where the modules of dom0 are missing, and says
// which; without HAP, Xen makes no such domain in the first place.
TEST_F(Xen, what_a_host_lacks_is_said_by_name) {
  const auto agent_without = [](const std::string& taken_away) {
    return Lab::exec(
        "A",
        "(echo 'hypervisor = \"xen\"'; sed 's/7420/7430/g; s#/run/understudy#/tmp/lacking-run#; "
        "s#/var/lib/understudy#/tmp/lacking-state#; s/9600/9601/' "
        "/etc/understudy/understudy.toml) >/tmp/lacking.toml; "
        "mkdir -p /tmp/lacking-run /tmp/lacking-state; unshare -m sh -c '" +
            taken_away +
            "; timeout 60 understudyd --config /tmp/lacking.toml'; echo status $?; "
            "rm -r /tmp/lacking* 2>&1");
  };
  for (const auto& [taken_away, words] : std::vector<std::pair<std::string, std::string>>{
           {"mount -t tmpfs none /dev/xen", "/dev/xen/privcmd"},
           {"umount /proc/xen", "xenfs is not mounted"}}) {
    const auto said = agent_without(taken_away + " && exec 2>&1");
    ASSERT_OK(said);
    EXPECT_NE(said.value().find(words), std::string::npos) << said.value();
    EXPECT_NE(said.value().find("status 69"), std::string::npos) << said.value();
  }
  const auto made = Lab::exec(
      "A",
      R"(printf '%s\n' 'type="pvh"' 'name="nohap"' memory=64 hap=0 'kernel="/boot/vmlinux"' )"
      R"(>/tmp/nohap.cfg; xl create -p /tmp/nohap.cfg 2>&1; rm /tmp/nohap.cfg; xl domid nohap)");
  EXPECT_FALSE(made) << made.value();
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

  // The mapping of a guest that balloons is out of date: all of it is copied again.
  ASSERT_OK(Lab::exec("A", "xl mem-set web 120"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::event("A", "web", "is ballooned from"); }));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  expect_progress(Clock::now());

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
  EXPECT_TRUE(Lab::eventually([] { return Lab::event("A", "web", "an operator has paused"); }));
  ASSERT_OK(Lab::exec("A", "xl unpause web"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  expect_nothing_lost();

  // An operator's request is not lost between ours, and ends the protection.
  ASSERT_OK(Lab::exec("A", "xl reboot web"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  expect_no_traces();
}

// The death of a domain on a living host is the backup's business, too: whether its guest crashed
// or somebody destroyed it. The guest was ballooned before, so the image has holes.
TEST_F(Xen, a_guest_that_crashes_or_is_destroyed_goes_on_elsewhere) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  ASSERT_OK(Lab::type("A", "web", "echo 1 >/proc/sys/kernel/panic_on_unrecovered_nmi"));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  ASSERT_OK(Lab::exec("A", "xl mem-set web 116"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::event("A", "web", "is ballooned from"); }));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  expect_progress(Clock::now());

  ASSERT_OK(Lab::exec("A", "xl trigger web nmi"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web") == "running"; }));
  expect_progress(Clock::now());
  // Nothing of it is left on A.
  EXPECT_TRUE(Lab::eventually([this] { return Lab::traces("A") == traces_a_; }))
      << traces_a_ << "---\n"
      << Lab::traces("A");
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  expect_nothing_lost();
  destroy("B", "web");
  expect_no_traces();

  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  expect_progress(Clock::now());
  ASSERT_OK(Lab::exec("A", "xl destroy web"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web") == "running"; }));
  expect_nothing_lost();
  destroy("B", "web");
  expect_no_traces();
}

// xl's process that watches a domain may be there or not after our suspensions; either way an
// operator's reboot ends the protection in order, and if xl starts the domain again, it can be
// protected again. Powering off ends it, too, and no other host takes over.
TEST_F(Xen, a_reboot_under_a_second_toolstack) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1, R"(on_reboot="restart";)"));
  const auto before = Lab::exec("A", "xl domid web").value();
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  ASSERT_OK(Lab::exec("A", "xl reboot web"));
  EXPECT_TRUE(Lab::eventually([&before] {
    const auto now = Lab::exec("A", "xl domid web 2>/dev/null || echo none").value();
    return now != before && Lab::state("A", "web") != "protected";
  }));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web").empty(); }));
  std::this_thread::sleep_for(seconds(5));
  if (Lab::exec("A", "xl domid web")) {
    std::printf("xl has started it again\n");
    ASSERT_TRUE(Lab::eventually([] { return Lab::serves("10.77.0.30"); }, seconds(180)));
  } else {
    std::printf("it is gone, nobody has started it again\n");
    expect_no_traces();
    ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  }
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  ASSERT_OK(Lab::type("A", "web", "poweroff -f"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web").empty(); }));
  expect_no_traces();
}

// An operator who has forgotten that the domain is protected: saving and migrating it are refused
// before anything of it is touched, in whatever moment of a checkpoint that falls, and the guest
// and its protection go on. After the protection everything is as it was.
TEST_F(Xen, another_toolstack_cannot_take_a_protected_domain_away) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  const auto domid = Lab::exec("A", "xl domid web").value();
  const auto refused = [](const std::string& command) {
    const auto said = Lab::exec("A", command +
                                         " >/tmp/refused 2>&1; echo status $?; "
                                         "cat /tmp/refused; rm -f /tmp/refused /tmp/saved");
    ASSERT_OK(said);
    EXPECT_EQ(said.value().find("status 0"), std::string::npos) << said.value();
    EXPECT_NE(said.value().find("suspend event channel"), std::string::npos) << said.value();
  };
  // Again and again: most of the time the guest stands suspended for a checkpoint of ours, and xl
  // resumes whatever it could not save.
  for (int i = 0; i < 5; ++i) refused("xl save web /tmp/saved");
  refused("xl save -c web /tmp/saved");
  refused("xl migrate -s lab-ssh web hostB");
  // xl's receiver dies of a stream that ends before it began, and leaves an empty domain.
  ASSERT_OK(Lab::exec("B", "xl destroy web--incoming || true"));
  EXPECT_EQ(Lab::exec("A", "xl domid web").value(), domid);
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web") == "protected"; }, seconds(240)));
  expect_progress(Clock::now());
  const auto words =
      Lab::exec("A", "xenstore-read /local/domain/$(xl domid web)/device/suspend/event-channel");
  ASSERT_OK(words);
  EXPECT_NE(words.value().find("understudy unprotect web"), std::string::npos) << words.value();

  ASSERT_OK(Lab::exec("A", "understudy unprotect web"));
  expect_nothing_lost();
  ASSERT_OK(Lab::exec("A", "xl save web /tmp/saved && rm /tmp/saved"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  expect_no_traces();
}

// A domain that is being saved already cannot be protected, since two would share one log of
// written pages; the refusal says who is at work.
TEST_F(Xen, a_domain_that_is_being_saved_is_not_taken) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  // A stream that nobody reads: the save stays where it is.
  ASSERT_OK(Lab::exec("A",
                      "mkfifo /tmp/stream; setsid sh -c 'exec 3<>/tmp/stream; xl save -c web "
                      "/tmp/stream' >/tmp/saving 2>&1 </dev/null & echo started"));
  ASSERT_TRUE(
      Lab::eventually([] { return Lab::exec("A", "pidof libxl-save-helper").has_value(); }));
  const auto refused = Lab::exec("A", "understudy protect web --to hostB");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("saves or migrates it"), std::string::npos)
      << refused.error().message();
  ASSERT_OK(Lab::exec("A", "kill $(pidof libxl-save-helper); sleep 1; rm -f /tmp/stream"));
  ASSERT_TRUE(
      Lab::eventually([] { return !Lab::exec("A", "pidof libxl-save-helper").has_value(); }));
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  ASSERT_OK(Lab::exec("A", "understudy unprotect web"));
  destroy("A", "web");
  expect_no_traces();
}

// An operator of the backup lets the domain run that holds the image: it may have written to it.
TEST_F(Xen, a_standby_that_somebody_lets_run_is_not_used) {
  expect_a_new_standby_after("xl unpause web--standby", "has let Xen");
}

// An operator of the backup destroys the domain that holds the image: the guest's output is held
// until there is a new one, which comes by itself.
TEST_F(Xen, a_standby_that_is_destroyed_is_noticed_and_made_again) {
  expect_a_new_standby_after("xl destroy web--standby", "has to copy again");
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

// Goal: an HVM guest without PV drivers takes no part in its checkpoints, and goes on elsewhere
// with its device model's state: the same connections over an emulated network card.
TEST_F(Xen, an_hvm_guest_without_pv_drivers_goes_on_elsewhere) {
  ASSERT_OK(Lab::command({"domain", "A", "hvm", "--kind", "hvm", "--address", "10.77.0.33"}));
  // An emulated machine within an emulated machine: minutes.
  ASSERT_OK(Lab::exec("A", "xl create /etc/xen/hvm.cfg"));
  ASSERT_TRUE(Lab::eventually([] { return Lab::serves("10.77.0.33"); }, seconds(600)));
  begin_traffic("10.77.0.33");
  ASSERT_OK(Lab::exec("A", "understudy protect hvm --to hostB --interval 1s"));
  const auto status = Lab::status("A", "hvm");
  EXPECT_EQ(status.at("checkpoint_method").as_string(), "transparent");
  EXPECT_NE(status.at("checkpoint_method_reason").as_string().find("no PV drivers"),
            std::string::npos);
  expect_progress(Clock::now());
  ASSERT_OK(Lab::command({"agent", "A", "kill"}));
  ASSERT_OK(Lab::start_agent("A"));
  ASSERT_TRUE(Lab::eventually([] { return Lab::state("A", "hvm") == "protected"; }, seconds(240)));
  expect_progress(Clock::now());
  ASSERT_OK(Lab::exec("A", "xl destroy hvm"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "hvm") == "running"; }));
  expect_nothing_lost();
  destroy("B", "hvm");
  expect_no_traces();
}

// Goal: a host that stands still for a while is taken for dead; when it goes on, it is mute, finds
// that it is not the one any more, and takes its copy away.
TEST_F(Xen, a_host_that_hung_comes_back_mute) {
  ASSERT_OK(Lab::create_domain("A", "web", "10.77.0.30", 1));
  begin_traffic("10.77.0.30");
  ASSERT_OK(Lab::protect("A", "web", "hostB"));
  expect_progress(Clock::now());
  ASSERT_OK(Lab::command({"hang", "A"}));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web") == "running"; }));
  expect_progress(Clock::now());
  ASSERT_OK(Lab::command({"resume", "A"}));
  EXPECT_TRUE(Lab::eventually([] {
    const auto domains = Lab::exec("A", "xl list");
    return domains && domains.value().find("web") == std::string::npos;
  }));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("A", "web").empty(); }));
  expect_nothing_lost();
  destroy("B", "web");
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
  destroy("A", "web");
  ASSERT_OK(Lab::start_host("B"));
  EXPECT_TRUE(Lab::eventually([] { return Lab::state("B", "web").empty(); }));
  expect_no_traces();
}

}  // namespace
}  // namespace understudy::scene
