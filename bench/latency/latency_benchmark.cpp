// What protection costs a client: latency and throughput of httpd and ledger, unprotected and in
// remus mode at 10, 25 and 100 ms, side by side in one run with the same guest. Modes take turns.
//
//   bench_latency FILE [REPEATS [SECONDS]]     writes the figures as JSON to FILE
//
// Single requests are asked one at a time on one connection: what a client waits. Throughput is
// what many connections get together; there a held answer costs time, but no work.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>

#include "bench/figures/command.h"
#include "bench/figures/figures.h"
#include "bench/figures/measure_traffic.h"
#include "tests/scene/scene.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::HostId;
using scene::Scene;

struct Mode {
  std::string name;
  std::string interval;  ///< Empty: unprotected.
};

const std::vector<Mode>& modes() {
  static const std::vector<Mode> all = {{"unprotected", ""},
                                        {"remus-10ms", "10ms"},
                                        {"remus-25ms", "25ms"},
                                        {"remus-100ms", "100ms"}};
  return all;
}

Result<void> measure_mode(Scene& scene, const Mode& mode, std::chrono::seconds time,
                          Figures& figures) {
  if (!mode.interval.empty()) {
    BOOST_OUTCOME_TRY(scene.protect({.interval = mode.interval}));
  }
  // The ledger's clients must be new to it.
  static std::uint32_t next_client = 0;
  const auto ledger = [&](unsigned connections) {
    next_client += connections;
    return std::make_unique<scene::LedgerTraffic>(scene.client_options(connections),
                                                  next_client - connections);
  };
  BOOST_OUTCOME_TRY(measure_traffic(*ledger(1), "ledger_1", time, figures));
  BOOST_OUTCOME_TRY(measure_traffic(*ledger(16), "ledger_16", time, figures));
  scene::HttpTraffic http_one(scene.client_options(1), 4096);
  BOOST_OUTCOME_TRY(measure_traffic(http_one, "http_4k_1", time, figures));
  scene::HttpTraffic http_many(scene.client_options(8), 4096);
  BOOST_OUTCOME_TRY(measure_traffic(http_many, "http_4k_8", time, figures));
  scene::HttpTraffic http_big(scene.client_options(2), 1048576);
  BOOST_OUTCOME_TRY(measure_traffic(http_big, "http_1m_2", time, figures));
  if (!mode.interval.empty()) {
    BOOST_OUTCOME_TRY(scene.understudy_checked(HostId::a, {"unprotect", "web1"}));
  }
  return ok();
}

Result<json::object> run(unsigned repeats, std::chrono::seconds time) {
  auto options = scene::options_from_environment();
  options.tag = "bench";
  BOOST_OUTCOME_TRY(const auto scene, Scene::build(std::move(options)));
  BOOST_OUTCOME_TRY(scene->start_guest());
  std::map<std::string, Figures> figures;
  for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
    for (const Mode& mode : modes()) {
      if (auto measured = measure_mode(*scene, mode, time, figures[mode.name]); !measured) {
        fmt::print(stderr, "{}\n", scene->logs(400));
        return measured.error();
      }
      Figures& seen = figures[mode.name];
      fmt::print(stderr,
                 "repeat {} {:<12} ledger {:6.1f} ms, {:6.0f}/s   http {:6.1f} ms, {:5.0f}/s, "
                 "{:.1f} MB/s\n",
                 repeat, mode.name, seen["ledger_1_ms_p50"].median(),
                 seen["ledger_16_per_s"].median(), seen["http_4k_1_ms_p50"].median(),
                 seen["http_4k_8_per_s"].median(), seen["http_1m_2_mb_per_s"].median());
    }
  }
  json::array list;
  for (const Mode& mode : modes()) {
    json::object ratios;
    for (auto& [name, series] : figures[mode.name]) {
      const double base = figures["unprotected"][name].median();
      if (base > 0) ratios[name] = std::round(series.median() / base * 1000) / 1000;
    }
    list.push_back({{"name", mode.name},
                    {"interval", mode.interval},
                    {"figures", to_json(figures[mode.name])},
                    {"ratio_to_unprotected", std::move(ratios)}});
  }
  return json::object{{"schema", 1},
                      {"repeats", repeats},
                      {"seconds_each", time.count()},
                      {"modes", std::move(list)}};
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  using namespace understudy::bench;
  return run_benchmark(
      {.name = "bench_latency", .repeats = 5, .time = std::chrono::seconds(3), .run = run},
      argument_count, arguments);
}
