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
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/computation.h"
#include "tests/scene/datagram_traffic.h"
#include "tests/scene/network_namespace.h"
#include "tests/scene/process.h"
#include "tests/scene/redis_traffic.h"
#include "tests/scene/whims_traffic.h"

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
    for (const auto& [what, port] : {std::pair{"echo", "7"},
                                     {"ledger", "9000"},
                                     {"stream", "9001"},
                                     {"bulk", "9003"},
                                     {"whims", "9004"},
                                     {"compute", "9005"},
                                     {"udp-echo", "7"},
                                     {"names", "9053"}}) {
      services[what] = start({GUESTD, what, port});
    }
    for (const std::uint64_t size : {4096, 1048576}) {
      std::string bytes(size, '\0');
      guest::fill_pattern(guest::web_file_seed(size), 0, bytes);
      std::ofstream(folder / (size == 4096 ? "4k.bin" : "1m.bin")) << bytes;
    }
    std::filesystem::create_directories(folder / "cgi-bin");
    for (const char* program : {"pattern", "count"}) {
      std::filesystem::create_symlink(GUESTD, folder / "cgi-bin" / program);
    }
    // redis-server is the same program by another name.
    std::filesystem::create_symlink("/usr/bin/redis-check-rdb", folder / "redis-server");
    start_redis();
    services["http"] = start({"busybox", "httpd", "-f", "-p", "80", "-h", folder.string()});
    ASSERT_TRUE(run_checked(
        {GUESTD, "wait", "7", "80", "9000", "9001", "9003", "9004", "9005", "u7", "u9053", "6379"},
        10s, where.name()));
  }

  void TearDown() override { std::filesystem::remove_all(folder); }

  void start_redis() {
    services["redis"] = start({(folder / "redis-server").string(), "--save", "", "--appendonly",
                               "no", "--dir", folder.string()});
  }

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
  HttpTraffic made(options(1), 300'000, HttpSource::generated);
  UploadTraffic upload(options(1), 300'000);
  NamesTraffic names(options(2, "::1"));
  DatagramEchoTraffic datagrams(options(2));
  RedisTraffic redis(options(2));
  WhimsTraffic whims(options(2));
  const std::vector<Traffic*> all = {&ledger, &stream, &echo,      &http,  &large, &made,
                                     &upload, &names,  &datagrams, &redis, &whims};
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
  }
  // Bytes that came between the moment and its being told would not show that it was survived.
  const auto marked = Clock::now();
  for (Traffic* traffic : all) {
    ASSERT_TRUE(traffic->wait_for_progress(5s, marked));
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
  auto named = names.audit();
  ASSERT_TRUE(named) << named.error().message();
  EXPECT_EQ(named.value().contradictions, 0U) << named.value().first_contradiction;
  EXPECT_EQ(named.value().requests, names.operations());
  auto counted = redis.audit();
  EXPECT_TRUE(counted) << counted.error().message();
  EXPECT_EQ(whims.resets(), 0U);
  EXPECT_EQ(whims.mixtures(), 0U);
}

TEST_F(TrafficTest, bulk_ends_after_its_bytes_in_both_directions) {
  constexpr std::uint64_t bytes = 20'000'003;
  for (const Direction direction : {Direction::down, Direction::up}) {
    BulkTraffic bulk(options(2), direction, bytes);
    bulk.start();
    ASSERT_TRUE(bulk.wait_for_end(30s));
    bulk.stop();
    for (const ConnectionReport& report : bulk.report()) {
      EXPECT_TRUE(report.survived) << report.kind << ": " << report.failure;
      EXPECT_EQ(report.bytes_wrong, 0U) << report.kind;
      EXPECT_EQ(report.bytes_verified, bytes) << report.kind;
      EXPECT_EQ(report.operations, 1U) << report.kind;
    }
  }
}

TEST_F(TrafficTest, two_hundred_connections_at_once_are_served) {
  EchoTraffic echo(options(200), 64);
  echo.start();
  auto progress = echo.wait_for_progress(20s);
  EXPECT_TRUE(progress) << progress.error().message();
  echo.stop();
}

TEST_F(TrafficTest, computation_is_checked_and_timed) {
  auto computed = compute_in_guest(options(1), 10'000'000);
  ASSERT_TRUE(computed) << computed.error().message();
  EXPECT_GT(computed.value().inside_ms, 0);
  EXPECT_GE(computed.value().outside_ms, computed.value().inside_ms);
}

TEST_F(TrafficTest, damaged_upload_is_found_by_the_other_side) {
  // The meddler damages what the service says, so the damage is in its count of wrong bytes.
  Meddler meddler(where.name(), 9003, [](std::string& chunk, std::uint64_t) {
    if (chunk.starts_with("@ ")) {
      chunk.replace(chunk.find('\n') - 1, 1, "7");
    }
  });
  BulkTraffic bulk(options(1, "127.0.0.1", 9003 + meddler_offset), Direction::up, 3'000'000);
  bulk.start();
  ASSERT_TRUE(bulk.wait_for_end(10s));
  bulk.stop();
  EXPECT_FALSE(bulk.report()[0].survived && bulk.report()[0].bytes_wrong == 0);
}

TEST_F(TrafficTest, register_of_names_that_went_back_in_time_is_found) {
  NamesTraffic names(options(1));
  names.start();
  ASSERT_TRUE(names.wait_for_progress(5s));
  services["names"] = {};
  services["names"] = start({GUESTD, "names", "9053"});
  ASSERT_TRUE(run_checked({GUESTD, "wait", "u9053"}, 10s, where.name()));
  ASSERT_TRUE(names.wait_for_progress(5s, Clock::now()));
  names.stop();
  auto audit = names.audit();
  ASSERT_TRUE(audit) << audit.error().message();
  EXPECT_GT(audit.value().contradictions, 0U);
}

TEST_F(TrafficTest, lost_datagrams_are_sent_again_and_a_lost_request_is_found) {
  NamesTraffic names(options(1), 0, 100ms);
  DatagramEchoTraffic echo(options(1), 512, 100ms);
  for (Traffic* traffic : {static_cast<Traffic*>(&names), static_cast<Traffic*>(&echo)}) {
    traffic->start();
    ASSERT_TRUE(traffic->wait_for_progress(5s));
  }
  for (const char* service : {"names", "udp-echo"}) {
    services[service].signal(SIGSTOP);
  }
  std::this_thread::sleep_for(500ms);
  for (const char* service : {"names", "udp-echo"}) {
    services[service].signal(SIGCONT);
  }
  ASSERT_TRUE(names.wait_for_progress(5s, Clock::now()));
  ASSERT_TRUE(echo.wait_for_progress(5s, Clock::now()));
  services["udp-echo"] = {};
  names.stop();
  auto audit = names.audit();
  ASSERT_TRUE(audit) << audit.error().message();
  EXPECT_EQ(audit.value().contradictions, 0U) << audit.value().first_contradiction;
  EXPECT_GT(audit.value().sent_again, 0U);
  EXPECT_GT(audit.value().repeated, 0U) << "each copy of a request is answered";
  echo.stop();  // within the time of patience, which is 5 s here
  EXPECT_FALSE(echo.report()[0].survived);
}

TEST_F(TrafficTest, redis_that_forgot_an_operation_is_found) {
  RedisTraffic redis(options(1));
  run_for(redis, 100ms);
  EXPECT_TRUE(redis.report()[0].survived) << redis.report()[0].failure;
  ASSERT_TRUE(redis.audit());
  ASSERT_TRUE(run_checked({"redis-cli", "DECRBY", "count:0", "2"}, 10s, where.name()));
  EXPECT_FALSE(redis.audit());
}

TEST_F(TrafficTest, redis_operation_done_twice_is_found) {
  RedisTraffic redis(options(1));
  redis.start();
  ASSERT_TRUE(redis.wait_for_progress(5s));
  ASSERT_TRUE(run_checked({"redis-cli", "INCR", "count:0"}, 10s, where.name()));
  std::this_thread::sleep_for(100ms);
  redis.stop();
  EXPECT_FALSE(redis.report()[0].survived);
  EXPECT_GT(redis.report()[0].bytes_wrong, 0U);
}

TEST_F(TrafficTest, whims_of_two_executions_on_one_connection_are_found) {
  bool done = false;
  Meddler meddler(where.name(), 9004, [&](std::string& chunk, std::uint64_t position) {
    if (position > 5'000 && !done) {
      chunk[chunk.size() / 2] = chunk[chunk.size() / 2] == '0' ? '1' : '0';
      done = true;
    }
  });
  WhimsTraffic whims(options(1, "127.0.0.1", 9004 + meddler_offset));
  (void)run_for(whims, 300ms);
  EXPECT_EQ(whims.mixtures(), 1U);
}

TEST_F(TrafficTest, whims_go_on_after_a_reset) {
  WhimsTraffic whims(options(1));
  whims.start();
  ASSERT_TRUE(whims.wait_for_progress(5s));
  services["whims"] = {};
  services["whims"] = start({GUESTD, "whims", "9004"});
  ASSERT_TRUE(run_checked({GUESTD, "wait", "9004"}, 10s, where.name()));
  auto progress = whims.wait_for_progress(5s, Clock::now());
  EXPECT_TRUE(progress) << progress.error().message();
  whims.stop();
  EXPECT_GT(whims.resets(), 0U);
  EXPECT_EQ(whims.mixtures(), 0U);
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
