// Tap devices: the outside end of a domain's network interfaces.
//
// Intuition: a tap lives exactly as long as somebody holds its descriptor. We make it, QEMU
// inherits it, we let go: from then on it disappears with QEMU, whatever happens to us.
//
// Awkward case: a standby's tap. It exists, because QEMU needs it at start, but it is down and a
// port of no bridge until promotion, so that no frame from before ever waits in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy {

/// A tap that was just made, in the network namespace of this process.
struct Tap {
  UniqueFd fd;
  std::string device;
};

/// The name to try first for interface `index` of `domain`: "us-web1-0", or a shortened one with a
/// hash of the whole. Never more than 15 characters. A higher `attempt` gives another name.
std::string tap_name(std::string_view domain, unsigned index, unsigned attempt);

/// Makes a tap with offloads (virtio-net header), down and attached to nothing, and keeps the
/// host's own IPv6 off it. Errors: permission, or the device file is missing.
Result<Tap> create_tap(std::string_view domain, unsigned index);

/// Checks that `bridge` is a bridge in our network namespace. Errors: no_such, config.
Result<void> check_bridge(const std::string& bridge);

/// Frames that whoever holds the tap has read from it so far.
Result<std::uint64_t> frames_taken_from(const std::string& device);

/// Gives the tap the bridge's MTU, makes it a port of the bridge and takes it up. Safe to repeat.
Result<void> attach_tap(const std::string& device, const std::string& bridge);

/// Takes the tap off its bridge; what waits in it stays there. Safe to repeat.
Result<void> detach_tap(const std::string& device, const std::string& bridge);

/// Takes all frames that wait in the tap, in their order, each behind a virtio_net_hdr of 10
/// octets, whatever length the tap's holder has chosen for it. To be called only while nobody else
/// reads. Never blocks.
Result<std::vector<std::vector<std::uint8_t>>> take_frames(const UniqueFd& tap);

/// Tries to open /dev/net/tun, without making anything.
Result<void> probe_taps();

}  // namespace understudy
