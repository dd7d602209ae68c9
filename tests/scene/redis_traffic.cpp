#include "tests/scene/redis_traffic.h"

#include <future>

#include "tests/guest/pattern.h"
#include "tests/scene/network_namespace.h"

namespace understudy::scene {
namespace {

constexpr std::uint64_t keys_kept = 100;  ///< Values of each client that are stored at a time.

std::string value_of(unsigned client, std::uint64_t count) {
  return fmt::format("{:016x}", guest::mix(std::uint64_t{client} << 40U ^ count));
}

/// Sends one command and reads its reply: an integer, a simple string or a bulk string.
TcpSocket::Outcome ask(TcpSocket& socket, const std::string& command, std::string& reply,
                       std::chrono::milliseconds patience, const std::stop_token& stop) {
  auto outcome = socket.send(command + "\r\n", patience, stop);
  if (outcome == TcpSocket::Outcome::done) {
    outcome = socket.receive_line(reply, patience, stop);
  }
  if (outcome == TcpSocket::Outcome::done && reply.starts_with('$') && reply != "$-1\r") {
    outcome = socket.receive_line(reply, patience, stop);
  }
  if (reply.ends_with('\r')) {
    reply.pop_back();
  }
  return outcome;
}

}  // namespace

RedisTraffic::RedisTraffic(ClientOptions options, unsigned first_client)
    : Traffic("redis", 6379, std::move(options)), first_client_(first_client) {
  acknowledged_.resize(this->options().connections);
}

void RedisTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto connected = TcpSocket::connect(options().address, options().port, options().patience, stop);
  if (!connected) {
    witness.broke(connected.error().message());
    return;
  }
  TcpSocket& socket = connected.value();
  const unsigned client = first_client_ + index;
  std::string reply;
  auto outcome = TcpSocket::Outcome::done;
  /// One operation; its reply must be `expected`.
  const auto operation = [&](const std::string& command, const std::string& expected) {
    if (outcome != TcpSocket::Outcome::done) {
      return false;
    }
    const auto begun = Clock::now();
    outcome = ask(socket, command, reply, options().patience, abandoned());
    if (outcome != TcpSocket::Outcome::done) {
      return false;
    }
    if (reply != expected) {
      witness.wrong(reply.size());
      witness.broke(fmt::format("{}: '{}' instead of '{}'", command, reply, expected));
      outcome = TcpSocket::Outcome::stopped;
      return false;
    }
    witness.verified(reply.size());
    witness.operation(begun);
    return true;
  };
  while (outcome == TcpSocket::Outcome::done && !stop.stop_requested()) {
    const std::uint64_t count = acknowledged_[index] + 1;
    if (!operation(fmt::format("INCR count:{}", client), fmt::format(":{}", count))) {
      break;
    }
    acknowledged_[index] = count;
    operation(fmt::format("SET value:{}:{} {}", client, count % keys_kept, value_of(client, count)),
              "+OK");
    const std::uint64_t earlier = count - count % 7 % count;
    operation(fmt::format("GET value:{}:{}", client, earlier % keys_kept),
              value_of(client, earlier));
  }
  note(witness, socket, outcome, options().patience);
}

Result<void> RedisTraffic::audit() const {
  auto work = std::async(std::launch::async, [this]() -> Result<void> {
    if (!options().network_namespace.empty()) {
      BOOST_OUTCOME_TRY(enter_network_namespace(options().network_namespace));
    }
    BOOST_OUTCOME_TRY(auto socket,
                      TcpSocket::connect(options().address, options().port, options().patience));
    for (unsigned index = 0; index < acknowledged_.size(); ++index) {
      std::string reply;
      if (ask(socket, fmt::format("GET count:{}", first_client_ + index), reply, options().patience,
              {}) != TcpSocket::Outcome::done) {
        return fail(ErrorCode::unavailable, "redis does not answer: {}", socket.reason());
      }
      const std::uint64_t count = acknowledged_[index];
      if (reply != std::to_string(count) && reply != std::to_string(count + 1)) {
        return fail(ErrorCode::bad_data, "redis client {}: {} acknowledged, the counter says '{}'",
                    first_client_ + index, count, reply);
      }
    }
    return ok();
  });
  return work.get();
}

}  // namespace understudy::scene
