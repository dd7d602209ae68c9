// Watches the services inside the domains that run here, and this host: asks, lets Health judge,
// tells, and does what is configured.
//
// Intuition: one coroutine for each configured probe, which asks only while its domain runs here.
// The same configuration on both hosts is right: whoever runs the domain asks.
//
// Awkward case: answers that wait in the gate, or were dropped with it. A probe that gets no answer
// while the domain's output is held (before it, after it, or in between: agent/output_holds.h) says
// nothing about the service: its outcome is `held`, and status says 'gate', not 'service'. An
// answer that is wrong is one.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/object.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/conditions.h"
#include "agent/event_log.h"
#include "agent/output_holds.h"
#include "agent/probe_config.h"
#include "base/task.h"
#include "failover/health.h"

namespace understudy {

/// What the watch has to know of a domain, and may do to it.
struct HealthHooks {
  struct View {
    bool runs_here = false;
    bool output_flows = true;  ///< Committed output gets out.
    std::string held_because;  ///< Where it does not.
    OutputHolds::Tally holds;  ///< How it was held so far.
    std::uint64_t run = 0;     ///< Another number means that it began to run anew.
  };
  std::function<View(const std::string& domain)> view;
  /// What the operator configured for an unhealthy service ("restart"). Not waited for.
  std::function<void(const std::string& domain, const std::string& action,
                     const std::string& reason)>
      act;
  /// The host has become ill. Not waited for.
  std::function<void(const std::string& reason)> host_ill;
};

/// Lives as long as the agent; stop() before it goes.
class HealthWatch {
 public:
  HealthWatch(boost::asio::any_io_executor executor, std::vector<ProbeConfig> probes,
              HostHealth::Config host, std::filesystem::path state_directory, EventLog& events,
              HealthHooks hooks);
  ~HealthWatch();
  HealthWatch(const HealthWatch&) = delete;
  HealthWatch& operator=(const HealthWatch&) = delete;

  void start();
  void stop();

  /// Adds the field `probes` and the condition ServiceHealthy of `domain`, if it has probes and
  /// runs here; removes the condition elsewhere.
  void add_status(const std::string& domain, bool runs_here, boost::json::object& status,
                  Conditions& conditions) const;
  /// The host's own health, for GET /v1/status.
  [[nodiscard]] boost::json::object host_to_json() const;
  /// The probes of `domain`, as configured.
  [[nodiscard]] std::vector<ProbeConfig> probes_of(const std::string& domain) const;

 private:
  struct Probe;
  struct Host;
  static Task<void> ask(boost::asio::any_io_executor executor, std::shared_ptr<Probe> probe,
                        EventLog& events, std::shared_ptr<HealthHooks> hooks);
  static Task<void> read_host(std::shared_ptr<Host> host, EventLog& events,
                              std::shared_ptr<HealthHooks> hooks);

  boost::asio::any_io_executor executor_;
  EventLog& events_;
  std::shared_ptr<HealthHooks> hooks_;
  std::vector<std::shared_ptr<Probe>> probes_;
  std::shared_ptr<Host> host_;
};

}  // namespace understudy
