// The lab of Xen hosts, as tests use it: its own commands, run and waited for.
//
// One lab, started once for a whole test program: a boot costs more than most stories. Each story
// leaves it as it found it: both hosts up, agents running, no domain.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "tests/scene/process.h"

namespace understudy::scene {

class Lab {
 public:
  /// Where the clients are.
  static const std::string& network_namespace();
  /// Why there can be no lab here; empty if there can.
  static std::string obstacle();

  /// Boots two hosts, starts the agents and pairs them.
  static Result<void> up();
  static void down();

  /// `lab ARGUMENTS…`: what it printed, or an error with what it printed.
  static Result<std::string> command(const std::vector<std::string>& arguments,
                                     std::chrono::milliseconds limit = std::chrono::seconds(120));
  /// A shell command on a host.
  static Result<std::string> exec(const std::string& host, const std::string& shell_command,
                                  std::chrono::milliseconds limit = std::chrono::seconds(120));
  /// Starts the agent of a host and waits until it answers.
  static Result<void> start_agent(const std::string& host);
  /// Boots a host that was killed, agent and all.
  static Result<void> start_host(const std::string& host);

  /// Makes and starts a domain with the services of the guest; waits until they answer.
  static Result<void> create_domain(const std::string& host, const std::string& name,
                                    const std::string& address, unsigned vcpus);
  /// What `understudy status NAME -o json` says of it; an empty object if it is not known there.
  static boost::json::object status(const std::string& host, const std::string& name);
  static std::string state(const std::string& host, const std::string& name);
  static Result<void> protect(const std::string& host, const std::string& name,
                              const std::string& to);

  /// All that a domain leaves traces in: domains, xenstore, interfaces.
  static std::string traces(const std::string& host);

  /// Asks again and again, until it holds.
  static bool eventually(const std::function<bool()>& holds,
                         std::chrono::seconds limit = std::chrono::seconds(90));
};

}  // namespace understudy::scene
