// How long a transfer takes when no host, one host and two hosts die under it, one after another,
// beside the figures that Dasgupta et al. published for their system (High availability using
// virtualization), whose clients have to connect again.
//
//   bench_transfer FILE [REPEATS [SECONDS]]     writes the figures as JSON to FILE
//
// Three hosts; each death is SIGKILL to all processes of the host where the domain runs, and what
// comes after it (promotion, protection to the next host) happens by itself. The network to the
// clients is as slow as it has to be for each transfer to take SECONDS without a fault: the faults
// of a megabyte have to find it under way, too. So the seconds themselves do not compare with the
// published ones; what one fault adds does.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <memory>
#include <thread>

#include "bench/figures/command.h"
#include "bench/figures/figures.h"
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/json_fields.h"
#include "tests/scene/scene.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::Clock;
using scene::Direction;
using scene::HostId;
using scene::Scene;

constexpr std::uint64_t kMegabyte = 1'000'000;
constexpr unsigned kFaultsMax = 2;

/// A row of the published table: seconds with 0, 1 and 2 faults.
struct Published {
  std::uint64_t bytes;
  Direction direction;
  double seconds[kFaultsMax + 1];
};
constexpr Published kPublished[] = {
    {1 * kMegabyte, Direction::down, {2.5, 27.1, 55.7}},
    {5 * kMegabyte, Direction::down, {12.0, 37.0, 64.3}},
    {20 * kMegabyte, Direction::down, {40.2, 64.8, 92.7}},
    {100 * kMegabyte, Direction::down, {196.0, 222.4, 248.5}},
    {1 * kMegabyte, Direction::up, {3.5, 27.5, 56.7}},
    {5 * kMegabyte, Direction::up, {13.5, 37.6, 66.1}},
    {20 * kMegabyte, Direction::up, {43.1, 67.0, 96.1}},
    {100 * kMegabyte, Direction::up, {200.0, 224.4, 253.7}},
};

std::string name_of(const Published& row) {
  return fmt::format("{} MB {}", row.bytes / kMegabyte,
                     row.direction == Direction::down ? "down" : "up");
}

/// The three hosts, and where the domain is.
class Stage {
 public:
  static Result<std::unique_ptr<Stage>> build() {
    auto options = scene::options_from_environment();
    options.tag = "bench";
    options.hosts = 3;
    BOOST_OUTCOME_TRY(auto scene, Scene::build(std::move(options)));
    BOOST_OUTCOME_TRY(scene->start_guest());
    scene::Protection protection;
    protection.to = "hostB,hostC";
    BOOST_OUTCOME_TRY(scene->protect(protection));
    return std::unique_ptr<Stage>(new Stage(std::move(scene)));
  }

  [[nodiscard]] Scene& scene() { return *scene_; }

  /// Both directions of the clients' network take so many octets a second.
  Result<void> slow_down(std::uint64_t bytes_per_s) {
    const auto shape = [&](const std::string& network, const std::string& device) {
      return scene::run_checked({"tc", "-n", network, "qdisc", "replace", "dev", device, "root",
                                 "tbf", "rate", fmt::format("{}bit", bytes_per_s * 8), "burst",
                                 "64kb", "latency", "400ms"});
    };
    for (const HostId host : scene_->hosts()) {
      const char letter = static_cast<char>('a' + static_cast<int>(host));
      BOOST_OUTCOME_TRY(shape(scene_->host_namespace(host), "up0"));
      BOOST_OUTCOME_TRY(shape(scene_->client_namespace(), fmt::format("port-{}", letter)));
    }
    return ok();
  }

  /// Waits until the domain is protected, wherever it runs.
  Result<void> wait_until_protected() {
    const auto end = Clock::now() + 180s;
    while (Clock::now() < end) {
      for (const HostId host : scene_->hosts()) {
        if (is_dead(host)) continue;
        const auto domain = scene_->domain(host);
        if (domain && scene::text_at(domain.value(), "role") == "primary" &&
            scene::text_at(domain.value(), "state") == "protected") {
          primary_ = host;
          return ok();
        }
      }
      std::this_thread::sleep_for(50ms);
    }
    return fail(ErrorCode::timed_out, "the domain is not protected again:\n{}", scene_->logs(60));
  }

  Result<void> kill_primary() {
    BOOST_OUTCOME_TRY(scene_->kill_host(primary_));
    dead_.push_back(primary_);
    return ok();
  }

  /// The dead come back, and wait to be the next backup.
  Result<void> raise_the_dead() {
    for (const HostId host : dead_) {
      BOOST_OUTCOME_TRY(scene_->start_agent(host));
    }
    dead_.clear();
    return ok();
  }

 private:
  explicit Stage(std::unique_ptr<Scene> scene) : scene_(std::move(scene)) {}
  [[nodiscard]] bool is_dead(HostId host) const {
    return std::ranges::find(dead_, host) != dead_.end();
  }

  std::unique_ptr<Scene> scene_;
  HostId primary_ = HostId::a;
  std::vector<HostId> dead_;
};

/// One transfer on one connection, with so many faults in its midst; its seconds.
Result<double> measure(Stage& stage, const Published& row, unsigned faults,
                       std::chrono::seconds time) {
  BOOST_OUTCOME_TRY(stage.raise_the_dead());
  BOOST_OUTCOME_TRY(stage.wait_until_protected());
  BOOST_OUTCOME_TRY(stage.slow_down(row.bytes / static_cast<std::uint64_t>(time.count())));
  scene::BulkTraffic transfer(stage.scene().client_options(1), row.direction, row.bytes);
  const auto begun = Clock::now();
  transfer.start();
  for (unsigned fault = 1; fault <= faults; ++fault) {
    std::this_thread::sleep_until(begun + time * fault / (faults + 1));
    BOOST_OUTCOME_TRY(stage.wait_until_protected());
    if (transfer.wait_for_end(1ms)) {
      return fail(ErrorCode::failed, "{} was over before fault {}: give it more seconds",
                  name_of(row), fault);
    }
    BOOST_OUTCOME_TRY(stage.kill_primary());
  }
  BOOST_OUTCOME_TRY(transfer.wait_for_end(300s));
  const auto end = Clock::now();
  transfer.stop();
  const auto report = transfer.report().front();
  if (!report.failure.empty() || report.bytes_wrong > 0 || report.bytes_verified < row.bytes) {
    return fail(ErrorCode::failed, "{} with {} faults: {}; {} octets wrong, {} of {} right",
                name_of(row), faults, report.failure, report.bytes_wrong, report.bytes_verified,
                row.bytes);
  }
  return std::chrono::duration<double>(end - begun).count();
}

Result<json::object> run(unsigned repeats, std::chrono::seconds time) {
  BOOST_OUTCOME_TRY(const auto stage, Stage::build());
  std::map<std::string, Figures> figures;
  for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
    for (const Published& row : kPublished) {
      double without = 0;
      for (unsigned faults = 0; faults <= kFaultsMax; ++faults) {
        BOOST_OUTCOME_TRY(const double seconds, measure(*stage, row, faults, time));
        Figures& seen = figures[name_of(row)];
        seen[fmt::format("faults_{}_s", faults)].add(seconds);
        if (faults == 0) {
          without = seconds;
        } else {
          seen["one_fault_adds_s"].add((seconds - without) / faults);
        }
        fmt::print(stderr, "repeat {} {:<11} {} faults: {:.2f} s\n", repeat, name_of(row), faults,
                   seconds);
      }
    }
  }
  json::array list;
  for (const Published& row : kPublished) {
    list.push_back({{"name", name_of(row)},
                    {"bytes", row.bytes},
                    {"figures", to_json(figures[name_of(row)])},
                    {"published_s", json::array{row.seconds[0], row.seconds[1], row.seconds[2]}}});
  }
  return json::object{{"schema", 1},
                      {"repeats", repeats},
                      {"seconds_each", time.count()},
                      {"transfers", std::move(list)}};
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  using namespace understudy::bench;
  return run_benchmark(
      {.name = "bench_transfer", .repeats = 1, .time = std::chrono::seconds(12), .run = run},
      argument_count, arguments);
}
