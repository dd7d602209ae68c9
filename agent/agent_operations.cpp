// What the agent does beside protecting: hooks are told, services are probed and what is configured
// for an ill one is done, drills are held and their reports kept. The decisions are elsewhere
// (failover/health.h, agent/drill_schedule.h); here they are joined to the domains.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <ctime>

#include "agent/agent.h"
#include "agent/drill_schedule.h"
#include "agent/dry_drill.h"
#include "agent/json_fields.h"
#include "agent/rethrow.h"
#include "hypervisor/qemu/qemu_process.h"

namespace understudy {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

// A peer that is away for longer has forgotten that a drill is under way.
constexpr unsigned kShareTries = 60;
constexpr std::size_t kSharedReportBytesMax = std::size_t{64} << 10;

unsigned minute_of_day() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  return static_cast<unsigned>(parts.tm_hour * 60 + parts.tm_min);
}

}  // namespace

void Agent::begin_operations() {
  hooks_ = std::make_unique<Hooks>(
      context_.get_executor(), config_.hooks, events_,
      [this](const std::string& domain) { return describe_for_hooks(domain); });
  HealthHooks hooks;
  hooks.view = [this](const std::string& domain) { return view_for_health(domain); };
  hooks.act = [this](const std::string& domain, const std::string& action,
                     const std::string& reason) {
    if (action == "restart")
      boost::asio::co_spawn(context_, restart_domain(domain, reason), rethrow);
    if (action == "move") boost::asio::co_spawn(context_, move_to_backup(domain), rethrow);
  };
  hooks.host_ill = [this](const std::string& reason) {
    if (config_.health_action == "move")
      boost::asio::co_spawn(context_, leave_host(reason), rethrow);
  };
  health_ = std::make_unique<HealthWatch>(
      context_.get_executor(), config_.probes,
      HostHealth::Config{.memory_bytes_min = config_.health_memory_mib_min << 20U,
                         .disk_bytes_min = config_.health_disk_mib_min << 20U,
                         .loop_lag_max = config_.health_loop_lag_max,
                         .load_percent_max = config_.health_load_percent_max,
                         .memory_pressure_percent_max = config_.health_memory_pressure_percent_max},
      config_.state_directory, events_, std::move(hooks));
  health_->start();
  for (const auto& report : drills_.left_unfinished()) {
    if (auto saved = drills_.save(report); !saved)
      spdlog::warn("a drill's report is not kept: {}", saved.error().message());
    // Else the other host would go on to believe that it is under way.
    if (text_at(report, "host") == config_.name && text_at(report, "kind") != "dry")
      boost::asio::co_spawn(context_, share_drill(report, kShareTries), rethrow);
  }
  if (!config_.drills.empty()) boost::asio::co_spawn(context_, keep_drills(), rethrow);
}

// --- hooks ---

HookContext Agent::describe_for_hooks(const std::string& domain) const {
  HookContext context;
  context.host = config_.name;
  const auto found = entries_.find(domain);
  if (found == entries_.end()) return context;
  const Entry& entry = *found->second;
  context.peer = entry.record.peer;
  context.generation = entry.record.generation.value;
  std::vector<std::vector<IpAddress>> learnt;
  if (entry.primary) {
    context.epoch = entry.primary->decisions().acknowledged().value;
    learnt = decode_addresses(entry.primary->learnt_addresses());
  } else if (entry.backup) {
    context.epoch = entry.backup->view().committed.value;
    learnt = entry.backup->addresses();
  }
  for (const auto& addresses : learnt) {
    for (const IpAddress& address : addresses) context.addresses.push_back(address.to_string());
  }
  return context;
}

Task<Result<json::value>> Agent::test_hook(std::string name, std::string kind, std::string domain) {
  co_return co_await hooks_->test(std::move(name), std::move(kind), std::move(domain));
}

// --- health ---

HealthHooks::View Agent::view_for_health(const std::string& domain) const {
  HealthHooks::View view;
  const auto found = entries_.find(domain);
  if (found == entries_.end()) return view;
  const Entry& entry = *found->second;
  view.runs_here = entry.domain && !entry.failure && !entry.starting && !entry.stopping;
  if (!view.runs_here) return view;
  view.run = entry.record.generation.value;
  if (entry.primary) view.holds = entry.primary->output_holds();
  const json::object status = status_of(entry);
  for (const auto& condition : status.at("conditions").as_array()) {
    if (condition.at("type") != "OutputFlowing") continue;
    view.output_flows = condition.at("status") == true;
    if (!view.output_flows) view.held_because = condition.at("message").as_string();
  }
  return view;
}

// The same domain from the beginning: what its memory held is gone, so this is for services that
// are safe to be switched off. Its protection is renewed by itself.
Task<void> Agent::restart_domain(std::string name, std::string reason) {
  const auto failed = [&](const std::string& why) {
    events_.record(Severity::critical, name, "restart_failed",
                   fmt::format("not restarted ({}): {}", reason, why));
  };
  auto found = find_running(name);
  if (!found) co_return failed(found.error().message());
  if (found.value()->busy) co_return failed("another request is at work on it");
  const DomainRecord before = found.value()->record;
  DomainConfig config = found.value()->domain->config();
  const bool was_protected = found.value()->primary != nullptr;
  events_.record(Severity::warning, name, "domain_restarted",
                 fmt::format("restarted from the beginning: {}", reason));
  if (was_protected) {
    if (auto ended = co_await unprotect(name); !ended) co_return failed(ended.error().message());
  }
  if (auto stopped = co_await stop_domain(name, false); !stopped)
    co_return failed(stopped.error().message());
  auto started = co_await start_configured(std::move(config));
  if (!started) co_return failed(started.error().message());
  const auto entry = entries_.find(name);
  if (!was_protected || entry == entries_.end()) co_return;
  DomainRecord& record = entry->second->record;
  record.peer = before.peer;
  record.mode = before.mode;
  record.interval_us = before.interval_us;
  record.replay = before.replay;
  record.renewal = before.renewal;
  record.protect_again = true;
  if (auto saved = save(*entry->second); !saved) co_return failed(saved.error().message());
}

// For an ill service: to where its host cannot be the reason; an illness in the guest's memory goes
// along. And for the way back of a drill.
Task<void> Agent::move_to_backup(std::string name) {
  const std::uint64_t before = events_.last();
  auto moved = co_await move(name, "");
  if (moved) co_return;
  // move() tells itself what it failed at, but not what kept it from beginning.
  const auto told = events_.list(name, before, 100, true);
  const bool known = std::ranges::any_of(told, [](const Event& event) {
    return event.kind == "move_failed" || event.kind == "backup_lost";
  });
  if (!known)
    events_.record(Severity::critical, name, "move_failed",
                   fmt::format("not moved to its backup: {}", moved.error().message()));
}

// For an ill host, once for each illness: what is protected goes to its backup, one after another;
// the rest stays, because a copy of all memory is more than an ill host should be asked for.
Task<void> Agent::leave_host(std::string reason) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (entry->primary && entry->domain) names.push_back(name);
  }
  for (const std::string& name : names) {
    const auto found = entries_.find(name);
    if (found == entries_.end() || !found->second->primary || drilled_.contains(name) ||
        found->second->primary->decisions().state() != EpochPrimary::State::protecting)
      continue;
    spdlog::warn("domain={} leaves this host, which is ill: {}", name, reason);
    co_await move_to_backup(name);
  }
}

// --- drills ---

json::object Agent::new_drill(const std::string& name, const std::string& kind,
                              const std::string& peer, const std::string& by) const {
  return {{"id", drills_.new_id(name, kind)},
          {"domain", name},
          {"kind", kind},
          {"host", config_.name},
          {"peer", peer},
          {"asked_by", by},
          {"started", rfc3339(std::chrono::system_clock::now())},
          {"outcome", "in_progress"}};
}

void Agent::end_drill(const std::string& name, json::object report) {
  const std::string outcome = text_at(report, "outcome");
  const std::string id = text_at(report, "id");
  const std::string kind = text_at(report, "kind");
  const std::string summary = text_at(report, "summary");
  if (auto saved = drills_.save(report); !saved) {
    // Told until the agent ends, and the other host may have better luck.
    const std::string why =
        fmt::format("the report is not kept on {}: {}", config_.name, saved.error().message());
    report["to_mend"].as_array().emplace_back(why);
    (void)drills_.save(report);
    spdlog::warn("domain={} {}", name, why);
  }
  drilled_.erase(name);
  if (kind != "dry") boost::asio::co_spawn(context_, share_drill(report, kShareTries), rethrow);
  const json::object fields = {{"drill", id}, {"kind", kind}};
  const std::string message = fmt::format("{} drill: {}", kind, summary);
  if (outcome == "failed") {
    events_.record(Severity::warning, name, "drill_failed", message, fields);
  } else {
    events_.record(Severity::info, name, "drill_ended", message, fields);
  }
}

Result<void> Agent::claim_drill(const std::string& name, const std::string& id) {
  if (drilled_.contains(name) || drills_.under_way(name, std::chrono::system_clock::now()))
    return fail(ErrorCode::try_again, "a drill of {} is under way", name);
  drilled_[name].id = id;
  return ok();
}

Task<void> Agent::share_drill(json::object report, unsigned tries) {
  const std::string peer = text_at(report, "peer");
  while (!stopping_) {
    json::value request = {{"request", "keep_drill"}, {"report", report}};
    auto answered = co_await ask_peer(peer, std::move(request));
    if (answered || --tries == 0) {
      if (!answered)
        spdlog::info("peer={} does not have a drill's report: {}", peer,
                     answered.error().message());
      co_return;
    }
    co_await sleep_for(std::chrono::seconds(2));
  }
}

// Of a drill that the peer held with us: it may name nothing else.
json::object Agent::accept_drill(const std::string& peer, const json::object& request) {
  const auto* value = request.if_contains("report");
  const auto* report = value == nullptr ? nullptr : value->if_object();
  const auto found = report == nullptr ? entries_.end() : entries_.find(text_at(*report, "domain"));
  if (found == entries_.end() || found->second->record.peer != peer ||
      text_at(*report, "host") != peer || text_at(*report, "peer") != config_.name)
    return {{"error", "no drill of ours"}};
  if (json::serialize(*report).size() > kSharedReportBytesMax)
    return {{"error", "the report is too long"}};
  if (const auto known = drills_.find(text_at(*report, "id"));
      known && text_at(known.value(), "host") != peer)
    return {{"error", "that drill was another host's"}};
  auto kept = drills_.save(*report);
  return kept ? json::object{{"kept", true}} : json::object{{"error", kept.error().message()}};
}

Task<Result<json::value>> Agent::cancel_drill(std::string id) {
  const auto under_way =
      std::ranges::find_if(drilled_, [&id](const auto& one) { return one.second.id == id; });
  BOOST_OUTCOME_CO_TRY(auto report, drills_.find(id));
  if (under_way == drilled_.end())
    co_return fail(ErrorCode::usage, "drill {} is not under way on {}", id, config_.name);
  if (text_at(report, "kind") == "real")
    co_return fail(ErrorCode::usage, "a real drill cannot be taken back: {} has been killed",
                   text_at(report, "domain"));
  *under_way->second.cancelled = true;
  if (const std::string there = under_way->second.id_there; !there.empty()) {
    const std::string peer = text_at(report, "peer");
    json::value request = {{"request", "cancel_drill"}, {"id", there}};
    auto answered = co_await ask_peer(peer, std::move(request));
    if (!answered) co_return answered.error();
    if (answered.value().contains("error"))
      co_return fail(ErrorCode::unavailable, "{}: {}", peer, text_at(answered.value(), "error"));
  }
  co_return json::value(std::move(report));
}

Result<json::object> Agent::begin_dry_drill(const std::string& name, const std::string& by) {
  BOOST_OUTCOME_TRY(auto* entry, find(name));
  if (!entry->backup)
    return fail(ErrorCode::usage, "{} holds no image of {}: a dry drill tries the backup's",
                config_.name, name);
  if (entry->backup->view().role != PeerRole::holding || entry->backup->promoting() ||
      entry->backup->view().committed.value == 0)
    return fail(ErrorCode::try_again, "the image of {} is not whole: there is nothing to try",
                name);
  json::object report = new_drill(name, "dry", entry->record.peer, by);
  BOOST_OUTCOME_TRY(claim_drill(name, text_at(report, "id")));
  (void)drills_.save(report);
  events_.record(Severity::info, name, "drill_started", "a dry drill: a copy of the last commit",
                 {{"drill", report.at("id")}, {"kind", "dry"}});
  boost::asio::co_spawn(context_, hold_dry_drill_of(entry->backup, report), rethrow);
  return report;
}

Task<void> Agent::hold_dry_drill_of(std::shared_ptr<BackupSession> backup, json::object report) {
  const std::string name = text_at(report, "domain");
  DryDrill drill{context_.get_executor(), *hypervisor_, std::move(backup), health_->probes_of(name),
                 drilled_[name].cancelled};
  json::object ended = co_await hold_dry_drill(std::move(drill), std::move(report));
  end_drill(name, std::move(ended));
}

Task<Result<json::value>> Agent::drill(std::string name, std::string kind, std::string by) {
  if (kind != "dry" && kind != "planned" && kind != "real")
    co_return fail(ErrorCode::usage, "kind '{}': expected dry, planned or real", kind);
  BOOST_OUTCOME_CO_TRY(auto* entry, find(name));
  if (kind == "dry" && entry->backup) {
    BOOST_OUTCOME_CO_TRY(auto begun, begin_dry_drill(name, by));
    co_return json::value(std::move(begun));
  }
  if (entry->backup)
    co_return fail(ErrorCode::usage, "{} runs on {}: a {} drill is asked for there", name,
                   entry->record.peer, kind);
  if (!entry->primary || !entry->domain ||
      entry->primary->decisions().state() != EpochPrimary::State::protecting)
    co_return fail(ErrorCode::usage,
                   "{} is not protected and running on {}: a drill tries a protection", name,
                   config_.name);
  const std::string peer = entry->record.peer;
  json::object report = new_drill(name, kind, peer, by);
  BOOST_OUTCOME_CO_TRY(claim_drill(name, text_at(report, "id")));
  report["generation"] = entry->record.generation.value;
  if (kind == "real") {
    report["epoch"] = entry->primary->decisions().acknowledged().value;
    (void)drills_.save(report);
    events_.record(Severity::warning, name, "drill_started",
                   fmt::format("a real drill: the domain here is killed, {} takes over", peer),
                   {{"drill", report.at("id")}, {"kind", kind}, {"peer", peer}});
    boost::asio::co_spawn(context_, hold_real_drill(name, report), rethrow);
    co_return json::value(std::move(report));
  }
  if (kind == "planned") {
    (void)drills_.save(report);
    events_.record(Severity::info, name, "drill_started",
                   fmt::format("a planned drill: to {} and back", peer),
                   {{"drill", report.at("id")}, {"kind", kind}, {"peer", peer}});
    boost::asio::co_spawn(context_, hold_planned_drill(name, report), rethrow);
    co_return json::value(std::move(report));
  }
  json::value request = {{"request", "drill"}, {"domain", name}};
  auto answered = co_await ask_peer(peer, std::move(request));
  std::string refused;
  if (!answered) {
    refused = answered.error().message();
  } else if (answered.value().contains("error")) {
    refused = text_at(answered.value(), "error");
  }
  if (!refused.empty()) {
    drilled_.erase(name);
    co_return fail(ErrorCode::unavailable, "{} does not hold the drill: {}", peer, refused);
  }
  drilled_[name].id_there = text_at(answered.value(), "id");
  (void)drills_.save(report);
  boost::asio::co_spawn(context_, follow_drill(report, peer, text_at(answered.value(), "id")),
                        rethrow);
  co_return json::value(std::move(report));
}

// The other host holds it; its report becomes ours, too.
Task<void> Agent::follow_drill(json::object report, std::string peer, std::string their_id) {
  const std::string name = text_at(report, "domain");
  const auto end = Clock::now() + std::chrono::minutes(10);
  std::string problem = "no word of it";
  while (Clock::now() < end && !stopping_) {
    co_await sleep_for(std::chrono::milliseconds(500));
    json::value request = {{"request", "drill_report"}, {"id", their_id}};
    auto answered = co_await ask_peer(peer, std::move(request));
    if (!answered) {
      problem = answered.error().message();
      continue;
    }
    json::object theirs = std::move(answered.value());
    if (theirs.contains("error")) {
      problem = text_at(theirs, "error");
      break;
    }
    if (text_at(theirs, "outcome") == "in_progress") continue;
    for (const char* const own : {"id", "asked_by"}) theirs[own] = report[own];
    end_drill(name, std::move(theirs));
    co_return;
  }
  report["outcome"] = "failed";
  report["summary"] = fmt::format("{} did not tell how it ended: {}", peer, problem);
  end_drill(name, std::move(report));
}

// There and back. What stands still is told by the host that the domain comes to.
Task<void> Agent::hold_planned_drill(std::string name, json::object report) {
  const std::string peer = text_at(report, "peer");
  const auto patience = std::chrono::minutes(3);
  const auto cancelled = drilled_[name].cancelled;
  // The other host must not begin one of its own while the domain is there.
  co_await share_drill(report, 1);
  DrillClock clock;
  json::array to_mend;
  json::array checks;
  std::string failure;
  auto moved = co_await move(name, "");
  clock.step(fmt::format("moved to {}", peer));
  if (!moved) failure = moved.error().message();
  double stood_ms = 0;
  const auto note = [&](const json::object& timeline, const std::string& host) {
    const auto* stood = timeline.if_contains("stood_ms");
    const double ms = stood == nullptr ? 0 : stood->to_number<double>();
    stood_ms = std::max(stood_ms, ms);
    checks.push_back({{"name", "handed over to " + host},
                      {"passed", true},
                      {"message", fmt::format("the guest stood still for {:.1f} ms", ms)},
                      {"took_ms", ms}});
  };
  if (failure.empty()) {
    json::value ask = {{"request", "timeline"}, {"domain", name}};
    auto told = co_await ask_peer(peer, std::move(ask));
    if (told && !told.value().contains("error")) note(told.value(), peer);
    // It comes back when it is protected again: until then there is no warm backup here.
    failure = "not protected again within three minutes";
    for (const auto end = Clock::now() + patience; Clock::now() < end && !stopping_;) {
      json::value request = {{"request", "move_back"}, {"domain", name}};
      auto answered = co_await ask_peer(peer, std::move(request));
      if (!answered) {
        failure = answered.error().message();
      } else if (answered.value().contains("error")) {
        failure = text_at(answered.value(), "error");
      } else {
        failure.clear();
        break;
      }
      co_await sleep_for(std::chrono::milliseconds(200));
    }
    clock.step("protected again from there");
  }
  if (failure.empty()) {
    const auto end = Clock::now() + std::chrono::minutes(1);
    while (!find_running(name) && Clock::now() < end && !stopping_)
      co_await sleep_for(std::chrono::milliseconds(20));
    clock.step("moved back");
    if (!find_running(name)) {
      failure = fmt::format("it did not come back from {}", peer);
    } else if (const auto told = timeline(name); told) {
      note(told.value().as_object(), config_.name);
    }
  }
  // As it was before: it runs here, and is protected.
  const auto protected_here = [&] {
    const auto running = find_running(name);
    return running && running.value()->primary &&
           running.value()->primary->decisions().state() == EpochPrimary::State::protecting &&
           running.value()->primary->decisions().acknowledged().value > 0;
  };
  if (failure.empty()) {
    const auto end = Clock::now() + patience;
    while (!protected_here() && Clock::now() < end && !stopping_)
      co_await sleep_for(std::chrono::milliseconds(20));
    clock.step("protected again from here");
    if (!protected_here()) failure = "it came back, but is not protected again";
  }
  const bool passed = failure.empty();
  report["outcome"] = !passed ? "failed" : *cancelled ? "cancelled" : "passed";
  report["summary"] =
      passed
          ? fmt::format("handed over to {} and back; the guest stood still for {:.1f} ms at worst",
                        peer, stood_ms)
          : failure;
  report["outage_ms"] = stood_ms;
  report["lost"] = "nothing: a hand-over keeps all that was said";
  if (!passed) {
    to_mend.emplace_back(fmt::format("see `understudy status {}` on {} and {}: one of them runs it",
                                     name, config_.name, peer));
  }
  report["took_ms"] = clock.total_ms();
  report["phases"] = clock.phases();
  report["checks"] = std::move(checks);
  report["to_mend"] = std::move(to_mend);
  end_drill(name, std::move(report));
}

// As if the domain's process had crashed: nobody here is told beforehand.
Task<void> Agent::hold_real_drill(std::string name, json::object report) {
  const std::string peer = text_at(report, "peer");
  json::array checks;
  json::array to_mend;
  co_await share_drill(report, 1);
  DrillClock clock;
  const auto found = find_running(name);
  std::string failure = found ? "" : found.error().message();
  if (failure.empty()) {
    const json::value runtime = found.value()->domain->runtime_state();
    const auto* process =
        runtime.is_object() ? runtime.get_object().if_contains("process") : nullptr;
    auto identity = process == nullptr
                        ? Result<ProcessIdentity>(fail(ErrorCode::unavailable,
                                                       "{} domains cannot be killed for a drill",
                                                       hypervisor_->name()))
                        : ProcessIdentity::from_json(*process);
    auto adopted = identity ? Process::adopt(context_.get_executor(), identity.value())
                            : Result<std::unique_ptr<Process>>(identity.error());
    if (adopted) {
      adopted.value()->kill();
    } else {
      failure = adopted.error().message();
    }
  }
  const auto killed = Clock::now();
  std::optional<json::object> timeline;
  const std::uint64_t generation = report["generation"].to_number<std::uint64_t>();
  while (failure.empty() && !timeline && Clock::now() < killed + std::chrono::seconds(60)) {
    json::value request = {{"request", "timeline"}, {"domain", name}};
    auto answered = co_await ask_peer(peer, std::move(request));
    if (answered && text_at(answered.value(), "outcome") == "promoted" &&
        answered.value().at("generation").to_number<std::uint64_t>() > generation) {
      timeline = std::move(answered.value());
    } else {
      co_await sleep_for(std::chrono::milliseconds(20));
    }
  }
  clock.step("killed, and heard that the backup runs it");
  if (failure.empty() && !timeline) failure = fmt::format("{} did not take over within 60 s", peer);
  if (failure.empty()) {
    report["outcome"] = "passed";
    report["summary"] =
        fmt::format("{} runs it, generation {}", peer, json::serialize(timeline->at("generation")));
    report["outage_ms"] = clock.total_ms();
    report["lost"] = fmt::format(
        "what the guest did after epoch {} or a later one that was committed: nobody was told of "
        "it",
        json::serialize(report["epoch"]));
    report["timeline"] = *timeline;
    checks.push_back({{"name", "the backup took over"},
                      {"passed", true},
                      {"message", report["summary"]},
                      {"took_ms", clock.total_ms()}});
    to_mend.emplace_back(fmt::format(
        "{} runs without a backup until its protection is renewed (`understudy status {}` on {})",
        name, name, peer));
  } else {
    report["outcome"] = "failed";
    report["summary"] = failure;
    to_mend.emplace_back(fmt::format(
        "see `understudy events {}` and `understudy repair {}` on both hosts", name, name));
  }
  report["took_ms"] = clock.total_ms();
  report["phases"] = clock.phases();
  report["checks"] = std::move(checks);
  report["to_mend"] = std::move(to_mend);
  end_drill(name, std::move(report));
}

// What a peer may ask about drills: only of domains whose image is held here for it.
json::object Agent::answer_drill(const std::string& peer, const json::object& request) {
  const auto refuse = [](const std::string& why) { return json::object{{"error", why}}; };
  if (text_at(request, "request") == "drill_report") {
    auto report = drills_.find(text_at(request, "id"));
    if (!report || text_at(report.value(), "peer") != peer) return refuse("no such drill");
    return std::move(report.value());
  }
  if (text_at(request, "request") == "keep_drill") return accept_drill(peer, request);
  if (text_at(request, "request") == "cancel_drill") {
    const std::string id = text_at(request, "id");
    for (const auto& [drilled, one] : drilled_) {
      const auto entry = entries_.find(drilled);
      if (one.id != id || entry == entries_.end() || entry->second->record.peer != peer) continue;
      *one.cancelled = true;
      return {{"id", id}};
    }
    return refuse("no such drill is under way");
  }
  const std::string name = text_at(request, "domain");
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second->record.peer != peer)
    return refuse(fmt::format("{} has nothing of {} for {}", config_.name, name, peer));
  if (text_at(request, "request") == "timeline") {
    auto told = timeline(name);
    return told ? told.value().as_object() : refuse(told.error().message());
  }
  if (text_at(request, "request") == "move_back") {
    Entry& entry = *found->second;
    if (!entry.primary || !entry.domain || entry.busy ||
        entry.primary->decisions().state() != EpochPrimary::State::protecting)
      return refuse(fmt::format("{} is not protected from {} yet", name, config_.name));
    boost::asio::co_spawn(context_, move_to_backup(name), rethrow);
    return {{"domain", name}};
  }
  auto begun = begin_dry_drill(name, peer);
  return begun ? std::move(begun.value()) : refuse(begun.error().message());
}

// A dry drill is held by whoever holds the image at the time, a planned one by who runs the domain.
Task<void> Agent::keep_drills() {
  const auto since = std::chrono::system_clock::now();
  while (!stopping_) {
    co_await sleep_for(std::chrono::seconds(1));
    for (const DrillConfig& drill : config_.drills) {
      // What is on record counts, so that a restart of the agent neither repeats nor forgets one.
      const auto last = drills_.last_scheduled(drill.domain, drill.kind);
      if (!drill_due(drill, std::chrono::system_clock::now(), minute_of_day(), last, since))
        continue;
      if (drill.kind == "dry") {
        (void)begin_dry_drill(drill.domain, "schedule");
        continue;
      }
      std::string domain = drill.domain;
      std::string kind = drill.kind;
      std::string by = "schedule";
      (void)co_await this->drill(std::move(domain), std::move(kind), std::move(by));
    }
  }
}

json::value Agent::drills(const std::string& domain) const {
  json::array list;
  for (auto& report : drills_.list(domain)) list.push_back(std::move(report));
  return {{"schema", 1}, {"host", config_.name}, {"drills", std::move(list)}};
}

Result<json::value> Agent::drill_report(const std::string& id) const {
  BOOST_OUTCOME_TRY(auto report, drills_.find(id));
  return json::value(std::move(report));
}

}  // namespace understudy
