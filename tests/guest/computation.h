// A fixed piece of work for the guest's processor, on request. Port 9005.
//
//   C ROUNDS SEED  →  C ROUNDS SEED RESULT DURATION_US      by the guest's own clock
//
// The guest's clock stands still while the guest does: who wants to know what pauses cost takes the
// time outside.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <ctime>
#include <string>

#include "tests/guest/pattern.h"
#include "tests/guest/server.h"

namespace understudy::guest {

constexpr std::uint64_t computation_rounds_max = 100'000'000'000;

/// What `rounds` rounds from `seed` come to.
constexpr std::uint64_t compute(std::uint64_t rounds, std::uint64_t seed) {
  std::uint64_t value = seed;
  for (std::uint64_t i = 0; i < rounds; ++i) {
    value = mix(value ^ i);
  }
  return value;
}

class Computation final : public Service {
 public:
  bool consume(Connection& connection) override {
    std::size_t end = 0;
    while ((end = connection.input.find('\n')) != std::string::npos) {
      std::uint64_t rounds = 0;
      std::uint64_t seed = 0;
      if (std::sscanf(connection.input.c_str(), "C %" SCNu64 " %" SCNu64, &rounds, &seed) != 2 ||
          rounds > computation_rounds_max) {
        return false;
      }
      connection.input.erase(0, end + 1);
      timespec begun = {};
      timespec ended = {};
      clock_gettime(CLOCK_MONOTONIC, &begun);
      const std::uint64_t result = compute(rounds, seed);
      clock_gettime(CLOCK_MONOTONIC, &ended);
      const std::int64_t us =
          (ended.tv_sec - begun.tv_sec) * 1'000'000 + (ended.tv_nsec - begun.tv_nsec) / 1000;
      connection.output += "C " + std::to_string(rounds) + " " + std::to_string(seed) + " " +
                           std::to_string(result) + " " + std::to_string(us) + "\n";
    }
    return true;
  }
};

}  // namespace understudy::guest
