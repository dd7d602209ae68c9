#include "bench/figures/measure_traffic.h"

#include <thread>

namespace understudy::bench {

Result<void> measure_traffic(scene::Traffic& traffic, const std::string& name,
                             std::chrono::seconds time, Figures& figures) {
  traffic.start();
  BOOST_OUTCOME_TRY(traffic.wait_for_progress(std::chrono::seconds(30)));
  const std::uint64_t bytes_before = traffic.bytes_verified();
  const std::uint64_t operations_before = traffic.operations();
  const auto begun = scene::Clock::now();
  std::this_thread::sleep_for(time);
  const double seconds = std::chrono::duration<double>(scene::Clock::now() - begun).count();
  const auto bytes = static_cast<double>(traffic.bytes_verified() - bytes_before);
  const auto operations = static_cast<double>(traffic.operations() - operations_before);
  traffic.stop();
  std::vector<float> latencies;
  for (const auto& report : traffic.report()) {
    if (!report.survived || report.bytes_wrong > 0)
      return fail(ErrorCode::failed, "{}: {}", name, report.failure);
    latencies.insert(latencies.end(), report.operation_ms.begin(), report.operation_ms.end());
  }
  figures[name + "_per_s"].add(operations / seconds);
  figures[name + "_mb_per_s"].add(bytes / seconds / 1e6);
  figures[name + "_ms_p50"].add(percentile(latencies, 0.50));
  figures[name + "_ms_p99"].add(percentile(latencies, 0.99));
  return ok();
}

}  // namespace understudy::bench
