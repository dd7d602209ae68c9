// Goal: the parts around QEMU, each by itself: its command line, tap names, processes that are
// found again, memory without a name, and write tracking within this very process.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json/value.hpp>
#include <filesystem>
#include <optional>

#include "hypervisor/qemu/command_line.h"
#include "hypervisor/qemu/memory_file.h"
#include "hypervisor/qemu/qemu_process.h"
#include "hypervisor/qemu/tap.h"
#include "hypervisor/qemu/write_tracking.h"

namespace understudy {
namespace {

namespace asio = boost::asio;

template <typename T>
T run(asio::io_context& context, Task<T> task) {
  std::optional<T> result;
  bool done = false;
  asio::co_spawn(
      context,
      [](Task<T>& inner, std::optional<T>& out) -> Task<void> {
        out.emplace(co_await std::move(inner));
      }(task, result),
      [&done](std::exception_ptr) { done = true; });
  context.restart();
  while (!done) context.run_one();
  return std::move(*result);
}

DomainConfig config() {
  DomainConfig config;
  config.name = "web1";
  config.memory_bytes = 64 << 20;
  config.kernel = "/boot/vmlinuz,old";
  config.image = "/disks/a,b.raw";
  config.accelerator = Accelerator::tcg;
  config.nics = {{"br0", MacAddress::parse("52:54:00:00:00:01").value()}};
  return config;
}

TEST(CommandLineTest, StandbyDiffersOnlyByWaiting) {
  auto domain = qemu_arguments("qemu", config(), false);
  const auto standby = qemu_arguments("qemu", config(), true);
  domain.insert(domain.end(), {"-incoming", "defer", "-S"});
  EXPECT_EQ(domain, standby);
}

TEST(CommandLineTest, CommaInAPathCannotAddOptions) {
  const auto arguments = qemu_arguments("qemu", config(), false);
  const auto has = [&](const std::string& text) {
    return std::find(arguments.begin(), arguments.end(), text) != arguments.end();
  };
  EXPECT_TRUE(has("/boot/vmlinuz,old")) << "an argument of its own is passed as it is";
  EXPECT_TRUE(
      has("driver=raw,node-name=disk0,read-only=on,file.driver=file,"
          "file.filename=/disks/a,,b.raw"));
}

TEST(TapNameTest, NamesFitAndDiffer) {
  EXPECT_EQ(tap_name("web1", 0, 0), "us-web1-0");
  const std::string one = tap_name("a-very-long-name-of-a-domain-1", 7, 0);
  const std::string other = tap_name("a-very-long-name-of-a-domain-2", 7, 0);
  EXPECT_LE(one.size(), 15u);
  EXPECT_NE(one, other);
  EXPECT_NE(tap_name("web1", 0, 1), tap_name("web1", 0, 2));
}

TEST(TapTest, MissingBridgeIsNamed) {
  const auto missing = check_bridge("us-no-bridge");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::no_such);
  EXPECT_NE(missing.error().message().find("us-no-bridge"), std::string::npos);
}

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    output_ = std::filesystem::temp_directory_path() /
              ("us-process-" + std::to_string(::getpid()) + ".log");
  }
  void TearDown() override { std::filesystem::remove(output_); }

  std::unique_ptr<Process> start(std::vector<std::string> arguments) {
    Command command;
    command.arguments = std::move(arguments);
    command.output = output_;
    auto process = Process::start(context_.get_executor(), command);
    EXPECT_TRUE(process);
    return process ? std::move(process.value()) : nullptr;
  }

  asio::io_context context_{1};
  std::filesystem::path output_;
};

TEST_F(ProcessTest, EndingIsToldWithItsLastWords) {
  const auto process = start({"sh", "-c", "echo the end >&2; exit 3"});
  ASSERT_TRUE(run(context_, process->wait(std::chrono::seconds(20))));
  EXPECT_EQ(process->ending(), "exit status 3");
  EXPECT_EQ(tail_of(output_, 100), "the end");
  EXPECT_EQ(tail_of(output_, 3), "nd");
}

TEST_F(ProcessTest, KilledProcessIsReapedAndNamed) {
  const auto process = start({"sleep", "1000"});
  EXPECT_FALSE(run(context_, process->wait(std::chrono::milliseconds(50))));
  process->kill();
  ASSERT_TRUE(run(context_, process->wait(std::chrono::seconds(20))));
  EXPECT_NE(process->ending().find("signal 9"), std::string::npos) << process->ending();
  EXPECT_FALSE(ProcessIdentity::of(process->identity().pid));
}

TEST_F(ProcessTest, ProcessIdUsedAgainIsNotMistakenForTheOldOne) {
  const auto process = start({"sleep", "1000"});
  const ProcessIdentity real = process->identity();
  const auto again = ProcessIdentity::from_json(real.to_json());
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value(), real);
  EXPECT_TRUE(Process::adopt(context_.get_executor(), real));
  ProcessIdentity older = real;
  older.start_time -= 1;
  EXPECT_FALSE(Process::adopt(context_.get_executor(), older));
  ProcessIdentity other_boot = real;
  other_boot.boot_id = "00000000-0000-0000-0000-000000000000";
  EXPECT_FALSE(Process::adopt(context_.get_executor(), other_boot));
  process->kill();
  ASSERT_TRUE(run(context_, process->wait(std::chrono::seconds(20))));
  EXPECT_FALSE(Process::adopt(context_.get_executor(), real));
}

TEST_F(ProcessTest, ProgramThatIsNotThereIsNamed) {
  Command command;
  command.arguments = {"us-no-such-program"};
  command.output = output_;
  const auto process = Process::start(context_.get_executor(), command);
  ASSERT_FALSE(process);
  EXPECT_EQ(process.error().code(), ErrorCode::no_such);
  EXPECT_NE(process.error().message().find("us-no-such-program"), std::string::npos);
}

TEST_F(ProcessTest, ShortCommandsAreRunToTheirEndOrToTheirDeadline) {
  const auto execute = [&](const std::string& script, std::chrono::milliseconds timeout_ms) {
    Command command;
    command.arguments = {"sh", "-c", script};
    return run(context_, run_to_end(context_.get_executor(), std::move(command), timeout_ms));
  };
  const auto said = execute("echo version 1.2", std::chrono::seconds(20));
  ASSERT_TRUE(said);
  EXPECT_EQ(said.value(), "version 1.2\n");
  EXPECT_FALSE(execute("exit 1", std::chrono::seconds(20)));
  const auto late = execute("sleep 1000", std::chrono::milliseconds(50));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), ErrorCode::timed_out);
}

TEST(MemoryFileTest, OnlyDataIsListedAndNothingHasAName) {
  constexpr std::uint64_t kPages = 64;
  auto made = MemoryFile::create("/dev/shm", kPages * kPageBytes);
  ASSERT_TRUE(made) << made.error().message();
  MemoryFile& memory = made.value();
  struct stat status {};
  ASSERT_EQ(::fstat(memory.fd(), &status), 0);
  EXPECT_EQ(status.st_nlink, 0u);
  memory.bytes()[3 * kPageBytes] = std::byte{1};
  memory.bytes()[4 * kPageBytes] = std::byte{1};
  memory.bytes()[63 * kPageBytes] = std::byte{1};
  DirtySet data;
  ASSERT_TRUE(memory.append_data_ranges(0, kPages, data));
  EXPECT_EQ(data, (DirtySet{{3, 2}, {63, 1}}));
  DirtySet part;
  ASSERT_TRUE(memory.append_data_ranges(4, 10, part));
  EXPECT_EQ(part, (DirtySet{{4, 1}}));
  const auto again = MemoryFile::of_process(::getpid(), memory.fd(), kPages * kPageBytes);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again.value().bytes()[63 * kPageBytes], std::byte{1});
  EXPECT_FALSE(MemoryFile::of_process(::getpid(), memory.fd(), 2 * kPages * kPageBytes));
  EXPECT_FALSE(MemoryFile::create("/no/such/directory", kPageBytes));
}

TEST(WriteTrackingTest, ProbeAnswersEitherWay) {
  const auto probed = probe_write_tracking();
  if (!probed) {
    EXPECT_FALSE(probed.error().message().empty());
  }
}

}  // namespace
}  // namespace understudy
