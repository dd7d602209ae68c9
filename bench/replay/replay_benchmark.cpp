// What replay mode costs and what it gives: unprotected, remus mode at 10, 25 and 100 ms, replay
// mode with a checkpoint every second and every five, side by side in one run with the same guest.
// Modes take turns, so that a change of the machine's mood meets all of them.
//
//   bench_replay FILE [REPEATS [SECONDS]]     writes the figures as JSON to FILE
//
// First what clients get while nothing goes wrong: small requests one at a time, throughput of many
// connections, bulk data, a fixed computation. Then what they see of a kill under load, each with a
// scene of its own, shortly before the next checkpoint, when the log is longest. A mode that this
// build refuses is left out, and the file says so.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <thread>

#include "bench/figures/command.h"
#include "bench/figures/figures.h"
#include "bench/figures/measure_traffic.h"
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/computation.h"
#include "tests/scene/datagram_traffic.h"
#include "tests/scene/json_fields.h"
#include "tests/scene/redis_traffic.h"
#include "tests/scene/replay_fields.h"
#include "tests/scene/scene.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::Clock;
using scene::HostId;
using scene::Protection;
using scene::Scene;

constexpr std::uint64_t kEndless = std::uint64_t{1} << 40U;  // more than any measurement moves
constexpr std::uint64_t kRounds = 60'000'000;                // one or two seconds, emulated

struct Mode {
  std::string name;
  std::optional<Protection> protection;
  std::chrono::milliseconds interval{};
  bool killed = false;  ///< Kills are measured in this mode, too.
};

const std::vector<Mode>& modes() {
  static const std::vector<Mode> all = {
      {"unprotected", std::nullopt},
      {"remus-10ms", Protection{.mode = "remus", .interval = "10ms"}, 10ms},
      {"remus-25ms", Protection{.mode = "remus", .interval = "25ms"}, 25ms, true},
      {"remus-100ms", Protection{.mode = "remus", .interval = "100ms"}, 100ms},
      {"replay-1s", Protection{.mode = "replay", .interval = "1s"}, 1s, true},
      {"replay-5s", Protection{.mode = "replay", .interval = "5s"}, 5s, true},
  };
  return all;
}

scene::SceneOptions scene_options() {
  auto options = scene::options_from_environment();
  options.tag = "bench";
  options.initramfs = "initramfs-redis.gz";
  return options;
}

/// The clients of the ledger, of redis and of the register of names must be new to them.
std::uint32_t next_client(std::uint32_t connections) {
  static std::uint32_t next = 0;
  next += connections;
  return next - connections;
}
std::uint32_t next_name() {
  static std::uint32_t next = 0;
  return next++;
}

// --- while nothing goes wrong --------------------------------------------------------------------

/// Octets over an interface of host A, both ways.
Result<double> octets_over(const Scene& scene, const std::string& interface) {
  BOOST_OUTCOME_TRY(const std::string text,
                    scene::run_checked({"ip", "-n", scene.host_namespace(HostId::a), "-s", "-j",
                                        "link", "show", interface}));
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (error || !value.is_array() || value.get_array().empty()) {
    return fail(ErrorCode::bad_data, "ip says about {}: {}", interface, text);
  }
  const json::object& statistics = scene::object_at(value.get_array()[0].as_object(), "stats64");
  return scene::number_at(scene::object_at(statistics, "rx"), "bytes") +
         scene::number_at(scene::object_at(statistics, "tx"), "bytes");
}

/// What has gone over host A's networks, and the log's part of it.
struct LinkTraffic {
  double client = 0;
  double replication = 0;
  std::optional<scene::ReplayStatus> replay;

  static Result<LinkTraffic> look(Scene& scene, const Mode& mode) {
    LinkTraffic seen;
    BOOST_OUTCOME_TRY(seen.client, octets_over(scene, "up0"));
    BOOST_OUTCOME_TRY(seen.replication, octets_over(scene, "repl"));
    if (mode.protection) {
      BOOST_OUTCOME_TRY(const json::object domain, scene.domain(HostId::a));
      seen.replay = scene::replay_status_of(domain);
    }
    return seen;
  }
};

/// measure_traffic, and what it put on the link.
Result<void> measure_with_link(Scene& scene, const Mode& mode, scene::Traffic& traffic,
                               const std::string& name, std::chrono::seconds time,
                               Figures& figures) {
  BOOST_OUTCOME_TRY(const LinkTraffic before, LinkTraffic::look(scene, mode));
  BOOST_OUTCOME_TRY(measure_traffic(traffic, name, time, figures));
  BOOST_OUTCOME_TRY(const LinkTraffic after, LinkTraffic::look(scene, mode));
  const auto requests = static_cast<double>(traffic.operations());
  const double client = after.client - before.client;
  if (requests > 0) {
    figures[name + "_client_bytes_per_request"].add(client / requests);
    figures[name + "_link_bytes_per_request"].add((after.replication - before.replication) /
                                                  requests);
  }
  if (before.replay && after.replay && requests > 0 && client > 0) {
    const auto log = static_cast<double>(after.replay->sent_bytes - before.replay->sent_bytes);
    figures[name + "_log_bytes_per_request"].add(log / requests);
    figures[name + "_log_share_of_client_traffic"].add(log / client);
  }
  return ok();
}

Result<void> measure_mode(Scene& scene, const Mode& mode, std::chrono::seconds time,
                          Figures& figures) {
  if (mode.protection) {
    BOOST_OUTCOME_TRY(scene.protect(*mode.protection));
  }
  const auto client = [&](unsigned connections) { return scene.client_options(connections); };
  {
    scene::LedgerTraffic ledger(client(1), next_client(1));
    BOOST_OUTCOME_TRY(measure_with_link(scene, mode, ledger, "ledger_1", time, figures));
    scene::EchoTraffic echo(client(1), 64);
    BOOST_OUTCOME_TRY(measure_traffic(echo, "echo_1", time, figures));
    scene::NamesTraffic names(client(1), next_name(), 1000ms);
    BOOST_OUTCOME_TRY(measure_traffic(names, "udp_1", time, figures));
  }
  {
    scene::LedgerTraffic ledger(client(16), next_client(16));
    BOOST_OUTCOME_TRY(measure_with_link(scene, mode, ledger, "ledger_16", time, figures));
    scene::HttpTraffic http(client(8), 4096);
    BOOST_OUTCOME_TRY(measure_with_link(scene, mode, http, "http_4k_8", time, figures));
    scene::HttpTraffic large(client(2), 1048576);
    BOOST_OUTCOME_TRY(measure_traffic(large, "http_1m_2", time, figures));
    scene::RedisTraffic redis(client(16), next_client(16));
    BOOST_OUTCOME_TRY(measure_with_link(scene, mode, redis, "redis_16", time, figures));
  }
  {
    scene::BulkTraffic down(client(1), scene::Direction::down, kEndless);
    BOOST_OUTCOME_TRY(measure_traffic(down, "bulk_down", time, figures));
    scene::BulkTraffic up(client(1), scene::Direction::up, kEndless);
    BOOST_OUTCOME_TRY(measure_traffic(up, "bulk_up", time, figures));
  }
  auto patient = client(1);
  patient.patience = 120s;  // on a busy machine, with many pauses
  BOOST_OUTCOME_TRY(const auto computed, scene::compute_in_guest(patient, kRounds));
  figures["computation_per_s"].add(1000 / computed.outside_ms);
  figures["computation_ms"].add(computed.outside_ms);
  if (mode.protection) {
    BOOST_OUTCOME_TRY(const json::object domain, scene.domain(HostId::a));
    const json::object& pause = scene::object_at(domain, "pause_ms");
    figures["pause_ms_p50"].add(scene::number_at(pause, "p50"));
    figures["pause_ms_p99"].add(scene::number_at(pause, "p99"));
    if (const auto replay = scene::replay_status_of(domain)) {
      figures["inputs_dropped"].add(static_cast<double>(replay->inputs_dropped));
    }
    BOOST_OUTCOME_TRY(scene.understudy_checked(HostId::a, {"unprotect", "web1"}));
  }
  return ok();
}

// --- a kill under load ---------------------------------------------------------------------------

constexpr std::chrono::seconds kBefore = 4s;  ///< Of the latency over time: before the kill …
constexpr std::chrono::seconds kAfter = 4s;   ///< … and after it.

/// Waits for a commit, and then until shortly before the next one: the log is longest then.
Result<void> wait_for_a_long_log(Scene& scene, const Mode& mode) {
  if (!mode.protection) {
    return ok();
  }
  const auto committed = [&]() -> Result<double> {
    BOOST_OUTCOME_TRY(const json::object domain, scene.domain(HostId::a));
    return scene::number_at(domain, "committed_epoch");
  };
  BOOST_OUTCOME_TRY(const double before, committed());
  const auto end = Clock::now() + 30s;
  for (double now = before; now == before;) {
    if (Clock::now() > end) {
      return fail(ErrorCode::timed_out, "{}: no commit within 30 s", mode.name);
    }
    std::this_thread::sleep_for(5ms);
    BOOST_OUTCOME_TRY(now, committed());
  }
  std::this_thread::sleep_for(mode.interval * 85 / 100);
  return ok();
}

/// The ledger's answers around the kill, as [seconds since the kill, ms] pairs.
json::array latency_over_time(const scene::LedgerTraffic& ledger, Clock::time_point kill) {
  json::array points;
  for (const scene::Receipt& receipt : ledger.receipts()) {
    const double at = std::chrono::duration<double>(receipt.received - kill).count();
    if (at < -std::chrono::duration<double>(kBefore).count() ||
        at > std::chrono::duration<double>(kAfter).count()) {
      continue;
    }
    const double ms =
        std::chrono::duration<double, std::milli>(receipt.received - receipt.sent).count();
    points.push_back(json::array{std::round(at * 10'000) / 10'000, std::round(ms * 1000) / 1000});
  }
  return points;
}

/// One scene, one kill under load. `points`, if wanted, get the ledger's latencies over time.
Result<void> measure_kill(const Mode& mode, Figures& figures, json::array* points) {
  BOOST_OUTCOME_TRY(const auto scene, Scene::build(scene_options()));
  BOOST_OUTCOME_TRY(scene->start_guest());
  // One that is alone with its request tells the latency, the others make the load.
  scene::LedgerTraffic probe(scene->client_options(1), 0, 2000us);
  // Clients that think between two requests: where the guest's processor never rests, giving it the
  // same work again takes as long as the work did.
  scene::LedgerTraffic ledger(scene->client_options(8), 1, 5000us);
  scene::StreamTraffic stream(scene->client_options(1), 500'000);
  scene::NamesTraffic names(scene->client_options(1));
  const std::vector<scene::Traffic*> all = {&probe, &ledger, &stream, &names};
  for (scene::Traffic* traffic : all) {
    traffic->start();
  }
  // A guest that is gone would make every client wait for its full patience.
  const struct AtEnd {
    const std::vector<scene::Traffic*>& all;
    ~AtEnd() {
      for (scene::Traffic* traffic : all) traffic->abandon();
    }
  } at_end{all};
  for (scene::Traffic* traffic : all) {
    BOOST_OUTCOME_TRY(traffic->wait_for_progress(30s));
  }
  if (mode.protection) {
    BOOST_OUTCOME_TRY(scene->protect(*mode.protection));
  }
  std::this_thread::sleep_for(kBefore);
  BOOST_OUTCOME_TRY(wait_for_a_long_log(*scene, mode));
  BOOST_OUTCOME_TRY(const scene::Instant kill, scene->kill_host(HostId::a));
  for (scene::Traffic* traffic : all) {
    traffic->mark(kill);
  }
  if (!mode.protection) {
    // The canary: nobody comes back.
    std::this_thread::sleep_for(kAfter);
    for (scene::Traffic* traffic : all) {
      traffic->abandon();
    }
    if (points != nullptr) *points = latency_over_time(probe, kill.steady);
    return ok();
  }
  for (scene::Traffic* traffic : all) {
    BOOST_OUTCOME_TRY(traffic->wait_for_progress(20s, kill.steady + 50ms));
  }
  std::this_thread::sleep_for(kAfter);
  std::vector<float> outages;
  unsigned lost_connections = 0;
  for (scene::Traffic* traffic : all) {
    traffic->stop();
    for (const auto& report : traffic->report()) {
      if (report.outage_ms) outages.push_back(static_cast<float>(*report.outage_ms));
      lost_connections += static_cast<unsigned>(!report.survived || report.bytes_wrong > 0);
    }
  }
  figures["outage_ms"].add(percentile(outages, 0.5));
  figures["outage_ms_worst"].add(percentile(outages, 1));
  figures["connections_lost"].add(lost_connections);
  for (const scene::LedgerTraffic* one : {&probe, &ledger}) {
    // Each audit knows its own clients alone, and takes the others' transfers for foreign ones.
    BOOST_OUTCOME_TRY(const scene::Audit audit, one->audit());
    figures["acknowledged_lost"].add(static_cast<double>(audit.lost));
  }
  BOOST_OUTCOME_TRY(const json::value told,
                    scene->understudy_json(HostId::b, {"timeline", "web1"}));
  const json::object timeline = told.is_object() ? told.get_object() : json::object();
  figures["detect_ms"].add(scene::number_at(timeline, "detect_ms"));
  figures["promote_ms"].add(scene::number_at(timeline, "promote_ms"));
  if (const auto replay = scene::replay_outcome_of(timeline)) {
    figures["replay_ms"].add(replay->replay_ms);
    figures["covered_ms"].add(replay->covered_ms);
    if (replay->replay_ms > 0) figures["replay_ratio"].add(replay->covered_ms / replay->replay_ms);
    figures["inputs_replayed"].add(static_cast<double>(replay->inputs));
    figures["flows_diverged"].add(static_cast<double>(replay->flows_diverged));
  }
  if (points != nullptr) *points = latency_over_time(probe, kill.steady);
  return ok();
}

// --- all of it -----------------------------------------------------------------------------------

/// Why this build does not take the mode; empty if it does.
Result<std::string> refusal_of(Scene& scene, const Mode& mode) {
  if (!mode.protection) {
    return std::string();
  }
  BOOST_OUTCOME_TRY(const auto output,
                    scene.understudy(HostId::a, {"check", "web1", "--to", "hostB", "--mode",
                                                 mode.protection->mode}));
  return output.status == 0 ? std::string() : output.err + output.out;
}

json::object target(std::string what, double measured, double limit, bool at_least) {
  return {{"what", std::move(what)},
          {"measured", std::round(measured * 1000) / 1000},
          {at_least ? "at_least" : "at_most", limit},
          {"reached", at_least ? measured >= limit : measured <= limit}};
}

/// What issue and design ask of replay mode, for each of its rows that was measured.
json::array targets(std::map<std::string, Figures>& figures,
                    std::map<std::string, Figures>& kills) {
  json::array all;
  const auto median = [&](const std::string& mode, const std::string& name) {
    return figures[mode][name].median();
  };
  for (const std::string mode : {"replay-1s", "replay-5s"}) {
    if (figures[mode].empty()) continue;
    const auto share = [&](const std::string& name) {
      const double base = median("unprotected", name);
      return base > 0 ? median(mode, name) / base : 0;
    };
    const double added = median(mode, "ledger_1_ms_p50") - median("unprotected", "ledger_1_ms_p50");
    const double remus =
        median("remus-25ms", "ledger_1_ms_p50") - median("unprotected", "ledger_1_ms_p50");
    all.push_back(target(mode + ": added latency of a small request, ms p50", added, 1, false));
    all.push_back(target(mode + ": times less than remus at 25 ms",
                         added > 0 ? remus / added : 1000, 10, true));
    for (const auto& [name, limit] : {std::pair{"http_4k_8_per_s", 0.9},
                                      {"ledger_16_per_s", 0.9},
                                      {"redis_16_per_s", 0.9},
                                      {"bulk_down_mb_per_s", 0.85},
                                      {"bulk_up_mb_per_s", 0.85},
                                      {"computation_per_s", 0.97}}) {
      all.push_back(target(fmt::format("{}: {} as a share of unprotected", mode, name), share(name),
                           limit, true));
    }
    if (!kills[mode]["replay_ratio"].empty()) {
      all.push_back(target(mode + ": replay is faster than the original, times",
                           kills[mode]["replay_ratio"].median(), 1, true));
    }
  }
  return all;
}

json::object ratios_to(Figures& base, const Figures& figures) {
  json::object ratios;
  for (const auto& [name, series] : figures) {
    const double unprotected = base[name].median();
    if (unprotected > 0) {
      ratios[name] = std::round(series.median() / unprotected * 1000) / 1000;
    }
  }
  return ratios;
}

Result<json::object> run(unsigned repeats, std::chrono::seconds time) {
  std::map<std::string, Figures> figures;
  std::map<std::string, std::string> refused;
  {
    BOOST_OUTCOME_TRY(const auto scene, Scene::build(scene_options()));
    BOOST_OUTCOME_TRY(scene->start_guest());
    for (const Mode& mode : modes()) {
      BOOST_OUTCOME_TRY(std::string reason, refusal_of(*scene, mode));
      if (!reason.empty()) {
        fmt::print(stderr, "{}: skipped, this build refuses it: {}\n", mode.name, reason);
        refused[mode.name] = std::move(reason);
      }
    }
    for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
      for (const Mode& mode : modes()) {
        if (refused.contains(mode.name)) continue;
        if (auto measured = measure_mode(*scene, mode, time, figures[mode.name]); !measured) {
          fmt::print(stderr, "{}\n", scene->logs(400));
          return measured.error();
        }
        Figures& seen = figures[mode.name];
        fmt::print(
            stderr,
            "repeat {} {:<12} ledger {:6.2f} p99 {:6.2f} ms, {:5.0f}/s; http {:4.0f}/s; redis "
            "{:5.0f}/s; bulk down {:5.1f} up {:5.1f} MB/s; computation {:5.0f} ms\n",
            repeat, mode.name, seen["ledger_1_ms_p50"].median(), seen["ledger_1_ms_p99"].median(),
            seen["ledger_16_per_s"].median(), seen["http_4k_8_per_s"].median(),
            seen["redis_16_per_s"].median(), seen["bulk_down_mb_per_s"].median(),
            seen["bulk_up_mb_per_s"].median(), seen["computation_ms"].median());
      }
    }
  }
  std::map<std::string, Figures> kills;
  json::array over_time;
  for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
    for (const Mode& mode : modes()) {
      // Unprotected once, as the canary.
      const bool canary = !mode.protection && repeat == 1;
      if (refused.contains(mode.name) || !(mode.killed || canary)) continue;
      json::array points;
      BOOST_OUTCOME_TRY(measure_kill(mode, kills[mode.name], repeat == 1 ? &points : nullptr));
      if (repeat == 1) {
        over_time.push_back({{"mode", mode.name}, {"points", std::move(points)}});
      }
      if (!mode.protection) continue;
      Figures& seen = kills[mode.name];
      fmt::print(
          stderr,
          "kill {} {:<12} outage {:4.0f} ms, worst {:4.0f}: detect {:4.0f}, promote {:4.0f}, "
          "replay {:4.0f}; {} connections, {} acknowledged operations lost\n",
          repeat, mode.name, seen["outage_ms"].median(), seen["outage_ms_worst"].median(),
          seen["detect_ms"].median(), seen["promote_ms"].median(), seen["replay_ms"].median(),
          seen["connections_lost"].median(), seen["acknowledged_lost"].median());
    }
  }
  json::array goals = targets(figures, kills);
  json::array list;
  for (const Mode& mode : modes()) {
    json::object entry = {{"name", mode.name}};
    if (const auto reason = refused.find(mode.name); reason != refused.end()) {
      entry["skipped"] = reason->second;
    } else {
      entry["figures"] = to_json(figures[mode.name]);
      entry["ratio_to_unprotected"] = ratios_to(figures["unprotected"], figures[mode.name]);
      if (mode.killed) entry["kill"] = to_json(kills[mode.name]);
    }
    list.push_back(std::move(entry));
  }
  return json::object{{"schema", 1},
                      {"repeats", repeats},
                      {"seconds_each", time.count()},
                      {"targets", std::move(goals)},
                      {"modes", std::move(list)},
                      {"latency_over_time", std::move(over_time)}};
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  using namespace understudy::bench;
  return run_benchmark(
      {.name = "bench_replay", .repeats = 5, .time = std::chrono::seconds(3), .run = run},
      argument_count, arguments);
}
