// Goal: the checking clients see what they must see, above all when something is wrong: a checker
// that cannot fail proves nothing. Method: the guest's own services run natively in a namespace;
// where a fault is wanted, a meddler sits between client and service and damages, repeats or
// swallows what passes. Not tested here: real guests (tests/end_to_end).
#include "tests/scene/traffic.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>

#include "tests/guest/pattern.h"
#include "tests/scene/network_namespace.h"
#include "tests/scene/process.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

constexpr std::uint16_t meddler_offset = 10'000;

/// Forwards port PORT + 10000 to PORT, one connection; `meddle` may change each chunk that the
/// service sends. Listens when the constructor returns.
class Meddler {
 public:
  using Meddle = std::function<void(std::string& chunk, std::uint64_t position)>;

  Meddler(std::string where, std::uint16_t port, Meddle meddle)
      : where_(std::move(where)), port_(port), meddle_(std::move(meddle)) {
    std::promise<void> listening;
    auto ready = listening.get_future();
    thread_ = std::jthread([this, &listening](const std::stop_token& stop) {
      const UniqueFd listener = listen_inside();
      listening.set_value();
      pollfd event = {listener.get(), POLLIN, 0};
      while (poll(&event, 1, 50) == 0) {
        if (stop.stop_requested()) {
          return;
        }
      }
      forward(UniqueFd(accept(listener.get(), nullptr, nullptr)), stop);
    });
    ready.wait();
  }

 private:
  [[nodiscard]] UniqueFd listen_inside() const {
    EXPECT_TRUE(enter_network_namespace(where_));
    UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port_ + meddler_offset));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener.get(), 1), 0);
    return listener;
  }

  void forward(const UniqueFd& client, const std::stop_token& stop) const {
    auto service = TcpSocket::connect("127.0.0.1", port_, 5s);
    ASSERT_TRUE(service);
    std::jthread upward([&] {
      std::array<char, 4096> bytes;
      ssize_t size = 0;
      while ((size = recv(client.get(), bytes.data(), bytes.size(), 0)) > 0) {
        service.value().send({bytes.data(), static_cast<std::size_t>(size)}, 5s, {});
      }
      shutdown(service.value().get(), SHUT_RDWR);
    });
    std::array<char, 4096> bytes;
    std::size_t size = 0;
    std::uint64_t position = 0;
    while (service.value().receive(bytes, size, 60s, stop) == TcpSocket::Outcome::done) {
      std::string chunk(bytes.data(), size);
      meddle_(chunk, position);
      position += size;
      send(client.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
    }
    shutdown(client.get(), SHUT_RDWR);
  }

  std::string where_;
  std::uint16_t port_;
  Meddle meddle_;
  std::jthread thread_;
};

class TrafficTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = NetworkNamespace::create("us-traffic-" + std::to_string(getpid()));
    ASSERT_TRUE(made) << made.error().message();
    where = std::move(made.value());
    folder = std::filesystem::temp_directory_path() / where.name();
    std::filesystem::create_directories(folder);
    for (const auto& [what, port] :
         {std::pair{"echo", "7"}, {"ledger", "9000"}, {"stream", "9001"}}) {
      services[what] = start({GUESTD, what, port});
    }
    for (const std::uint64_t size : {4096, 1048576}) {
      std::string bytes(size, '\0');
      guest::fill_pattern(guest::web_file_seed(size), 0, bytes);
      std::ofstream(folder / (size == 4096 ? "4k.bin" : "1m.bin")) << bytes;
    }
    services["http"] = start({"busybox", "httpd", "-f", "-p", "80", "-h", folder.string()});
    ASSERT_TRUE(run_checked({GUESTD, "wait", "7", "80", "9000", "9001"}, 10s, where.name()));
  }

  void TearDown() override { std::filesystem::remove_all(folder); }

  Process start(const std::vector<std::string>& command) {
    auto process = Process::spawn(command, {.network_namespace = where.name()});
    EXPECT_TRUE(process);
    return std::move(process.value());
  }

  [[nodiscard]] ClientOptions options(unsigned connections,
                                      const std::string& address = "127.0.0.1",
                                      std::uint16_t port = 0) const {
    return {.network_namespace = where.name(),
            .address = address,
            .port = port,
            .connections = connections,
            .patience = 5s};
  }

  /// Lets the traffic run until each connection has seen more, and ends it.
  static std::vector<ConnectionReport> run_for(Traffic& traffic, std::chrono::milliseconds time) {
    traffic.start();
    (void)traffic.wait_for_progress(5s);
    std::this_thread::sleep_for(time);
    traffic.stop();
    return traffic.report();
  }

  NetworkNamespace where;
  std::filesystem::path folder;
  std::map<std::string, Process> services;
};

TEST_F(TrafficTest, honest_services_are_found_honest) {
  LedgerTraffic ledger(options(3));
  StreamTraffic stream(options(2, "::1"), 1'000'000);
  EchoTraffic echo(options(2));
  HttpTraffic http(options(1), 4096);
  HttpTraffic large(options(1), 1048576);
  const std::vector<Traffic*> all = {&ledger, &stream, &echo, &http, &large};
  for (Traffic* traffic : all) {
    traffic->start();
  }
  for (Traffic* traffic : all) {
    auto progress = traffic->wait_for_progress(5s);
    ASSERT_TRUE(progress) << progress.error().message();
  }
  const Instant mark = Instant::now();
  for (Traffic* traffic : all) {
    traffic->mark(mark);
    ASSERT_TRUE(traffic->wait_for_progress(5s, mark.steady));
  }
  for (Traffic* traffic : all) {
    traffic->stop();
    for (const ConnectionReport& report : traffic->report()) {
      EXPECT_TRUE(report.survived) << report.kind << ": " << report.failure;
      EXPECT_EQ(report.bytes_wrong, 0U) << report.kind;
      EXPECT_GT(report.bytes_verified, 0U) << report.kind;
      EXPECT_TRUE(report.outage_ms) << report.kind;
    }
  }
  auto audit = ledger.audit();
  ASSERT_TRUE(audit) << audit.error().message();
  EXPECT_TRUE(audit.value().clean()) << audit.value().first_fault;
  EXPECT_EQ(audit.value().acknowledged, ledger.operations());
  EXPECT_EQ(audit.value().unacknowledged, 0U);
}

TEST_F(TrafficTest, ledger_that_forgot_its_history_is_found) {
  LedgerTraffic ledger(options(1));
  run_for(ledger, 50ms);
  services["ledger"] = {};
  services["ledger"] = start({GUESTD, "ledger", "9000"});
  ASSERT_TRUE(run_checked({GUESTD, "wait", "9000"}, 10s, where.name()));
  auto audit = ledger.audit();
  ASSERT_TRUE(audit) << audit.error().message();
  EXPECT_EQ(audit.value().lost, audit.value().acknowledged);
  EXPECT_FALSE(audit.value().clean());
}

TEST_F(TrafficTest, ledger_that_took_another_branch_is_found) {
  // Two clients' worth of history; then a new ledger in which other transfers got the same numbers.
  LedgerTraffic before(options(1));
  run_for(before, 50ms);
  services["ledger"] = {};
  services["ledger"] = start({GUESTD, "ledger", "9000"});
  ASSERT_TRUE(run_checked({GUESTD, "wait", "9000"}, 10s, where.name()));
  LedgerTraffic after(options(1));
  run_for(after, 100ms);
  auto audit = before.audit();
  ASSERT_TRUE(audit) << audit.error().message();
  EXPECT_EQ(audit.value().lost, audit.value().acknowledged);
  EXPECT_GT(audit.value().invented, 0U) << "the other branch's transfers carry unknown nonces";
}

TEST_F(TrafficTest, repeated_receipt_is_found) {
  std::string previous;
  Meddler meddler(where.name(), 9000, [&](std::string& chunk, std::uint64_t) {
    if (chunk.starts_with("R 5 ")) {
      chunk = previous;
    }
    previous = chunk;
  });
  LedgerTraffic ledger(options(1, "127.0.0.1", 9000 + meddler_offset));
  const auto report = run_for(ledger, 300ms)[0];
  EXPECT_FALSE(report.survived);
  EXPECT_GT(report.bytes_wrong, 0U);
  EXPECT_TRUE(report.failure.starts_with("not the receipt")) << report.failure;
}

TEST_F(TrafficTest, one_flipped_bit_in_a_stream_is_one_wrong_byte) {
  Meddler meddler(where.name(), 9001, [](std::string& chunk, std::uint64_t position) {
    if (position <= 100'000 && 100'000 < position + chunk.size()) {
      chunk[100'000 - position] ^= 4;
    }
  });
  StreamTraffic stream(options(1, "127.0.0.1", 9001 + meddler_offset), 0);
  const auto report = run_for(stream, 300ms)[0];
  EXPECT_EQ(report.bytes_wrong, 1U);
}

TEST_F(TrafficTest, bytes_sent_twice_are_wrong_bytes) {
  bool done = false;
  Meddler meddler(where.name(), 9001, [&](std::string& chunk, std::uint64_t position) {
    if (position > 100'000 && !done) {
      chunk += chunk;
      done = true;
    }
  });
  StreamTraffic stream(options(1, "127.0.0.1", 9001 + meddler_offset), 0);
  EXPECT_GT(run_for(stream, 300ms)[0].bytes_wrong, 100U);
}

TEST_F(TrafficTest, connection_that_the_service_drops_has_not_survived) {
  EchoTraffic echo(options(1));
  echo.start();
  ASSERT_TRUE(echo.wait_for_progress(5s));
  echo.mark(Instant::now());
  services["echo"] = {};
  std::this_thread::sleep_for(100ms);
  echo.stop();
  EXPECT_FALSE(echo.report()[0].survived);
  EXPECT_FALSE(echo.report()[0].failure.empty());
}

TEST_F(TrafficTest, silence_is_measured_from_the_mark_to_the_next_byte) {
  StreamTraffic stream(options(1), 1'000'000);
  stream.start();
  ASSERT_TRUE(stream.wait_for_progress(5s));
  services["stream"].signal(SIGSTOP);
  const Instant mark = Instant::now();
  stream.mark(mark);
  std::this_thread::sleep_for(300ms);
  services["stream"].signal(SIGCONT);
  const auto resumed = Clock::now();
  ASSERT_TRUE(stream.wait_for_progress(5s, resumed));
  stream.stop();
  const auto report = stream.report()[0];
  ASSERT_TRUE(report.outage_ms);
  EXPECT_GE(*report.outage_ms, 280);
  EXPECT_LT(*report.outage_ms, 1000);
  EXPECT_LT(report.longest_gap_before_ms, 250);
}

TEST(PingOutput, gaps_losses_and_duplicates_are_counted) {
  Instant mark;
  mark.wall = std::chrono::system_clock::time_point(std::chrono::milliseconds(1'000'050));
  const PingReport report = parse_ping(
      "PING 10.77.0.10 (10.77.0.10) 56(84) bytes of data.\n"
      "[1000.000000] 64 bytes from 10.77.0.10: icmp_seq=1 ttl=64 time=0.5 ms\n"
      "[1000.020000] 64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=0.7 ms\n"
      "[1000.020001] 64 bytes from 10.77.0.10: icmp_seq=2 ttl=64 time=0.7 ms (DUP!)\n"
      "[1000.320000] 64 bytes from 10.77.0.10: icmp_seq=17 ttl=64 time=0.9 ms\n",
      mark);
  EXPECT_EQ(report.sent, 17U);
  EXPECT_EQ(report.received, 3U);
  EXPECT_EQ(report.duplicates, 1U);
  EXPECT_NEAR(report.longest_gap_ms, 300, 0.1);
  ASSERT_TRUE(report.outage_ms);
  EXPECT_NEAR(*report.outage_ms, 270, 0.1);
  EXPECT_NEAR(report.round_trip_ms_median, 0.7, 0.01);
}

}  // namespace
}  // namespace understudy::scene
