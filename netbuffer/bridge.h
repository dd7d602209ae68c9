// What the gate needs to know of, and do to, a Linux bridge: over rtnetlink, because sysfs shows
// the namespace that it was mounted in, not that of the thread.
#pragma once

#include <linux/if_bridge.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"
#include "netbuffer/netlink.h"

namespace understudy::netbuffer {

/// One port of a bridge, as it was when asked.
struct BridgePort {
  unsigned index = 0;
  std::string device;
  unsigned bridge_index = 0;
  unsigned mtu = 0;
  bool forwarding = false;  ///< By spanning tree's state: up, with carrier, not blocked.
  bool isolated = false;    ///< Isolated ports do not talk to each other.
  std::vector<bridge_vlan_info> vlans;  ///< Only meaningful on a bridge that filters VLANs.
};

/// The bridge itself.
struct BridgeState {
  unsigned index = 0;
  bool is_bridge = false;
  bool filters_vlans = false;
};

/// The index of device `name`. Error: no_such.
Result<unsigned> index_of_device(const std::string& name);

/// Every port of every bridge in this namespace.
Result<std::vector<BridgePort>> bridge_ports(NetlinkSocket& route);

/// The port `device`. Errors: no_such (no such device), config (a port of no bridge).
Result<BridgePort> find_bridge_port(NetlinkSocket& route, const std::string& device);

/// Reads the device of that index.
Result<BridgeState> bridge_state(NetlinkSocket& route, unsigned index);

/// Bridged frames can be made to pass the IP hooks: br_netfilter is there, or could be loaded.
/// Error: unavailable, naming it.
Result<void> need_bridge_netfilter();

/// Makes bridged IPv4 and IPv6 frames of this one bridge pass the IP hooks (nf_call_iptables,
/// nf_call_ip6tables). Needs br_netfilter; tries to load it. Error: unavailable, naming it.
Result<void> send_bridged_ip_to_hooks(NetlinkSocket& route, const BridgePort& port,
                                      const std::string& bridge);

/// What a port of our own is for.
enum class PortUse {
  entry,  ///< Frames enter by it and never leave by it: no learning, no flooding.
  relay,  ///< It stands for the guest: the bridge learns from it and floods to it, multicast too.
};

/// The Ethernet address that add_own_port gives to the device of that index: administered locally,
/// and higher than those of other ports, so that no bridge takes it for its own.
std::array<std::uint8_t, 6> address_of_own_port(unsigned index);

/// Enslaves `index` as a port for `use` with the VLANs, isolation and MTU of `like`; then sets it
/// up. `name` is for messages.
Result<void> add_own_port(NetlinkSocket& route, unsigned index, const std::string& name,
                          const BridgePort& like, PortUse use);

/// The port `device` of `bridge`; or, where it is not attached yet, what it will be once it is.
/// Errors: no_such, config (a port of another bridge).
Result<BridgePort> port_on_bridge(NetlinkSocket& route, const std::string& device,
                                  const std::string& bridge);

/// Points the bridge's forwarding entry of `mac` at `port` (in VLAN `vlan` unless 0), as if a frame
/// had just come in there: it ages, and moves when the station moves.
Result<void> point_forwarding_entry(NetlinkSocket& route, const MacAddress& mac,
                                    const BridgePort& port, std::uint16_t vlan);

}  // namespace understudy::netbuffer
