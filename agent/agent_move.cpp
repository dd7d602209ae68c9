// How a domain moves: by hand-over to a host that holds it warm, and before that, where it has to
// go elsewhere, by a copy that makes that host warm.
//
// A live migration is a protection that ends as soon as it has begun: check and reserve the target,
// copy while the guest runs and speaks freely, close the gate for some epochs, hand over. So it
// fails as a protection does: until the word of the hand-over is given the domain is here, and
// nothing that breaks on the way has touched it. `unprotect` breaks it off.
#include <boost/json.hpp>

#include "agent/agent.h"
#include "agent/agent_claim.h"

namespace understudy {

namespace json = boost::json;

Task<Result<json::value>> Agent::move(const std::string& name, std::string to) {
  BOOST_OUTCOME_CO_TRY(auto* entry, find_running(name));
  const auto kept = entries_.at(name);  // It goes when the domain has gone.
  if (to == config_.name)
    co_return fail(ErrorCode::exists, "{} runs on {} already", name, config_.name);
  if (to.empty() && !entry->primary)
    co_return fail(ErrorCode::usage, "{} has no backup: say to which host it is to move", name);
  if (to.empty()) to = entry->record.peer;
  std::string next_backup = config_.name;
  if (!entry->primary || entry->record.peer != to) {
    next_backup = entry->primary ? entry->record.peer : "";
    if (auto warm = co_await make_warm(name, to); !warm) {
      events_.record(
          Severity::warning, name, "move_failed",
          fmt::format("it goes on here, and was not moved to {}: {}", to, warm.error().message()),
          {{"peer", to}});
      if (!next_backup.empty() && entries_.contains(name) && !kept->primary) {
        kept->record.peer = next_backup;
        kept->record.protect_again = true;  // As it was.
      }
      co_return warm.error();
    }
  }
  const bool copied = next_backup != config_.name;
  Claim claim(*entry);
  if (!claim.valid()) co_return Claim::refused(name);
  if (!copied)
    events_.record(Severity::info, name, "move_started", fmt::format("handing it over to {}", to),
                   {{"peer", to}});
  const auto session = entry->primary;
  Result<void> handed_over = fail(ErrorCode::failed, "{} lost its warm backup", name);
  if (session != nullptr) handed_over = co_await session->hand_over(next_backup);
  if (!handed_over) {
    const bool unknown = handed_over.error().code() == ErrorCode::timed_out;
    events_.record(unknown ? Severity::critical : Severity::warning, name,
                   unknown ? "backup_lost" : "move_failed", handed_over.error().message(),
                   {{"peer", to}});
    claim.release();
    // As it was: not protected. (One that was protected stays so, with the new host.)
    if (copied && next_backup.empty() && !unknown) (void)co_await unprotect(name);
    co_return handed_over.error();
  }
  // The copy here is being destroyed; until it is gone this host is busy with the domain, and the
  // other one, which wants it as its backup, is told to try again.
  while (entries_.contains(name) && entries_.at(name) == kept)
    co_await sleep_for(std::chrono::milliseconds(1));
  const json::object moved = {{"domain", name}, {"from", config_.name}, {"to", to}};
  co_return json::value(moved);
}

Task<Result<void>> Agent::make_warm(std::string name, std::string to) {
  const auto kept = entries_.at(name);
  ProtectRequest request;
  request.to = to;
  if (kept->primary) {
    // It goes on as it was protected.
    request = as_it_was_protected(kept->record, to);
    auto policy = policy_of(*kept);
    if (!policy.names(to)) policy.hosts.push_back(to);
    request.renewal = to_json(policy);
  }
  // Looked at before anything is given up: what is found against it now but the present protection.
  BOOST_OUTCOME_CO_TRY(const auto checked, co_await check(name, to, request.mode));
  for (const auto& finding : checked.at("findings").as_array()) {
    if (finding.at("severity") != "refusal" || finding.at("subject") == "protection") continue;
    co_return fail(ErrorCode::failed, "{} cannot take {}: {}: {}", to, name,
                   finding.at("subject").as_string().c_str(),
                   finding.at("message").as_string().c_str());
  }
  if (kept->primary) {
    events_.record(Severity::warning, name, "move_started",
                   fmt::format("copying it to {}; until it runs there it is not protected", to),
                   {{"peer", to}});
    BOOST_OUTCOME_CO_TRY(co_await unprotect(name));
  } else {
    events_.record(Severity::info, name, "move_started", fmt::format("copying it to {}", to),
                   {{"peer", to}});
  }
  json::array findings;
  BOOST_OUTCOME_CO_TRY(co_await protect(name, request, findings));
  while (entries_.contains(name) && kept->primary) {
    if (kept->primary->decisions().state() == EpochPrimary::State::protecting) co_return ok();
    co_await sleep_for(std::chrono::milliseconds(5));
  }
  co_return fail(ErrorCode::failed,
                 "the copy to {} came to nothing; `understudy events {}` says why", to, name);
}

}  // namespace understudy
