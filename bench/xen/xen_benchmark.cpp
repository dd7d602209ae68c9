// Understudy beside upstream's own Remus (`xl remus`) on the same two Xen hosts of the lab: the
// same guest, the same workloads, the same measures, in one run. At the end host A loses its power
// under each of them.
//
//   bench_xen FILE [--repeats N] [--seconds N] [--modes NAME,…] [--workloads NAME,…] [--kills N]
//
// What is measured from outside is measured alike in all modes: standstills by domain_watch in
// dom0, answers by clients, bytes at host A's interface in the replication network. Modes take
// turns. FILE is written anew after each measurement, so that a run that breaks off leaves what it
// has.
//
// Debian's build of Xen knows neither output buffering (no libnl) nor disk replication for `xl
// remus`, so upstream runs with -n -d: it lets answers out before their epoch is safe. Its latency
// is thus that of no protection of what clients have seen, which the kills show.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <thread>

#include "bench/figures/figures.h"
#include "tests/scene/lab_program.h"
#include "tests/scene/network_namespace.h"
#include "tests/scene/process.h"
#include "tests/scene/traffic.h"

namespace understudy::bench {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::Clock;
using scene::Instant;

constexpr const char* kName = "web1";
constexpr const char* kAddress = "10.77.0.10";
// How long host A may be silent before B takes over, for either system.
constexpr unsigned kSilenceSeconds = 5;
constexpr unsigned kLedgerConnections = 4;
constexpr std::chrono::microseconds kThinkTime = 10ms;

enum class System { none, upstream, understudy };

struct Mode {
  std::string name;
  System system;
  unsigned interval_ms = 0;
  bool hvm = false;  ///< An HVM guest without PV drivers instead of a PVH guest.
};

const std::vector<Mode>& all_modes() {
  static const std::vector<Mode> all = {{"unprotected", System::none, 0},
                                        {"xl-remus-200ms", System::upstream, 200},
                                        {"understudy-200ms", System::understudy, 200},
                                        {"xl-remus-100ms", System::upstream, 100},
                                        {"understudy-100ms", System::understudy, 100},
                                        {"hvm-unprotected", System::none, 0, true},
                                        {"hvm-xl-remus-200ms", System::upstream, 200, true},
                                        {"hvm-understudy-200ms", System::understudy, 200, true}};
  return all;
}

struct Workload {
  std::string name;
  std::string what;
  bool ledger = false;
  unsigned dirty_pages = 0;  ///< Written to by a service in the guest every 200 ms.
  bool loop = false;
  bool hvm = false;  ///< Measured on the HVM guest, too, which is slow where hosts are emulated.
};

const std::vector<Workload>& all_workloads() {
  static const std::vector<Workload> all = {
      {"idle", "nothing to do", false, 0, false, true},
      {"ledger", "4 clients transfer money, each 10 ms after its last receipt", true, 0, false,
       true},
      {"dirty-50", "50 random pages written each 200 ms", false, 50},
      {"dirty-200", "200 random pages written each 200 ms", false, 200},
      {"dirty-500", "500 random pages written each 200 ms", false, 500},
      {"loop", "a shell counts nothing, for ever", false, 0, true},
  };
  return all;
}

struct Options {
  std::string file;
  unsigned repeats = 1;
  unsigned seconds = 15;
  unsigned kills = 1;
  std::vector<std::string> modes;
  std::vector<std::string> workloads;
};

// --- the lab

const scene::LabProgram& lab() {
  static const scene::LabProgram one(UNDERSTUDY_LAB_PROGRAM, UNDERSTUDY_BUILD_DIRECTORY,
                                     scene::LabProgram::chosen_name("bench"));
  return one;
}

template <typename Condition>
bool eventually(Condition holds, std::chrono::seconds limit) {
  const auto end = Clock::now() + limit;
  while (!holds()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(200ms);
  }
  return true;
}

/// What Debian's ssh would be, without its slowness, and with what ssh has in ServerAliveInterval:
/// a receiver that notices a dead sender. Without it upstream's receiver waits for ever.
Result<void> prepare_host(const char* host) {
  BOOST_OUTCOME_TRY(lab().exec(
      host,
      fmt::format(
          "cat >/tmp/bench-ssh <<'END'\n"
          "#!/bin/sh\n"
          "exec socat -b 262144 - TCP:$(sed -n \"s/ $1\\$//p\" /etc/hosts):7701,nodelay\n"
          "END\n"
          "cat >/tmp/bench-receive <<'END'\n"
          "#!/bin/sh\n"
          // socat, when the sender is dead, ends what it has started: here the takeover begins.
          "trap '' TERM HUP\n"
          "echo $$ >/tmp/receive.pid\n"
          "exec xl migrate-receive -r -e 2>/tmp/receive.log\n"
          "END\n"
          "chmod +x /tmp/bench-ssh /tmp/bench-receive\n"
          "setsid socat -b 262144 TCP-LISTEN:7701,reuseaddr,fork,nodelay,keepalive,keepidle=2,"
          "keepintvl=1,keepcnt={1},setsockopt-int=6:18:{0}000 EXEC:/tmp/bench-receive "
          ">/tmp/socat.log 2>&1 </dev/null &",
          kSilenceSeconds, kSilenceSeconds - 2)));
  BOOST_OUTCOME_TRY(lab().run({"copy", UNDERSTUDY_BUILD_DIRECTORY "/bench/xen/domain_watch",
                               std::string(host) + ":/tmp/domain_watch"}));
  BOOST_OUTCOME_TRY(lab().start_agent(host, std::chrono::seconds(kSilenceSeconds)));
  return ok();
}

/// Asks the ledger once; on a thread inside the clients' namespace.
bool ledger_answers() {
  bool answered = false;
  std::jthread([&answered] {
    if (!scene::enter_network_namespace(lab().network_namespace())) return;
    auto socket = scene::TcpSocket::connect(kAddress, 9000, 1s);
    if (!socket) return;
    std::string line;
    answered = socket.value().send(std::string("S\n"), 1s, {}) == scene::TcpSocket::Outcome::done &&
               socket.value().receive_line(line, 3s, {}) == scene::TcpSocket::Outcome::done;
  }).join();
  return answered;
}

/// Bytes that host A has sent over the replication network.
Result<double> bytes_sent() {
  BOOST_OUTCOME_TRY(const std::string text,
                    scene::run_checked({"ip", "netns", "exec", lab().network_namespace(), "cat",
                                        "/sys/class/net/repl-A/statistics/rx_bytes"}));
  return std::stod(text);
}

// --- the guest

/// The domain web1 on host A.
class Guest {
 public:
  Result<void> create(bool hvm) {
    hvm_ = hvm;
    BOOST_OUTCOME_TRY(lab().run(
        {"domain", "A", kName, "--address", kAddress, "--kind", hvm ? "hvm" : "services"}));
    BOOST_OUTCOME_TRY(lab().exec("A", "xl create /etc/xen/web1.cfg"));
    // An emulated machine within an emulated machine boots for minutes.
    if (!eventually(ledger_answers, hvm ? 900s : 120s))
      return fail(ErrorCode::timed_out, "web1's services do not answer");
    BOOST_OUTCOME_TRY(const std::string id, lab().exec("A", "xl domid web1"));
    id_ = std::stoul(id);
    return ok();
  }
  unsigned id() const { return id_; }
  bool hvm() const { return hvm_; }
  /// As it was made before.
  Result<void> create_again() { return create(hvm_); }

  Result<void> set_dirty(unsigned pages) {
    const std::string order = pages == 0 ? "0 1" : fmt::format("{} 200", pages);
    BOOST_OUTCOME_TRY(scene::run_checked(
        {"sh", "-c",
         fmt::format("echo '{}' | nc -q 1 -w 15 {} 9002 | grep -q ok", order, kAddress)},
        60s, lab().network_namespace()));
    return ok();
  }
  /// Through the shell on its console.
  Result<void> set_loop(bool wanted) {
    BOOST_OUTCOME_TRY(lab().exec(
        "A",
        fmt::format("printf '%s\\n' '{}' >$(xenstore-read /local/domain/{}/console/tty)",
                    wanted ? "while :; do :; done & echo $! >/tmp/loop" : "kill $(cat /tmp/loop)",
                    id_)));
    return ok();
  }
  std::uint32_t new_clients(unsigned count) {
    next_client_ += count;
    return next_client_ - count;
  }

 private:
  unsigned id_ = 0;
  bool hvm_ = false;
  std::uint32_t next_client_ = 0;
};

scene::ClientOptions clients(unsigned connections) {
  return {.network_namespace = lab().network_namespace(),
          .address = kAddress,
          .connections = connections,
          .patience = 30s};
}

// --- protection

Result<json::object> watch(const Guest& guest, unsigned seconds, unsigned enough = 1'000'000) {
  BOOST_OUTCOME_TRY(
      const json::value seen,
      lab().ask("A", fmt::format("/tmp/domain_watch {} {} {}", guest.id(), seconds, enough),
                std::chrono::seconds(seconds + 60)));
  return seen.as_object();
}

Result<void> begin(const Guest& guest, const Mode& mode) {
  if (mode.system == System::understudy) {
    BOOST_OUTCOME_TRY(lab().exec(
        "A", fmt::format("understudy protect web1 --to hostB --interval {}ms", mode.interval_ms),
        300s));
  }
  if (mode.system == System::upstream) {
    BOOST_OUTCOME_TRY(lab().exec(
        "A", fmt::format("setsid sh -c 'echo $$ >/tmp/remus.pid; exec xl remus -F -n -d -i "
                         "{} -s /tmp/bench-ssh web1 hostB' >/tmp/remus.log 2>&1 "
                         "</dev/null &",
                         mode.interval_ms)));
    BOOST_OUTCOME_TRY(const auto seen, watch(guest, 180, 5));
    if (seen.at("standstill_ms").as_array().size() < 5) {
      return fail(ErrorCode::timed_out, "xl remus makes no checkpoints: {}{}",
                  lab().exec("A", "cat /tmp/remus.log").value(),
                  lab().exec("B", "cat /tmp/receive.log /tmp/socat.log").value());
    }
  }
  return ok();
}

/// Ends protection. Upstream has no command for it: when its backup is gone, the sender lets the
/// domain run on; if it does not, the guest is made anew.
Result<void> end(Guest& guest, const Mode& mode) {
  if (mode.system == System::understudy) {
    BOOST_OUTCOME_TRY(lab().exec("A", "understudy unprotect web1"));
  }
  if (mode.system == System::upstream) {
    BOOST_OUTCOME_TRY(lab().exec("B", "kill -9 $(cat /tmp/receive.pid)"));
    const bool gone = eventually(
        [] { return !lab().exec("A", "kill -0 $(cat /tmp/remus.pid)").has_value(); }, 20s);
    (void)lab().exec("B", "xl destroy web1--incoming || xl destroy web1");
    if (!gone || !eventually(ledger_answers, 20s)) {
      std::fputs("xl remus left its domain standing: web1 is made anew\n", stderr);
      (void)lab().exec("A", "kill -9 $(cat /tmp/remus.pid); xl destroy web1");
      BOOST_OUTCOME_TRY(guest.create_again());
    }
  }
  return ok();
}

// --- measuring

std::vector<float> numbers(const json::object& object, std::string_view name) {
  std::vector<float> list;
  for (const auto& value : object.at(name).as_array())
    list.push_back(static_cast<float>(value.to_number<double>()));
  return list;
}

double mean(const std::vector<float>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void note_times(const std::string& name, const std::vector<float>& values, Figures& figures) {
  if (values.empty()) return;
  figures[name + "_mean"].add(mean(values));
  figures[name + "_p50"].add(percentile(values, 0.50));
  figures[name + "_p99"].add(percentile(values, 0.99));
}

/// What clients saw between `begun` and `ended`.
void note_clients(const scene::LedgerTraffic& ledger, Clock::time_point begun,
                  Clock::time_point ended, Figures& figures) {
  std::vector<float> latency_ms;
  std::vector<Clock::time_point> arrivals = {begun, ended};
  for (const auto& receipt : ledger.receipts()) {
    if (receipt.received < begun || receipt.received > ended) continue;
    latency_ms.push_back(
        std::chrono::duration<float, std::milli>(receipt.received - receipt.sent).count());
    arrivals.push_back(receipt.received);
  }
  std::ranges::sort(arrivals);
  double longest_ms = 0;
  for (std::size_t i = 1; i < arrivals.size(); ++i)
    longest_ms =
        std::max(longest_ms,
                 std::chrono::duration<double, std::milli>(arrivals[i] - arrivals[i - 1]).count());
  note_times("ledger_ms", latency_ms, figures);
  figures["ledger_per_s"].add(static_cast<double>(latency_ms.size()) /
                              std::chrono::duration<double>(ended - begun).count());
  figures["ledger_longest_silence_ms"].add(longest_ms);
}

Result<json::object> own_status(const Mode& mode) {
  if (mode.system != System::understudy) return json::object();
  BOOST_OUTCOME_TRY(const json::value status,
                    lab().ask("A", "understudy status web1 -o json || true"));
  return status.as_object();
}

/// Understudy's own figures, since protection began.
Result<void> note_status(const json::object& status, Figures& figures) {
  for (const char* kind : {"pause_ms", "pause_parts_ms"}) {
    const json::value* times = status.if_contains(kind);
    if (times == nullptr || !times->is_object()) continue;
    for (const auto& [name, value] : times->get_object())
      figures[fmt::format("own_{}_{}", kind, std::string_view(name))].add(
          value.to_number<double>());
  }
  return ok();
}

Result<void> measure(Guest& guest, const Mode& mode, const Workload& workload, unsigned seconds,
                     Figures& figures) {
  if (workload.dirty_pages > 0) {
    BOOST_OUTCOME_TRY(guest.set_dirty(workload.dirty_pages));
  }
  if (workload.loop) {
    BOOST_OUTCOME_TRY(guest.set_loop(true));
  }
  std::unique_ptr<scene::LedgerTraffic> ledger;
  if (workload.ledger) {
    ledger = std::make_unique<scene::LedgerTraffic>(
        clients(kLedgerConnections), guest.new_clients(kLedgerConnections), kThinkTime);
    ledger->start();
    BOOST_OUTCOME_TRY(ledger->wait_for_progress(60s));
  }
  std::this_thread::sleep_for(2s);

  BOOST_OUTCOME_TRY(const auto status_before, own_status(mode));
  BOOST_OUTCOME_TRY(const double bytes_before, bytes_sent());
  const auto begun = Clock::now();
  BOOST_OUTCOME_TRY(const auto seen, watch(guest, seconds));
  BOOST_OUTCOME_TRY(const double bytes_after, bytes_sent());
  const auto ended = Clock::now();
  BOOST_OUTCOME_TRY(const auto status_after, own_status(mode));

  const double watched_s = seen.at("seconds").to_number<double>();
  const auto standstills = numbers(seen, "standstill_ms");
  const double checkpoints_per_s = static_cast<double>(standstills.size()) / watched_s;
  const double bytes_per_s =
      (bytes_after - bytes_before) / std::chrono::duration<double>(ended - begun).count();
  figures["checkpoints_per_s"].add(checkpoints_per_s);
  figures["checkpoints_seen"].add(static_cast<double>(standstills.size()));
  note_times("standstill_ms", standstills, figures);
  note_times("suspend_ms", numbers(seen, "suspend_ms"), figures);
  figures["standstill_share"].add(mean(standstills) * checkpoints_per_s / 1000);
  figures["guest_cpu_share"].add(seen.at("cpu_seconds").to_number<double>() / watched_s);
  figures["sent_bytes_per_s"].add(bytes_per_s);
  if (checkpoints_per_s > 0)
    figures["sent_bytes_per_checkpoint"].add(bytes_per_s / checkpoints_per_s);
  figures["watch_longest_between_looks_ms"].add(
      seen.at("longest_between_looks_ms").to_number<double>());
  // What else went on here: emulated hosts feel it at once.
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  figures["machine_load"].add(load);
  if (mode.system == System::understudy) {
    figures["own_checkpoints_per_s"].add((status_after.at("checkpoints").to_number<double>() -
                                          status_before.at("checkpoints").to_number<double>()) /
                                         std::chrono::duration<double>(ended - begun).count());
    BOOST_OUTCOME_TRY(note_status(status_after, figures));
  }

  if (ledger) {
    ledger->stop();
    note_clients(*ledger, begun, ended, figures);
  }
  if (workload.loop) {
    BOOST_OUTCOME_TRY(guest.set_loop(false));
  }
  if (workload.dirty_pages > 0) {
    BOOST_OUTCOME_TRY(guest.set_dirty(0));
  }
  return ok();
}

// --- the death of host A

/// Host A loses its power while `mode` protects web1 and clients are at work.
Result<json::object> kill_host_a(Guest& guest, const Mode& mode) {
  BOOST_OUTCOME_TRY(begin(guest, mode));
  scene::LedgerTraffic ledger(clients(kLedgerConnections), guest.new_clients(kLedgerConnections),
                              kThinkTime);
  scene::EchoTraffic echo(clients(kLedgerConnections));
  const std::vector<scene::Traffic*> all = {&ledger, &echo};
  for (auto* traffic : all) traffic->start();
  for (auto* traffic : all) {
    BOOST_OUTCOME_TRY(traffic->wait_for_progress(60s));
  }
  const std::string ping_log = lab().folder() / "ping.log";
  (void)::unlink(ping_log.c_str());
  BOOST_OUTCOME_TRY(
      auto ping,
      scene::Process::spawn({"ping", "-D", "-n", "-i", "0.1", kAddress},
                            {.network_namespace = lab().network_namespace(), .log = ping_log}));
  std::this_thread::sleep_for(8s);

  const Instant moment = Instant::now();
  for (auto* traffic : all) traffic->mark(moment);
  BOOST_OUTCOME_TRY(lab().run({"kill", "A"}));
  std::optional<double> new_connection_ms;
  if (eventually(ledger_answers, 90s))
    new_connection_ms =
        std::chrono::duration<double, std::milli>(Clock::now() - moment.steady).count();
  // Time for those connections to go on that can. One that does not is given up by its client.
  for (auto* traffic : all) (void)traffic->wait_for_progress(20s, Clock::now());
  ping.signal(SIGINT);
  (void)ping.wait(5s);
  for (auto* traffic : all) traffic->stop();

  json::object result = {{"mode", mode.name},
                         {"resumed_on_b", new_connection_ms.has_value()},
                         {"outage_new_connection_ms", nullptr}};
  if (new_connection_ms) result["outage_new_connection_ms"] = std::round(*new_connection_ms);
  unsigned survived = 0;
  unsigned connections = 0;
  std::vector<float> outages;
  json::array failures;
  std::uint64_t wrong = 0;
  for (const auto* traffic : all) {
    for (const auto& report : traffic->report()) {
      ++connections;
      wrong += report.bytes_wrong;
      if (report.survived) ++survived;
      if (report.survived && report.outage_ms)
        outages.push_back(static_cast<float>(*report.outage_ms));
      if (!report.failure.empty())
        failures.push_back(json::string(report.kind + ": " + report.failure));
    }
  }
  result["connections"] = connections;
  result["connections_survived"] = survived;
  result["connection_failures"] = std::move(failures);
  result["bytes_wrong"] = wrong;
  result["outage_connections_ms"] =
      outages.empty() ? json::value() : json::value(std::round(percentile(outages, 0.5)));
  std::ifstream log(ping_log);
  std::stringstream ping_text;
  ping_text << log.rdbuf();
  const auto pinged = scene::parse_ping(ping_text.str(), moment);
  result["outage_ping_ms"] =
      pinged.outage_ms ? json::value(std::round(*pinged.outage_ms)) : json::value();

  if (const auto audit = ledger.audit()) {
    const auto& found = audit.value();
    result["acknowledged"] = found.acknowledged;
    result["acknowledged_lost"] = found.lost;
    result["applied_twice"] = found.repeated;
    result["ledger_whole"] = found.chain_true && found.sum_true && found.same_boot;
    result["first_fault"] = json::string(found.first_fault);
  } else {
    result["audit_failed"] = json::string(audit.error().message());
  }
  return result;
}

/// Everything as it was: web1 gone, host A there again.
Result<void> after_kill(Guest& guest) {
  (void)lab().exec("B", "xl destroy web1");
  BOOST_OUTCOME_TRY(lab().run({"start", "A"}, 300s));
  BOOST_OUTCOME_TRY(prepare_host("A"));
  // Neither agent remembers it any more.
  for (const char* host : {"A", "B"}) {
    (void)eventually(
        [host] {
          return !lab().exec(host, "understudy status web1 -o json | grep -q state").has_value();
        },
        30s);
  }
  return guest.create(false);
}

// --- the run

class Run {
 public:
  explicit Run(Options options) : options_(std::move(options)) {
    for (const auto& mode : all_modes())
      if (chosen(options_.modes, mode.name)) modes_.push_back(mode);
    for (const auto& workload : all_workloads())
      if (chosen(options_.workloads, workload.name)) workloads_.push_back(workload);
  }

  Result<void> all() {
    BOOST_OUTCOME_TRY(guest_.create(modes_.empty() || modes_.front().hvm));
    for (unsigned repeat = 1; repeat <= options_.repeats; ++repeat) {
      for (const Mode& mode : modes_) {
        if (mode.hvm != guest_.hvm()) {
          BOOST_OUTCOME_TRY(lab().exec("A", "xl destroy web1"));
          BOOST_OUTCOME_TRY(guest_.create(mode.hvm));
        }
        if (auto measured = measure_mode(repeat, mode); !measured) {
          BOOST_OUTCOME_TRY(note_failure(mode.name, measured.error().message()));
          (void)lab().exec("A", "xl destroy web1");
          (void)lab().exec("B", "xl destroy web1--incoming || xl destroy web1");
          BOOST_OUTCOME_TRY(guest_.create_again());
        }
      }
    }
    if (options_.kills > 0 && guest_.hvm()) {
      BOOST_OUTCOME_TRY(lab().exec("A", "xl destroy web1"));
      BOOST_OUTCOME_TRY(guest_.create(false));
    }
    bool first = true;
    for (unsigned kill = 0; kill < options_.kills; ++kill) {
      for (const Mode& mode : {all_modes()[1], all_modes()[2]}) {
        if (!first) {
          BOOST_OUTCOME_TRY(after_kill(guest_));
        }
        first = false;
        auto result = kill_host_a(guest_, mode);
        if (!result) {
          BOOST_OUTCOME_TRY(note_failure("kill under " + mode.name, result.error().message()));
          (void)lab().run({"kill", "A"});
          continue;
        }
        fmt::print(stderr, "host A dies under {}: {}\n", mode.name,
                   json::serialize(result.value()));
        kills_.push_back(std::move(result.value()));
        BOOST_OUTCOME_TRY(write());
      }
    }
    if (!failures_.empty())
      return fail(ErrorCode::failed, "{} measurements failed", failures_.size());
    return ok();
  }

 private:
  Result<void> measure_mode(unsigned repeat, const Mode& mode) {
    BOOST_OUTCOME_TRY(begin(guest_, mode));
    for (const Workload& workload : workloads_) {
      if (mode.hvm && !workload.hvm) continue;
      Figures& figures = figures_[mode.name][workload.name];
      BOOST_OUTCOME_TRY(measure(guest_, mode, workload, options_.seconds, figures));
      tell(repeat, mode, workload, figures);
      BOOST_OUTCOME_TRY(write());
    }
    return end(guest_, mode);
  }

  Result<void> note_failure(const std::string& what, const std::string& why) {
    fmt::print(stderr, "{}: {}\n", what, why);
    failures_.push_back(json::string(what + ": " + why));
    return write();
  }

  static bool chosen(const std::vector<std::string>& names, const std::string& name) {
    return names.empty() || std::ranges::find(names, name) != names.end();
  }

  static void tell(unsigned repeat, const Mode& mode, const Workload& workload, Figures& seen) {
    fmt::print(stderr,
               "repeat {} {:<17}{:<10}{:5.2f} checkpoints/s, standstill mean {:6.1f} p99 {:6.1f} "
               "ms, asked before {:5.1f} ms, {:8.0f} bytes/s, cpu {:.2f}",
               repeat, mode.name, workload.name, seen["checkpoints_per_s"].median(),
               seen["standstill_ms_mean"].median(), seen["standstill_ms_p99"].median(),
               seen["suspend_ms_mean"].median(), seen["sent_bytes_per_s"].median(),
               seen["guest_cpu_share"].median());
    if (workload.ledger)
      fmt::print(stderr, "; ledger {:.1f} ms, p99 {:.1f}, {:.1f}/s, silence {:.0f} ms",
                 seen["ledger_ms_p50"].median(), seen["ledger_ms_p99"].median(),
                 seen["ledger_per_s"].median(), seen["ledger_longest_silence_ms"].median());
    fmt::print(stderr, "\n");
  }

  Result<void> write() {
    json::array modes;
    for (const Mode& mode : modes_) {
      json::array workloads;
      for (const Workload& workload : workloads_) {
        if (!figures_[mode.name].contains(workload.name)) continue;
        workloads.push_back(
            {{"name", workload.name}, {"figures", to_json(figures_[mode.name][workload.name])}});
      }
      json::object object = {{"name", mode.name},
                             {"interval_ms", mode.interval_ms},
                             {"workloads", std::move(workloads)}};
      if (mode.system == System::upstream)
        object["note"] = "without output buffering and disk (-n -d)";
      modes.push_back(std::move(object));
    }
    json::object what;
    for (const Workload& workload : workloads_) what[workload.name] = workload.what;
    return write_json(
        options_.file,
        {{"schema", 1},
         {"repeats", options_.repeats},
         {"seconds_each", options_.seconds},
         {"silence_before_takeover_s", kSilenceSeconds},
         {"upstream",
          "xl remus -F -n -d: without output buffering and without disk replication, all that "
          "Debian's build can do; its clients see answers whose epoch is not safe yet"},
         {"measures",
          {{"standstill_ms",
            "time in which Xen lists the domain as suspended, looked up every five "
            "milliseconds in dom0; all systems alike"},
           {"suspend_ms", "before it: from the toolstack's word in xenstore to the standstill"},
           {"own_pause_ms", "what understudyd says of itself, since protection began"},
           {"sent_bytes", "at host A's interface in the replication network, all frames"},
           {"guest_cpu_share", "processor time that the domain got, of the time that passed"}}},
         {"workloads", std::move(what)},
         {"modes", std::move(modes)},
         {"kills", kills_},
         {"failures", failures_}});
  }

  Options options_;
  std::vector<Mode> modes_;
  std::vector<Workload> workloads_;
  Guest guest_;
  std::map<std::string, std::map<std::string, Figures>> figures_;
  json::array kills_;
  json::array failures_;
};

Result<void> run(const Options& options) {
  struct Down {
    ~Down() {
      if (std::getenv("UNDERSTUDY_BENCH_KEEP") == nullptr) (void)lab().run({"down"});
    }
  } down;
  BOOST_OUTCOME_TRY(lab().run({"up"}, 900s));
  for (const char* host : {"A", "B"}) {
    BOOST_OUTCOME_TRY(prepare_host(host));
  }
  BOOST_OUTCOME_TRY(lab().run({"pair"}));
  return Run(options).all();
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

}  // namespace
}  // namespace understudy::bench

int main(int argument_count, char** arguments) {
  understudy::bench::Options options;
  for (int i = 1; i < argument_count; ++i) {
    const std::string word = arguments[i];
    if (!word.starts_with("--")) {
      options.file = word;
      continue;
    }
    if (++i == argument_count) break;
    const std::string value = arguments[i];
    if (word == "--repeats") options.repeats = std::stoul(value);
    if (word == "--seconds") options.seconds = std::stoul(value);
    if (word == "--kills") options.kills = std::stoul(value);
    if (word == "--modes") options.modes = understudy::bench::split(value);
    if (word == "--workloads") options.workloads = understudy::bench::split(value);
  }
  if (options.file.empty()) {
    std::fputs(
        "usage: bench_xen FILE [--repeats N] [--seconds N] [--modes NAME,…] [--workloads NAME,…] "
        "[--kills N]\n",
        stderr);
    return 64;
  }
  if (auto done = understudy::bench::run(options); !done) {
    fmt::print(stderr, "bench_xen: {}\n", done.error().message());
    return 1;
  }
  return 0;
}
