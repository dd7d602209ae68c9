#include "tests/scene/traffic.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

#include "tests/guest/pattern.h"
#include "tests/scene/network_namespace.h"

namespace understudy::scene {
namespace {

constexpr std::size_t line_bytes_max = 65536;

double to_ms(std::int64_t nanoseconds) {
  return static_cast<double>(nanoseconds) / 1e6;
}

std::int64_t now_ns() {
  return Clock::now().time_since_epoch().count();
}

/// Waits until `descriptor` is ready for `what`. Looks up every 50 ms whether it should stop.
TcpSocket::Outcome wait_ready(int descriptor, short what, Clock::time_point limit,
                              const std::stop_token& stop) {
  while (true) {
    pollfd event = {descriptor, what, 0};
    if (poll(&event, 1, 50) > 0) {
      return TcpSocket::Outcome::done;
    }
    if (stop.stop_requested()) {
      return TcpSocket::Outcome::stopped;
    }
    if (Clock::now() > limit) {
      return TcpSocket::Outcome::timed_out;
    }
  }
}

struct Endpoint {
  sockaddr_storage storage = {};
  socklen_t size = 0;
};

Result<Endpoint> endpoint_of(const std::string& address, std::uint16_t port) {
  Endpoint endpoint;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&endpoint.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.storage);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    endpoint.size = sizeof(sockaddr_in);
  } else if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    endpoint.size = sizeof(sockaddr_in6);
  } else {
    return fail(ErrorCode::usage, "'{}' is no IP address", address);
  }
  return endpoint;
}

}  // namespace

// --- Witness -------------------------------------------------------------------------------------

// What was on its way at the mark still arrives for a moment. A silence that begins later has
// causes of its own.
constexpr std::int64_t in_flight_ns = 150'000'000;

Witness::Witness(std::string kind, unsigned index)
    : kind_(std::move(kind)), index_(index), last_ns_(now_ns()) {}

void Witness::verified(std::uint64_t bytes) {
  const std::int64_t now = now_ns();
  const std::int64_t gap = now - last_ns_;
  const std::int64_t mark = mark_ns_;
  if (mark != seen_mark_ns_) {
    seen_mark_ns_ = mark;
    outage_gap_ns_ = 0;
    outage_end_ns_ = 0;
  }
  if (bytes_verified_ > 0) {
    longest_gap_ns_ = std::max(longest_gap_ns_, gap);
    if (mark == 0) {
      longest_gap_before_ns_ = std::max(longest_gap_before_ns_, gap);
    } else if (now > mark && last_ns_ < mark + in_flight_ns && gap > outage_gap_ns_) {
      outage_gap_ns_ = gap;
      outage_end_ns_ = now;
    }
  }
  last_ns_ = now;
  bytes_verified_ += bytes;
}

void Witness::operation(Clock::time_point begun) {
  operation_ms_.push_back(std::chrono::duration<float, std::milli>(Clock::now() - begun).count());
  ++operations_;
}

void Witness::broke(std::string reason) {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) {
    failure_ = std::move(reason);
  }
}

bool Witness::whole() const {
  const std::lock_guard lock(mutex_);
  return failure_.empty();
}

ConnectionReport Witness::report() const {
  const std::lock_guard lock(mutex_);
  ConnectionReport report{.kind = kind_,
                          .index = index_,
                          .survived = false,
                          .failure = failure_,
                          .bytes_verified = bytes_verified_,
                          .bytes_wrong = bytes_wrong_,
                          .operations = operations_,
                          .operation_ms = operation_ms_,
                          .longest_gap_ms = to_ms(longest_gap_ns_),
                          .longest_gap_before_ms = to_ms(longest_gap_before_ns_),
                          .outage_ms = std::nullopt};
  if (mark_ns_ != 0 && outage_end_ns_ > mark_ns_) {
    report.outage_ms = to_ms(outage_end_ns_ - mark_ns_);
  }
  // On a busy machine the fault may come so late after its mark that no silence counts as its own.
  const bool heard_later = last_ns_ > mark_ns_ + std::int64_t{500'000'000};
  report.survived = failure_.empty() && report.bytes_verified > 0 &&
                    (mark_ns_ == 0 || report.outage_ms.has_value() || heard_later);
  return report;
}

// --- TcpSocket -----------------------------------------------------------------------------------

Result<TcpSocket> TcpSocket::connect(const std::string& address, std::uint16_t port,
                                     std::chrono::milliseconds limit, const std::stop_token& stop) {
  BOOST_OUTCOME_TRY(const auto endpoint, endpoint_of(address, port));
  TcpSocket made;
  made.socket_.reset(
      ::socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const std::string what = fmt::format("connect to {} port {}", address, port);
  if (made.get() < 0) {
    return system_error(errno, what);
  }
  const int on = 1;
  setsockopt(made.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(made.get(), reinterpret_cast<const sockaddr*>(&endpoint.storage), endpoint.size) !=
          0 &&
      errno != EINPROGRESS) {
    return system_error(errno, what);
  }
  switch (wait_ready(made.get(), POLLOUT, Clock::now() + limit, stop)) {
    case Outcome::done:
      break;
    case Outcome::stopped:
      return fail(ErrorCode::try_again, "{}: given up", what);
    default:
      return fail(ErrorCode::timed_out, "{}: no answer within {} ms", what, limit.count());
  }
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(made.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    return system_error(error, what);
  }
  return made;
}

TcpSocket::Outcome TcpSocket::receive(std::span<char> bytes, std::size_t& size,
                                      std::chrono::milliseconds limit,
                                      const std::stop_token& stop) {
  const auto end = Clock::now() + limit;
  while (true) {
    const ssize_t received = recv(get(), bytes.data(), bytes.size(), 0);
    if (received > 0) {
      size = static_cast<std::size_t>(received);
      return Outcome::done;
    }
    if (received == 0) {
      reason_ = "closed by the other side";
      return Outcome::closed;
    }
    if (errno != EAGAIN && errno != EINTR) {
      reason_ = std::strerror(errno);
      return Outcome::closed;
    }
    const Outcome outcome = wait_ready(get(), POLLIN, end, stop);
    if (outcome != Outcome::done) {
      return outcome;
    }
  }
}

TcpSocket::Outcome TcpSocket::send(std::span<const char> bytes, std::chrono::milliseconds limit,
                                   const std::stop_token& stop) {
  const auto end = Clock::now() + limit;
  while (!bytes.empty()) {
    const ssize_t sent = ::send(get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno != EAGAIN && errno != EINTR) {
      reason_ = std::strerror(errno);
      return Outcome::closed;
    }
    const Outcome outcome = wait_ready(get(), POLLOUT, end, stop);
    if (outcome != Outcome::done) {
      return outcome;
    }
  }
  return Outcome::done;
}

TcpSocket::Outcome TcpSocket::receive_line(std::string& line, std::chrono::milliseconds limit,
                                           const std::stop_token& stop) {
  std::size_t searched = 0;
  while (true) {
    const std::size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      line.assign(buffer_, 0, end);
      buffer_.erase(0, end + 1);
      return Outcome::done;
    }
    searched = buffer_.size();
    if (searched > line_bytes_max) {
      reason_ = "a line without end";
      return Outcome::closed;
    }
    std::array<char, 16384> block;
    std::size_t size = 0;
    const Outcome outcome = receive(block, size, limit, stop);
    if (outcome != Outcome::done) {
      return outcome;
    }
    buffer_.append(block.data(), size);
  }
}

TcpSocket::Outcome TcpSocket::receive_rest(std::span<char> bytes, std::size_t& size,
                                           std::chrono::milliseconds limit,
                                           const std::stop_token& stop) {
  if (buffer_.empty()) {
    return receive(bytes, size, limit, stop);
  }
  size = buffer_.copy(bytes.data(), bytes.size());
  buffer_.erase(0, size);
  return Outcome::done;
}

// --- UdpSocket -----------------------------------------------------------------------------------

Result<UdpSocket> UdpSocket::connect(const std::string& address, std::uint16_t port) {
  BOOST_OUTCOME_TRY(const auto endpoint, endpoint_of(address, port));
  UdpSocket made;
  made.socket_.reset(
      ::socket(endpoint.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made.socket_.valid() ||
      ::connect(made.socket_.get(), reinterpret_cast<const sockaddr*>(&endpoint.storage),
                endpoint.size) != 0) {
    return system_error(errno, fmt::format("UDP to {} port {}", address, port));
  }
  return made;
}

void UdpSocket::send(std::string_view datagram) const {
  (void)::send(socket_.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL);
}

TcpSocket::Outcome UdpSocket::receive(std::string& datagram, std::chrono::milliseconds limit,
                                      const std::stop_token& stop) const {
  const auto end = Clock::now() + limit;
  datagram.resize(65536);
  while (true) {
    const ssize_t received = recv(socket_.get(), datagram.data(), datagram.size(), 0);
    if (received >= 0) {
      datagram.resize(static_cast<std::size_t>(received));
      return TcpSocket::Outcome::done;
    }
    // Whatever an ICMP error about an earlier datagram says, the next one may get through.
    if (Clock::now() > end) {
      return TcpSocket::Outcome::timed_out;
    }
    const auto outcome = wait_ready(socket_.get(), POLLIN, end, stop);
    if (outcome != TcpSocket::Outcome::done) {
      return outcome;
    }
  }
}

// --- Traffic -------------------------------------------------------------------------------------

Traffic::Traffic(std::string kind, std::uint16_t port, ClientOptions options)
    : kind_(std::move(kind)), options_(std::move(options)) {
  if (options_.port == 0) {
    options_.port = port;
  }
  for (unsigned i = 0; i < options_.connections; ++i) {
    witnesses_.push_back(std::make_unique<Witness>(kind_, i));
  }
}

Traffic::~Traffic() = default;

void Traffic::start() {
  working_ = options_.connections;
  for (unsigned i = 0; i < options_.connections; ++i) {
    threads_.emplace_back([this, i](const std::stop_token& stop) {
      struct AtEnd {
        std::atomic<unsigned>& working;
        ~AtEnd() { --working; }
      } const at_end{working_};
      Witness& witness = *witnesses_[i];
      if (!options_.network_namespace.empty()) {
        if (auto entered = enter_network_namespace(options_.network_namespace); !entered) {
          witness.broke(entered.error().message());
          return;
        }
      }
      run(i, witness, stop);
    });
  }
}

Result<void> Traffic::wait_for_progress(std::chrono::milliseconds limit, Clock::time_point since) {
  const auto end = Clock::now() + limit;
  while (true) {
    const auto waiting = std::ranges::find_if(witnesses_, [&](const auto& witness) {
      return witness->bytes() == 0 || witness->last_byte() <= since;
    });
    if (waiting == witnesses_.end()) {
      return ok();
    }
    if (!(*waiting)->whole() || Clock::now() > end) {
      const ConnectionReport report = (*waiting)->report();
      return fail(ErrorCode::timed_out, "{} connection {}: {}", kind_, report.index,
                  report.failure.empty() ? fmt::format("no byte within {} ms", limit.count())
                                         : report.failure);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void Traffic::mark(const Instant& moment) {
  for (const auto& witness : witnesses_) {
    witness->mark(moment.steady);
  }
}

Result<void> Traffic::wait_for_end(std::chrono::milliseconds limit) {
  const auto end = Clock::now() + limit;
  while (working_ > 0) {
    if (Clock::now() > end) {
      return fail(ErrorCode::timed_out, "{}: {} connections not done within {} ms", kind_,
                  working_.load(), limit.count());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return ok();
}

void Traffic::stop() {
  for (std::jthread& thread : threads_) {
    thread.request_stop();
  }
  threads_.clear();
}

void Traffic::abandon() {
  abandon_.request_stop();
  stop();
}

std::uint64_t Traffic::bytes_verified() const {
  std::uint64_t sum = 0;
  for (const auto& witness : witnesses_) {
    sum += witness->bytes();
  }
  return sum;
}

std::uint64_t Traffic::operations() const {
  std::uint64_t sum = 0;
  for (const auto& witness : witnesses_) {
    sum += witness->operations();
  }
  return sum;
}

std::vector<ConnectionReport> Traffic::report() const {
  std::vector<ConnectionReport> reports;
  reports.reserve(witnesses_.size());
  for (const auto& witness : witnesses_) {
    reports.push_back(witness->report());
  }
  return reports;
}

// --- the kinds -----------------------------------------------------------------------------------

void note(Witness& witness, const TcpSocket& socket, TcpSocket::Outcome outcome,
          std::chrono::milliseconds patience) {
  if (outcome == TcpSocket::Outcome::closed) {
    witness.broke(socket.reason());
  } else if (outcome == TcpSocket::Outcome::timed_out) {
    witness.broke(fmt::format("no answer for {} ms", patience.count()));
  }
}

StreamTraffic::StreamTraffic(ClientOptions options, std::uint64_t bytes_per_s)
    : Traffic("stream", 9001, std::move(options)), bytes_per_s_(bytes_per_s) {}

void StreamTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto connected = TcpSocket::connect(options().address, options().port, options().patience, stop);
  if (!connected) {
    witness.broke(connected.error().message());
    return;
  }
  TcpSocket& socket = connected.value();
  const std::uint64_t seed = guest::mix(static_cast<std::uint64_t>(now_ns()) ^ index);
  const std::string order = fmt::format("{} {}\n", seed, bytes_per_s_);
  auto outcome = socket.send(order, options().patience, stop);
  std::vector<char> block(65536);
  std::uint64_t position = 0;
  while (outcome == TcpSocket::Outcome::done && !stop.stop_requested()) {
    std::size_t size = 0;
    outcome = socket.receive(block, size, options().patience, stop);
    if (outcome == TcpSocket::Outcome::done) {
      const std::size_t wrong = guest::count_wrong(seed, position, {block.data(), size});
      witness.wrong(wrong);
      witness.verified(size - wrong);
      position += size;
    }
  }
  note(witness, socket, outcome, options().patience);
}

EchoTraffic::EchoTraffic(ClientOptions options, std::size_t block_bytes)
    : Traffic("echo", 7, std::move(options)), block_bytes_(block_bytes) {}

void EchoTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto connected = TcpSocket::connect(options().address, options().port, options().patience, stop);
  if (!connected) {
    witness.broke(connected.error().message());
    return;
  }
  TcpSocket& socket = connected.value();
  const std::uint64_t seed = guest::mix(static_cast<std::uint64_t>(now_ns()) ^ index);
  std::vector<char> block(block_bytes_);
  std::uint64_t position = 0;
  auto outcome = TcpSocket::Outcome::done;
  while (outcome == TcpSocket::Outcome::done && !stop.stop_requested()) {
    guest::fill_pattern(seed, position, block);
    // Once a block is begun it is seen through: a stop between a request and its answer would leave
    // open whether the connection still works.
    const auto begun = Clock::now();
    outcome = socket.send(block, options().patience, abandoned());
    for (std::size_t got = 0; outcome == TcpSocket::Outcome::done && got < block.size();) {
      std::size_t size = 0;
      outcome = socket.receive({block.data() + got, block.size() - got}, size, options().patience,
                               abandoned());
      if (outcome == TcpSocket::Outcome::done) {
        const std::size_t wrong =
            guest::count_wrong(seed, position + got, {block.data() + got, size});
        witness.wrong(wrong);
        witness.verified(size - wrong);
        got += size;
      }
    }
    if (outcome == TcpSocket::Outcome::done) {
      witness.operation(begun);
    }
    position += block.size();
  }
  note(witness, socket, outcome, options().patience);
}

HttpTraffic::HttpTraffic(ClientOptions options, std::uint64_t file_bytes, HttpSource source,
                         std::uint64_t requests)
    : Traffic("http", 80, std::move(options)),
      file_bytes_(file_bytes),
      source_(source),
      requests_(requests) {}

void HttpTraffic::run(unsigned /*index*/, Witness& witness, std::stop_token stop) {
  const std::string path = source_ == HttpSource::generated
                               ? fmt::format("/cgi-bin/pattern?{}", file_bytes_)
                           : file_bytes_ >= 1048576 ? fmt::format("/{}m.bin", file_bytes_ / 1048576)
                                                    : fmt::format("/{}k.bin", file_bytes_ / 1024);
  const std::string request =
      fmt::format("GET {} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n", path);
  const std::uint64_t seed = guest::web_file_seed(file_bytes_);
  std::vector<char> block(65536);
  for (std::uint64_t request_count = 0;
       !stop.stop_requested() && (requests_ == 0 || request_count < requests_); ++request_count) {
    const auto begun = Clock::now();
    auto connected =
        TcpSocket::connect(options().address, options().port, options().patience, abandoned());
    if (!connected) {
      witness.broke(connected.error().message());
      return;
    }
    TcpSocket& socket = connected.value();
    auto outcome = socket.send(request, options().patience, abandoned());
    std::string line;
    bool first_line = true;
    while (outcome == TcpSocket::Outcome::done) {
      outcome = socket.receive_line(line, options().patience, abandoned());
      if (outcome != TcpSocket::Outcome::done || line == "\r") {
        break;
      }
      if (first_line && line.find(" 200 ") == std::string::npos) {
        witness.broke(fmt::format("GET {}: '{}'", path, line));
      }
      first_line = false;
    }
    std::uint64_t position = 0;
    while (outcome == TcpSocket::Outcome::done) {
      std::size_t size = 0;
      outcome = socket.receive_rest(block, size, options().patience, abandoned());
      if (outcome == TcpSocket::Outcome::done) {
        const std::size_t wrong = guest::count_wrong(seed, position, {block.data(), size});
        witness.wrong(wrong);
        witness.verified(size - wrong);
        position += size;
      }
    }
    if (outcome == TcpSocket::Outcome::closed && position == file_bytes_) {
      witness.operation(begun);
    } else {
      note(witness, socket, outcome, options().patience);
      witness.broke(fmt::format("GET {}: {} of {} bytes", path, position, file_bytes_));
    }
  }
}

// --- ping ----------------------------------------------------------------------------------------

PingReport parse_ping(const std::string& output, std::optional<Instant> mark) {
  PingReport report;
  const double mark_s =
      mark ? std::chrono::duration<double>(mark->wall.time_since_epoch()).count() : 0;
  double last_s = 0;
  double outage_gap_s = 0;
  std::vector<double> round_trips_ms;
  std::istringstream lines(output);
  std::string line;
  while (std::getline(lines, line)) {
    double at_s = 0;
    const std::size_t sequence = line.find("icmp_seq=");
    const std::size_t time = line.find(" time=");
    const std::size_t summary = line.find(" packets transmitted");
    if (summary != std::string::npos) {
      report.sent = std::strtoull(line.c_str(), nullptr, 10);
    }
    if (std::sscanf(line.c_str(), "[%lf]", &at_s) != 1 || sequence == std::string::npos ||
        time == std::string::npos) {
      continue;
    }
    report.sent = std::max<std::uint64_t>(report.sent,
                                          std::strtoull(line.c_str() + sequence + 9, nullptr, 10));
    if (line.find("DUP!") != std::string::npos) {
      ++report.duplicates;
      continue;
    }
    ++report.received;
    round_trips_ms.push_back(std::strtod(line.c_str() + time + 6, nullptr));
    const double gap_s = at_s - last_s;
    if (last_s != 0) {
      report.longest_gap_ms = std::max(report.longest_gap_ms, gap_s * 1000);
      if (mark && at_s > mark_s && at_s - gap_s < mark_s + in_flight_ns / 1e9 &&
          gap_s > outage_gap_s) {
        outage_gap_s = gap_s;
        report.outage_ms = (at_s - mark_s) * 1000;
      }
    }
    last_s = at_s;
  }
  if (!round_trips_ms.empty()) {
    std::ranges::sort(round_trips_ms);
    report.round_trip_ms_median = round_trips_ms[round_trips_ms.size() / 2];
  }
  return report;
}

}  // namespace understudy::scene
