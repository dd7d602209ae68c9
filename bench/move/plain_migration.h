// The peer in the comparison: the same guest moved by QEMU's own live migration, by hand, as
// somebody without Understudy would do it.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "tests/scene/process.h"
#include "tests/scene/scene.h"

namespace understudy::bench {

/// One guest on plain QEMU between the hosts of a scene, with the address and the services of the
/// scene's own guest (which must not run). Destruction ends it.
class PlainGuest {
 public:
  /// Starts it on host A and waits until its services answer.
  static Result<PlainGuest> start(scene::Scene& scene);

  /// Moves it to the other host: `migrate` of QEMU over the replication network, with QEMU's own
  /// defaults but for the bandwidth, which is not limited. Returns when it runs there.
  Result<void> move();

 private:
  explicit PlainGuest(scene::Scene& scene) : scene_(&scene) {}
  Result<scene::Process> launch(scene::HostId host, bool incoming);
  /// Sends one command to the QEMU on `host`; what it returns, as JSON text.
  [[nodiscard]] Result<std::string> tell(scene::HostId host, const std::string& command) const;
  [[nodiscard]] std::filesystem::path monitor(scene::HostId host) const;

  scene::Scene* scene_;
  scene::HostId host_ = scene::HostId::a;
  scene::Process qemu_;
};

}  // namespace understudy::bench
