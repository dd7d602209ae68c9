// Goal: what hypervisor/qemu promises, seen with a real QEMU and a real Linux guest.
//
// Method: everything in one process, inside a network namespace of its own with one bridge. A guest
// that writes memory all the time is tracked, checkpointed into a standby's image, killed, and goes
// on there, while this program holds a TCP connection to it. After each checkpoint the image is
// compared with the paused guest's memory, byte by byte: a page that tracking missed is found.
//
// Left untested: KVM (the machines that run this rarely have it), and hosts that differ.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "base/unique_fd.h"
#include "hypervisor/domain.h"
#include "hypervisor/qemu/qemu_hypervisor.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kBridge = "us-test-br";
constexpr const char* kGuestAddress = "10.77.0.10";
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string contents(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

ifreq request_for(const char* device) {
  ifreq request{};
  std::strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  return request;
}

/// Moves this process into a network namespace of its own, with a bridge that has an address. It
/// goes with the process.
bool enter_namespace_with_bridge() {
  if (::unshare(CLONE_NEWNET) != 0) return false;
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (::ioctl(socket.get(), SIOCBRADDBR, kBridge) != 0) return false;
  ifreq request = request_for(kBridge);
  auto* address = reinterpret_cast<sockaddr_in*>(&request.ifr_addr);
  address->sin_family = AF_INET;
  ::inet_pton(AF_INET, "10.77.0.1", &address->sin_addr);
  if (::ioctl(socket.get(), SIOCSIFADDR, &request) != 0) return false;
  ::inet_pton(AF_INET, "255.255.255.0", &address->sin_addr);
  if (::ioctl(socket.get(), SIOCSIFNETMASK, &request) != 0) return false;
  request.ifr_flags = IFF_UP;
  return ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
}

/// A blocking TCP connection to the guest, with limits on every wait.
class Connection {
 public:
  bool open(std::uint16_t port) {
    fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    ::inet_pton(AF_INET, kGuestAddress, &address.sin_addr);
    return ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  /// Sends `text` and reads as many bytes back.
  std::string echo(const std::string& text) {
    if (::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return "cannot send";
    std::string back;
    while (back.size() < text.size()) {
      char buffer[256];
      const ssize_t count = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (count <= 0) return back + "|" + std::strerror(count == 0 ? ECONNRESET : errno);
      back.append(buffer, static_cast<std::size_t>(count));
    }
    return back;
  }

 private:
  UniqueFd fd_;
};

class QemuDomainTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() == 0) namespace_ready_ = enter_namespace_with_bridge();
  }

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for taps and a network namespace";
    ASSERT_TRUE(namespace_ready_) << std::strerror(errno);
    const char* given = std::getenv("UNDERSTUDY_GUEST_DIR");
    guest_ = fs::absolute(given ? given : UNDERSTUDY_BUILT_GUEST);
    ASSERT_TRUE(fs::exists(guest_ / "vmlinuz"))
        << "no guest image in " << guest_ << ": build the target `guest`, or set "
        << "UNDERSTUDY_GUEST_DIR";
    scratch_ = fs::temp_directory_path() / ("us-qemu-" + std::to_string(::getpid()));
    fs::create_directories(scratch_);
    options_.runtime_directory = scratch_ / "run";
    options_.answer_timeout_ms = milliseconds(10000);
  }

  void TearDown() override {
    // Objects first: they know what to remove. Then whatever a failed test left running.
    if (domain_ && domain_->alive()) static_cast<void>(run(domain_->destroy()));
    domain_.reset();
    standby_.reset();
    for (const boost::json::value& state : states_) {
      if (hypervisor_) static_cast<void>(run(hypervisor_->clean_up(state)));
    }
    hypervisor_.reset();
    if (!scratch_.empty()) {
      if (HasFailure()) std::cerr << "console:\n" << contents(console()) << '\n';
      fs::remove_all(scratch_);
    }
  }

  fs::path console() const { return scratch_ / "console"; }

  DomainConfig config(unsigned vcpus = 1) const {
    DomainConfig config;
    config.name = "web1";
    config.memory_bytes = 256 * kMiB;
    config.vcpus = vcpus;
    config.kernel = guest_ / "vmlinuz";
    config.initrd = guest_ / "initramfs.gz";
    config.command_line =
        std::string("console=ttyS0 quiet panic=-1 no_timer_check understudy.address=") +
        kGuestAddress + "/24 understudy.dirty=300,5,4096,64";
    config.nics = {{kBridge, MacAddress::parse("52:54:00:77:00:10").value()}};
    config.console_log = console();
    return config;
  }

  Hypervisor& hypervisor() {
    if (!hypervisor_) hypervisor_ = make_qemu_hypervisor(context_.get_executor(), options_);
    return *hypervisor_;
  }

  /// Runs the io_context until `task` has its result.
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    run([](Task<T>& inner, std::optional<T>& out) -> Task<void> {
      out.emplace(co_await std::move(inner));
    }(task, result));
    return std::move(*result);
  }

  void run(Task<void> task) {
    bool done = false;
    asio::co_spawn(context_, std::move(task), [&done](std::exception_ptr) { done = true; });
    context_.restart();
    while (!done) context_.run_one();
  }

  void pass_time(milliseconds time) {
    asio::steady_timer timer(context_, time);
    bool done = false;
    timer.async_wait([&done](auto) { done = true; });
    context_.restart();
    while (!done) context_.run_one();
  }

  /// Starts the domain and waits for the guest's services.
  void start(const DomainConfig& wanted) {
    auto started = run(hypervisor().start(wanted));
    ASSERT_TRUE(started) << started.error().message();
    domain_ = std::move(started.value());
    states_.push_back(domain_->runtime_state());
    const auto limit = Clock::now() + std::chrono::seconds(90);
    while (contents(console()).find("READY") == std::string::npos) {
      ASSERT_LT(Clock::now(), limit) << "the guest did not come up";
      if (!domain_->alive()) FAIL() << run(domain_->wait_for_exit()).description;
      pass_time(milliseconds(50));
    }
  }

  void prepare_standby() {
    auto prepared = run(hypervisor().prepare_standby(domain_->config()));
    ASSERT_TRUE(prepared) << prepared.error().message();
    standby_ = std::move(prepared.value());
    states_.push_back(standby_->runtime_state());
  }

  /// What the engine does, without encoding and sending.
  void copy(const DirtySet& pages) {
    for (const PageRange& range : pages) {
      std::memcpy(standby_->memory().data() + range.first * kPageBytes,
                  domain_->memory().data() + range.first * kPageBytes, range.count * kPageBytes);
    }
  }

  /// One checkpoint into the standby. The image is compared while the guest stands still.
  void checkpoint(bool compare) {
    const Result<void> paused = run(domain_->pause());
    ASSERT_TRUE(paused) << paused.error().message();
    const auto start = Clock::now();
    DirtySet dirty;
    ASSERT_TRUE(domain_->take_dirty(dirty));
    copy(dirty);
    auto state = run(domain_->save_device_state());
    ASSERT_TRUE(state) << state.error().message();
    DirtySet late;
    ASSERT_TRUE(domain_->take_dirty(late));
    copy(late);
    if (domain_->tracking() == TrackingMethod::pagemap_scan) late_pages_ += count_pages(late);
    if (compare) {
      const auto here = domain_->memory();
      const auto there = standby_->memory();
      std::size_t differing = 0;
      for (std::size_t at = 0; at < here.size(); at += kPageBytes) {
        if (std::memcmp(here.data() + at, there.data() + at, kPageBytes) != 0) ++differing;
      }
      EXPECT_EQ(differing, 0u) << "pages that tracking missed";
    }
    const Result<void> resumed = run(domain_->resume());
    ASSERT_TRUE(resumed) << resumed.error().message();
    if (!compare) pauses_ms_.push_back(milliseconds_since(start));
    dirty_pages_.push_back(count_pages(dirty));
    device_state_ = std::move(state.value());
  }

  void promote() {
    const auto start = Clock::now();
    auto promoted = run(standby_->promote(device_state_));
    promote_ms_ = milliseconds_since(start);
    ASSERT_TRUE(promoted) << promoted.error().message();
    domain_ = std::move(promoted.value());
    states_.push_back(domain_->runtime_state());
  }

  void report(const std::string& what) {
    std::sort(pauses_ms_.begin(), pauses_ms_.end());
    std::sort(dirty_pages_.begin(), dirty_pages_.end());
    const auto at = [](const auto& values, double share) {
      return values.empty() ? 0 : values[static_cast<std::size_t>(share * (values.size() - 1))];
    };
    std::cout << what << ": " << pauses_ms_.size() << " pauses, p50 " << at(pauses_ms_, 0.5)
              << " ms, p99 " << at(pauses_ms_, 0.99) << " ms; dirty pages p50 "
              << at(dirty_pages_, 0.5) << ", late pages " << late_pages_ << "; device state "
              << device_state_.size() << " bytes; promotion " << promote_ms_ << " ms\n";
    RecordProperty("pause_ms_p50", std::to_string(at(pauses_ms_, 0.5)));
  }

  void survive(const DomainConfig& wanted);

  static inline bool namespace_ready_ = false;
  fs::path guest_;
  fs::path scratch_;
  QemuOptions options_;
  asio::io_context context_{1};
  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<Domain> domain_;
  std::unique_ptr<Standby> standby_;
  std::vector<boost::json::value> states_;
  std::vector<std::byte> device_state_;
  std::vector<double> pauses_ms_;
  std::vector<std::uint64_t> dirty_pages_;
  std::uint64_t late_pages_ = 0;
  double promote_ms_ = 0;
};

pid_t pid_of(const boost::json::value& state) {
  return static_cast<pid_t>(state.at("process").at("pid").as_int64());
}

bool process_exists(pid_t pid) {
  const std::string stat = contents("/proc/" + std::to_string(pid) + "/stat");
  return !stat.empty() && stat.find(") Z ") == std::string::npos;
}

/// The story: track, checkpoint, kill, promote, and the connection lives on.
void QemuDomainTest::survive(const DomainConfig& wanted) {
  ASSERT_NO_FATAL_FAILURE(start(wanted));
  EXPECT_EQ(domain_->config().machine.substr(0, 7), "pc-q35-") << "the backup needs the version";
  EXPECT_NE(domain_->config().accelerator, Accelerator::automatic);
  Connection connection;
  ASSERT_TRUE(connection.open(7));
  ASSERT_EQ(connection.echo("before"), "before");

  ASSERT_NO_FATAL_FAILURE(prepare_standby());
  struct stat image {};
  const std::string image_path =
      "/proc/" + std::to_string(pid_of(standby_->runtime_state())) + "/fd/4";
  ASSERT_EQ(::stat(image_path.c_str(), &image), 0);
  EXPECT_EQ(image.st_blocks, 0) << "the standby's QEMU wrote to the image";

  const Result<void> tracked = run(domain_->start_tracking());
  ASSERT_TRUE(tracked) << tracked.error().message();
  DirtySet first;
  ASSERT_TRUE(domain_->take_dirty(first));
  EXPECT_GT(count_pages(first), 1000u) << "a booted guest has data";
  EXPECT_LE(count_pages(first), wanted.memory_bytes / kPageBytes);
  copy(first);

  for (int epoch = 0; epoch < 4; ++epoch) ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  const int epochs = domain_->tracking() == TrackingMethod::pagemap_scan ? 100 : 5;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    pass_time(milliseconds(20));
    ASSERT_NO_FATAL_FAILURE(checkpoint(false));
  }
  ASSERT_EQ(connection.echo("during"), "during");
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));

  ASSERT_TRUE(run(domain_->destroy()));
  EXPECT_FALSE(domain_->alive());
  EXPECT_EQ(run(domain_->wait_for_exit()).kind, DomainExit::Kind::destroyed);
  ASSERT_NO_FATAL_FAILURE(promote());
  EXPECT_EQ(connection.echo("after the promotion"), "after the promotion");

  // The promoted domain can be protected again.
  ASSERT_NO_FATAL_FAILURE(prepare_standby());
  ASSERT_TRUE(run(domain_->start_tracking()));
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  EXPECT_EQ(connection.echo("and again"), "and again");
}

TEST_F(QemuDomainTest, KilledAfterACheckpointItGoesOnAtTheStandbyWithItsConnection) {
  survive(config(1));
  EXPECT_EQ(domain_->tracking(), TrackingMethod::pagemap_scan) << domain_->tracking_reason();
  report("1 vCPU");
}

TEST_F(QemuDomainTest, KilledWithTwoVcpusItGoesOnAtTheStandby) {
  survive(config(2));
  report("2 vCPUs");
}

TEST_F(QemuDomainTest, KernelWithoutPagemapScanFallsBackToFullCompare) {
  options_.force_tracking = TrackingMethod::full_compare;
  survive(config(1));
  EXPECT_EQ(domain_->tracking(), TrackingMethod::full_compare);
  EXPECT_FALSE(domain_->tracking_reason().empty());
  report("full compare");
}

TEST_F(QemuDomainTest, AgentRestartsAndAdoptsTheRunningDomain) {
  ASSERT_NO_FATAL_FAILURE(start(config()));
  ASSERT_TRUE(run(domain_->start_tracking()));
  Connection connection;
  ASSERT_TRUE(connection.open(7));
  const std::string saved = boost::json::serialize(domain_->runtime_state());
  // The worst moment to be restarted: the guest stands still, and nobody will say `cont`.
  ASSERT_TRUE(run(domain_->pause()));
  domain_.reset();

  auto adopted = run(hypervisor().adopt(boost::json::parse(saved)));
  ASSERT_TRUE(adopted) << adopted.error().message();
  domain_ = std::move(adopted.value());
  EXPECT_EQ(connection.echo("still here"), "still here");
  EXPECT_EQ(domain_->config().name, "web1");
  EXPECT_EQ(boost::json::serialize(domain_->runtime_state()), saved);

  ASSERT_NO_FATAL_FAILURE(prepare_standby());
  ASSERT_TRUE(run(domain_->start_tracking()));
  EXPECT_EQ(domain_->tracking(), TrackingMethod::pagemap_scan) << domain_->tracking_reason();
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  ASSERT_TRUE(run(domain_->destroy()));
  ASSERT_NO_FATAL_FAILURE(promote());
  EXPECT_EQ(connection.echo("moved"), "moved");
}

TEST_F(QemuDomainTest, QemuKilledBySomebodyElseIsANamedErrorAndAnExit) {
  DomainConfig wanted = config();
  wanted.console_log.clear();
  auto started = run(hypervisor().start(wanted));
  ASSERT_TRUE(started) << started.error().message();
  domain_ = std::move(started.value());
  ::kill(pid_of(domain_->runtime_state()), SIGKILL);
  const DomainExit exit = run(domain_->wait_for_exit());
  EXPECT_EQ(exit.kind, DomainExit::Kind::crashed);
  EXPECT_NE(exit.description.find("signal 9"), std::string::npos) << exit.description;
  const Result<void> paused = run(domain_->pause());
  ASSERT_FALSE(paused);
  EXPECT_NE(paused.error().message().find("has ended"), std::string::npos)
      << paused.error().message();
  EXPECT_FALSE(run(domain_->start_tracking()));
  EXPECT_TRUE(run(domain_->destroy()));
}

TEST_F(QemuDomainTest, QemuThatHangsIsATimeoutAndRecoversWhenItWakes) {
  options_.answer_timeout_ms = milliseconds(400);
  ASSERT_NO_FATAL_FAILURE(start(config()));
  Connection connection;
  ASSERT_TRUE(connection.open(7));
  const pid_t pid = pid_of(domain_->runtime_state());
  ::kill(pid, SIGSTOP);
  const Result<void> paused = run(domain_->pause());
  ::kill(pid, SIGCONT);
  ASSERT_FALSE(paused);
  EXPECT_EQ(paused.error().code(), ErrorCode::timed_out) << paused.error().message();
  ASSERT_TRUE(domain_->alive());
  ASSERT_NO_FATAL_FAILURE(prepare_standby());
  ASSERT_TRUE(run(domain_->start_tracking()));
  ASSERT_NO_FATAL_FAILURE(checkpoint(true));
  EXPECT_EQ(connection.echo("awake"), "awake");
}

TEST_F(QemuDomainTest, DeviceStateBeyondItsLimitIsRefusedAndTheGuestRunsOn) {
  options_.device_state_bytes_max = 64 << 10;
  ASSERT_NO_FATAL_FAILURE(start(config()));
  Connection connection;
  ASSERT_TRUE(connection.open(7));
  Result<void> step = run(domain_->pause());
  if (step) {
    auto state = run(domain_->save_device_state());
    ASSERT_FALSE(state);
    step = state.error();
  }
  EXPECT_FALSE(step.error().message().empty());
  std::cout << "refused with: " << step.error().message() << '\n';
  EXPECT_EQ(connection.echo("unharmed"), "unharmed");
}

TEST_F(QemuDomainTest, GuestThatRebootsEndsTheDomain) {
  DomainConfig wanted = config();
  wanted.command_line = "console=ttyS0 quiet panic=-1 rdinit=/there-is-none init=/nor-here";
  auto started = run(hypervisor().start(wanted));
  ASSERT_TRUE(started) << started.error().message();
  domain_ = std::move(started.value());
  const DomainExit exit = run(domain_->wait_for_exit());
  EXPECT_EQ(exit.kind, DomainExit::Kind::guest_reset) << exit.description;
}

TEST_F(QemuDomainTest, DamagedDeviceStateIsRefusedAndLeavesNothing) {
  DomainConfig wanted = config();
  wanted.console_log.clear();
  auto prepared = run(hypervisor().prepare_standby(wanted));
  ASSERT_TRUE(prepared) << prepared.error().message();
  const pid_t pid = pid_of(prepared.value()->runtime_state());
  const std::string device = prepared.value()->outputs()[0].device;
  const std::vector<std::byte> nonsense(100000, std::byte{0x5a});
  auto promoted = run(prepared.value()->promote(nonsense));
  ASSERT_FALSE(promoted);
  std::cout << "refused with: " << promoted.error().message() << '\n';
  EXPECT_NE(promoted.error().message().find("web1"), std::string::npos);
  run(prepared.value()->discard());
  EXPECT_FALSE(process_exists(pid));
  EXPECT_FALSE(fs::exists("/proc/self/net/dev") &&
               contents("/proc/self/net/dev").find(device) != std::string::npos);
  EXPECT_TRUE(fs::is_empty(options_.runtime_directory));
}

TEST_F(QemuDomainTest, DeadAgentsStandbyIsCleanedUpAndASecondTimeToo) {
  DomainConfig wanted = config();
  wanted.console_log.clear();
  auto started = run(hypervisor().start(wanted));
  ASSERT_TRUE(started) << started.error().message();
  const boost::json::value state = started.value()->runtime_state();
  states_.push_back(state);
  const pid_t pid = pid_of(state);
  started.value().reset();  // Lets go; QEMU runs on.
  ASSERT_TRUE(process_exists(pid));
  EXPECT_TRUE(run(hypervisor().clean_up(state)));
  EXPECT_FALSE(process_exists(pid));
  EXPECT_TRUE(run(hypervisor().clean_up(state)));
  EXPECT_FALSE(run(hypervisor().adopt(state)));
  EXPECT_TRUE(fs::is_empty(options_.runtime_directory));
}

TEST_F(QemuDomainTest, MissingThingsAreRefusedBeforeAnythingStarts) {
  const auto refused = [&](DomainConfig wanted, const std::string& names) {
    auto started = run(hypervisor().prepare_standby(std::move(wanted)));
    ASSERT_FALSE(started);
    EXPECT_NE(started.error().message().find(names), std::string::npos)
        << started.error().message();
    EXPECT_FALSE(fs::exists(options_.runtime_directory)) << "something was touched";
  };
  DomainConfig wanted = config();
  wanted.nics[0].bridge = "br-absent";
  refused(wanted, "br-absent");
  wanted = config();
  wanted.nics[0].bridge = "lo";
  refused(wanted, "lo is not a bridge");
  wanted = config();
  wanted.kernel = "/no/such/kernel";
  refused(wanted, "/no/such/kernel");
  wanted = config();
  wanted.memory_bytes = std::uint64_t{8} << 40;
  refused(wanted, "MiB");
  wanted = config();
  wanted.accelerator = Accelerator::kvm;
  bool kvm_missing = false;
  for (const Finding& finding : run(hypervisor().check(wanted, false))) {
    if (finding.severity == Finding::Severity::refusal) kvm_missing = true;
  }
  if (kvm_missing) refused(wanted, "kvm");
}

TEST_F(QemuDomainTest, QemuThatRefusesItsOptionsIsQuoted) {
  DomainConfig wanted = config();
  wanted.cpu = "no-such-processor";
  auto started = run(hypervisor().start(wanted));
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().message().find("no-such-processor"), std::string::npos)
      << started.error().message();
  EXPECT_TRUE(fs::is_empty(options_.runtime_directory));
}

}  // namespace
}  // namespace understudy
