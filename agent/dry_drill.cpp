#include "agent/dry_drill.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <set>

#include "agent/drill_reports.h"
#include "agent/probers.h"
#include "agent/signal.h"

namespace understudy {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

// How long the copy may take to answer: its processors share the host with others.
constexpr auto kPatience = std::chrono::seconds(30);
constexpr auto kBetweenTries = std::chrono::milliseconds(300);
constexpr unsigned kPrefix = 24;

// Nobody waits for the answers any more: it was taken back, or the image is needed in earnest.
std::optional<Error> unwanted(const DryDrill& drill) {
  if (*drill.cancelled) return fail(ErrorCode::failed, "cancelled");
  if (drill.backup->promoting())
    return fail(ErrorCode::try_again,
                "it was broken off, because the domain was promoted meanwhile");
  return std::nullopt;
}

// Asks again and again until it passes or the patience is over.
Task<ProbeResult> ask_patiently(const DryDrill& drill, ProbeConfig probe, int network) {
  const auto end = Clock::now() + kPatience;
  for (;;) {
    ProbeConfig question = probe;
    ProbeResult result = co_await probe_once(drill.executor, std::move(question), network);
    if (result.passed || unwanted(drill) || Clock::now() >= end) co_return result;
    co_await sleep_for(kBetweenTries);
  }
}

json::object check(const std::string& name, bool passed, const std::string& message,
                   std::chrono::microseconds took) {
  return {{"name", name},
          {"passed", passed},
          {"message", message},
          {"took_ms", static_cast<double>(took.count()) / 1000.0}};
}

// The questions: what is configured, or a ping of what the guest was heard from.
std::vector<ProbeConfig> questions_for(const std::vector<ProbeConfig>& configured,
                                       const std::vector<std::vector<IpAddress>>& learnt,
                                       const std::string& domain) {
  if (!configured.empty()) return configured;
  std::vector<ProbeConfig> pings;
  for (const auto& addresses : learnt) {
    for (const IpAddress& address : addresses) {
      if (!address.is_v4()) continue;
      ProbeConfig ping;
      ping.domain = domain;
      ping.kind = "icmp";
      ping.address = address.to_string();
      ping.name = "ping " + ping.address;
      pings.push_back(std::move(ping));
    }
  }
  return pings;
}

// Our end of each wire gets an address beside the guest's. Where several addresses were learnt on
// one interface, those of the first one's network can be talked to.
void lay_wires(Rehearsal& rehearsal, const std::vector<std::vector<IpAddress>>& learnt,
               const std::vector<ProbeConfig>& questions, json::array& remarks) {
  for (std::size_t index = 0; index < std::max<std::size_t>(learnt.size(), 1); ++index) {
    std::optional<IpAddress> guest;
    // An address that somebody wants to ask comes first.
    for (const ProbeConfig& question : questions) {
      const auto parsed = IpAddress::parse(question.address);
      if (!parsed || !parsed.value().is_v4() || guest) continue;
      const bool of_this = index < learnt.size() &&
                           std::ranges::find(learnt[index], parsed.value()) != learnt[index].end();
      if (of_this || learnt.size() <= 1) guest = parsed.value();
    }
    for (std::size_t i = 0; !guest && index < learnt.size() && i < learnt[index].size(); ++i) {
      if (learnt[index][i].is_v4()) guest = learnt[index][i];
    }
    if (!guest) continue;
    if (auto laid = rehearsal.set_address(index, neighbour_of(*guest), kPrefix); !laid)
      remarks.emplace_back(laid.error().message());
  }
}

// Everything from the copy to the last answer; an error is why the drill failed.
Task<Result<void>> rehearse(const DryDrill& drill, Rehearsal& rehearsal, DrillClock& clock,
                            json::object& report, json::array& checks, json::array& to_mend) {
  auto copied = co_await drill.backup->copy_image_to(rehearsal);
  clock.step("image copied");
  if (!copied) co_return copied.error();
  if (const auto reason = unwanted(drill)) co_return *reason;
  const BackupSession::ImageCopy& copy = copied.value();
  report["epoch"] = copy.epoch.value;
  report["generation"] = copy.generation.value;
  report["image_bytes"] = copy.bytes;

  const auto before_run = Clock::now();
  const auto running = co_await rehearsal.run(copy.device_state);
  clock.step("device state loaded");
  if (!running) {
    checks.push_back(check("boots on", false, running.error().message(), {}));
    to_mend.emplace_back(
        "the image cannot be run on this host: a promotion would fail too; protect the domain "
        "anew, and compare QEMU's version and processor of both hosts");
    co_return running.error();
  }
  const std::string domain(report["domain"].as_string());
  const auto questions = questions_for(drill.probes, copy.addresses, domain);
  lay_wires(rehearsal, copy.addresses, questions, to_mend);
  for (const ProbeConfig& question : questions) {
    ProbeConfig asked = question;
    const ProbeResult result = co_await ask_patiently(drill, std::move(asked), rehearsal.network());
    if (const auto reason = unwanted(drill)) {
      clock.step("questions asked");
      co_return *reason;
    }
    checks.push_back(check(question.name, result.passed, result.message, result.took));
    if (!result.passed) {
      to_mend.emplace_back(fmt::format(
          "'{}' does not pass in a copy of the last commit ({}): does it pass on the primary "
          "(`understudy status {}`)? Does it need something outside the guest?",
          question.name, result.message, domain));
    }
  }
  clock.step("questions asked");
  if (questions.empty()) {
    to_mend.emplace_back(
        "no IPv4 address of the guest is known and no [[probe]] is configured: only that its "
        "processors run was looked at");
    co_await sleep_for(std::chrono::seconds(1));
  }
  const auto runs = co_await rehearsal.runs();
  const bool alive = runs && runs.value();
  const auto ran = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - before_run);
  checks.insert(checks.begin(), check("processors run", alive,
                                      alive  ? "they ran to the end of the drill"
                                      : runs ? "the guest stands still"
                                             : runs.error().message(),
                                      ran));
  co_return ok();
}

}  // namespace

IpAddress neighbour_of(const IpAddress& guest) {
  std::array<std::uint8_t, 4> octets{};
  std::ranges::copy(guest.octets().first(4), octets.begin());
  // Within the same four addresses there are two that are a host's, whatever the prefix: those that
  // end in binary 01 and 10.
  octets[3] = static_cast<std::uint8_t>((octets[3] & 3U) == 1U ? (octets[3] & ~3U) | 2U
                                                               : (octets[3] & ~3U) | 1U);
  return IpAddress::v4(octets);
}

Task<json::object> hold_dry_drill(DryDrill drill, json::object report) {
  DrillClock clock;
  json::array checks;
  json::array to_mend;
  DomainConfig config = drill.backup->config();
  auto prepared = co_await drill.hypervisor.prepare_rehearsal(std::move(config));
  clock.step("second domain prepared");
  std::string failure;
  if (!prepared) {
    failure = prepared.error().message();
    if (prepared.error().code() == ErrorCode::no_resources)
      to_mend.emplace_back("a dry drill needs as much memory again as the domain has, for a while");
  } else {
    const std::unique_ptr<Rehearsal> rehearsal = std::move(prepared.value());
    const auto rehearsed = co_await rehearse(drill, *rehearsal, clock, report, checks, to_mend);
    if (!rehearsed) failure = rehearsed.error().message();
    co_await rehearsal->end();
    clock.step("thrown away");
  }
  std::size_t failed = 0;
  for (const auto& one : checks) {
    if (!one.at("passed").as_bool()) ++failed;
  }
  const bool passed = failure.empty() && failed == 0;
  const bool cancelled = *drill.cancelled && !passed;
  report["outcome"] = passed ? "passed" : cancelled ? "cancelled" : "failed";
  report["summary"] = cancelled ? "cancelled; the copy is gone"
                      : passed  ? fmt::format("the last commit boots on: {} of {} checks passed",
                                              checks.size(), checks.size())
                      : failure.empty()
                          ? fmt::format("{} of {} checks failed", failed, checks.size())
                          : failure;
  report["outage_ms"] = 0;
  report["lost"] = "nothing: nobody heard the copy, and the domain itself was not touched";
  report["took_ms"] = clock.total_ms();
  report["phases"] = clock.phases();
  report["checks"] = std::move(checks);
  report["to_mend"] = std::move(to_mend);
  co_return report;
}

}  // namespace understudy
