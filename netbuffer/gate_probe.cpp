#include <fcntl.h>
#include <sched.h>

#include <array>
#include <cerrno>
#include <optional>
#include <thread>

#include "base/unique_fd.h"
#include "netbuffer/bridge.h"
#include "netbuffer/frame_queue.h"
#include "netbuffer/gate_rules.h"
#include "netbuffer/netlink.h"
#include "netbuffer/output_gate.h"

namespace understudy {
namespace {

// The name of a tap that need not exist: rules match by name.
constexpr const char* kProbeDevice = "us-probe0";

Result<void> probe_in_this_namespace() {
  BOOST_OUTCOME_TRY(netbuffer::need_bridge_netfilter());
  BOOST_OUTCOME_TRY(const auto queue,
                    netbuffer::FrameQueue::open(
                        {.preferred_number = 1, .frames_max = 16, .socket_buffer_bytes = 65536}));
  BOOST_OUTCOME_TRY(auto netfilter, netbuffer::NetlinkSocket::open(NETLINK_NETFILTER));
  const std::array<netbuffer::GateRules, 1> rules = {
      {{"probe", kProbeDevice, "us-probe1", queue.number()}}};
  BOOST_OUTCOME_TRY(netbuffer::install_gate_rules(netfilter, rules));
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!tun.valid()) return system_error(errno, "/dev/net/tun (module tun)");
  return ok();
}

}  // namespace

Result<void> probe_gate() {
  // A namespace belongs to a thread: ours is entered by one that has nothing else to do, and goes
  // when it ends.
  std::optional<Result<void>> outcome;
  std::thread prober([&outcome] {
    if (::unshare(CLONE_NEWNET) != 0) {
      outcome = system_error(errno, "a network namespace to probe the gate in");
    } else {
      outcome = probe_in_this_namespace();
    }
  });
  prober.join();
  return *outcome;
}

}  // namespace understudy
