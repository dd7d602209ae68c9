#include "agent/agent.h"

#include <fmt/ranges.h>
#include <net/if.h>
#include <openssl/rand.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include "agent/agent_claim.h"
#include "agent/metrics.h"
#include "agent/replay_options.h"
#include "agent/rethrow.h"
#include "base/fault_point.h"
#include "base/run_on.h"
#include "hypervisor/qemu/qemu_hypervisor.h"
#include "hypervisor/xen/xen_hypervisor.h"
#include "netbuffer/announce.h"
#include "netbuffer/output_gate.h"

namespace understudy {
namespace {

namespace json = boost::json;

Instant now() {
  return std::chrono::steady_clock::now();
}

// Replay options with some of them set anew.
Result<json::value> merged(const json::value& options, const json::value& changes) {
  json::object all = options.is_object() ? options.get_object() : json::object();
  if (const auto* object = changes.if_object(); object != nullptr) {
    for (const auto& member : *object) {
      if (member.key() != "ports" || !member.value().is_object()) {
        all[member.key()] = member.value();
        continue;
      }
      if (!all.contains("ports")) all["ports"] = json::object();
      auto& ports = all["ports"].as_object();
      for (const auto& port : member.value().get_object()) ports[port.key()] = port.value();
    }
  }
  json::value result(std::move(all));
  BOOST_OUTCOME_TRY(replay_options_from(result));
  return result;
}

// A number that no other protection will have.
std::uint64_t random_number() {
  std::uint64_t number = 0;
  do {
    UNDERSTUDY_CHECK(::RAND_bytes(reinterpret_cast<unsigned char*>(&number), sizeof number) == 1,
                     "the system's random source failed");
    number >>= 1U;  // JSON readers elsewhere may know signed numbers only.
  } while (number == 0);
  return number;
}

json::array to_json(const std::vector<Finding>& findings) {
  json::array list;
  for (const auto& finding : findings) {
    list.push_back({{"severity", to_string(finding.severity)},
                    {"subject", finding.subject},
                    {"message", finding.message}});
  }
  return list;
}

// Agents that name none have none.
std::string arbiter_named_in(const json::object& object) {
  const auto* name = object.if_contains("arbiter");
  return name != nullptr && name->is_string() ? std::string(name->get_string()) : "none";
}

bool any_refusal(const std::vector<Finding>& findings) {
  return std::ranges::any_of(findings, [](const Finding& finding) {
    return finding.severity == Finding::Severity::refusal;
  });
}

Finding refusal(std::string subject, std::string message) {
  return {Finding::Severity::refusal, std::move(subject), std::move(message)};
}

Finding fine(std::string subject, std::string message) {
  return {Finding::Severity::ok, std::move(subject), std::move(message)};
}

std::string_view reason_of(const PeerWatch::View& view) {
  if (!view.ever_heard) return "NeverSeen";
  switch (view.verdict) {
    case FailureDetector::Verdict::alive:
      return "Heartbeats";
    case FailureDetector::Verdict::suspected:
      return "Suspected";
    case FailureDetector::Verdict::dead:
      return "Dead";
  }
  return "Dead";
}

}  // namespace

// --- coming and going ---

Agent::Agent(boost::asio::io_context& context, boost::asio::thread_pool& workers,
             AgentConfig config, StateStore store)
    : context_(context),
      workers_(workers),
      config_(std::move(config)),
      store_(std::move(store)),
      events_(config_.state_directory / "events.jsonl"),
      drills_(config_.state_directory / "drills"),
      desk_(std::make_shared<transport::PairingDesk>()) {}

Agent::~Agent() {
  // Sessions keep their entries, and entries their sessions.
  for (const auto& [name, entry] : entries_) {
    entry->primary.reset();
    entry->backup.reset();
  }
}

Result<std::unique_ptr<Agent>> Agent::create(boost::asio::io_context& context,
                                             boost::asio::thread_pool& workers,
                                             AgentConfig config) {
  std::error_code error;
  std::filesystem::create_directories(config.runtime_directory, error);
  if (error)
    return system_error(error.value(), fmt::format("create {}", config.runtime_directory.string()));
  BOOST_OUTCOME_TRY(auto store, StateStore::open(config.state_directory / "domains",
                                                 config.runtime_directory / "witnesses"));
  std::unique_ptr<Agent> agent(new Agent(context, workers, std::move(config), std::move(store)));
  BOOST_OUTCOME_TRY(agent->open());
  return agent;
}

Result<void> Agent::open_hypervisor() {
  if (config_.hypervisor != "qemu") {
    XenOptions xen;
    xen.runtime_directory = config_.runtime_directory;
    xen.method = config_.xen_method;
    xen.suspend_timeout =
        std::chrono::duration_cast<std::chrono::milliseconds>(config_.xen_suspend_timeout);
    auto made = make_xen_hypervisor(context_.get_executor(), std::move(xen));
    if (made) {
      hypervisor_ = std::move(made.value());
      return ok();
    }
    if (config_.hypervisor == "xen") return made.error();
    spdlog::info("event=hypervisor name=qemu reason=\"{}\"", made.error().message());
  }
  QemuOptions qemu;
  qemu.runtime_directory = config_.runtime_directory;
  qemu.memory_directory = config_.memory_directory;
  qemu.preload_library = config_.preload_library;
  qemu.qemu_binary = config_.qemu_binary;
  if (config_.tracking == "pagemap_scan") qemu.force_tracking = TrackingMethod::pagemap_scan;
  if (config_.tracking == "full_compare") qemu.force_tracking = TrackingMethod::full_compare;
  hypervisor_ = make_qemu_hypervisor(context_.get_executor(), qemu);
  return ok();
}

Result<void> Agent::open() {
  BOOST_OUTCOME_TRY(open_hypervisor());
  self_.name = config_.name;
  self_.boot_id = transport::BootId::random();
  BOOST_OUTCOME_TRY(self_.identity, transport::TlsIdentity::load_or_create(config_.state_directory /
                                                                           "identity.pem"));
  BOOST_OUTCOME_TRY(self_.peers,
                    transport::PeerStore::load(config_.state_directory / "peers.json"));
  // What is wrong with an arbiter is said at the start, not when it is needed.
  for (const auto& [peer, config] : config_.arbiters) {
    auto tried = make_arbiter(context_.get_executor(), config, config_.name, peer, {});
    if (!tried) return tried.error().in("arbiter." + peer);
  }
  connector_ = std::make_unique<transport::Connector>(context_.get_executor(), self_);
  peers_ = std::make_unique<PeerWatch>(
      context_.get_executor(), self_, config_,
      PeerHooks{
          .on_verdict = [this](const auto& peer, const auto& change) { on_verdict(peer, change); },
          .on_news = [this](const auto& peer, const auto& news,
                            Instant echoed) { on_news(peer, news, echoed); },
          .news_for = [this](const auto& peer) { return news_for(peer); }});
  return ok();
}

ArbiterService& Agent::arbiter_for(const std::string& peer) {
  auto& arbiter = arbiters_[peer];
  if (arbiter == nullptr) {
    const ArbiterConfig& config = config_.arbiter_for(peer);
    auto made = make_arbiter(
        context_.get_executor(), config, config_.name, peer,
        [this](const Arbiter::Claim& claim, Arbiter::Answer answer) { on_arbiter(claim, answer); });
    arbiter = made ? std::move(made.value()) : make_missing_arbiter(config, made.error());
    if (!made) spdlog::error("peer={} arbiter: {}", peer, made.error().message());
  }
  return *arbiter;
}

void Agent::on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer) {
  const auto found = entries_.find(claim.domain);
  if (found == entries_.end()) return;
  Entry& entry = *found->second;
  if (claim.claimant == Arbiter::Claimant::primary) {
    if (entry.primary) entry.primary->on_arbiter(claim, answer);
  } else if (entry.backup) {
    if (auto begun = entry.backup->on_arbiter(claim, answer); !begun)
      events_.record(Severity::critical, claim.domain, "promotion_refused", begun.error().message(),
                     {{"peer", entry.record.peer}});
  }
}

HostServices Agent::services(const std::string& peer) {
  return {context_.get_executor(),
          workers_.get_executor(),
          config_,
          events_,
          store_,
          *hypervisor_,
          arbiter_for(peer),
          *connector_};
}

Task<Result<void>> Agent::take_up() {
  begin_operations();
  auto records = store_.load(damaged_);
  for (const auto& [name, damage] : damaged_) {
    events_.record(Severity::critical, name, "state_damaged",
                   damage.error.message() +
                       fmt::format("; the domain is not touched, its gate stays as it is; "
                                   "`understudy repair {}` lists what can be done",
                                   name));
  }
  for (auto& [name, record] : records) co_await take_up_entry(std::move(record));

  // Rules of domains that are known to speak freely, or not to run any more. Where nothing is known
  // nothing is removed: a damaged record, or an interface that is there although nobody remembers a
  // domain behind it.
  const auto keep = [this](const GateRecord& gate) {
    if (damaged_.contains(gate.domain)) return true;
    const auto found = entries_.find(gate.domain);
    if (found == entries_.end()) return ::if_nametoindex(gate.device.c_str()) != 0;
    const auto& record = found->second->record;
    return found->second->domain && record.role == Role::primary && !record.solo;
  };
  if (auto removed = remove_stale_gates(keep); !removed)
    spdlog::warn("removing stale gates failed: {}", removed.error().message());

  for (const auto& address : config_.listen_addresses) {
    BOOST_OUTCOME_CO_TRY(const auto endpoint, transport::Endpoint::parse(address));
    BOOST_OUTCOME_CO_TRY(auto listener,
                         transport::Listener::open(context_.get_executor(), endpoint, self_, desk_,
                                                   [this](std::unique_ptr<transport::Link> link) {
                                                     return on_link(std::move(link));
                                                   }));
    listeners_.push_back(std::move(listener));
  }
  for (const auto& peer : self_.peers->all()) peers_->watch(peer);
  boost::asio::co_spawn(context_, keep_renewed(), rethrow);
  events_.record(Severity::info, "", "agent_started",
                 fmt::format("understudyd {} on {}", UNDERSTUDY_VERSION, config_.name));
  co_return ok();
}

Task<void> Agent::take_up_entry(DomainRecord record) {
  const std::string name = record.name;
  if (record.role == Role::retired) {
    retired_[name] = std::move(record);
    co_return;
  }
  if (record.role == Role::backup) {
    // Its image lived in a process that hangs on an agent that is gone: it is declared lost, and
    // the primary copies again. The generation stays on record.
    if (auto cleaned = co_await hypervisor_->clean_up(record.runtime); !cleaned)
      spdlog::warn("domain={} {}", name, cleaned.error().message());
    events_.record(Severity::warning, name, "image_lost",
                   "the agent was restarted: the image held for this domain is gone, its primary "
                   "has to copy again");
    retire(std::move(record), "its image was lost when the agent was restarted");
    co_return;
  }
  if (record.role == Role::promoting) {
    co_await take_up_promotion(std::move(record));
    co_return;
  }
  auto domain = co_await hypervisor_->adopt(record.runtime);
  if (!domain) {
    if (auto cleaned = co_await hypervisor_->clean_up(record.runtime); !cleaned)
      spdlog::warn("domain={} {}", name, cleaned.error().message());
    events_.record(Severity::critical, name, "domain_failed",
                   fmt::format("it does not run any more: {}", domain.error().message()));
    if (record.role != Role::primary || record.solo) {
      retire(std::move(record), "it died while the agent was down");
      co_return;
    }
    // Its backup may not have noticed that we were away. The entry stays, and heartbeats say that
    // the domain is gone from here: a reason to promote.
    auto lost = std::make_shared<Entry>();
    lost->record = std::move(record);
    lost->failure = "it died while the agent was down: " + domain.error().message();
    entries_[name] = std::move(lost);
    co_return;
  }
  auto entry = std::make_shared<Entry>();
  entry->record = std::move(record);
  entry->domain = std::move(domain.value());
  Entry& taken = *entry;
  entries_[name] = std::move(entry);
  watch_exit(taken);
  if (taken.record.role == Role::primary && !taken.record.solo) {
    events_.record(Severity::warning, name, "taken_up",
                   fmt::format("was protected with {}: its output is held until that host answers",
                               taken.record.peer));
    begin_primary(taken, true);
  }
}

// An earlier run had decided to promote and had the raised generation on disk when it ended.
// Whether the domain has come to speak nobody knows but the domain's own process: if it runs, or
// has loaded everything and only waits, this host is its voice. If it is gone, or never got that
// far, the copy here is lost; the generation stays raised, because in the first case clients may
// have heard it.
Task<void> Agent::take_up_promotion(DomainRecord record) {
  const std::string name = record.name;
  auto domain = co_await hypervisor_->adopt(record.runtime);
  // In replay mode more was released than the image knows: what the log of the earlier run would
  // have brought back is gone with it, and its rules have held whatever the domain said since.
  if (domain && record.mode == "replay")
    domain = fail(ErrorCode::failed, "its input log was lost before it was replayed");
  auto owned = std::make_shared<Entry>();
  Entry& entry = *owned;
  entry.record = std::move(record);
  entries_[name] = std::move(owned);
  if (!domain) {
    if (auto cleaned = co_await hypervisor_->clean_up(entry.record.runtime); !cleaned)
      spdlog::warn("domain={} {}", name, cleaned.error().message());
    // The record stays as it is: it is true, and every later start says so again.
    entry.failure = fmt::format(
        "the agent ended while it took the domain over from {}, and the copy here is lost: {}; "
        "`understudy repair {}` lists what can be done",
        entry.record.peer, domain.error().message(), name);
    entry.failure_reason = "PromotionCutOff";
    events_.record(Severity::critical, name, "promotion_cut_off", *entry.failure,
                   {{"peer", entry.record.peer}, {"generation", entry.record.generation.value}});
    co_return;
  }
  become_voice(entry, std::move(domain.value()));
  watch_exit(entry);
  events_.record(Severity::warning, name, "promotion_completed",
                 fmt::format("the agent ended while it took the domain over from {}; it runs here, "
                             "generation {}",
                             entry.record.peer, entry.record.generation),
                 {{"peer", entry.record.peer}, {"generation", entry.record.generation.value}});
  std::vector<Announcement> announcements;
  for (const auto& output : entry.domain->outputs())
    announcements.push_back({output.device, output.mac, {}});
  if (auto announced = co_await announce(announcements, {.rounds = 1}); !announced)
    spdlog::warn("domain={} {}", name, announced.error().message());
}

// The domain runs here and speaks freely: after a promotion.
void Agent::become_voice(Entry& entry, std::unique_ptr<Domain> domain) {
  entry.record.role = Role::unprotected;
  entry.record.solo = false;
  entry.record.protect_again = true;
  fault_point("promote.resumed");
  // Where this fails the record still says 'promoting', which leads to the same at the next start.
  if (auto taken_in = take_in(entry, std::move(domain)); !taken_in)
    events_.record(Severity::critical, entry.record.name, "state_not_saved",
                   taken_in.error().message());
  fault_point("promote.recorded");
}

Task<void> Agent::shut_down() {
  stopping_ = true;
  health_->stop();
  for (const auto& [name, entry] : entries_) {
    if (entry->primary) {
      // With the backup's consent the guest is heard while we are away. Without it the gate stays
      // closed: that is its meaning.
      const auto session = entry->primary;
      auto ended = co_await session->unprotect();
      if (ended) {
        entry->record.protect_again = true;
        entry->record.role = Role::unprotected;
        if (auto saved = save(*entry); !saved)
          spdlog::error("domain={} {}", name, saved.error().message());
      } else {
        events_.record(Severity::critical, name, "left_closed",
                       fmt::format("the agent stops while {} cannot be asked: output stays held",
                                   entry->record.peer));
      }
    }
    if (entry->backup) {
      const auto session = entry->backup;
      co_await session->discard("the backup's agent is stopped");
    }
    // Nobody carries frames while we are away: the bridge does it itself. Connections that have to
    // be translated end here.
    if (entry->replay_gate && entry->record.role == Role::unprotected) {
      // Opened in the middle of a replay the guest would tell its clients two stories. A replay
      // ends by its own limits.
      const auto gate = entry->replay_gate;
      while (gate->replaying() && !gate->opened())
        co_await sleep_for(std::chrono::milliseconds(10));
      if (const auto& replayer = entry->replay_gate->replayer();
          replayer && !replayer->translator().empty()) {
        events_.record(
            Severity::warning, name, "translations_ended",
            fmt::format("{} connections of before the last promotion end: the agent that "
                        "translates them is stopped",
                        replayer->translator().size()));
      }
      remove_replay_gate(*entry);
    }
  }
  for (const auto& listener : listeners_) listener->close();
  peers_->stop();
  events_.record(Severity::info, "", "agent_stopped", "the agent was stopped; guests run on");
}

// --- entries ---

Result<Agent::Entry*> Agent::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second.get();
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end())
    return damaged->second.error;
  return fail(ErrorCode::no_such, "no domain '{}' on {}", name, config_.name);
}

Result<Agent::Entry*> Agent::find_running(const std::string& name) const {
  BOOST_OUTCOME_TRY(auto* entry, find(name));
  if (!entry->domain && entry->failure)
    return fail(ErrorCode::usage, "{} does not run on {}: {}", name, config_.name, *entry->failure);
  if (!entry->domain)
    return fail(ErrorCode::usage, "{} does not run on {}, its image is held here", name,
                config_.name);
  return entry;
}

Task<Result<Agent::Entry*>> Agent::find_or_take(std::string name) {
  auto known = find_running(name);
  if (known || known.error().code() != ErrorCode::no_such) co_return known;
  auto domain = co_await hypervisor_->find(name);
  if (!domain) {
    if (domain.error().code() == ErrorCode::no_such) co_return known;
    co_return domain.error();
  }
  // Another request may have been faster.
  if (entries_.contains(name)) co_return find_running(name);
  auto owned = std::make_shared<Entry>();
  Entry& entry = *owned;
  entry.record.name = name;
  entry.record.generation = fresh_generation(name);
  if (auto taken_in = take_in(entry, std::move(domain.value())); !taken_in) {
    co_return taken_in.error();
  }
  entries_[name] = std::move(owned);
  retired_.erase(name);
  watch_exit(entry);
  events_.record(Severity::info, name, "domain_found",
                 fmt::format("runs on {} ({})", config_.name, entry.domain->accelerator_name()));
  co_return &entry;
}

Result<void> Agent::take_in(Entry& entry, std::unique_ptr<Domain> domain) {
  entry.domain = std::move(domain);
  entry.record.config = entry.domain->config().to_json();
  entry.record.runtime = entry.domain->runtime_state();
  return save(entry);
}

Result<void> Agent::save(const Entry& entry) {
  return store_.save(entry.record);
}

void Agent::remove_replay_gate(Entry& entry) {
  const auto gate = std::exchange(entry.replay_gate, nullptr);
  if (gate == nullptr) return;
  if (auto removed = gate->remove(); !removed)
    spdlog::warn("domain={} {}", entry.record.name, removed.error().message());
}

// The domain, or its image, is not on this host any more. Its generation stays on record: an older
// copy elsewhere that wants this host as its backup must learn that it is not the newest.
void Agent::retire(DomainRecord record, std::string note) {
  const std::string name = record.name;
  record.role = Role::retired;
  record.protection = 0;
  record.solo = record.protect_again = record.handing_over = false;
  record.note = std::move(note);
  record.config = record.runtime = nullptr;
  if (auto saved = store_.save(record); !saved)
    events_.record(Severity::critical, name, "state_not_saved", saved.error().message());
  retired_[name] = std::move(record);
  if (const auto found = entries_.find(name); found != entries_.end())
    remove_replay_gate(*found->second);
  entries_.erase(name);
}

void Agent::retire(const std::string& name, std::string note) {
  const auto found = entries_.find(name);
  if (found != entries_.end()) retire(found->second->record, std::move(note));
}

// For a domain that somebody starts or has started here: above all that this host ever knew of it.
Generation Agent::fresh_generation(const std::string& name) const {
  Generation newest;
  if (const auto known = retired_.find(name); known != retired_.end())
    newest = known->second.generation;
  if (const auto known = entries_.find(name); known != entries_.end())
    newest = std::max(newest, known->second->record.generation);
  return newest.next();
}

json::object Agent::status_of(const Entry& entry) const {
  json::object status = {
      {"name", entry.record.name},
      // A promotion under way is the backup's business until it is over.
      {"role", to_string(entry.record.role == Role::promoting ? Role::backup : entry.record.role)},
      {"hypervisor", hypervisor_->name()},
      {"generation", entry.record.generation.value}};
  auto& conditions = entry.conditions;
  if (entry.domain) {
    status["accelerator"] = entry.domain->accelerator_name();
    status["tracking"] = to_string(entry.domain->tracking());
    status["checkpoint_method"] = entry.domain->checkpoint_method();
    if (auto reason = entry.domain->checkpoint_method_reason(); !reason.empty())
      status["checkpoint_method_reason"] = std::move(reason);
    status["vcpus"] = entry.domain->config().vcpus;
    status["memory_bytes"] = entry.domain->config().memory_bytes;
  }
  if (entry.failure) {
    status["state"] = "failed";
    conditions.clear();
    conditions.set("Running", false, entry.failure_reason, *entry.failure);
    conditions.set("OutputFlowing", false, entry.failure_reason, *entry.failure);
  } else if (entry.starting) {
    status["state"] = "starting";
    conditions.set("Running", false, "Starting", "the hypervisor is being started");
  } else if (entry.backup) {
    entry.backup->add_status(status, conditions);
  } else {
    conditions.set("Running", true, "Running", fmt::format("runs on {}", config_.name));
    if (entry.primary) {
      entry.primary->add_status(status, conditions);
    } else {
      status["state"] = "running";
      status["gate"] = {{"state", "open"}};
      if (entry.replay_gate && !entry.replay_gate->opened())
        status["replay"] = entry.replay_gate->to_json();
      conditions.remove("BackupReachable");
      conditions.remove("KeepingUp");
      conditions.remove("Progressing");
      conditions.remove("FastTracking");
      conditions.remove("ImageComplete");
      conditions.remove("PrimaryReachable");
      conditions.set("Protected", false, "NotRequested", "nobody asked for protection");
      conditions.set("OutputFlowing", true, "GateOpen", "output flows at once");
    }
  }
  health_->add_status(entry.record.name, entry.domain != nullptr && !entry.failure, status,
                      conditions);
  if (entry.stopping) status["state"] = "stopping";
  if (auto renewal = renewal_status(entry); !renewal.empty())
    status["renewal"] = std::move(renewal);
  status["conditions"] = conditions.to_json();
  return status;
}

// What may run of it here is unknown; its gate, if it has one, is left closed.
json::object Agent::status_of_damaged(const std::string& name, const Damage& damage) const {
  const std::string message = fmt::format("{}; `understudy repair {}` lists what can be done",
                                          damage.error.message(), name);
  Conditions conditions;
  conditions.set("Running", std::nullopt, "RecordDamaged", message);
  conditions.set("OutputFlowing", std::nullopt, "RecordDamaged", message);
  return {{"name", name},
          {"role", "unknown"},
          {"state", "failed"},
          {"hypervisor", hypervisor_->name()},
          {"conditions", conditions.to_json()}};
}

// --- requests: looking ---

json::value Agent::status() const {
  json::array domains;
  for (const auto& [name, entry] : entries_) domains.push_back(status_of(*entry));
  for (const auto& [name, damage] : damaged_) domains.push_back(status_of_damaged(name, damage));
  return {{"schema", 1},
          {"host", config_.name},
          {"version", UNDERSTUDY_VERSION},
          {"time", rfc3339(std::chrono::system_clock::now())},
          {"health", health_->host_to_json()},
          {"domains", std::move(domains)},
          {"peers", peers_->to_json()}};
}

json::value Agent::version() const {
  return {{"version", UNDERSTUDY_VERSION}, {"api", 1}, {"schema", 1}, {"host", config_.name}};
}

json::value Agent::peers() const {
  return {{"schema", 1},
          {"host", config_.name},
          {"fingerprint", self_.identity->fingerprint().groups()},
          {"peers", peers_->to_json()}};
}

json::value Agent::events(const std::string& domain, std::uint64_t after, bool has_after,
                          std::size_t limit) const {
  json::array list;
  for (const auto& event : events_.list(domain, after, limit, has_after))
    list.push_back(understudy::to_json(event));
  return {{"schema", 1},
          {"oldest", events_.oldest()},
          {"last", events_.last()},
          {"events", std::move(list)}};
}

std::string Agent::metrics() const {
  return metrics_text(status());
}

Result<json::value> Agent::domain_status(const std::string& name) const {
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end())
    return json::value(status_of_damaged(name, damaged->second));
  BOOST_OUTCOME_TRY(const auto* entry, find(name));
  return json::value(status_of(*entry));
}

Result<json::value> Agent::timeline(const std::string& name) const {
  BOOST_OUTCOME_TRY(const auto* entry, find(name));
  const auto& promotion = entry->backup && entry->backup->promotion_record()
                              ? entry->backup->promotion_record()
                              : entry->promotion;
  if (!promotion)
    return fail(ErrorCode::no_such, "{} was never promoted on {}", name, config_.name);
  return json::value(promotion->to_json(name));
}

// --- requests: domains ---

Task<Result<json::value>> Agent::start_domain(const std::string& config_toml,
                                              const std::string& file) {
  BOOST_OUTCOME_CO_TRY(auto config, DomainConfig::from_toml(config_toml, file));
  co_return co_await start_configured(std::move(config));
}

Task<Result<json::value>> Agent::start_configured(DomainConfig config) {
  const std::string name = config.name;
  if (const auto found = entries_.find(name); found != entries_.end()) {
    if (!found->second->failure) {
      co_return fail(ErrorCode::exists, "{} is on {} already ({})", name, config_.name,
                     to_string(found->second->record.role));
    }
  }
  if (damaged_.contains(name)) co_return damaged_.at(name).error;

  auto owned = std::make_shared<Entry>();
  Entry& entry = *owned;
  entry.record.name = name;
  entry.record.generation = fresh_generation(name);
  entry.starting = true;
  entry.busy = true;
  entries_[name] = std::move(owned);
  auto domain = co_await hypervisor_->start(std::move(config));
  entry.starting = false;
  entry.busy = false;
  if (!domain) {
    entries_.erase(name);
    co_return domain.error();
  }
  if (auto taken_in = take_in(entry, std::move(domain.value())); !taken_in) {
    // A domain that the next agent would not find is worse than none.
    (void)co_await entry.domain->destroy();
    entries_.erase(name);
    co_return taken_in.error();
  }
  retired_.erase(name);
  watch_exit(entry);
  events_.record(Severity::info, name, "domain_started",
                 fmt::format("runs on {} ({})", config_.name, entry.domain->accelerator_name()));
  co_return json::value(status_of(entry));
}

Task<Result<void>> Agent::stop_domain(const std::string& name, bool force) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find(name));
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  if (entry->backup) {
    if (!force)
      co_return fail(
          ErrorCode::needs_force,
          "{} holds the image of {}: giving it up ends the protection (unprotect on {}, or force)",
          config_.name, name, entry->record.peer);
    entry->stopping = true;
    const auto session = entry->backup;
    co_await session->discard("given up by an operator");
    co_return ok();
  }
  if (entry->primary) {
    const auto state = entry->primary->decisions().state();
    const bool unsure =
        !entry->primary->decisions().link_up() && state != EpochPrimary::State::solo;
    if (unsure && !force)
      co_return fail(
          ErrorCode::needs_force,
          "{} cannot be told: it could promote what you are stopping (force stops it all the same)",
          entry->record.peer);
    entry->stopping = true;
    const auto session = entry->primary;
    co_await session->abandon();
    if (entry->domain) (void)co_await entry->domain->destroy();
    session->remove_gate();
    entry->primary.reset();
  }
  entry->stopping = true;
  if (entry->domain) {
    BOOST_OUTCOME_CO_TRY(co_await entry->domain->destroy());
  }
  events_.record(Severity::info, name, "domain_stopped", "stopped by an operator");
  claim.release();
  retire(name, "stopped by an operator");
  co_return ok();
}

void Agent::watch_exit(Entry& entry) {
  boost::asio::co_spawn(
      context_,
      [this, name = entry.record.name, domain = entry.domain.get()]() -> Task<void> {
        auto exit = co_await domain->wait_for_exit();
        co_await on_exit(name, std::move(exit));
      },
      rethrow);
}

Task<void> Agent::on_exit(std::string name, DomainExit exit) {
  const auto found = entries_.find(name);
  if (stopping_ || found == entries_.end() || found->second->stopping || !found->second->domain ||
      found->second->domain->alive())
    co_return;
  if (exit.kind == DomainExit::Kind::destroyed) co_return;
  Entry& entry = *found->second;
  const bool orderly = exit.kind == DomainExit::Kind::guest_shutdown;
  events_.record(orderly ? Severity::info : Severity::critical, name,
                 orderly ? "domain_stopped" : "domain_failed", exit.description,
                 {{"kind", to_string(exit.kind)}});
  if (const auto session = entry.primary; session) {
    co_await session->on_domain_exit(exit);  // Its end is told to end_primary().
    co_return;
  }
  if (orderly) {
    retire(name, "the guest powered off");
    co_return;
  }
  entry.failure = exit.description;
  entry.domain.reset();
  const auto kept = found->second;
  retire(kept->record, exit.description);
  entries_[name] = kept;  // Status goes on to say why it does not run.
}

// --- requests: protection ---

Task<std::vector<Finding>> Agent::local_findings(const Entry& entry, const std::string& to,
                                                 const std::string& mode) {
  std::vector<Finding> findings;
  if (!is_mode(mode)) {
    findings.push_back(
        refusal("mode", fmt::format("'{}' is no mode; there are: remus, replay", mode)));
  } else if (mode == "replay") {
    if (const auto progress = entry.domain->input_progress(); !progress)
      findings.push_back(refusal("mode replay", progress.error().message()));
  }
  if (entry.primary && entry.primary->decisions().state() != EpochPrimary::State::solo) {
    findings.push_back(refusal("protection", fmt::format("{} is protected with {} already",
                                                         entry.record.name, entry.record.peer)));
  }
  if (self_.peers->find(to) == nullptr) {
    findings.push_back(refusal(
        "peer", to == config_.name ? fmt::format("{} is this host itself", to)
                                   : fmt::format("{} is not paired with {}; see `understudy pair`",
                                                 to, config_.name)));
    co_return findings;
  }
  const auto view = peers_->view(to);
  if (view.ever_heard && view.verdict == FailureDetector::Verdict::alive) {
    findings.push_back(fine("heartbeats", fmt::format("{} is heard", to)));
  } else {
    findings.push_back(
        refusal("heartbeats", fmt::format("{} is not heard ({})", to, reason_of(view))));
  }
  findings.push_back(co_await arbiter_finding(to));
  findings.push_back(co_await gate_finding());
  if (entry.domain->tracking() != TrackingMethod::full_compare) {
    findings.push_back(fine("write tracking", std::string(to_string(entry.domain->tracking()))));
  } else {
    findings.push_back(
        {Finding::Severity::warning, "write tracking",
         fmt::format("all memory is compared at each checkpoint, which makes pauses long: {}",
                     entry.domain->tracking_reason())});
  }
  co_return findings;
}

Task<Finding> Agent::arbiter_finding(std::string peer) {
  ArbiterService& arbiter = arbiter_for(peer);
  auto probed = co_await arbiter.probe();
  if (!probed) co_return refusal("arbiter", probed.error().message());
  co_return fine("arbiter", probed.value());
}

// Also on the backup: it will be the primary one day.
Task<Finding> Agent::gate_finding() {
  const auto probed = co_await run_on(workers_.get_executor(), probe_gate);
  if (!probed) co_return refusal("gate", probed.error().message());
  co_return fine("gate", "the kernel can hold a domain's frames");
}

Task<Result<json::object>> Agent::ask_peer(const std::string& peer, json::value request) {
  BOOST_OUTCOME_CO_TRY(const std::shared_ptr<transport::Link> link,
                       co_await connector_->connect(peer, transport::LinkPurpose::control));
  BOOST_OUTCOME_CO_TRY(
      co_await link->send(transport::FrameType::control, {}, json_octets(request)));
  BOOST_OUTCOME_CO_TRY(auto frame, co_await link->receive(std::chrono::milliseconds(20'000)));
  BOOST_OUTCOME_CO_TRY(auto answer, json_object_from(frame.payload, "answer of " + peer));
  co_await link->say_goodbye("done", std::chrono::milliseconds(200));
  co_return answer;
}

Task<Result<json::value>> Agent::check(const std::string& name, const std::string& to,
                                       const std::string& mode) {
  BOOST_OUTCOME_CO_TRY(const auto* entry, co_await find_or_take(name));
  auto findings = co_await local_findings(*entry, to, mode);
  json::array list = to_json(findings);
  bool refused = any_refusal(findings);
  if (self_.peers->find(to) != nullptr) {
    const json::object request = {{"request", "check"},
                                  {"domain", name},
                                  {"hypervisor", hypervisor_->name()},
                                  {"arbiter", arbiter_for(to).name()},
                                  {"config", entry->domain->config().to_json()}};
    auto answer = co_await ask_peer(to, request);
    const auto* theirs = answer ? answer.value().if_contains("findings") : nullptr;
    if (theirs != nullptr && theirs->is_array()) {
      for (const auto& value : theirs->get_array()) {
        json::value finding = value;
        if (auto* object = finding.if_object(); object != nullptr) {
          if (const auto* severity = object->if_contains("severity");
              severity != nullptr && severity->is_string())
            refused |= severity->get_string() == "refusal";
          if (auto* subject = object->if_contains("subject");
              subject != nullptr && subject->is_string())
            *subject = fmt::format("{} on {}", subject->get_string().c_str(), to);
          list.push_back(std::move(finding));
        }
      }
    } else {
      refused = true;
      list.push_back(
          {{"severity", "refusal"},
           {"subject", "peer"},
           {"message", fmt::format("{} could not be asked: {}", to,
                                   answer ? "it gave no findings" : answer.error().message())}});
    }
  }
  const json::object checked = {{"domain", name},
                                {"to", to},
                                {"mode", mode},
                                {"ok", !refused},
                                {"findings", std::move(list)}};
  co_return json::value(checked);
}

Task<Result<json::value>> Agent::protect(const std::string& name, const ProtectRequest& request,
                                         json::array& findings) {
  BOOST_OUTCOME_CO_TRY(auto* entry, co_await find_or_take(name));
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  if (entry->primary && entry->primary->decisions().state() != EpochPrimary::State::solo) {
    co_return fail(ErrorCode::exists, "{} is protected with {} already", name, entry->record.peer);
  }
  if (self_.peers->find(request.to) == nullptr)
    co_return fail(ErrorCode::no_such, "{} is not paired with {}", request.to, config_.name);
  BOOST_OUTCOME_CO_TRY(const auto checked, co_await check(name, request.to, request.mode));
  if (!checked.at("ok").as_bool()) {
    std::string reasons;
    for (const auto& finding : checked.at("findings").as_array()) {
      if (finding.at("severity") == "refusal")
        reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ",
                               finding.at("subject").as_string().c_str(),
                               finding.at("message").as_string().c_str());
    }
    findings = checked.at("findings").as_array();
    co_return fail(ErrorCode::failed, "{} cannot be protected to {}: {}", name, request.to,
                   reasons);
  }
  const ProtectionId protection(random_number());
  auto opened = co_await arbiter_for(request.to).begin(name, protection, entry->record.generation);
  if (!opened) co_return opened.error().in("the arbiter does not take the protection down");
  if (const auto session = entry->primary;
      session) {  // Solo: its gate is open, nothing is left to ask.
    co_await session->retire();
    entry->primary.reset();
  }
  // A protection judges output of one execution: the replay's has to be over.
  const auto kept = entries_.at(name);
  while (entry->replay_gate != nullptr && entry->replay_gate->replaying()) {
    co_await sleep_for(std::chrono::milliseconds(5));
    const auto found = entries_.find(name);
    if (found == entries_.end() || found->second != kept || !kept->domain) {
      claim.release();
      co_return fail(ErrorCode::failed, "{} ended while its replay was waited for", name);
    }
  }
  DomainRecord before = entry->record;
  entry->record.role = Role::primary;
  entry->record.peer = request.to;
  entry->record.mode = request.mode;
  entry->record.interval_us = static_cast<std::uint64_t>(request.interval.count());
  entry->record.replay = request.replay;
  entry->record.renewal = request.renewal;
  if (entry->record.renewal.is_null()) {
    const auto hosts = request.hosts.empty() ? std::vector{request.to} : request.hosts;
    entry->record.renewal = understudy::to_json(first_policy(config_.name, hosts));
  }
  entry->by_renewal = request.by_renewal;
  entry->record.protection = protection.value;
  entry->record.solo = false;
  entry->record.protect_again = false;
  entry->record.handing_over = false;
  if (auto saved = save(*entry); !saved) {
    entry->record = std::move(before);
    co_return saved.error();
  }
  fault_point("protect.recorded");
  begin_primary(*entry, false);
  events_.record(Severity::info, name, "synchronisation_started",
                 fmt::format("copying all memory to {}", request.to), {{"peer", request.to}});
  co_return json::value(status_of(*entry));
}

void Agent::begin_primary(Entry& entry, bool taken_up_again) {
  entry.primary = std::make_shared<PrimarySession>(services(entry.record.peer),
                                                   entries_.at(entry.record.name), *entry.domain,
                                                   entry.record, entry.replay_gate, taken_up_again);
  entry.primary->start([this, name = entry.record.name](PrimaryEnd end) {
    boost::asio::co_spawn(context_, end_primary(name, end), rethrow);
  });
  tell_reachability(entry.record.peer);
}

Task<void> Agent::end_primary(std::string name, PrimaryEnd end) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) co_return;
  Entry& entry = *found->second;
  const auto session = std::exchange(entry.primary, nullptr);
  if (end == PrimaryEnd::unprotected || end == PrimaryEnd::resigned) {
    entry.record.role = Role::unprotected;
    entry.record.protection = 0;
    const bool broke_off = std::exchange(entry.by_renewal, false);
    if (broke_off)
      entry.renewal.on_refused(now(), entry.record.peer, "the first copy came to nothing");
    entry.record.protect_again = end == PrimaryEnd::resigned || broke_off || stopping_;
    if (auto saved = save(entry); !saved)
      spdlog::error("domain={} {}", name, saved.error().message());
    if (entry.domain) (void)co_await entry.domain->stop_tracking();
    co_return;
  }
  entry.stopping = true;
  if (entry.domain) (void)co_await entry.domain->destroy();
  if (session) session->remove_gate();
  retire(name, end == PrimaryEnd::superseded ? "another host runs it" : "it ended here");
}

Task<Result<json::value>> Agent::unprotect(const std::string& name) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find_running(name));
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  entry->record.protect_again = entry->by_renewal = false;
  if (!entry->primary) {
    BOOST_OUTCOME_CO_TRY(save(*entry));
    co_return json::value(status_of(*entry));
  }
  const auto session = entry->primary;
  BOOST_OUTCOME_CO_TRY(co_await session->unprotect());
  // The end is told through the loop; wait for it, so that the answer shows the state after it.
  while (entry->primary == session) co_await sleep_for(std::chrono::milliseconds(1));
  co_return json::value(status_of(*entry));
}

Task<Result<json::value>> Agent::promote(const std::string& name, bool force) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find(name));
  if (!entry->backup)
    co_return fail(ErrorCode::usage, "{} holds no image of {}", config_.name, name);
  const auto view = peers_->view(entry->record.peer);
  if (view.ever_heard && view.verdict == FailureDetector::Verdict::alive && !force) {
    co_return fail(ErrorCode::needs_force,
                   "{} is alive: its copy goes on from the last commit and what it runs since then "
                   "is thrown away",
                   entry->record.peer);
  }
  if (ArbiterService& arbiter = arbiter_for(entry->record.peer);
      arbiter.may_grant_solo() && !force) {
    co_return fail(
        ErrorCode::needs_force,
        "by hand the arbiter ({}) is not asked: promise that {} does not run {} alone, and "
        "will not (it may have been granted that)",
        arbiter.name(), entry->record.peer, name);
  }
  BOOST_OUTCOME_CO_TRY(entry->backup->promote(Promotion::Cause::operator_word, "operator",
                                              view.ever_heard ? view.last_sign_of_life : now()));
  peers_->tell_now();
  co_return json::value(status_of(*entry));
}

Task<Result<json::value>> Agent::solo(const std::string& name, bool promised) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find_running(name));
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  if (!entry->primary)
    co_return fail(ErrorCode::usage, "{} is not protected: its output flows already", name);
  if (!promised)
    co_return fail(ErrorCode::needs_force,
                   "solo needs the promise that {} does not run {} and will not",
                   entry->record.peer, name);
  const auto session = entry->primary;
  BOOST_OUTCOME_CO_TRY(co_await session->solo());
  co_return json::value(status_of(*entry));
}

Trouble Agent::trouble_of(const std::string& name) const {
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end()) {
    switch (damaged->second.kind) {
      case Damage::Kind::torn:
        return Trouble::record_damaged;
      case Damage::Kind::older:
        return Trouble::record_older;
      case Damage::Kind::lost:
        return Trouble::record_lost;
    }
  }
  const auto found = entries_.find(name);
  if (found == entries_.end()) return retired_.contains(name) ? Trouble::retired : Trouble::none;
  const Entry& entry = *found->second;
  if (entry.failure) {
    return entry.record.role == Role::promoting ? Trouble::promotion_cut_off
                                                : Trouble::domain_failed;
  }
  if (!entry.primary) return Trouble::none;
  const EpochPrimary& decisions = entry.primary->decisions();
  if (decisions.trouble() == EpochPrimary::Event::split_brain) return Trouble::split_brain;
  if (decisions.trouble() == EpochPrimary::Event::newer_copy_lost) return Trouble::newer_copy_lost;
  return decisions.state() == EpochPrimary::State::backup_lost ? Trouble::backup_lost
                                                               : Trouble::none;
}

Result<json::value> Agent::repair_choices_of(const std::string& name) const {
  if (!damaged_.contains(name) && !retired_.contains(name)) {
    BOOST_OUTCOME_TRY(find(name));
  }
  const auto found = entries_.find(name);
  const auto retired = retired_.find(name);
  std::string peer;
  std::string note;
  if (retired != retired_.end()) {
    peer = retired->second.peer;
    note = fmt::format("generation {}: {}", retired->second.generation, retired->second.note);
  }
  if (found != entries_.end()) {
    peer = found->second->record.peer;
    note = found->second->failure.value_or("");
  }
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end())
    note = damaged->second.error.message();
  const Trouble trouble = trouble_of(name);
  return json::value{{"domain", name},
                     {"trouble", to_string(trouble)},
                     {"message", note},
                     {"choices", to_json(repair_choices(trouble, name, peer))}};
}

Task<Result<json::value>> Agent::repair(const std::string& name, std::string choice) {
  const Trouble trouble = trouble_of(name);
  bool offered = false;
  for (const auto& one : repair_choices(trouble, name, "")) offered |= one.name == choice;
  if (choice.empty() || !offered)
    co_return fail(ErrorCode::usage, "'{}' is no choice for {} (trouble: {})", choice, name,
                   to_string(trouble));
  events_.record(Severity::warning, name, "repair",
                 fmt::format("an operator chose '{}' ({})", choice, to_string(trouble)));
  if (choice == "trust") {
    BOOST_OUTCOME_CO_TRY(auto record, store_.read_older(name));
    BOOST_OUTCOME_CO_TRY(store_.save(record));
    damaged_.erase(name);
    co_await take_up_entry(std::move(record));
  } else if (damaged_.contains(name)) {
    BOOST_OUTCOME_CO_TRY(store_.set_aside(name));
    damaged_.erase(name);
  } else {
    BOOST_OUTCOME_CO_TRY(store_.remove(name));
    retired_.erase(name);
    entries_.erase(name);
  }
  const json::object repaired = {{"domain", name}, {"choice", choice}};
  co_return json::value(repaired);
}

Task<Result<json::value>> Agent::set(const std::string& name, const SetRequest& request) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find_running(name));
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  const bool about_epochs = request.interval || request.mode || !request.replay.is_null();
  if (!entry->primary && about_epochs)
    co_return fail(ErrorCode::usage, "{} is not protected", name);
  DomainRecord changed = entry->record;
  if (!request.renewal.empty()) {
    BOOST_OUTCOME_CO_TRY(const auto policy,
                         understudy::changed(policy_of(*entry), request.renewal, config_.name));
    changed.renewal = understudy::to_json(policy);
  }
  if (request.interval) changed.interval_us = static_cast<std::uint64_t>(request.interval->count());
  if (request.mode) {
    changed.mode = *request.mode;
    if (changed.mode == "replay") {
      BOOST_OUTCOME_CO_TRY(entry->domain->input_progress());
    }
  }
  if (!request.replay.is_null()) {
    if (changed.mode != "replay")
      co_return fail(ErrorCode::usage, "{} is in {} mode: ports are of replay mode", name,
                     changed.mode);
    BOOST_OUTCOME_CO_TRY(changed.replay, merged(entry->record.replay, request.replay));
  }
  BOOST_OUTCOME_CO_TRY(store_.save(changed));
  entry->record = std::move(changed);
  entry->renewal_reason.clear();
  const auto session = entry->primary;
  if (session) {
    if (auto told = co_await session->on_options_changed(); !told)
      spdlog::warn("domain={} {}", name, told.error().message());
  }
  if (!about_epochs) {
    const auto policy = policy_of(*entry);
    events_.record(Severity::info, name, "options_set",
                   fmt::format("may be on {}; failback {}", fmt::join(policy.hosts, ", "),
                               to_string(policy.failback.mode)));
    co_return json::value(status_of(*entry));
  }
  events_.record(
      Severity::info, name, "options_set",
      fmt::format("{} mode, epochs of {} us", entry->record.mode, entry->record.interval_us));
  co_return json::value(status_of(*entry));
}

// --- requests: peers ---

transport::PairingOffer Agent::offer() const {
  transport::PairingOffer offer;
  offer.name = config_.name;
  for (const auto& listener : listeners_) {
    const auto endpoint = listener->endpoint();
    offer.listen_port = endpoint.port;
    if (endpoint.address != "0.0.0.0" && endpoint.address != "::")
      offer.addresses.push_back(endpoint);
  }
  return offer;
}

Result<json::value> Agent::create_token(std::vector<std::string> addresses,
                                        std::chrono::seconds valid_for) {
  if (listeners_.empty())
    return fail(ErrorCode::config,
                "this host listens nowhere: set listen.addresses in its configuration");
  transport::Endpoint endpoint = listeners_.front()->endpoint();
  if (!addresses.empty()) {
    BOOST_OUTCOME_TRY(endpoint, transport::Endpoint::parse(addresses.front()));
  } else {
    for (const auto& own : offer().addresses) addresses.push_back(own.text());
  }
  BOOST_OUTCOME_TRY(const auto token,
                    desk_->issue(now(), self_.identity->fingerprint(), endpoint, valid_for));
  json::array list(addresses.begin(), addresses.end());
  const json::object issued = {{"token", token.text()},
                               {"fingerprint", self_.identity->fingerprint().groups()},
                               {"addresses", std::move(list)},
                               {"expires", rfc3339(std::chrono::system_clock::now() + valid_for)}};
  return json::value(issued);
}

Task<Result<json::value>> Agent::join(const std::string& token) {
  auto parsed = transport::PairingToken::parse(token);
  if (!parsed) co_return fail(ErrorCode::bad_data, "{}", parsed.error().message());
  BOOST_OUTCOME_CO_TRY(
      const auto peer,
      co_await transport::pair_with(context_.get_executor(), self_, offer(), parsed.value()));
  peers_->watch(peer);
  events_.record(Severity::info, "", "peer_paired",
                 fmt::format("paired with {} ({})", peer.name, peer.fingerprint.groups()),
                 {{"peer", peer.name}});
  json::array addresses;
  for (const auto& address : peer.addresses) addresses.emplace_back(address.remote.text());
  const json::object joined = {{"peer", peer.name},
                               {"fingerprint", peer.fingerprint.groups()},
                               {"addresses", std::move(addresses)}};
  co_return json::value(joined);
}

Result<void> Agent::remove_peer(const std::string& name) {
  for (const auto& [domain, entry] : entries_) {
    if (entry->record.peer == name && (entry->primary || entry->backup))
      return fail(ErrorCode::exists, "{} is protected with {}: unprotect it first", domain, name);
  }
  BOOST_OUTCOME_TRY(self_.peers->remove(name));
  peers_->forget(name);
  events_.record(Severity::info, "", "peer_removed", fmt::format("{} is not a peer any more", name),
                 {{"peer", name}});
  return ok();
}

// --- links of peers ---

Task<void> Agent::on_link(std::unique_ptr<transport::Link> link) {
  switch (link->purpose()) {
    case transport::LinkPurpose::heartbeat:
      peers_->adopt(std::move(link));
      co_return;
    case transport::LinkPurpose::control:
      co_await serve_control(std::move(link));
      co_return;
    case transport::LinkPurpose::bulk:
      co_await serve_bulk(std::move(link));
      co_return;
    case transport::LinkPurpose::pairing: {
      auto paired = co_await transport::answer_pairing(std::move(link), self_, offer(), desk_);
      if (!paired) {
        events_.record(Severity::warning, "", "pairing_failed", paired.error().message());
        co_return;
      }
      peers_->watch(paired.value());
      events_.record(Severity::info, "", "peer_paired",
                     fmt::format("paired with {} ({})", paired.value().name,
                                 paired.value().fingerprint.groups()),
                     {{"peer", paired.value().name}});
    }
  }
}

Task<void> Agent::serve_control(std::shared_ptr<transport::Link> link) {
  while (!stopping_) {
    auto frame = co_await link->receive(std::chrono::milliseconds(30'000));
    if (!frame) co_return;
    auto request = frame.value().type == transport::FrameType::control
                       ? json_object_from(frame.value().payload, "request of " + link->peer().name)
                       : Result<json::object>(fail(ErrorCode::protocol, "not a control frame"));
    json::object answer;
    if (request) {
      answer = co_await answer_control(link->peer().name, std::move(request.value()));
    } else {
      answer = {{"error", request.error().message()}};
    }
    if (auto sent = co_await link->send(transport::FrameType::control, {}, json_octets(answer));
        !sent)
      co_return;
  }
}

Task<json::object> Agent::answer_control(const std::string& peer, json::object request) {
  const auto* kind = request.if_contains("request");
  if (kind != nullptr && (*kind == "drill" || *kind == "drill_report" || *kind == "timeline" ||
                          *kind == "move_back" || *kind == "keep_drill" || *kind == "cancel_drill"))
    co_return answer_drill(peer, request);
  if (kind == nullptr || *kind != "check") co_return json::object{{"error", "unknown request"}};
  std::vector<Finding> findings;
  const auto* domain = request.if_contains("domain");
  const auto* hypervisor = request.if_contains("hypervisor");
  const auto* config_json = request.if_contains("config");
  if (domain == nullptr || !domain->is_string() || config_json == nullptr || hypervisor == nullptr)
    co_return json::object{{"error", "malformed check"}};
  const std::string name(domain->get_string());
  if (const auto found = entries_.find(name);
      found != entries_.end() && !found->second->failure &&
      !(found->second->backup && found->second->record.peer == peer)) {
    findings.push_back(
        refusal("name", fmt::format("there is another domain {} on {}", name, config_.name)));
  }
  if (*hypervisor != json::value(hypervisor_->name()))
    findings.push_back(refusal(
        "hypervisor", fmt::format("{} runs domains on {}", config_.name, hypervisor_->name())));
  if (auto other = other_arbiter(peer, arbiter_named_in(request)); other)
    findings.push_back(refusal("arbiter", *other));
  findings.push_back(co_await arbiter_finding(peer));
  auto config = DomainConfig::from_json(*config_json);
  if (!config) {
    findings.push_back(refusal("configuration", config.error().message()));
  } else {
    for (auto& finding : co_await hypervisor_->check(config.value(), true))
      findings.push_back(std::move(finding));
  }
  findings.push_back(co_await gate_finding());
  co_return json::object{{"findings", to_json(findings)}};
}

Task<void> Agent::serve_bulk(std::shared_ptr<transport::Link> link) {
  auto frame = co_await link->receive(std::chrono::milliseconds(5'000));
  if (!frame) co_return;
  auto begin =
      frame.value().type == transport::FrameType::protection_begin
          ? decode_protection_begin(frame.value().payload)
          : Result<ProtectionBegin>(fail(ErrorCode::protocol, "expected protection_begin"));
  if (!begin) {
    co_await link->say_goodbye(begin.error().message());
    co_return;
  }
  const std::string name = begin.value().domain;
  auto reply = co_await answer_begin(link->peer().name, begin.value());
  const ProtectionReply message =
      reply ? reply.value()
            : ProtectionReply{.accepted = false, .refusal = reply.error(), .view = {}};
  if (auto sent = co_await link->send(transport::FrameType::protection_reply, {}, encode(message));
      !sent)
    co_return;
  if (!message.accepted) {
    (void)co_await link->flush();
    co_await link->say_goodbye("refused");
    co_return;
  }
  const auto found = entries_.find(name);
  if (found == entries_.end() || !found->second->backup) co_return;
  const auto session = found->second->backup;
  co_await session->serve(link);
}

// Two hosts of which only one asks the arbiter could both come to speak.
std::optional<std::string> Agent::other_arbiter(const std::string& peer, std::string_view theirs) {
  const std::string_view ours = arbiter_for(peer).name();
  if (ours == theirs) return std::nullopt;
  return fmt::format("{} has the arbiter '{}' for this pair, {} has '{}': configure the same",
                     config_.name, ours, peer, theirs);
}

// The answer to a primary whose copy is not the newest that this host has known, though nothing of
// the newer one is left here.
ProtectionReply Agent::outdated(const ProtectionBegin& begin, Generation known) const {
  ProtectionReply refused;
  refused.view.generation = known;
  refused.refusal =
      fail(ErrorCode::not_authorized,
           "generation {} of {} is over: {} has known generation {}, which is gone (`understudy "
           "repair {}` there lists what can be done)",
           begin.generation, begin.domain, config_.name, known, begin.domain);
  return refused;
}

// What this host is to a domain decides what it answers to a primary that wants it as a backup.
Task<Result<ProtectionReply>> Agent::answer_begin(const std::string& peer, ProtectionBegin begin) {
  const auto found = entries_.find(begin.domain);
  if (found != entries_.end()) {
    Entry& entry = *found->second;
    ProtectionReply refused;
    refused.view.generation = entry.record.generation;
    if (entry.busy)
      co_return fail(ErrorCode::try_again, "{} is busy with {}", config_.name, begin.domain);
    if (entry.domain) {
      refused.view.role = PeerRole::running;
      refused.view.protection = ProtectionId(entry.record.protection);
      refused.refusal = fail(ErrorCode::exists, "{} runs on {} at generation {}", begin.domain,
                             config_.name, entry.record.generation);
      co_return refused;
    }
    if (entry.backup) {
      if (entry.record.peer != peer)
        co_return fail(ErrorCode::exists, "{} holds the image of another {} from {}", config_.name,
                       begin.domain, entry.record.peer);
      if (entry.backup->promoting() || begin.generation < entry.record.generation) {
        refused.view = entry.backup->view();
        refused.refusal =
            fail(ErrorCode::not_authorized, "generation {} of {} is over: {} has generation {}",
                 begin.generation, begin.domain, config_.name, entry.record.generation);
        co_return refused;
      }
      if (entry.backup->protection() == begin.protection &&
          begin.generation == entry.record.generation) {
        co_return ProtectionReply{.accepted = true,
                                  .refusal = {},
                                  .view = entry.backup->view(),
                                  .log = entry.backup->log_position()};
      }
      // A new protection by the same primary, or a raised generation: what is held is of no use to
      // it any more.
      const auto session = entry.backup;
      co_await session->discard("replaced by a new protection");
      while (entries_.contains(begin.domain)) co_await sleep_for(std::chrono::milliseconds(1));
    } else if (begin.generation < entry.record.generation) {
      // It was taken over here, and is gone: whoever asks is older.
      co_return outdated(begin, entry.record.generation);
    } else {
      entries_.erase(begin.domain);  // The remains of a domain that failed here.
    }
  }
  // Nothing may be written over a record that nobody could read.
  if (const auto damaged = damaged_.find(begin.domain); damaged != damaged_.end())
    co_return fail(ErrorCode::bad_data, "{} cannot hold {}: {}; see `understudy repair {}` there",
                   config_.name, begin.domain, damaged->second.error.message(), begin.domain);
  if (const auto known = retired_.find(begin.domain);
      known != retired_.end() && begin.generation < known->second.generation)
    co_return outdated(begin, known->second.generation);

  if (auto other = other_arbiter(peer, begin.arbiter); other)
    co_return fail(ErrorCode::config, "{}", *other);
  if (begin.hypervisor != hypervisor_->name())
    co_return fail(ErrorCode::config, "{} runs domains on {}, not on {}", config_.name,
                   hypervisor_->name(), begin.hypervisor);
  BOOST_OUTCOME_CO_TRY(auto config, DomainConfig::from_json(begin.config));
  if (auto renewal = renewal_policy_from(begin.renewal); !renewal)
    co_return fail(ErrorCode::bad_data, "protection_begin: {}", renewal.error().message());
  auto owned = std::make_shared<Entry>();
  Entry& entry = *owned;
  entry.record = {.name = begin.domain,
                  .role = Role::backup,
                  .generation = begin.generation,
                  .protection = begin.protection.value,
                  .peer = peer,
                  .mode = begin.mode,
                  .interval_us = begin.interval_us,
                  .replay = begin.replay,
                  .renewal = begin.renewal,
                  .config = begin.config,
                  .runtime = nullptr};
  entry.busy = true;
  entry.starting = true;
  entries_[begin.domain] = std::move(owned);
  auto standby = co_await hypervisor_->prepare_standby(std::move(config));
  entry.busy = false;
  entry.starting = false;
  const auto give_up = [&](const Error& error) {
    entries_.erase(begin.domain);
    return error;
  };
  if (!standby) co_return give_up(standby.error());
  entry.record.runtime = standby.value()->runtime_state();
  if (auto saved = save(entry); !saved) co_return give_up(saved.error());
  retired_.erase(begin.domain);
  auto session = BackupSession::create(
      services(peer), entries_.at(begin.domain), entry.record, std::move(standby.value()),
      [this, name = begin.domain](BackupEnd end, std::unique_ptr<Domain> promoted,
                                  std::shared_ptr<ReplayGate> replay_gate) {
        boost::asio::co_spawn(
            context_, end_backup(name, end, std::move(promoted), std::move(replay_gate)), rethrow);
      });
  if (!session) co_return give_up(session.error());
  entry.backup = session.value();
  tell_reachability(peer);
  events_.record(Severity::info, begin.domain, "image_reserved",
                 fmt::format("holds the image of {} for {}", begin.domain, peer), {{"peer", peer}});
  co_return ProtectionReply{.accepted = true, .refusal = {}, .view = entry.backup->view()};
}

Task<void> Agent::end_backup(std::string name, BackupEnd end, std::unique_ptr<Domain> promoted,
                             std::shared_ptr<ReplayGate> replay_gate) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) co_return;
  Entry& entry = *found->second;
  const auto session = std::exchange(entry.backup, nullptr);
  if (end == BackupEnd::discarded) {
    events_.record(Severity::info, name, "image_dropped",
                   fmt::format("the image held for {} is gone", entry.record.peer));
    retire(name, "its image was given up");
    co_return;
  }
  entry.promotion = session->promotion_record();
  entry.replay_gate = std::move(replay_gate);
  entry.conditions.clear();
  become_voice(entry, std::move(promoted));
  if (entry.promotion->handed_over() && entry.promotion->next_backup.empty()) {
    // It was not protected where it came from.
    entry.record.protect_again = false;
    if (auto saved = save(entry); !saved)
      spdlog::error("domain={} {}", name, saved.error().message());
  }
  watch_exit(entry);
  peers_->tell_now();
}

// --- heartbeats ---

void Agent::on_verdict(const std::string& peer, const FailureDetector::Change& change) {
  const auto view = peers_->view(peer);
  if (view.ever_heard) {
    const bool dead = change.verdict == FailureDetector::Verdict::dead;
    if (dead || dead_peers_.erase(peer) > 0 || !introduced_.contains(peer)) {
      if (dead) dead_peers_.insert(peer);
      introduced_.insert(peer);
      events_.record(dead ? Severity::warning : Severity::info, "",
                     dead ? "peer_dead" : "peer_alive",
                     fmt::format("{} is {}", peer, dead ? "not heard on any path" : "heard"),
                     {{"peer", peer}});
    }
  }
  tell_reachability(peer);
  if (change.verdict != FailureDetector::Verdict::dead) return;
  for (const auto& [name, entry] : entries_) {
    if (!entry->backup || entry->record.peer != peer || entry->backup->promoting()) continue;
    auto begun = entry->backup->promote(Promotion::Cause::primary_dead, "primary_dead",
                                        change.last_sign_of_life);
    if (!begun) {
      events_.record(Severity::critical, name, "promotion_refused", begun.error().message(),
                     {{"peer", peer}});
    }
  }
}

void Agent::tell_reachability(const std::string& peer) {
  const auto view = peers_->view(peer);
  const bool reachable = view.ever_heard && view.verdict == FailureDetector::Verdict::alive;
  for (const auto& [name, entry] : entries_) {
    if (entry->record.peer != peer) continue;
    if (entry->primary) entry->primary->on_peer_reachable(reason_of(view), reachable);
    if (entry->backup) entry->backup->on_peer_reachable(reason_of(view), reachable);
  }
}

void Agent::on_news(const std::string& peer, const HeartbeatDomain& news, Instant echoed) {
  const auto found = entries_.find(news.domain);
  if (found == entries_.end()) return;
  Entry& entry = *found->second;
  if (entry.record.peer != peer) return on_news_of_third(entry, peer, news);
  // What is left of a domain that died here has said its word: the other host runs it.
  if (entry.failure && !entry.busy && news.role == PeerRole::running &&
      news.generation > entry.record.generation) {
    events_.record(Severity::info, news.domain, "superseded",
                   fmt::format("{} runs it at generation {}", peer, news.generation),
                   {{"peer", peer}});
    entry.record.generation = news.generation;
    retire(news.domain, fmt::format("{} runs it", peer));
    return;
  }
  if (entry.primary) entry.primary->on_peer_news(news, echoed);
  if (entry.backup) {
    // What a host says before it knows of this protection is about another one.
    if (news.protection == entry.backup->protection()) {
      if (auto heard = entry.backup->on_primary_heard(news.role); !heard)
        events_.record(Severity::critical, news.domain, "promotion_refused",
                       heard.error().message(), {{"peer", peer}});
    }
    entry.backup->on_peer_generation(news.generation);
  }
}

std::vector<HeartbeatDomain> Agent::news_for(const std::string& peer) const {
  std::vector<HeartbeatDomain> news;
  for (const auto& [name, entry] : entries_) {
    // All hosts of its list hear where it runs: one of them may have an older copy.
    const bool third = entry->record.peer != peer;
    if (third && !(entry->domain && policy_of(*entry).names(peer))) continue;
    HeartbeatDomain domain{name, ProtectionId(entry->record.protection), entry->record.generation,
                           PeerRole::none};
    if (entry->backup) {
      const auto view = entry->backup->view();
      domain.role = view.role;
      domain.generation = std::max(domain.generation, view.generation);
    } else if (entry->domain) {
      domain.role = PeerRole::running;
    }
    news.push_back(std::move(domain));
  }
  return news;
}

}  // namespace understudy
