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
#include "tests/scene/lab_program.h"

namespace understudy::scene {

class Lab {
 public:
  static const LabProgram& program();

  /// Boots two hosts, starts the agents and pairs them.
  static Result<void> up();
  static void down();

  /// As LabProgram's.
  static Result<std::string> command(const std::vector<std::string>& arguments,
                                     std::chrono::milliseconds limit = std::chrono::seconds(180)) {
    return program().run(arguments, limit);
  }
  static Result<std::string> exec(const std::string& host, const std::string& shell_command,
                                  std::chrono::milliseconds limit = std::chrono::seconds(180)) {
    return program().exec(host, shell_command, limit);
  }
  /// Starts the agent of a host and waits until it answers.
  static Result<void> start_agent(const std::string& host);
  /// Boots a host that was killed, agent and all.
  static Result<void> start_host(const std::string& host);

  /// Makes and starts a domain with the services of the guest; waits until they answer.
  /// `settings` are further lines of its configuration, each ended by ';', and win over what
  /// lab-domain wrote.
  static Result<void> create_domain(const std::string& host, const std::string& name,
                                    const std::string& address, unsigned vcpus,
                                    const std::string& settings = "on_reboot=\"destroy\";");
  /// Types a line into the shell on the domain's console.
  static Result<void> type(const std::string& host, const std::string& name,
                           const std::string& line);
  /// Whether the domain's services answer at that address.
  static bool serves(const std::string& address);
  /// What `understudy status NAME -o json` says of it; an empty object if it is not known there.
  static boost::json::object status(const std::string& host, const std::string& name);
  static std::string state(const std::string& host, const std::string& name);
  static Result<void> protect(const std::string& host, const std::string& name,
                              const std::string& to);

  /// Whether an event of that kind whose message contains `words` was recorded for the domain.
  static bool event(const std::string& host, const std::string& name, const std::string& words);

  /// All that a domain leaves traces in: domains, xenstore, event channels, interfaces, libxl's
  /// files, device models, our own files.
  static std::string traces(const std::string& host);

  /// Asks again and again, until it holds.
  static bool eventually(const std::function<bool()>& holds,
                         std::chrono::seconds limit = std::chrono::seconds(90));
};

}  // namespace understudy::scene
