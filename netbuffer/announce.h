// Announcements: telling the network where a domain lives now.
//
// After a promotion or a hand-over the guest's address is behind another port. The switches on the
// way still send its frames to the old place until they see one with its source address; and the
// bridge of this very host, which learnt the address from its uplink, would throw away whatever
// comes in for it. So:
//  1. the bridge's own table is pointed at the domain's port (one netlink request), then
//  2. frames with the guest's source address go out of every other port of the bridge that
//     forwards: RARP (which needs no IP address and teaches every switch), and for each known
//     address a gratuitous ARP as request and as reply (old systems heed only one of them), or an
//     unsolicited neighbour advertisement to all nodes (which multicast snooping never holds back).
//  3. The same again for some rounds, because frames get lost, above all while spanning trees and
//     bonds settle.
//
// The guest itself is not shown these frames: a neighbour advertisement for its own address would
// spoil a duplicate address detection that it had under way.
//
// Awkward cases: on a bridge that filters VLANs the frames carry the tag that the domain's frames
// would have. A guest that is an IPv6 router gets its router flag cleared in its neighbours'
// caches until its next own advertisement, because nobody outside knows that it is one.
//
// Not taken: sending on the bridge device itself (the guest sees it, and the tap's VLAN is lost);
// a port of our own on the bridge (creating one takes milliseconds that a promotion does not have).
// After RFC 826 and 5227 (ARP), RFC 903 (RARP), RFC 4861 §7.2.6 (unsolicited advertisements).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// One interface of a domain that runs here now.
struct Announcement {
  std::string device;  ///< The domain's tap or vif, a port of a bridge in the caller's namespace.
  MacAddress mac;      ///< Of the guest's interface.
  std::vector<IpAddress> addresses;  ///< May be empty: RARP alone is sent then.
};

/// How often, and how far apart. The first round is sent at once.
struct AnnouncementRounds {
  unsigned rounds = 5;
  std::chrono::milliseconds interval{100};
};

/// Sends the announcements and returns after the last round; spawn it, and forget it or wait for
/// it. The first round is on the wire before the first suspension. A port that fails is skipped;
/// an error is returned only if an announcement could not be made at all: no_such (device), config
/// (the device is no port of a bridge), permission. The other announcements are made nevertheless.
Task<Result<void>> announce(std::vector<Announcement> announcements,
                            AnnouncementRounds rounds = {});

/// The frames of one round for one interface, untagged, in sending order: for tests and for
/// whoever has another way to send them. Pure.
std::vector<std::vector<std::uint8_t>> announcement_frames(const Announcement& announcement);

}  // namespace understudy
