// Hooks: commands of the operator's that are run when something happens to a domain.
//
// Intuition: an event of the event log whose kind a hook has asked for becomes one run of its
// command, which is told what happened by its environment. A hook informs others (DNS, a pager, a
// load balancer); it decides nothing here, and nothing here waits for it.
//
// Awkward cases:
// - A hook that hangs is killed, with all its children, when its time is over.
// - Many events at once: the runs of one hook follow each other in the order of the events, never
//   two at a time, so the last word is about the last event. At most kQueuedMax wait; of what comes
//   on top the oldest is dropped, and an event says so (Bounded).
// - The events that hooks themselves cause (hook_failed, hooks_dropped) start no hook.
// - Events of earlier runs of the agent are not run again: a hook may miss what happened while no
//   agent was there, and has to be safe to run twice.
//
// Not taken: a plug-in library (a mistake in it would take the agent down); running hooks before
// the domain runs (their delay would be an outage).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/command_run.h"
#include "agent/event_log.h"
#include "agent/hook_config.h"
#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// What an event does not tell but hooks want to know, as of now.
struct HookContext {
  std::string host;
  std::string peer;  ///< Of the domain; empty if it has none.
  std::uint64_t generation = 0;
  std::uint64_t epoch = 0;             ///< The last that the backup holds; 0 where unknown.
  std::vector<std::string> addresses;  ///< Of the guest, where they are known.
};

/// The environment that a hook's command gets for `event`: the UNDERSTUDY_… variables of
/// understudy.toml(5). What is not known is set and empty. Pure.
std::vector<std::pair<std::string, std::string>> hook_environment(const Event& event,
                                                                  const HookContext& context);

/// Whether `hook` wants `event`. Pure.
bool hook_wants(const HookConfig& hook, const Event& event);

/// Runs the hooks of this host. Lives as long as the event log it listens to.
class Hooks {
 public:
  static constexpr std::size_t kQueuedMax = 64;
  using Describe = std::function<HookContext(const std::string& domain)>;

  /// `describe` is asked at the time of the event. All on `executor`'s one thread.
  Hooks(boost::asio::any_io_executor executor, std::vector<HookConfig> hooks, EventLog& events,
        Describe describe);
  ~Hooks();
  Hooks(const Hooks&) = delete;
  Hooks& operator=(const Hooks&) = delete;

  /// Runs the hook `name` once, as for an event `kind` of `domain`, and waits for its end:
  /// docs/api.md, POST /v1/hooks/NAME/test. Errors: no_such, usage (the hook does not ask for that
  /// kind), and those of run_command_line().
  Task<Result<boost::json::value>> test(std::string name, std::string kind, std::string domain);
  /// What is configured, and how each hook's last run ended.
  [[nodiscard]] boost::json::value to_json() const;

 private:
  struct One;
  void on_event(const Event& event);
  static Task<void> run_queue(boost::asio::any_io_executor executor, std::shared_ptr<One> one,
                              EventLog& events);

  boost::asio::any_io_executor executor_;
  EventLog& events_;
  Describe describe_;
  std::vector<std::shared_ptr<One>> hooks_;
};

}  // namespace understudy
