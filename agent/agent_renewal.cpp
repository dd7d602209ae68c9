// How the agent keeps its domains protected: the hosts that failover/renewal.h chooses are tried,
// one after another, and where a domain belongs elsewhere failover/failback.h says when it goes.
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/json.hpp>

#include "agent/agent.h"
#include "agent/rethrow.h"

namespace understudy {
namespace {

namespace json = boost::json;

constexpr auto kLookAgain = std::chrono::milliseconds(100);

Instant now() {
  return std::chrono::steady_clock::now();
}

}  // namespace

ProtectRequest as_it_was_protected(const DomainRecord& record, std::string to) {
  ProtectRequest request;
  request.to = std::move(to);
  request.mode = record.mode.empty() ? "remus" : record.mode;
  request.interval = std::chrono::microseconds(record.interval_us);
  request.replay = record.replay;
  return request;
}

bool Agent::heard(const std::string& peer) const {
  const auto view = peers_->view(peer);
  return view.ever_heard && view.verdict == FailureDetector::Verdict::alive;
}

// A record of an agent that knew no lists has a peer all the same.
RenewalPolicy Agent::policy_of(const Entry& entry) const {
  auto policy = renewal_policy_from(entry.record.renewal);
  if (policy && !policy.value().hosts.empty()) return policy.value();
  std::vector<std::string> hosts;
  if (!entry.record.peer.empty()) hosts.push_back(entry.record.peer);
  return first_policy(config_.name, hosts);
}

// It runs here without a backup, and may have another one: nobody else can come to speak for it.
// While the gate is held (backup_lost) the lost backup may.
bool Agent::wants_renewal(const Entry& entry) {
  const bool alone =
      !entry.primary || (entry.primary->decisions().state() == EpochPrimary::State::solo &&
                         !entry.primary->decisions().trouble());
  return entry.record.protect_again && entry.domain && alone && !entry.stopping;
}

Renewal::Choice Agent::next_backup(const Entry& entry, Renewal& renewal) const {
  std::vector<Renewal::Host> ring;
  for (const auto& host : policy_of(entry).hosts)
    ring.push_back({host, self_.peers->find(host) != nullptr, heard(host)});
  if (entry.promotion == nullptr || !entry.promotion->handed_over())
    return renewal.choose(now(), ring, config_.name, entry.record.peer);
  // It came here by a move: nobody was lost, and it was said who is the first.
  if (const auto first =
          std::ranges::find(ring, entry.promotion->next_backup, &Renewal::Host::name);
      first != ring.end())
    std::rotate(ring.begin(), first, ring.end());
  return renewal.choose(now(), ring, config_.name, "");
}

Task<void> Agent::keep_renewed() {
  while (!stopping_) {
    for (const auto& [name, entry] : entries_) {
      look_after(*entry);
      look_homeward(*entry);
    }
    co_await sleep_for(kLookAgain);
  }
}

void Agent::look_after(Entry& entry) {
  const std::string& name = entry.record.name;
  if (entry.by_renewal && entry.primary) {
    const EpochPrimary& decisions = entry.primary->decisions();
    if (decisions.state() == EpochPrimary::State::protecting) {
      entry.by_renewal = false;
      entry.renewal.on_protected(entry.record.peer);
      entry.renewal_reason.clear();
      events_.record(Severity::info, name, "renewed",
                     fmt::format("protected again, to {}", entry.record.peer),
                     {{"peer", entry.record.peer}});
    } else if (!decisions.exposed() && !decisions.link_up() && !entry.renewing &&
               !heard(entry.record.peer)) {
      entry.renewing = true;
      boost::asio::co_spawn(context_, give_up_first_copy(name), rethrow);
    }
  }
  if (!wants_renewal(entry) || entry.renewing || entry.busy) return;
  const auto choice = next_backup(entry, entry.renewal);
  if (choice.protect) {
    entry.renewing = true;
    boost::asio::co_spawn(context_, renew(name, choice.host), rethrow);
  } else if (choice.reason != entry.renewal_reason) {
    entry.renewal_reason = choice.reason;
    events_.record(Severity::warning, name, "renewal_waits",
                   fmt::format("not protected, and no host can be the backup: {}", choice.reason));
  }
}

Task<void> Agent::renew(std::string name, std::string host) {
  const auto entry = entries_.at(name);
  ProtectRequest request = as_it_was_protected(entry->record, host);
  request.renewal = to_json(policy_of(*entry));
  request.by_renewal = true;
  json::array findings;
  auto begun = co_await protect(name, request, findings);
  entry->renewing = false;
  if (begun) co_return;
  // A request of somebody else's came first; what comes of it decides.
  if (begun.error().code() == ErrorCode::try_again || begun.error().code() == ErrorCode::exists)
    co_return;
  std::string reason = begun.error().message();
  for (const auto& finding : findings) {
    const auto* object = finding.if_object();
    if (object == nullptr || !object->contains("severity") || object->at("severity") != "refusal")
      continue;
    reason = object->contains("message") && object->at("message").is_string()
                 ? std::string(object->at("message").get_string())
                 : reason;
    break;
  }
  spdlog::info("domain={} event=renewal_refused peer={} reason=\"{}\"", name, host, reason);
  entry->renewal.on_refused(now(), host, std::move(reason));
}

// The chosen host fell silent before it had anything that it could promote: the guest was never
// held for its sake, and the next host gets its turn.
Task<void> Agent::give_up_first_copy(std::string name) {
  const auto entry = entries_.at(name);
  const auto session = entry->primary;
  if (auto ended = co_await session->unprotect(); !ended)
    spdlog::warn("domain={} {}", name, ended.error().message());
  entry->renewing = false;
}

Task<Result<json::value>> Agent::protect_to_first(std::string name, ProtectRequest request,
                                                  json::array& findings) {
  std::string refusals;
  std::optional<Error> last;
  const auto hosts = request.hosts;
  for (const auto& host : hosts) {
    request.to = host;
    findings.clear();
    auto begun = co_await protect(name, request, findings);
    if (begun || begun.error().code() == ErrorCode::exists ||
        begun.error().code() == ErrorCode::try_again)
      co_return begun;
    refusals += (refusals.empty() ? "" : "; ") + begun.error().message();
    last = begun.error();
  }
  if (!last) co_return fail(ErrorCode::usage, "no host to protect {} to", name);
  co_return Error(last->code(), hosts.size() == 1 ? last->message() : refusals);
}

json::object Agent::renewal_status(const Entry& entry) const {
  const bool known = !entry.record.renewal.is_null() || entry.record.protect_again;
  if (!known || entry.record.role == Role::retired) return {};
  const auto policy = policy_of(entry);
  json::object status = to_json(policy).get_object();
  if (!entry.domain) return status;
  Renewal renewal = entry.renewal;
  auto choice = next_backup(entry, renewal);
  status["next"] = choice.host;
  const auto state =
      entry.primary ? std::optional(entry.primary->decisions().state()) : std::nullopt;
  if (entry.by_renewal || entry.renewing) {
    status["state"] = "under_way";
    status["next"] = entry.record.peer;
  } else if (wants_renewal(entry)) {
    status["state"] = choice.protect ? "due" : "waits";
    status["reason"] = choice.reason;
  } else if (state == EpochPrimary::State::backup_lost) {
    status["state"] = "held";
    status["reason"] = fmt::format(
        "{} may hold an image that it could promote: protected elsewhere only once it is back, an "
        "arbiter grants it, or an operator says solo",
        entry.record.peer);
  } else {
    status["state"] = state ? "not_needed" : "not_wanted";
  }
  return status;
}

// A host that is not the other side of our protection, but of the same list, runs the domain: it
// was promoted after us, and what is left here is old. Only a higher generation that runs counts;
// whatever else a third host says (its own mute copy, an image) is between it and its peer.
void Agent::on_news_of_third(Entry& entry, const std::string& peer, const HeartbeatDomain& news) {
  if (news.role != PeerRole::running || news.generation <= entry.record.generation ||
      !policy_of(entry).names(peer))
    return;
  if (entry.primary) {
    // While our backup acknowledges, the third host cannot be right: not ours to destroy.
    if (entry.primary->decisions().state() == EpochPrimary::State::backup_lost)
      entry.primary->on_peer_news(news, Instant{});
  } else if (entry.failure && !entry.busy) {
    events_.record(Severity::info, entry.record.name, "superseded",
                   fmt::format("{} runs it at generation {}", peer, news.generation),
                   {{"peer", peer}});
    entry.record.generation = news.generation;
    retire(news.domain, fmt::format("{} runs it", peer));
  }
}

// One that was moved here on purpose is where somebody wants it.
void Agent::look_homeward(Entry& entry) {
  const auto policy = policy_of(entry);
  if (policy.failback.mode == FailbackMode::never) return;
  const bool whole =
      entry.primary && entry.primary->decisions().state() == EpochPrimary::State::protecting;
  const bool moved_here = entry.promotion != nullptr && entry.promotion->handed_over();
  const auto advice = failbacks_[entry.record.name].advise(
      now(), policy.failback,
      {.runs_here = entry.domain != nullptr && !moved_here,
       .home_is_here = policy.home == config_.name,
       .home_heard = policy.home != config_.name && heard(policy.home),
       .protected_here = whole});
  switch (advice) {
    case Failback::Advice::stay:
      entry.failback_told = false;
      return;
    case Failback::Advice::possible:
      if (std::exchange(entry.failback_told, true)) return;
      events_.record(Severity::info, entry.record.name, "failback_possible",
                     fmt::format("it could go home to {}", policy.home), {{"peer", policy.home}});
      return;
    case Failback::Advice::move:
      if (entry.busy || entry.renewing || std::exchange(entry.going_home, true)) return;
      boost::asio::co_spawn(context_, go_home(entry.record.name, policy.home), rethrow);
      return;
  }
}

Task<void> Agent::go_home(std::string name, std::string home) {
  const auto entry = entries_.at(name);
  events_.record(Severity::info, name, "failback",
                 fmt::format("{} has been well for long enough: it goes home", home),
                 {{"peer", home}});
  auto moved = co_await move(name, home);
  if (moved) {
    failbacks_[name].on_moved(now());
  } else {
    // What it failed at has been told as an event; the next attempt comes after another stay.
    failbacks_[name].on_move_failed(now());
  }
  entry->going_home = false;
}

}  // namespace understudy
