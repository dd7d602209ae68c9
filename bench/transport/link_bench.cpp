// How fast a link is over loopback, both ends on one thread: megabytes a second with frames of the
// size of a page batch, and the round trip of a small frame. Prints one JSON object.
//
// Both ends share the core, so one host's share of the work is about half of what is measured.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdio>
#include <exception>
#include <vector>

#include "transport/link.h"

namespace understudy::transport {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kFrameBytes = 200000;
constexpr std::size_t kTotalBytes = std::size_t{2} << 30;
constexpr int kRoundTrips = 20000;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

// The far end: counts what comes, and sends back what is small.
Task<void> serve(std::unique_ptr<Link> link) {
  for (;;) {
    auto frame = co_await link->receive();
    if (!frame) co_return;
    if (frame.value().type != FrameType::control) continue;
    auto payload = std::move(frame.value().payload);
    const auto sent = co_await link->send(FrameType::control, {}, std::move(payload));
    if (!sent) co_return;
  }
}

Task<void> measure(Endpoint endpoint, LocalHost self, Fingerprint expected, std::string& report) {
  Connector connector(co_await boost::asio::this_coro::executor, std::move(self));
  const PeerAddress there{std::move(endpoint), {}};
  auto connected = co_await connector.connect(there, expected, LinkPurpose::bulk,
                                              LinkSettings::for_purpose(LinkPurpose::bulk));
  if (!connected) {
    report = connected.error().message();
    co_return;
  }
  Link& link = *connected.value();

  const auto start = Clock::now();
  const double cpu_start = cpu_seconds();
  for (std::size_t sent = 0; sent < kTotalBytes; sent += kFrameBytes) {
    std::vector<std::byte> body(kFrameBytes, std::byte{0x5a});
    const auto queued = co_await link.send(FrameType::page_batch, {}, std::move(body));
    if (!queued) co_return;
  }
  std::vector<std::byte> last(16);
  const auto marked = co_await link.send(FrameType::control, {}, std::move(last));
  const auto echoed = co_await link.receive();  // everything before it has arrived
  if (!marked || !echoed) co_return;
  const double seconds = seconds_since(start);
  const double cpu = cpu_seconds() - cpu_start;

  std::vector<double> trips_us;
  for (int i = 0; i < kRoundTrips; ++i) {
    const auto left = Clock::now();
    std::vector<std::byte> small(64);
    const auto sent = co_await link.send(FrameType::control, {}, std::move(small));
    const auto back = co_await link.receive();
    if (!sent || !back) co_return;
    trips_us.push_back(seconds_since(left) * 1e6);
  }
  std::ranges::sort(trips_us);
  const auto megabytes = static_cast<double>(kTotalBytes) / 1e6;
  report = fmt::format(
      R"({{"frame_bytes": {}, "megabytes": {:.0f}, "mb_per_s": {:.0f}, "mb_per_cpu_s": {:.0f}, )"
      R"("round_trip_us_p50": {:.1f}, "round_trip_us_p99": {:.1f}}})",
      kFrameBytes, megabytes, megabytes / seconds, megabytes / cpu, trips_us[trips_us.size() / 2],
      trips_us[trips_us.size() * 99 / 100]);
}

int run() {
  boost::asio::io_context io(1);
  const auto host = [](const char* name) {
    return LocalHost{name, BootId::random(), TlsIdentity::generate().value(),
                     PeerStore::in_memory()};
  };
  const LocalHost a = host("hostA");
  const LocalHost b = host("hostB");
  if (!b.peers->put({"hostA", a.identity->fingerprint(), {}})) return 1;
  auto listener = Listener::open(io.get_executor(), {"127.0.0.1", 0}, b, nullptr, serve);
  if (!listener) {
    fmt::print(stderr, "{}\n", listener.error().message());
    return 1;
  }
  std::string report;
  boost::asio::co_spawn(io,
                        measure(listener.value()->endpoint(), a, b.identity->fingerprint(), report),
                        [&](const std::exception_ptr&) { listener.value()->close(); });
  io.run();
  fmt::print("{}\n", report);
  return report.starts_with('{') ? 0 : 1;
}

}  // namespace
}  // namespace understudy::transport

int main() {
  return understudy::transport::run();
}
