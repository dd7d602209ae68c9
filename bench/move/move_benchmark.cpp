// What clients notice of a planned move: of a hand-over to the warm backup, of Understudy's live
// migration of an unprotected domain, and of QEMU's own, side by side in one run; and of nothing at
// all, for comparison. The workloads are those with which live migration in high-availability
// clusters has been measured: datagrams at 10, 100 and 1000 a second, one telephone call and ten
// (50 datagrams of 214 octets a second each), ping every 10 ms, a web server with many clients, the
// copy of a file.
//
//   bench_move FILE [REPEATS [SECONDS]]     writes the figures as JSON to FILE
//
// The cases take turns. SECONDS is how long the lights workloads go on around each move, which
// comes in their middle.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "bench/figures/command.h"
#include "bench/figures/figures.h"
#include "bench/move/plain_migration.h"
#include "tests/scene/bulk_traffic.h"
#include "tests/scene/json_fields.h"
#include "tests/scene/paced_datagrams.h"
#include "tests/scene/scene.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::Clock;
using scene::HostId;
using scene::PacedDatagrams;
using scene::Scene;

constexpr std::uint64_t kFileBytes = 64ULL << 20;

/// What happens in the middle of a workload.
using Move = std::function<Result<void>()>;

std::uint32_t next_client() {
  static std::uint32_t next = 0;
  return next++;
}

/// Datagrams, calls, ping and small requests, all at once: together they are a tenth of what the
/// guest can do.
Result<void> measure_light(Scene& scene, const Move& move, std::chrono::seconds time,
                           Figures& figures) {
  PacedDatagrams slow(scene.client_options(1), 10, 64);
  PacedDatagrams middle(scene.client_options(1), 100, 64);
  PacedDatagrams fast(scene.client_options(1), 1000, 64);
  PacedDatagrams call(scene.client_options(1), 50, 214);
  PacedDatagrams calls(scene.client_options(10), 50, 214);
  scene::LedgerTraffic ledger(scene.client_options(1), next_client(), 2000us);
  const std::vector<std::pair<std::string, PacedDatagrams*>> paced = {{"udp_10", &slow},
                                                                      {"udp_100", &middle},
                                                                      {"udp_1000", &fast},
                                                                      {"call", &call},
                                                                      {"calls", &calls}};
  std::vector<scene::Traffic*> all = {&ledger};
  for (const auto& [name, traffic] : paced) all.push_back(traffic);
  for (scene::Traffic* traffic : all) traffic->start();
  for (scene::Traffic* traffic : all) {
    BOOST_OUTCOME_TRY(traffic->wait_for_progress(30s));
  }
  const std::filesystem::path ping_log = scene.folder() / "ping.txt";
  std::filesystem::remove(ping_log);
  BOOST_OUTCOME_TRY(auto ping, scene.start_client({"ping", "-D", "-n", "-i", "0.01",
                                                   std::string(scene::guest_address)},
                                                  "ping.txt"));
  std::this_thread::sleep_for(time / 2);
  const scene::Instant begun = scene::Instant::now();
  for (scene::Traffic* traffic : all) traffic->mark(begun);
  BOOST_OUTCOME_TRY(move());
  figures["move_ms"].add(
      std::chrono::duration<double, std::milli>(Clock::now() - begun.steady).count());
  std::this_thread::sleep_for(time / 2);
  ping.signal(SIGINT);
  BOOST_OUTCOME_TRY(ping.wait(5s));
  for (scene::Traffic* traffic : all) traffic->stop();
  for (const auto& [name, traffic] : paced) {
    figures[name + "_sent"].add(static_cast<double>(traffic->sent()));
    figures[name + "_lost"].add(static_cast<double>(traffic->lost()));
    double outage = 0;
    for (const auto& report : traffic->report()) {
      outage = std::max(outage, report.longest_gap_ms);
      if (report.bytes_wrong > 0) return fail(ErrorCode::failed, "{}: wrong octets", name);
    }
    figures[name + "_outage_ms"].add(outage);
  }
  const auto told = ledger.report().front();
  if (!told.survived) return fail(ErrorCode::failed, "the ledger's connection: {}", told.failure);
  figures["ledger_outage_ms"].add(told.longest_gap_ms);
  BOOST_OUTCOME_TRY(const scene::Audit audit, ledger.audit());
  // Other clients' transfers are in the ledger too; theirs are not to be judged here.
  figures["acknowledged_lost"].add(static_cast<double>(audit.lost));
  std::ifstream file(ping_log);
  std::stringstream text;
  text << file.rdbuf();
  const auto pinged = scene::parse_ping(text.str(), std::nullopt);
  figures["ping_lost"].add(static_cast<double>(pinged.sent - pinged.received));
  figures["ping_outage_ms"].add(pinged.longest_gap_ms);
  return ok();
}

/// A file fetched from the guest, moved in its middle: how long it takes, and that it is right.
Result<void> measure_copy(Scene& scene, const Move& move, Figures& figures) {
  scene::BulkTraffic copy(scene.client_options(1), scene::Direction::down, kFileBytes);
  const auto begun = Clock::now();
  copy.start();
  BOOST_OUTCOME_TRY(copy.wait_for_progress(30s));
  BOOST_OUTCOME_TRY(move());
  BOOST_OUTCOME_TRY(copy.wait_for_end(300s));
  figures["copy_s"].add(std::chrono::duration<double>(Clock::now() - begun).count());
  copy.stop();
  const auto report = copy.report().front();
  if (!report.failure.empty() || report.bytes_wrong > 0) {
    return fail(ErrorCode::failed, "the copy: {}, {} octets wrong", report.failure,
                report.bytes_wrong);
  }
  return ok();
}

/// Many clients of the web server, each page on a new connection, for a fixed time.
Result<void> measure_web(Scene& scene, const Move& move, std::chrono::seconds time,
                         Figures& figures) {
  scene::HttpTraffic web(scene.client_options(8), 4096);
  web.start();
  BOOST_OUTCOME_TRY(web.wait_for_progress(30s));
  const std::uint64_t before = web.operations();
  const auto end = Clock::now() + 2 * time;
  std::this_thread::sleep_for(time / 2);
  BOOST_OUTCOME_TRY(move());
  std::this_thread::sleep_until(end);
  figures["web_transactions"].add(static_cast<double>(web.operations() - before));
  web.stop();
  double failed = 0;
  for (const auto& report : web.report()) failed += static_cast<double>(!report.failure.empty());
  figures["web_failed"].add(failed);
  return ok();
}

Result<void> measure_all(Scene& scene, const Move& move, std::chrono::seconds time,
                         Figures& figures) {
  BOOST_OUTCOME_TRY(measure_light(scene, move, time, figures));
  BOOST_OUTCOME_TRY(measure_copy(scene, move, figures));
  return measure_web(scene, move, time, figures);
}

/// Where the domain is, and the moves between the two hosts.
class Mover {
 public:
  explicit Mover(Scene& scene) : scene_(scene) {}

  Result<void> protect() { return scene_.protect({}, {}, host_); }
  Result<void> unprotect() {
    BOOST_OUTCOME_TRY(scene_.understudy_checked(host_, {"unprotect", "web1"}));
    return ok();
  }
  /// Returns when it runs there, and `stood_ms` has got how long it stood still.
  Result<void> hand_over(Figures& figures) {
    BOOST_OUTCOME_TRY(scene_.understudy_checked(host_, {"move", "web1"}, 120s));
    return moved(figures);
  }
  Result<void> live(Figures& figures) {
    const HostId target = scene::other(host_);
    BOOST_OUTCOME_TRY(scene_.understudy_checked(
        host_, {"move", "web1", "--to", std::string(scene::name_of(target))}, 300s));
    return moved(figures);
  }
  Result<void> wait_until_protected() {
    BOOST_OUTCOME_TRY(scene_.wait_for_state(host_, "protected", 120s));
    return ok();
  }

 private:
  Result<void> moved(Figures& figures) {
    host_ = scene::other(host_);
    BOOST_OUTCOME_TRY(const json::value told, scene_.understudy_json(host_, {"timeline", "web1"}));
    if (told.is_object()) {
      figures["stood_ms"].add(scene::number_at(told.get_object(), "stood_ms"));
    }
    return ok();
  }

  Scene& scene_;
  HostId host_ = HostId::a;
};

Result<json::object> run(unsigned repeats, std::chrono::seconds time) {
  const std::vector<std::string> cases = {"no move", "hand-over", "live migration", "QEMU's own"};
  std::map<std::string, Figures> figures;
  const auto told = [&](const std::string& name, unsigned repeat) {
    Figures& seen = figures[name];
    fmt::print(
        stderr,
        "repeat {} {:<15} move {:5.0f} ms; lost of 10/100/1000 per s: {:.0f} {:.0f} {:.0f}; "
        "call {:.0f}, calls {:.0f}; outage call {:4.0f} ms, ledger {:4.0f}, ping {:4.0f}; copy "
        "{:.1f} s; web {:.0f}\n",
        repeat, name, seen["move_ms"].median(), seen["udp_10_lost"].median(),
        seen["udp_100_lost"].median(), seen["udp_1000_lost"].median(), seen["call_lost"].median(),
        seen["calls_lost"].median(), seen["call_outage_ms"].median(),
        seen["ledger_outage_ms"].median(), seen["ping_outage_ms"].median(), seen["copy_s"].median(),
        seen["web_transactions"].median());
  };
  auto options = scene::options_from_environment();
  options.tag = "bench";
  auto plain_options = options;
  plain_options.tag = "benchplain";
  BOOST_OUTCOME_TRY(const auto scene, Scene::build(std::move(options)));
  BOOST_OUTCOME_TRY(scene->start_guest());
  BOOST_OUTCOME_TRY(const auto plain_scene, Scene::build(std::move(plain_options)));
  BOOST_OUTCOME_TRY(auto plain, PlainGuest::start(*plain_scene));
  Mover mover(*scene);
  const Move nothing = [] { return ok(); };
  for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
    BOOST_OUTCOME_TRY(measure_all(*scene, nothing, time, figures["no move"]));
    told("no move", repeat);
    Figures& live = figures["live migration"];
    BOOST_OUTCOME_TRY(measure_all(
        *scene, [&] { return mover.live(live); }, time, live));
    told("live migration", repeat);
    BOOST_OUTCOME_TRY(mover.protect());
    Figures& warm = figures["hand-over"];
    const Move hand_over = [&]() -> Result<void> { return mover.hand_over(warm); };
    BOOST_OUTCOME_TRY(measure_light(*scene, hand_over, time, warm));
    BOOST_OUTCOME_TRY(mover.wait_until_protected());
    BOOST_OUTCOME_TRY(measure_copy(*scene, hand_over, warm));
    BOOST_OUTCOME_TRY(mover.wait_until_protected());
    BOOST_OUTCOME_TRY(measure_web(*scene, hand_over, time, warm));
    BOOST_OUTCOME_TRY(mover.wait_until_protected());
    BOOST_OUTCOME_TRY(mover.unprotect());
    told("hand-over", repeat);
    BOOST_OUTCOME_TRY(measure_all(
        *plain_scene, [&] { return plain.move(); }, time, figures["QEMU's own"]));
    told("QEMU's own", repeat);
  }
  json::array list;
  for (const std::string& name : cases) {
    list.push_back({{"name", name}, {"figures", to_json(figures[name])}});
  }
  return json::object{{"schema", 1},
                      {"repeats", repeats},
                      {"seconds_each", time.count()},
                      {"file_bytes", kFileBytes},
                      {"cases", std::move(list)}};
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  using namespace understudy::bench;
  return run_benchmark(
      {.name = "bench_move", .repeats = 20, .time = std::chrono::seconds(2), .run = run},
      argument_count, arguments);
}
