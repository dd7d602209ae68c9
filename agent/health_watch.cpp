#include "agent/health_watch.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>

#include "agent/probers.h"
#include "agent/rethrow.h"
#include "agent/signal.h"

namespace understudy {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr auto kHostInterval = std::chrono::seconds(1);

std::uint64_t available_memory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string word; meminfo >> word;) {
    std::uint64_t kib = 0;
    if (word == "MemAvailable:" && meminfo >> kib) return kib * 1024;
  }
  return 0;
}

// "0.52 0.58 0.59 1/467 12345": the load of the last minute, for each processor.
std::uint64_t load_percent() {
  std::ifstream loadavg("/proc/loadavg");
  double load = 0;
  if (!(loadavg >> load) || load < 0) return 0;
  const long processors = std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN));
  return static_cast<std::uint64_t>(load * 100 / static_cast<double>(processors));
}

// "full avg10=0.00 avg60=0.00 …"; a kernel without it has no such file.
std::uint64_t memory_pressure_percent() {
  std::ifstream pressure("/proc/pressure/memory");
  for (std::string line; std::getline(pressure, line);) {
    constexpr std::string_view kBefore = "full avg10=";
    if (line.starts_with(kBefore))
      return static_cast<std::uint64_t>(std::strtod(line.c_str() + kBefore.size(), nullptr));
  }
  return 0;
}

Health::Config health_config(const ProbeConfig& probe) {
  return {.failures = probe.failures,
          .successes = probe.successes,
          .grace = probe.grace,
          .acts_only_after_well = probe.action == "move"};
}

}  // namespace

struct HealthWatch::Probe {
  explicit Probe(ProbeConfig its_config)
      : config(std::move(its_config)), health(health_config(config), Clock::now()) {}
  ProbeConfig config;
  Health health;
  std::uint64_t run = 0;  ///< Of the domain, as HealthHooks::View says.
  ProbeResult last;
  std::string held_because;
  std::uint64_t asked = 0;
  std::uint64_t failed = 0;
  bool stopped = false;
};

struct HealthWatch::Host {
  Host(HostHealth::Config its_config, std::filesystem::path directory)
      : config(its_config), health(its_config), state_directory(std::move(directory)) {}
  HostHealth::Config config;
  HostHealth health;
  HostHealth::Reading reading;
  std::filesystem::path state_directory;
  bool stopped = false;
};

HealthWatch::HealthWatch(boost::asio::any_io_executor executor, std::vector<ProbeConfig> probes,
                         HostHealth::Config host, std::filesystem::path state_directory,
                         EventLog& events, HealthHooks hooks)
    : executor_(std::move(executor)),
      events_(events),
      hooks_(std::make_shared<HealthHooks>(std::move(hooks))),
      host_(std::make_shared<Host>(host, std::move(state_directory))) {
  for (auto& probe : probes) probes_.push_back(std::make_shared<Probe>(std::move(probe)));
}

HealthWatch::~HealthWatch() {
  stop();
}

void HealthWatch::start() {
  for (const auto& probe : probes_)
    boost::asio::co_spawn(executor_, ask(executor_, probe, events_, hooks_), rethrow);
  boost::asio::co_spawn(executor_, read_host(host_, events_, hooks_), rethrow);
}

void HealthWatch::stop() {
  for (const auto& probe : probes_) probe->stopped = true;
  host_->stopped = true;
}

Task<void> HealthWatch::ask(boost::asio::any_io_executor executor, std::shared_ptr<Probe> probe,
                            EventLog& events, std::shared_ptr<HealthHooks> hooks) {
  const std::string domain = probe->config.domain;
  const std::string name = probe->config.name;
  while (!probe->stopped) {
    const auto next = Clock::now() + probe->config.interval;
    const HealthHooks::View before = hooks->view(domain);
    if (before.runs_here) {
      if (before.run != std::exchange(probe->run, before.run)) probe->health.on_begun(Clock::now());
      ProbeConfig question = probe->config;
      ProbeResult result = co_await probe_once(executor, std::move(question));
      if (probe->stopped) co_return;
      const HealthHooks::View after = hooks->view(domain);
      // What was asked of a domain that is gone meanwhile is no answer.
      if (after.runs_here && after.run == before.run) {
        ++probe->asked;
        if (!result.passed) ++probe->failed;
        const bool held =
            !result.answered && (!before.output_flows || !after.output_flows ||
                                 held_by_gate(before.holds, after.holds, probe->config.timeout));
        probe->held_because = !before.output_flows  ? before.held_because
                              : !after.output_flows ? after.held_because
                                                    : "for a while";
        probe->last = std::move(result);
        const auto outcome = probe->last.passed ? Health::Outcome::passed
                             : held             ? Health::Outcome::held
                                                : Health::Outcome::failed;
        const auto change = probe->health.on_outcome(Clock::now(), outcome);
        if (change && change->from != change->to) {
          const bool ill = change->to == Health::State::unhealthy;
          events.record(
              ill ? Severity::critical : Severity::info, domain,
              ill ? "service_unhealthy" : "service_healthy",
              fmt::format("probe {}: {}{}", name, probe->last.message,
                          ill ? fmt::format(" ({} times in a row)", probe->config.failures) : ""),
              {{"probe", name}, {"action", probe->config.action}});
        }
        if (change && change->act && probe->config.action != "event")
          hooks->act(domain, probe->config.action,
                     fmt::format("probe {}: {}", name, probe->last.message));
      }
    }
    if (const auto now = Clock::now(); now < next) co_await sleep_for(next - now);
  }
}

Task<void> HealthWatch::read_host(std::shared_ptr<Host> host, EventLog& events,
                                  std::shared_ptr<HealthHooks> hooks) {
  while (!host->stopped) {
    const auto due = Clock::now() + kHostInterval;
    co_await sleep_for(kHostInterval);
    if (host->stopped) co_return;
    HostHealth::Reading reading;
    reading.loop_lag = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - due);
    reading.memory_bytes = available_memory();
    struct statvfs disk {};
    if (::statvfs(host->state_directory.c_str(), &disk) == 0)
      reading.disk_bytes = std::uint64_t{disk.f_bavail} * disk.f_frsize;
    reading.load_percent = load_percent();
    reading.memory_pressure_percent = memory_pressure_percent();
    host->reading = reading;
    for (const HostHealth::Change& change : host->health.on_reading(reading)) {
      std::string figure;
      switch (change.check) {
        case HostHealth::Check::memory:
          figure = fmt::format("{} MiB of memory are available", reading.memory_bytes >> 20U);
          break;
        case HostHealth::Check::disk:
          figure = fmt::format("{} MiB are free in {}", reading.disk_bytes >> 20U,
                               host->state_directory.string());
          break;
        case HostHealth::Check::loop:
          figure = fmt::format("the agent's loop is {} ms late", reading.loop_lag.count() / 1000);
          break;
        case HostHealth::Check::load:
          figure = fmt::format("the load is {} % of the processors", reading.load_percent);
          break;
        case HostHealth::Check::memory_pressure:
          figure = fmt::format("processes stood still for want of memory in {} % of the last 10 s",
                               reading.memory_pressure_percent);
          break;
      }
      events.record(change.healthy ? Severity::info : Severity::warning, "",
                    change.healthy ? "host_healthy" : "host_unhealthy", figure,
                    {{"check", to_string(change.check)}});
      if (!change.healthy) hooks->host_ill(figure);
    }
  }
}

void HealthWatch::add_status(const std::string& domain, bool runs_here, json::object& status,
                             Conditions& conditions) const {
  json::array list;
  const Probe* worst = nullptr;
  const auto rank = [](const Probe& probe) {
    if (probe.health.state() == Health::State::unhealthy) return 3;
    if (probe.health.held()) return 2;
    return probe.health.state() == Health::State::unknown ? 1 : 0;
  };
  for (const auto& probe : probes_) {
    if (!runs_here || probe->config.domain != domain) continue;
    if (worst == nullptr || rank(*probe) > rank(*worst)) worst = probe.get();
    list.push_back({{"name", probe->config.name},
                    {"kind", probe->config.kind},
                    {"state", to_string(probe->health.state())},
                    {"held", probe->health.held()},
                    {"message", probe->last.message},
                    {"took_ms", static_cast<double>(probe->last.took.count()) / 1000.0},
                    {"asked", probe->asked},
                    {"failed", probe->failed},
                    {"action", probe->config.action}});
  }
  if (worst == nullptr) {
    conditions.remove("ServiceHealthy");
    return;
  }
  status["probes"] = std::move(list);
  const std::string words = fmt::format("{}: {}", worst->config.name, worst->last.message);
  switch (rank(*worst)) {
    case 3:
      conditions.set("ServiceHealthy", false, "ProbeFailing", words);
      break;
    case 2:
      conditions.set("ServiceHealthy", std::nullopt, "OutputHeld",
                     fmt::format("gate: answers are held ({}); this says nothing about the service",
                                 worst->held_because));
      break;
    case 1:
      conditions.set("ServiceHealthy", std::nullopt, "NotProbedYet",
                     worst->asked == 0 ? "no probe has ended yet" : words);
      break;
    default:
      conditions.set("ServiceHealthy", true, "ProbesPass", words);
  }
}

json::object HealthWatch::host_to_json() const {
  json::array checks;
  const auto check = [&](HostHealth::Check which, const char* unit, std::uint64_t value,
                         std::uint64_t threshold) {
    if (threshold == 0) return;
    checks.push_back({{"check", to_string(which)},
                      {"healthy", host_->health.healthy(which)},
                      {std::string("now_") + unit, value},
                      {std::string("threshold_") + unit, threshold}});
  };
  const auto& reading = host_->reading;
  check(HostHealth::Check::memory, "bytes", reading.memory_bytes, host_->config.memory_bytes_min);
  check(HostHealth::Check::disk, "bytes", reading.disk_bytes, host_->config.disk_bytes_min);
  check(HostHealth::Check::loop, "us", static_cast<std::uint64_t>(reading.loop_lag.count()),
        static_cast<std::uint64_t>(host_->config.loop_lag_max.count()));
  check(HostHealth::Check::load, "percent", reading.load_percent, host_->config.load_percent_max);
  check(HostHealth::Check::memory_pressure, "percent", reading.memory_pressure_percent,
        host_->config.memory_pressure_percent_max);
  return {{"healthy", host_->health.healthy()}, {"checks", std::move(checks)}};
}

std::vector<ProbeConfig> HealthWatch::probes_of(const std::string& domain) const {
  std::vector<ProbeConfig> found;
  for (const auto& probe : probes_) {
    if (probe->config.domain == domain) found.push_back(probe->config);
  }
  return found;
}

}  // namespace understudy
