// What a checkpoint costs: the pause and its parts, checkpoints per second, bytes on the wire, the
// agents' memory. A real guest, protected anew for each workload and repeat; workloads take turns,
// so that a change of the machine's mood meets all of them.
//
//   bench_checkpoint FILE [REPEATS [SECONDS]]     writes the figures as JSON to FILE
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <thread>

#include "bench/figures/command.h"
#include "bench/figures/figures.h"
#include "tests/scene/json_fields.h"
#include "tests/scene/scene.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::HostId;
using scene::number_at;
using scene::object_at;
using scene::Scene;

constexpr double kPageBytes = 4096;
constexpr double kMebibyte = 1024.0 * 1024.0;

/// What the guest does while it is checkpointed.
struct Workload {
  std::string name;
  std::string what;
  std::string interval;
  unsigned dirty_pages = 0;  ///< Pages that a service in the guest writes to every 25 ms.
  bool services = false;     ///< The demo's clients are at work.
};

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> all = {
      {"idle", "nothing to do, 100 checkpoints/s asked for", "10ms", 0, false},
      {"services", "ledger, echo, stream, httpd under load", "25ms", 0, true},
      {"dirty-100", "100 random pages written each 25 ms", "25ms", 100, false},
      {"dirty-300", "300 random pages written each 25 ms", "25ms", 300, false},
      {"dirty-1000", "1200 writes to random pages each 25 ms: about 1000 pages", "25ms", 1200,
       false},
  };
  return all;
}

/// A process' memory by its kinds, in MiB: `anonymous` is its own; `shared` is the guest's memory
/// file, which belongs to the guest.
struct Memory {
  double anonymous = 0;
  double shared = 0;
  double file = 0;
};

Memory memory_of(pid_t pid) {
  Memory memory;
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(status, line)) {
    for (const auto& [name, where] :
         {std::pair{"RssAnon:", &memory.anonymous}, std::pair{"RssShmem:", &memory.shared},
          std::pair{"RssFile:", &memory.file}}) {
      if (line.starts_with(name)) *where = std::stod(line.substr(9)) / 1024;
    }
  }
  return memory;
}

Result<void> set_dirty(const Scene& scene, unsigned pages) {
  const std::string order = pages == 0 ? "0 1" : fmt::format("{} 25", pages);
  BOOST_OUTCOME_TRY(scene::run_checked(
      {"sh", "-c",
       fmt::format("echo '{}' | nc -q 1 -w 10 {} 9002 | grep -q ok", order, scene::guest_address)},
      30s, scene.client_namespace()));
  return ok();
}

/// The demo's clients.
std::vector<std::unique_ptr<scene::Traffic>> start_services(const Scene& scene) {
  std::vector<std::unique_ptr<scene::Traffic>> all;
  // The ledger's clients must be new to it.
  static std::uint32_t next_client = 0;
  all.push_back(
      std::make_unique<scene::LedgerTraffic>(scene.client_options(8), next_client, 1000us));
  next_client += 8;
  all.push_back(std::make_unique<scene::EchoTraffic>(scene.client_options(4)));
  all.push_back(std::make_unique<scene::StreamTraffic>(scene.client_options(3), 400'000));
  all.push_back(std::make_unique<scene::HttpTraffic>(scene.client_options(2), 4096));
  for (auto& traffic : all) traffic->start();
  return all;
}

/// Protects, waits, and takes down what `seconds` of checkpoints cost.
Result<void> measure(Scene& scene, const Workload& workload, std::chrono::seconds time,
                     Figures& figures) {
  BOOST_OUTCOME_TRY(set_dirty(scene, workload.dirty_pages));
  auto services =
      workload.services ? start_services(scene) : std::vector<std::unique_ptr<scene::Traffic>>();
  BOOST_OUTCOME_TRY(scene.protect({.interval = workload.interval}));
  std::this_thread::sleep_for(2s);
  BOOST_OUTCOME_TRY(const auto before, scene.domain(HostId::a));
  const auto begun = scene::Clock::now();
  std::this_thread::sleep_for(time);
  BOOST_OUTCOME_TRY(const auto after, scene.domain(HostId::a));
  const double seconds = std::chrono::duration<double>(scene::Clock::now() - begun).count();

  const double checkpoints = number_at(after, "checkpoints") - number_at(before, "checkpoints");
  const auto bytes = [&](std::string_view kind) {
    return number_at(object_at(after, "bytes"), kind) - number_at(object_at(before, "bytes"), kind);
  };
  if (checkpoints <= 0) return fail(ErrorCode::failed, "no checkpoint in {:.0f} s", seconds);
  figures["checkpoints_per_s"].add(checkpoints / seconds);
  figures["dirty_pages_per_checkpoint"].add(bytes("dirty") / kPageBytes / checkpoints);
  figures["wire_bytes_per_checkpoint"].add(bytes("wire") / checkpoints);
  figures["wire_share_of_dirty"].add(bytes("wire") / bytes("dirty"));
  for (const auto& [name, value] : object_at(after, "pause_ms"))
    figures[fmt::format("pause_ms_{}", std::string_view(name))].add(value.to_number<double>());
  for (const auto& [name, value] : object_at(after, "pause_parts_ms"))
    figures[fmt::format("part_ms_{}", std::string_view(name))].add(value.to_number<double>());
  const Memory primary = memory_of(scene.agent(HostId::a).pid());
  const Memory backup = memory_of(scene.agent(HostId::b).pid());
  figures["primary_agent_own_mib"].add(primary.anonymous);
  figures["primary_agent_guest_mapping_mib"].add(primary.shared);
  figures["backup_agent_own_mib"].add(backup.anonymous);
  figures["backup_agent_image_mapping_mib"].add(backup.shared);

  for (auto& traffic : services) traffic->stop();
  services.clear();
  BOOST_OUTCOME_TRY(scene.understudy_checked(HostId::a, {"unprotect", "web1"}));
  return ok();
}

Result<json::object> run(unsigned repeats, std::chrono::seconds time) {
  auto options = scene::options_from_environment();
  options.tag = "bench";
  const double guest_mib = options.memory_mib;
  BOOST_OUTCOME_TRY(const auto scene, Scene::build(std::move(options)));
  BOOST_OUTCOME_TRY(scene->start_guest());
  std::map<std::string, Figures> figures;
  for (unsigned repeat = 1; repeat <= repeats; ++repeat) {
    for (const Workload& workload : workloads()) {
      if (auto measured = measure(*scene, workload, time, figures[workload.name]); !measured) {
        fmt::print(stderr, "{}\n", scene->logs(400));
        return measured.error();
      }
      Figures& seen = figures[workload.name];
      fmt::print(stderr,
                 "repeat {} {:<11} {:6.1f} checkpoints/s, pause mean {:.2f} p99 {:.2f} ms, "
                 "{:.0f} dirty pages, wire {:.3f} of them\n",
                 repeat, workload.name, seen["checkpoints_per_s"].median(),
                 seen["pause_ms_mean"].median(), seen["pause_ms_p99"].median(),
                 seen["dirty_pages_per_checkpoint"].median(), seen["wire_share_of_dirty"].median());
    }
  }
  json::array list;
  double primary_mib = 0;
  double backup_mib = 0;
  for (const Workload& workload : workloads()) {
    Figures& seen = figures[workload.name];
    list.push_back({{"name", workload.name},
                    {"what", workload.what},
                    {"interval", workload.interval},
                    {"figures", to_json(seen)}});
    primary_mib = std::max(primary_mib, seen["primary_agent_own_mib"].median());
    backup_mib = std::max(backup_mib, seen["backup_agent_own_mib"].median());
  }
  Figures& busiest = figures["dirty-1000"];
  const auto target = [](std::string what, double measured, double limit, bool at_least) {
    return json::object{{"what", std::move(what)},
                        {"measured", measured},
                        {at_least ? "at_least" : "at_most", limit},
                        {"reached", at_least ? measured >= limit : measured <= limit}};
  };
  json::array targets = {
      target("pause mean ms, 1000 dirty pages", busiest["pause_ms_mean"].median(), 5, false),
      target("pause p99 ms, 1000 dirty pages", busiest["pause_ms_p99"].median(), 15, false),
      // One in a hundred may be late: the timer is asked for 10 ms from the last one's begin.
      target("checkpoints/s, idle", figures["idle"]["checkpoints_per_s"].median(), 99, true),
      target("wire bytes / dirty bytes, services",
             figures["services"]["wire_share_of_dirty"].median(), 0.2, false),
      target("primary agent's own MiB", primary_mib, 1.1 * guest_mib + 64, false),
      target("backup agent's own MiB", backup_mib, 128, false),
  };
  return json::object{{"schema", 1},
                      {"guest_memory_mib", guest_mib},
                      {"repeats", repeats},
                      {"seconds_each", time.count()},
                      {"targets", std::move(targets)},
                      {"workloads", std::move(list)}};
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  using namespace understudy::bench;
  return run_benchmark(
      {.name = "bench_checkpoint", .repeats = 5, .time = std::chrono::seconds(8), .run = run},
      argument_count, arguments);
}
