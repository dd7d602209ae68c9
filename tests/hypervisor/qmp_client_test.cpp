// Goal: a QEMU that hangs, dies or answers nonsense is a named error, and events and descriptors
// arrive. Method: a monitor played by a thread with a plain socket, one script for each fault.
#include "hypervisor/qemu/qmp_client.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>

#include "base/unique_fd.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

constexpr const char* kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}})";
constexpr milliseconds kLong{20000};
constexpr milliseconds kShort{100};

/// The monitor's side of one connection.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}
  void say(const std::string& text) {
    std::string_view rest = text;
    while (!rest.empty()) {
      const ssize_t sent = ::send(fd_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      rest.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  /// The next line, and a descriptor that came with it.
  std::string hear(UniqueFd* descriptor = nullptr) {
    while (heard_.find('\n') == std::string::npos) {
      std::array<char, 4096> buffer;
      iovec part{buffer.data(), buffer.size()};
      alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      const ssize_t count = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
      if (count <= 0) return {};
      if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
        if (descriptor) descriptor->reset(fd);
      }
      heard_.append(buffer.data(), static_cast<std::size_t>(count));
    }
    const std::size_t end = heard_.find('\n');
    const std::string line = heard_.substr(0, end);
    heard_.erase(0, end + 1);
    return line;
  }
  /// Greets and grants qmp_capabilities (the client's first id is 1).
  void greet() {
    say(std::string(kGreeting) + "\r\n");
    hear();
    say("{\"return\": {}, \"id\": 1}\r\n");
  }

 private:
  UniqueFd fd_;
  std::string heard_;
};

class QmpClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / ("us-qmp-" + std::to_string(::getpid())))
                .string();
    std::filesystem::remove(path_);
    listening_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.size());
    ASSERT_EQ(::bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listening_.get(), 1), 0);
  }
  void TearDown() override {
    client_.reset();
    listening_.reset();
    context_.restart();
    context_.run();
    if (monitor_.joinable()) monitor_.join();
    std::filesystem::remove(path_);
  }

  /// Plays the monitor in a thread; the connection closes when the script ends.
  void play(std::function<void(Peer&)> script) {
    monitor_ = std::thread([this, script = std::move(script)] {
      const int fd = ::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      Peer peer(fd);
      script(peer);
    });
  }

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    bool done = false;
    asio::co_spawn(
        context_,
        [](Task<T>& inner, std::optional<T>& out) -> Task<void> {
          out.emplace(co_await std::move(inner));
        }(task, result),
        [&done](std::exception_ptr) { done = true; });
    context_.restart();
    while (!done) context_.run_one();
    return std::move(*result);
  }

  Result<void> connect(milliseconds timeout_ms = kLong) {
    auto connected =
        run(QmpClient::connect(context_.get_executor(), path_, timeout_ms,
                               [this](const QmpEvent& event) { events_.push_back(event.name); }));
    if (!connected) return connected.error();
    client_ = std::move(connected.value());
    return ok();
  }

  asio::io_context context_{1};
  std::string path_;
  UniqueFd listening_;
  std::thread monitor_;
  std::unique_ptr<QmpClient> client_;
  std::vector<std::string> events_;
};

TEST_F(QmpClientTest, AnswersAndEventsFindTheirWay) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();
    peer.say("{\"event\": \"STOP\"}\n{\"return\": 42, \"id\": 2}\n");
    peer.hear();
    peer.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 3}\n");
    peer.hear();
  });
  ASSERT_TRUE(connect());
  EXPECT_EQ(client_->qemu_version(), "7.2.0");
  const auto answer = run(client_->execute("query", {}, kLong));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().as_int64(), 42);
  EXPECT_EQ(events_, std::vector<std::string>{"STOP"});
  const auto refused = run(client_->execute("break", {}, kLong));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::failed);
  EXPECT_EQ(refused.error().message(), "QEMU refused 'break': no");
  EXPECT_FALSE(client_->broken());
  client_.reset();
}

TEST_F(QmpClientTest, DescriptorTravelsWithTheFirstOfSeveralCommands) {
  UniqueFd memory(::memfd_create("us-test", MFD_CLOEXEC));
  ASSERT_EQ(::write(memory.get(), "hello", 5), 5);
  std::string read_there;
  play([&](Peer& peer) {
    peer.greet();
    UniqueFd descriptor;
    peer.hear(&descriptor);
    peer.hear();
    char buffer[8] = {};
    EXPECT_EQ(::pread(descriptor.get(), buffer, sizeof buffer, 0), 5);
    read_there = buffer;
    peer.say("{\"return\": {}, \"id\": 2}\n{\"return\": {}, \"id\": 3}\n");
  });
  ASSERT_TRUE(connect());
  std::array<QmpCommand, 2> commands;
  commands[0].name = "getfd";
  commands[1].name = "migrate";
  EXPECT_TRUE(run(client_->execute_all(commands, memory.get(), kLong)));
  monitor_.join();
  EXPECT_EQ(read_there, "hello");
}

TEST_F(QmpClientTest, HangingQemuIsATimeoutAndItsLateAnswerHarmsNobody) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();  // Never answered in time …
    peer.hear();
    peer.say("{\"return\": \"late\", \"id\": 2}\n{\"return\": \"right\", \"id\": 3}\n");
    peer.hear();
  });
  ASSERT_TRUE(connect());
  const auto first = run(client_->execute("slow", {}, kShort));
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().code(), ErrorCode::timed_out);
  EXPECT_NE(first.error().message().find("'slow'"), std::string::npos) << first.error().message();
  const auto second = run(client_->execute("quick", {}, kLong));
  ASSERT_TRUE(second);
  EXPECT_EQ(second.value().as_string(), "right");
  client_.reset();
}

TEST_F(QmpClientTest, DyingQemuEndsTheCommandInProgressAndAllLaterOnes) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();
  });
  ASSERT_TRUE(connect());
  const auto answer = run(client_->execute("stop", {}, kLong));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), ErrorCode::unavailable);
  EXPECT_TRUE(client_->broken());
  const auto later = run(client_->execute("cont", {}, kLong));
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code(), ErrorCode::unavailable);
}

TEST_F(QmpClientTest, NonsenseIsNamed) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();
    peer.say("this is not JSON\n");
    peer.hear();
  });
  ASSERT_TRUE(connect());
  const auto answer = run(client_->execute("stop", {}, kLong));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), ErrorCode::bad_data);
  EXPECT_NE(answer.error().message().find("not JSON"), std::string::npos);
}

TEST_F(QmpClientTest, EndlessLineIsRefusedInsteadOfKept) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();
    peer.say(std::string(QmpClient::kLineBytesMax + 100000, 'x'));
    peer.hear();
  });
  ASSERT_TRUE(connect());
  const auto answer = run(client_->execute("stop", {}, kLong));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), ErrorCode::bad_data);
}

TEST_F(QmpClientTest, SilentMonitorIsATimeoutAtTheGreeting) {
  play([](Peer& peer) { peer.hear(); });
  const auto connected = connect(kShort);
  ASSERT_FALSE(connected);
  EXPECT_EQ(connected.error().code(), ErrorCode::timed_out);
}

TEST_F(QmpClientTest, NobodyListeningAndTooLongPathsAreNamed) {
  path_ += "-none";
  const auto connected = connect();
  ASSERT_FALSE(connected);
  EXPECT_EQ(connected.error().code(), ErrorCode::unavailable);
  path_ = "/tmp/" + std::string(200, 'x');
  const auto too_long = connect();
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code(), ErrorCode::config);
}

TEST_F(QmpClientTest, ClientThatGoesWhileACommandWaitsEndsIt) {
  play([](Peer& peer) {
    peer.greet();
    peer.hear();
    peer.hear();
  });
  ASSERT_TRUE(connect());
  std::optional<Result<boost::json::value>> answer;
  QmpClient* const client = client_.get();
  asio::co_spawn(
      context_,
      [](QmpClient* asked, std::optional<Result<boost::json::value>>& out) -> Task<void> {
        out.emplace(co_await asked->execute("stop", {}, kLong));
      }(client, answer),
      [](std::exception_ptr) {});
  context_.restart();
  context_.poll();
  client_.reset();
  context_.restart();
  while (!answer) context_.run_one();
  ASSERT_FALSE(*answer);
  EXPECT_EQ(answer->error().code(), ErrorCode::unavailable);
}

}  // namespace
}  // namespace understudy
