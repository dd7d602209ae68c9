#include "bench/figures/command.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <string>

#include "bench/figures/figures.h"

namespace understudy::bench {

int run_benchmark(const Benchmark& benchmark, int argument_count, char** arguments) {
  if (argument_count < 2) {
    fmt::print(stderr, "usage: {} FILE [REPEATS [SECONDS]]\n", benchmark.name);
    return 64;
  }
  const unsigned repeats =
      argument_count > 2 ? static_cast<unsigned>(std::stoul(arguments[2])) : benchmark.repeats;
  const std::chrono::seconds time =
      argument_count > 3 ? std::chrono::seconds(std::stol(arguments[3])) : benchmark.time;
  auto figures = benchmark.run(repeats, time);
  if (!figures) {
    fmt::print(stderr, "{}: {}\n", benchmark.name, figures.error().message());
    return 1;
  }
  if (auto written = write_json(arguments[1], figures.value()); !written) {
    fmt::print(stderr, "{}: {}\n", benchmark.name, written.error().message());
    return 1;
  }
  return 0;
}

}  // namespace understudy::bench
