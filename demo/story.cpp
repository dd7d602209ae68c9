#include "demo/story.h"

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <thread>

#include "tests/guest/pattern.h"
#include "tests/scene/json_fields.h"

namespace understudy::demo {
namespace {

using namespace std::chrono_literals;
using scene::Clock;
using scene::HostId;
using scene::number_at;
using scene::object_at;
using scene::text_at;
namespace json = boost::json;

constexpr std::uint64_t curl_file_bytes = 8U << 20U;
constexpr std::uint64_t netcat_seed = 2026;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// When the phase `name` of a timeline was reached, by the wall's clock to the millisecond.
std::optional<std::chrono::system_clock::time_point> moment_of(const json::object& timeline,
                                                               std::string_view name) {
  const json::value* phases = timeline.if_contains("phases");
  if (phases == nullptr || !phases->is_array()) {
    return std::nullopt;
  }
  for (const json::value& phase : phases->get_array()) {
    if (!phase.is_object() || text_at(phase.get_object(), "name") != name) {
      continue;
    }
    // 2026-01-31T12:34:56.789Z
    std::tm parts{};
    const std::string at = text_at(phase.get_object(), "at");
    const char* rest = strptime(at.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
    if (rest == nullptr || *rest != '.') {
      return std::nullopt;
    }
    return std::chrono::system_clock::from_time_t(timegm(&parts)) +
           std::chrono::milliseconds(std::strtol(rest + 1, nullptr, 10));
  }
  return std::nullopt;
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Story::Story(StoryOptions options, Narrator& narrator)
    : options_(std::move(options)), narrator_(narrator) {}

Story::~Story() = default;

Result<Report> Story::play() {
  Report report;
  report.interval = options_.interval;
  BOOST_OUTCOME_TRY(set_the_stage());
  BOOST_OUTCOME_TRY(start_the_guest());
  BOOST_OUTCOME_TRY(send_in_clients());
  BOOST_OUTCOME_TRY(protect());
  BOOST_OUTCOME_TRY(watch(options_.before));
  BOOST_OUTCOME_TRY(kill_the_host(report));
  BOOST_OUTCOME_TRY(go_on(report));
  BOOST_OUTCOME_TRY(take_stock(report));
  return report;
}

Result<void> Story::set_the_stage() {
  narrator_.act("The stage");
  const auto start = Clock::now();
  if (options_.xen) {
    narrator_.live("two Xen hosts boot …");
    BOOST_OUTCOME_TRY(stage_, build_xen_stage(*options_.xen));
  } else {
    BOOST_OUTCOME_TRY(stage_, build_namespace_stage(options_.scene));
  }
  narrator_.settle(fmt::format("{} ({:.1f} s)", stage_->description(), seconds_since(start)));
  return ok();
}

Result<void> Story::start_the_guest() {
  narrator_.act("The lead");
  const auto start = Clock::now();
  narrator_.live("web1 boots on hostA …");
  BOOST_OUTCOME_TRY(stage_->start_guest());
  // A domain that `xl` made is not known to the agent before it is protected.
  const auto known = stage_->domain(HostId::a);
  const json::object domain = known ? known.value() : json::object();
  const std::string made_of =
      known ? fmt::format("; {:.0f} MiB, {:.0f} vCPU, {} ({})",
                          number_at(domain, "memory_bytes") / 1048576, number_at(domain, "vcpus"),
                          text_at(domain, "hypervisor"), text_at(domain, "accelerator"))
            : "";
  narrator_.settle(
      fmt::format("web1 runs on hostA: Debian's Linux with httpd, echo and a ledger{}; booted in "
                  "{:.1f} s",
                  made_of, seconds_since(start)));
  return ok();
}

Result<void> Story::send_in_clients() {
  narrator_.act("The audience");
  auto ledger =
      std::make_unique<scene::LedgerTraffic>(stage_->client_options(options_.ledger_connections));
  ledger_ = ledger.get();
  cast_.push_back({std::move(ledger), "transfers, each with a receipt"});
  cast_.push_back(
      {std::make_unique<scene::EchoTraffic>(stage_->client_options(4)), "1 kB there and back"});
  cast_.push_back({std::make_unique<scene::StreamTraffic>(stage_->client_options(2), 1'000'000),
                   "an endless download, 1 MB/s"});
  auto version_6 = stage_->client_options(1);
  version_6.address = scene::guest_address_6;
  cast_.push_back(
      {std::make_unique<scene::StreamTraffic>(version_6, 250'000), "the same over IPv6, 250 kB/s"});
  // A file's header tells the time of day, which a replay cannot say again.
  cast_.push_back({std::make_unique<scene::HttpTraffic>(
                       stage_->client_options(1), 4096,
                       replays() ? scene::HttpSource::generated : scene::HttpSource::file),
                   "GET, a new connection each", false});
  for (Cast& member : cast_) {
    member.traffic->start();
  }
  BOOST_OUTCOME_TRY(ping_, stage_->start_client({"ping", "-n", "-D", "-i", "0.02",
                                                 std::string(scene::guest_address)},
                                                "ping.txt"));
  for (Cast& member : cast_) {
    BOOST_OUTCOME_TRY(member.traffic->wait_for_progress(20s));
  }
  narrator_.line(fmt::format(
      "{} TCP connections at work, every byte checked; ping 50 times a second; curl and nc follow",
      options_.ledger_connections + 7));
  return ok();
}

Result<void> Story::protect() {
  narrator_.act("The understudy");
  const auto start = Clock::now();
  double bytes = 0;
  const scene::Protection protection{.mode = options_.mode, .interval = options_.interval};
  BOOST_OUTCOME_TRY(stage_->protect(protection, [&](const json::object& domain) {
    const json::object work = object_at(domain, "synchronisation");
    const double total = number_at(work, "pages_total");
    if (total > 0) {
      const double share = number_at(work, "pages_sent") / total;
      bytes = std::max(bytes, number_at(work, "bytes_sent"));
      narrator_.live(fmt::format("copying web1's memory to hostB: round {:.0f} {} {:3.0f} %  {}/s",
                                 number_at(work, "round"), Narrator::bar(share), share * 100,
                                 bytes_text(number_at(work, "rate_bytes_per_second"))));
    }
  }));
  narrator_.settle(fmt::format(
      "hostB holds web1's memory, copied while it ran{} ({:.1f} s); now a checkpoint every {}, "
      "{}",
      bytes > 0 ? fmt::format(", {} on the wire", bytes_text(bytes)) : std::string(),
      seconds_since(start), options_.interval,
      replays() ? "and an answer leaves once hostB knows what led to it"
                : "output only after its commit"));
  protected_at_ = Clock::now();
  return ok();
}

std::string Story::totals() const {
  std::uint64_t bytes = 0;
  for (const Cast& member : cast_) {
    bytes += member.traffic->bytes_verified();
  }
  return fmt::format("{} transfers acknowledged, {} verified", grouped(ledger_->operations()),
                     bytes_text(static_cast<double>(bytes)));
}

Result<void> Story::watch(std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  const std::string options_folder = stage_->folder().string();
  // The real clients' transfers are to span the kill, so they begin late.
  const auto real_start = end - std::min<std::chrono::milliseconds>(time, 2s);
  bool real_started = false;
  while (Clock::now() < end) {
    if (!real_started && Clock::now() >= real_start) {
      real_started = true;
      const std::string url = replays() ? fmt::format("http://{}/cgi-bin/pattern?{}",
                                                      scene::guest_address, curl_file_bytes)
                                        : fmt::format("http://{}/8m.bin", scene::guest_address);
      BOOST_OUTCOME_TRY(
          curl_, stage_->start_client({"curl", "-sS", "--max-time", "60", "--limit-rate", "800k",
                                       "-o", options_folder + "/curl.bin", url},
                                      "curl.txt"));
      BOOST_OUTCOME_TRY(
          netcat_,
          stage_->start_client({"sh", "-c",
                                fmt::format("{{ echo {} 200000; sleep 1000; }} | "
                                            "exec nc {} 9001 >{}/nc.bin",
                                            netcat_seed, scene::guest_address, options_folder)},
                               "nc.txt"));
    }
    narrator_.live(totals());
    std::this_thread::sleep_for(100ms);
  }
  narrator_.settle(fmt::format("{:.0f} s of traffic: {}",
                               std::chrono::duration<double>(time).count(), totals()));
  return ok();
}

Result<void> Story::kill_the_host(Report& report) {
  narrator_.act("The fall");
  BOOST_OUTCOME_TRY(const auto domain, stage_->domain(HostId::a));
  report.mode = text_at(domain, "mode");
  report.hypervisor = text_at(domain, "hypervisor");
  report.accelerator = text_at(domain, "accelerator");
  report.checkpoints = static_cast<std::uint64_t>(number_at(domain, "checkpoints"));
  const json::object pause = object_at(domain, "pause_ms");
  report.pause_ms_p50 = number_at(pause, "p50");
  report.pause_ms_p99 = number_at(pause, "p99");
  BOOST_OUTCOME_TRY(kill_, stage_->kill_host(options_.power_off));
  for (Cast& member : cast_) {
    member.traffic->mark(kill_);
  }
  narrator_.line(narrator_.bad(stage_->death()));
  return ok();
}

Result<void> Story::go_on(Report& report) {
  // Who does not come back is part of the report, so waiting ends without an error.
  const auto end = Clock::now() + 20s;
  for (Cast& member : cast_) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    (void)member.traffic->wait_for_progress(std::max<std::chrono::milliseconds>(left, 0ms),
                                            kill_.steady + 50ms);
  }
  read_timeline(report);
  narrator_.line(report.promote_ms
                     ? fmt::format("hostB noticed, and web1 went on there: detected after {}, "
                                   "promoted in {}{}",
                                   ms_text(report.detect_ms.value_or(0)),
                                   ms_text(*report.promote_ms),
                                   report.replay ? fmt::format(", {} inputs replayed in {}",
                                                               grouped(report.replay->inputs),
                                                               ms_text(report.replay->replay_ms))
                                                 : std::string())
                     : narrator_.bad("hostB has not promoted web1"));
  const auto until = Clock::now() + options_.after;
  while (Clock::now() < until || (curl_.running() && Clock::now() < until + 30s)) {
    narrator_.live(totals());
    std::this_thread::sleep_for(100ms);
  }
  narrator_.settle("and on: " + totals());
  read_timeline(report);
  return ok();
}

/// Asked for twice: a replay may end after the first answers were heard.
void Story::read_timeline(Report& report) {
  if (auto timeline = stage_->timeline(); timeline && timeline.value().is_object()) {
    const json::object& told = timeline.value().get_object();
    report.timeline = told;
    report.replay = scene::replay_outcome_of(told);
    if (told.contains("detect_ms")) {
      report.detect_ms = number_at(told, "detect_ms");
    }
    if (told.contains("promote_ms")) {
      report.promote_ms = number_at(told, "promote_ms");
    }
  }
  if (const auto resumed = moment_of(report.timeline, "resumed")) {
    report.running_ms = std::chrono::duration<double, std::milli>(*resumed - kill_.wall).count();
  }
}

Result<void> Story::take_stock(Report& report) {
  for (Cast& member : cast_) {
    member.traffic->stop();
    const auto reports = member.traffic->report();
    report.kinds.push_back(
        summarise(member.traffic->kind(), member.what, member.long_lived, reports));
    for (const scene::ConnectionReport& connection : reports) {
      if (member.long_lived && connection.outage_ms) {
        report.outages_ms.push_back(*connection.outage_ms);
      }
    }
  }
  for (const scene::Receipt& receipt : ledger_->receipts()) {
    if (receipt.sent > protected_at_ && receipt.received < kill_.steady) {
      report.answers_ms.push_back(
          std::chrono::duration<double, std::milli>(receipt.received - receipt.sent).count());
    }
  }
  judge_curl(report);
  judge_netcat(report);
  ping_.signal(SIGINT);
  (void)ping_.wait(5s);
  report.ping = scene::parse_ping(file_text(stage_->folder() / "ping.txt"), kill_);
  auto audit = ledger_->audit();
  if (audit) {
    report.audit = std::move(audit.value());
  } else {
    // A ledger that cannot be read bears out no receipt.
    report.audit.acknowledged = ledger_->receipts().size();
    report.audit.lost = report.audit.acknowledged;
    report.audit.first_fault = audit.error().message();
  }
  return ok();
}

void Story::judge_curl(Report& report) {
  RealClient client{.name = "curl", .what = "one download of 8 MB, limited to 800 kB/s"};
  const auto status = curl_.wait(1s);
  const std::string got = file_text(stage_->folder() / "curl.bin");
  const bool whole = got.size() == curl_file_bytes &&
                     guest::count_wrong(guest::web_file_seed(curl_file_bytes), 0, got) == 0;
  client.fine = status && status.value() == 0 && whole;
  std::string complaint = file_text(stage_->folder() / "curl.txt");
  std::ranges::replace(complaint, '\n', ' ');
  client.outcome = client.fine ? "went through, every byte right"
                               : fmt::format("{} of {} bytes. {}", got.size(), curl_file_bytes,
                                             status ? complaint : "still waiting");
  report.real_clients.push_back(std::move(client));
}

void Story::judge_netcat(Report& report) {
  RealClient client{.name = "nc", .what = "one connection that reads, 200 kB/s"};
  const bool connected = netcat_.running();
  const std::string got = file_text(stage_->folder() / "nc.bin");
  const std::size_t wrong = guest::count_wrong(netcat_seed, 0, got);
  // Before the kill it has had 2 s; whatever is beyond came from hostB.
  const bool went_on = got.size() > 600'000;
  client.fine = connected && wrong == 0 && went_on;
  client.outcome =
      fmt::format("{}, {} received, {} bytes wrong", connected ? "still connected" : "disconnected",
                  bytes_text(static_cast<double>(got.size())), wrong);
  netcat_ = {};
  report.real_clients.push_back(std::move(client));
}

}  // namespace understudy::demo
