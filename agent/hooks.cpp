#include "agent/hooks.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>
#include <deque>

namespace understudy {
namespace {

namespace json = boost::json;

constexpr std::string_view kOwnKinds[] = {"hook_failed", "hooks_dropped"};

struct Run {
  std::string kind;
  std::string domain;
  std::vector<std::pair<std::string, std::string>> environment;
};

}  // namespace

// One hook with the runs that wait for it. Shared with the coroutine that works them off.
struct Hooks::One {
  HookConfig config;
  std::deque<Run> queue;
  bool at_work = false;
  bool ended = false;  ///< The Hooks are gone.
  std::uint64_t runs = 0;
  std::uint64_t failures = 0;
  std::uint64_t dropped = 0;
  std::string last_ending;

  [[nodiscard]] CommandLine command_line(const Run& run) const {
    CommandLine line;
    line.words = config.command;
    line.environment = run.environment;
    line.time_max = std::chrono::duration_cast<std::chrono::milliseconds>(config.timeout);
    return line;
  }
};

std::vector<std::pair<std::string, std::string>> hook_environment(const Event& event,
                                                                  const HookContext& context) {
  // What the event itself says is newer than what is known of the domain in general.
  const auto from_event = [&event](const char* field, std::string fallback) {
    const auto* value = event.fields.if_contains(field);
    if (value == nullptr) return fallback;
    if (value->is_string()) return std::string(value->get_string());
    return value->is_number() ? json::serialize(*value) : fallback;
  };
  const auto number = [](std::uint64_t value) {
    return value == 0 ? "" : fmt::format("{}", value);
  };
  return {
      {"UNDERSTUDY_EVENT", event.kind},
      {"UNDERSTUDY_SEVERITY", std::string(to_string(event.severity))},
      {"UNDERSTUDY_MESSAGE", event.message},
      {"UNDERSTUDY_SEQUENCE", fmt::format("{}", event.sequence)},
      {"UNDERSTUDY_TIME", rfc3339(event.time)},
      {"UNDERSTUDY_DOMAIN", event.domain},
      {"UNDERSTUDY_HOST", context.host},
      {"UNDERSTUDY_PEER", from_event("peer", context.peer)},
      {"UNDERSTUDY_GENERATION", from_event("generation", number(context.generation))},
      {"UNDERSTUDY_EPOCH", from_event("epoch", number(context.epoch))},
      {"UNDERSTUDY_ADDRESSES", fmt::format("{}", fmt::join(context.addresses, " "))},
      {"UNDERSTUDY_FIELDS", json::serialize(event.fields)},
  };
}

bool hook_wants(const HookConfig& hook, const Event& event) {
  if (std::ranges::find(kOwnKinds, event.kind) != std::end(kOwnKinds)) return false;
  const bool kind = std::ranges::any_of(hook.on, [&event](const std::string& wanted) {
    return wanted == "*" || wanted == event.kind;
  });
  return kind && (hook.domains.empty() ||
                  std::ranges::find(hook.domains, event.domain) != hook.domains.end());
}

Hooks::Hooks(boost::asio::any_io_executor executor, std::vector<HookConfig> hooks, EventLog& events,
             Describe describe)
    : executor_(std::move(executor)), events_(events), describe_(std::move(describe)) {
  for (auto& hook : hooks) {
    hooks_.push_back(std::make_shared<One>());
    hooks_.back()->config = std::move(hook);
  }
  if (!hooks_.empty()) events_.subscribe([this](const Event& event) { on_event(event); });
}

Hooks::~Hooks() {
  for (const auto& one : hooks_) one->ended = true;
}

void Hooks::on_event(const Event& event) {
  for (const auto& one : hooks_) {
    if (!hook_wants(one->config, event)) continue;
    one->queue.push_back(
        {event.kind, event.domain, hook_environment(event, describe_(event.domain))});
    if (one->queue.size() > kQueuedMax) {
      one->queue.pop_front();
      ++one->dropped;
    }
    if (std::exchange(one->at_work, true)) continue;
    boost::asio::co_spawn(executor_, run_queue(executor_, one, events_),
                          [](const std::exception_ptr& failure) {
                            if (failure) std::rethrow_exception(failure);
                          });
  }
}

Task<void> Hooks::run_queue(boost::asio::any_io_executor executor, std::shared_ptr<One> one,
                            EventLog& events) {
  while (!one->ended && !one->queue.empty()) {
    const std::string name = one->config.name;
    if (const auto dropped = std::exchange(one->dropped, 0); dropped > 0) {
      events.record(Severity::warning, "", "hooks_dropped",
                    fmt::format("hook {} is behind: {} runs were dropped", name, dropped),
                    {{"hook", name}, {"dropped", dropped}});
    }
    const Run run = std::move(one->queue.front());
    one->queue.pop_front();
    CommandLine line = one->command_line(run);
    const auto ended = co_await run_command_line(executor, std::move(line));
    if (one->ended) co_return;
    ++one->runs;
    one->last_ending = ended ? ended.value().ending : ended.error().message();
    if (ended && ended.value().succeeded) {
      spdlog::info("event=hook name={} kind={} domain={} took_ms={} output=\"{}\"", name, run.kind,
                   run.domain, ended.value().took.count(), ended.value().output);
      continue;
    }
    ++one->failures;
    const std::string output = ended ? ended.value().output : std::string();
    events.record(Severity::warning, run.domain, "hook_failed",
                  fmt::format("hook {} for {}: {}{}{}", name, run.kind, one->last_ending,
                              output.empty() ? "" : ": ", output),
                  {{"hook", name}, {"event", run.kind}});
  }
  one->at_work = false;
}

Task<Result<json::value>> Hooks::test(std::string name, std::string kind, std::string domain) {
  const auto found =
      std::ranges::find_if(hooks_, [&name](const auto& one) { return one->config.name == name; });
  if (found == hooks_.end()) {
    std::vector<std::string> names;
    names.reserve(hooks_.size());
    for (const auto& one : hooks_) names.push_back(one->config.name);
    co_return fail(ErrorCode::no_such, "no hook '{}' is configured here{}{}", name,
                   names.empty() ? "" : "; there are: ", fmt::join(names, ", "));
  }
  const auto one = *found;
  if (kind.empty()) kind = one->config.on.front() == "*" ? "promoted" : one->config.on.front();
  if (!is_event_kind(kind)) {
    const std::string meant = event_kind_like(kind);
    co_return fail(ErrorCode::usage, "no event of kind '{}'{}", kind,
                   meant.empty() ? "" : fmt::format("; is '{}' meant?", meant));
  }
  if (domain.empty() && !one->config.domains.empty()) domain = one->config.domains.front();
  Event event;
  event.time = std::chrono::system_clock::now();
  event.domain = domain;
  event.kind = kind;
  event.message = "a test, asked for by an operator";
  if (!hook_wants(one->config, event))
    co_return fail(ErrorCode::usage, "hook {} does not ask for {} of domain '{}': on = {}", name,
                   kind, domain, fmt::join(one->config.on, ", "));
  Run run{kind, domain, hook_environment(event, describe_(domain))};
  run.environment.emplace_back("UNDERSTUDY_TEST", "1");
  json::object environment;
  for (const auto& [variable, value] : run.environment) environment[variable] = value;
  CommandLine line = one->command_line(run);
  auto ended = co_await run_command_line(executor_, std::move(line));
  if (!ended) co_return ended.error();
  const CommandEnd& end = ended.value();
  co_return json::value{{"hook", name},         {"event", kind},
                        {"domain", domain},     {"succeeded", end.succeeded},
                        {"ending", end.ending}, {"took_ms", end.took.count()},
                        {"output", end.output}, {"environment", std::move(environment)}};
}

json::value Hooks::to_json() const {
  json::array list;
  for (const auto& one : hooks_) {
    json::object hook = {{"name", one->config.name},
                         {"on", json::value_from(one->config.on)},
                         {"domains", json::value_from(one->config.domains)},
                         {"command", json::value_from(one->config.command)},
                         {"timeout_ms", one->config.timeout.count() / 1000},
                         {"runs", one->runs},
                         {"failures", one->failures},
                         {"waiting", one->queue.size()}};
    if (!one->last_ending.empty()) hook["last_ending"] = one->last_ending;
    list.push_back(std::move(hook));
  }
  return {{"schema", 1}, {"hooks", std::move(list)}};
}

}  // namespace understudy
