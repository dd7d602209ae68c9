#include "tests/scene/bulk_traffic.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>

#include "tests/guest/pattern.h"

namespace understudy::scene {
namespace {

constexpr std::size_t block_bytes = 65536;

/// True if a byte can be received right now.
bool readable(const TcpSocket& socket) {
  pollfd event = {socket.get(), POLLIN, 0};
  return poll(&event, 1, 0) > 0;
}

}  // namespace

BulkTraffic::BulkTraffic(ClientOptions options, Direction direction, std::uint64_t bytes)
    : Traffic(direction == Direction::down ? "bulk down" : "bulk up", 9003, std::move(options)),
      direction_(direction),
      bytes_(bytes) {}

void BulkTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto connected = TcpSocket::connect(options().address, options().port, options().patience, stop);
  if (!connected) {
    witness.broke(connected.error().message());
    return;
  }
  TcpSocket& socket = connected.value();
  const auto begun = Clock::now();
  const std::uint64_t seed =
      guest::mix(static_cast<std::uint64_t>(begun.time_since_epoch().count()) ^ index);
  auto outcome = socket.send(
      fmt::format("{} {} {}\n", direction_ == Direction::down ? 'G' : 'P', seed, bytes_),
      options().patience, stop);
  if (outcome == TcpSocket::Outcome::done) {
    outcome = direction_ == Direction::down ? receive_all(socket, seed, witness, stop)
                                            : send_all(socket, seed, witness, stop);
  }
  if (outcome == TcpSocket::Outcome::done) {
    witness.operation(begun);
  }
  note(witness, socket, outcome, options().patience);
}

TcpSocket::Outcome BulkTraffic::receive_all(TcpSocket& socket, std::uint64_t seed, Witness& witness,
                                            const std::stop_token& stop) const {
  std::vector<char> block(block_bytes);
  std::uint64_t position = 0;
  auto outcome = TcpSocket::Outcome::done;
  while (outcome == TcpSocket::Outcome::done && position < bytes_) {
    // A socket that always has something never waits, and so never looks.
    if (stop.stop_requested()) {
      return TcpSocket::Outcome::stopped;
    }
    std::size_t size = 0;
    outcome = socket.receive(block, size, options().patience, stop);
    if (outcome == TcpSocket::Outcome::done) {
      const std::size_t wrong = guest::count_wrong(seed, position, {block.data(), size});
      witness.wrong(wrong);
      witness.verified(size - wrong);
      position += size;
    }
  }
  return outcome;
}

TcpSocket::Outcome BulkTraffic::send_all(TcpSocket& socket, std::uint64_t seed, Witness& witness,
                                         const std::stop_token& stop) const {
  std::vector<char> block(block_bytes);
  std::uint64_t sent = 0;
  std::uint64_t confirmed = 0;
  std::uint64_t wrong = 0;
  std::string line;
  while (true) {
    if (stop.stop_requested()) {
      return TcpSocket::Outcome::stopped;
    }
    auto outcome = TcpSocket::Outcome::done;
    if (sent < bytes_) {
      const std::size_t size = std::min<std::uint64_t>(block.size(), bytes_ - sent);
      guest::fill_pattern(seed, sent, {block.data(), size});
      outcome = socket.send({block.data(), size}, options().patience, stop);
      sent += size;
    }
    while (outcome == TcpSocket::Outcome::done && (sent == bytes_ || readable(socket))) {
      outcome = socket.receive_line(line, options().patience, stop);
      if (outcome != TcpSocket::Outcome::done) {
        break;
      }
      char kind = '\0';
      unsigned long long position = 0;
      unsigned long long wrong_there = 0;
      if (std::sscanf(line.c_str(), "%c %llu %llu", &kind, &position, &wrong_there) != 3 ||
          position <= confirmed || position > sent || wrong_there < wrong ||
          (kind == '=') != (position == bytes_)) {
        witness.wrong(line.size());
        witness.broke(fmt::format("'{}' after {} bytes of {}", line, confirmed, bytes_));
        return TcpSocket::Outcome::stopped;
      }
      witness.wrong(wrong_there - wrong);
      witness.verified(position - confirmed);
      wrong = wrong_there;
      confirmed = position;
      if (confirmed == bytes_) {
        return TcpSocket::Outcome::done;
      }
    }
    if (outcome != TcpSocket::Outcome::done) {
      return outcome;
    }
  }
}

UploadTraffic::UploadTraffic(ClientOptions options, std::uint64_t file_bytes,
                             std::uint64_t requests)
    : Traffic("upload", 80, std::move(options)), file_bytes_(file_bytes), requests_(requests) {}

void UploadTraffic::run(unsigned /*index*/, Witness& witness, std::stop_token stop) {
  const std::string head = fmt::format(
      "POST /cgi-bin/count HTTP/1.1\r\nHost: guest\r\nContent-Type: application/octet-stream\r\n"
      "Content-Length: {}\r\nConnection: close\r\n\r\n",
      file_bytes_);
  const std::string expected = fmt::format("{} 0", file_bytes_);
  const std::uint64_t seed = guest::web_file_seed(file_bytes_);
  std::vector<char> block(block_bytes);
  for (std::uint64_t request = 0; !stop.stop_requested() && (requests_ == 0 || request < requests_);
       ++request) {
    const auto begun = Clock::now();
    auto connected =
        TcpSocket::connect(options().address, options().port, options().patience, abandoned());
    if (!connected) {
      witness.broke(connected.error().message());
      return;
    }
    TcpSocket& socket = connected.value();
    auto outcome = socket.send(head, options().patience, abandoned());
    for (std::uint64_t sent = 0; outcome == TcpSocket::Outcome::done && sent < file_bytes_;) {
      const std::size_t size = std::min<std::uint64_t>(block.size(), file_bytes_ - sent);
      guest::fill_pattern(seed, sent, {block.data(), size});
      outcome = socket.send({block.data(), size}, options().patience, abandoned());
      sent += size;
    }
    std::string line;
    std::string last;
    bool fine = true;
    for (bool first = true; outcome == TcpSocket::Outcome::done; first = false) {
      outcome = socket.receive_line(line, options().patience, abandoned());
      if (outcome == TcpSocket::Outcome::done) {
        fine = fine && (!first || line.find(" 200 ") != std::string::npos);
        last = line;
      }
    }
    if (outcome == TcpSocket::Outcome::closed && fine && last == expected) {
      witness.verified(file_bytes_);
      witness.operation(begun);
      continue;
    }
    note(witness, socket, outcome, options().patience);
    witness.broke(fmt::format("upload of {} bytes: '{}'", file_bytes_, last));
    if (outcome != TcpSocket::Outcome::closed) {
      return;
    }
    if (last != expected && !last.empty()) {
      witness.wrong(1);
    }
  }
}

}  // namespace understudy::scene
