// The command line that benchmarks share: NAME FILE [REPEATS [SECONDS]].
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <functional>

#include "base/result.h"

namespace understudy::bench {

/// One benchmark, as a program.
struct Benchmark {
  const char* name;              ///< Of the program, for messages.
  unsigned repeats = 5;          ///< Where the command line does not say.
  std::chrono::seconds time{3};  ///< For one measurement; likewise.
  /// Measures, and returns what is to be written.
  std::function<Result<boost::json::object>(unsigned repeats, std::chrono::seconds time)> run;
};

/// Reads the arguments, measures, writes the file. Returns the exit status, after a message on
/// stderr where it is not 0.
int run_benchmark(const Benchmark& benchmark, int argument_count, char** arguments);

}  // namespace understudy::bench
