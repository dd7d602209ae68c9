// The lab of Xen hosts (lab/README.md) as tests, benchmarks and the demo use it: its own commands,
// run and waited for.
#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace understudy::scene {

/// One lab, by its name: several may stand side by side, and a user's own is left alone.
class LabProgram {
 public:
  /// `program` is lab/lab; the hosts get the programs that are in `build_directory`.
  LabProgram(std::filesystem::path program, std::filesystem::path build_directory,
             std::string name);

  /// What UNDERSTUDY_LAB says, so that two programs may have a lab each at the same time; otherwise
  /// `usual`.
  [[nodiscard]] static std::string chosen_name(std::string usual);

  /// Why there can be no lab here; empty if there can.
  [[nodiscard]] std::string obstacle() const;
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Where the clients are.
  [[nodiscard]] std::string network_namespace() const { return "us-lab-" + name_; }
  /// A folder that goes when the lab is taken down.
  [[nodiscard]] std::filesystem::path folder() const { return "/run/understudy-lab-" + name_; }

  /// `lab ARGUMENTS…`: what it printed, or an error with what it printed.
  [[nodiscard]] Result<std::string> run(
      const std::vector<std::string>& arguments,
      std::chrono::milliseconds limit = std::chrono::seconds(180)) const;
  /// A shell command on a host ("A", "B" …).
  [[nodiscard]] Result<std::string> exec(
      const std::string& host, const std::string& shell_command,
      std::chrono::milliseconds limit = std::chrono::seconds(180)) const;
  /// The same where it prints JSON.
  [[nodiscard]] Result<boost::json::value> ask(
      const std::string& host, const std::string& shell_command,
      std::chrono::milliseconds limit = std::chrono::seconds(180)) const;
  /// Starts the agent of a host and waits until it answers. `deadline` is the silence that it takes
  /// for death: emulated hosts share this machine with whatever else runs on it and stand still for
  /// seconds now and then.
  [[nodiscard]] Result<void> start_agent(const std::string& host,
                                         std::chrono::milliseconds deadline,
                                         const std::string& log_level = "info") const;

 private:
  std::filesystem::path program_;
  std::filesystem::path build_directory_;
  std::string name_;
};

}  // namespace understudy::scene
