#include "tests/scene/computation.h"

#include <cstdio>
#include <future>

#include "tests/guest/computation.h"
#include "tests/scene/network_namespace.h"

namespace understudy::scene {

Result<ComputationReport> compute_in_guest(const ClientOptions& options, std::uint64_t rounds) {
  auto work = std::async(std::launch::async, [&]() -> Result<ComputationReport> {
    if (!options.network_namespace.empty()) {
      BOOST_OUTCOME_TRY(enter_network_namespace(options.network_namespace));
    }
    constexpr std::uint16_t port = 9005;
    BOOST_OUTCOME_TRY(auto socket, TcpSocket::connect(options.address, port, options.patience));
    const auto begun = Clock::now();
    const auto seed = static_cast<std::uint64_t>(begun.time_since_epoch().count());
    std::string line;
    if (socket.send(fmt::format("C {} {}\n", rounds, seed), options.patience, {}) !=
            TcpSocket::Outcome::done ||
        socket.receive_line(line, options.patience, {}) != TcpSocket::Outcome::done) {
      return fail(ErrorCode::unavailable, "the computation does not answer: {}", socket.reason());
    }
    const auto ended = Clock::now();
    const std::string expected =
        fmt::format("C {} {} {} ", rounds, seed, guest::compute(rounds, seed));
    if (!line.starts_with(expected)) {
      return fail(ErrorCode::bad_data, "the computation said '{}' instead of '{}…'", line,
                  expected);
    }
    return ComputationReport{
        .outside_ms = std::chrono::duration<double, std::milli>(ended - begun).count(),
        .inside_ms = std::strtod(line.c_str() + expected.size(), nullptr) / 1000};
  });
  return work.get();
}

}  // namespace understudy::scene
