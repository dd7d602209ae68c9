// Where the story is played: two hosts, a guest, clients; and how host A dies.
#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "tests/scene/scene.h"

namespace understudy::demo {

/// A stage that is set up: hosts that know each other, agents that answer, no guest yet.
/// Destruction takes it down unless it is kept.
class Stage {
 public:
  virtual ~Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  /// What stands, in one sentence without its full stop.
  [[nodiscard]] virtual std::string description() const = 0;
  /// Starts web1 on host A and waits until its services answer.
  virtual Result<void> start_guest() = 0;
  /// web1's domain object on `host` (docs/api.md).
  virtual Result<boost::json::object> domain(scene::HostId host) = 0;
  /// Protects web1 to host B and waits until checkpoints commit. `progress` is called with the
  /// domain object meanwhile.
  virtual Result<void> protect(const scene::Protection& protection,
                               const std::function<void(const boost::json::object&)>& progress) = 0;
  /// The phases of web1's promotion on host B.
  virtual Result<boost::json::value> timeline() = 0;
  /// Ends host A; the moment of it. `power_off`: not even a reset gets out.
  virtual Result<scene::Instant> kill_host(bool power_off) = 0;
  /// What kill_host did, in words.
  [[nodiscard]] virtual std::string death() const = 0;
  /// How clients reach web1.
  [[nodiscard]] virtual scene::ClientOptions client_options(unsigned connections) const = 0;
  /// Starts a program where the clients are, its output to `log` in folder().
  virtual Result<scene::Process> start_client(const std::vector<std::string>& command,
                                              const std::string& log) = 0;
  /// For files of the story.
  [[nodiscard]] virtual const std::filesystem::path& folder() const = 0;
  /// The last lines of the agents' logs.
  [[nodiscard]] virtual std::string logs() = 0;
  /// Leaves it standing.
  virtual void keep() = 0;
  /// Commands to look around with, while it stands.
  [[nodiscard]] virtual std::vector<std::string> ways_to_look() const = 0;

 protected:
  Stage() = default;
};

/// Hosts as network namespaces, QEMU guests: everywhere, in seconds.
Result<std::unique_ptr<Stage>> build_namespace_stage(scene::SceneOptions options);

/// What the stage on Xen needs to know.
struct XenStageOptions {
  std::filesystem::path lab_program;      ///< lab/lab
  std::filesystem::path build_directory;  ///< Where agent/understudyd and cli/understudy are.
  unsigned vcpus = 1;
};

/// Hosts as real Xen machines of the lab (lab/README.md), emulated where the processor offers no
/// nested virtualisation: slow then.
Result<std::unique_ptr<Stage>> build_xen_stage(XenStageOptions options);
/// Takes down what a stage on Xen has left.
Result<void> clean_xen_stage(const std::filesystem::path& lab_program);

}  // namespace understudy::demo
