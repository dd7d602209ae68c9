#include "netbuffer/bridge.h"

#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "netbuffer/kernel_module.h"

namespace understudy::netbuffer {
namespace {

// What may wait for us while we are busy.
constexpr std::uint32_t kRelayQueueFrames = 4096;
// "Send it all multicast frames", as if a router were behind the port.
constexpr std::uint8_t kAllMulticast = MDB_RTR_TYPE_PERM;

std::uint8_t octet_of(const nlattr* attribute) {
  return mnl_attr_get_u8(attribute);
}

// Calls `on_attribute(type, attribute)` for each attribute in these octets.
template <typename OnAttribute>
void each_attribute(const void* octets, std::size_t bytes, OnAttribute on_attribute) {
  const auto* const end = static_cast<const char*>(octets) + bytes;
  for (const auto* attribute = static_cast<const nlattr*>(octets);
       mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    on_attribute(mnl_attr_get_type(attribute), attribute);
  }
}

template <typename OnAttribute>
void each_nested(const nlattr* parent, OnAttribute on_attribute) {
  each_attribute(mnl_attr_get_payload(parent), mnl_attr_get_payload_len(parent), on_attribute);
}

template <typename OnAttribute>
void each_link_attribute(const nlmsghdr* message, OnAttribute on_attribute) {
  const std::size_t skipped = MNL_ALIGN(sizeof(ifinfomsg));
  if (mnl_nlmsg_get_payload_len(message) < skipped) return;
  each_attribute(mnl_nlmsg_get_payload_offset(message, sizeof(ifinfomsg)),
                 mnl_nlmsg_get_payload_len(message) - skipped, on_attribute);
}

nlmsghdr* link_request(RequestBuffer& buffer, int type, unsigned char family, unsigned index) {
  nlmsghdr* const header = mnl_nlmsg_put_header(buffer.octets.data());
  header->nlmsg_type = static_cast<std::uint16_t>(type);
  auto* const link = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg)));
  link->ifi_family = family;
  link->ifi_index = static_cast<int>(index);
  return header;
}

BridgePort read_port(const nlmsghdr* message) {
  BridgePort port;
  port.index =
      static_cast<unsigned>(static_cast<ifinfomsg*>(mnl_nlmsg_get_payload(message))->ifi_index);
  each_link_attribute(message, [&](int type, const nlattr* attribute) {
    switch (type) {
      case IFLA_IFNAME:
        port.device = mnl_attr_get_str(attribute);
        break;
      case IFLA_MASTER:
        port.bridge_index = mnl_attr_get_u32(attribute);
        break;
      case IFLA_MTU:
        port.mtu = mnl_attr_get_u32(attribute);
        break;
      case IFLA_PROTINFO:
        each_nested(attribute, [&](int nested_type, const nlattr* nested) {
          if (nested_type == IFLA_BRPORT_STATE) {
            port.forwarding = octet_of(nested) == BR_STATE_FORWARDING;
          }
          if (nested_type == IFLA_BRPORT_ISOLATED) port.isolated = octet_of(nested) != 0;
        });
        break;
      case IFLA_AF_SPEC:
        each_nested(attribute, [&](int nested_type, const nlattr* nested) {
          if (nested_type != IFLA_BRIDGE_VLAN_INFO ||
              mnl_attr_get_payload_len(nested) < sizeof(bridge_vlan_info)) {
            return;
          }
          bridge_vlan_info vlan{};
          std::memcpy(&vlan, mnl_attr_get_payload(nested), sizeof vlan);
          port.vlans.push_back(vlan);
        });
        break;
      default:
        break;
    }
  });
  return port;
}

bool bridge_netfilter_present() {
  return ::access("/proc/sys/net/bridge", F_OK) == 0;
}

}  // namespace

Result<unsigned> index_of_device(const std::string& name) {
  const unsigned index =
      name.empty() || name.size() >= IFNAMSIZ ? 0 : ::if_nametoindex(name.c_str());
  if (index == 0) return fail(ErrorCode::no_such, "no network device '{}' in this namespace", name);
  return index;
}

Result<std::vector<BridgePort>> bridge_ports(NetlinkSocket& route) {
  RequestBuffer buffer;
  nlmsghdr* const request = link_request(buffer, RTM_GETLINK, AF_BRIDGE, 0);
  mnl_attr_put_u32(request, IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN);
  std::vector<BridgePort> ports;
  BOOST_OUTCOME_TRY(route.dump(request, "list the ports of bridges", [&](const nlmsghdr* message) {
    if (message->nlmsg_type != RTM_NEWLINK) return;
    BridgePort port = read_port(message);
    // A bridge lists itself too, with itself as master or with none.
    if (port.bridge_index == 0 || port.bridge_index == port.index) return;
    // A port with a bridge offload of its own (some network cards) is listed twice.
    const auto known = std::find_if(ports.begin(), ports.end(), [&](const BridgePort& other) {
      return other.index == port.index;
    });
    if (known == ports.end()) ports.push_back(std::move(port));
  }));
  return ports;
}

Result<BridgePort> find_bridge_port(NetlinkSocket& route, const std::string& device) {
  BOOST_OUTCOME_TRY(const unsigned index, index_of_device(device));
  BOOST_OUTCOME_TRY(std::vector<BridgePort> ports, bridge_ports(route));
  for (BridgePort& port : ports) {
    if (port.index == index) return std::move(port);
  }
  return fail(ErrorCode::config, "device '{}' is not a port of any bridge", device);
}

Result<BridgeState> bridge_state(NetlinkSocket& route, unsigned index) {
  RequestBuffer buffer;
  nlmsghdr* const request = link_request(buffer, RTM_GETLINK, AF_UNSPEC, index);
  BridgeState state;
  state.index = index;
  // One link's message is followed by the acknowledgement, like a short dump.
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  const auto read = [&](const nlmsghdr* message) {
    each_link_attribute(message, [&](int type, const nlattr* attribute) {
      if (type != IFLA_LINKINFO) return;
      each_nested(attribute, [&](int info_type, const nlattr* info) {
        if (info_type == IFLA_INFO_KIND) {
          state.is_bridge = std::string_view(mnl_attr_get_str(info)) == "bridge";
        }
        if (info_type != IFLA_INFO_DATA || !state.is_bridge) return;
        each_nested(info, [&](int data_type, const nlattr* data) {
          if (data_type == IFLA_BR_VLAN_FILTERING) state.filters_vlans = octet_of(data) != 0;
        });
      });
    });
  };
  BOOST_OUTCOME_TRY(route.query(request, fmt::format("read device {}", index), read));
  return state;
}

Result<void> need_bridge_netfilter() {
  if (!bridge_netfilter_present()) load_kernel_module("br_netfilter");
  if (!bridge_netfilter_present()) {
    return fail(ErrorCode::unavailable,
                "this kernel cannot hold bridged frames: it lacks br_netfilter "
                "(CONFIG_BRIDGE_NETFILTER), and 'modprobe br_netfilter' did not help");
  }
  return ok();
}

Result<void> send_bridged_ip_to_hooks(NetlinkSocket& route, const BridgePort& port,
                                      const std::string& bridge) {
  BOOST_OUTCOME_TRY(need_bridge_netfilter());
  RequestBuffer buffer;
  nlmsghdr* const request = link_request(buffer, RTM_NEWLINK, AF_UNSPEC, port.bridge_index);
  nlattr* const info = mnl_attr_nest_start(request, IFLA_LINKINFO);
  mnl_attr_put_strz(request, IFLA_INFO_KIND, "bridge");
  nlattr* const data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
  mnl_attr_put_u8(request, IFLA_BR_NF_CALL_IPTABLES, 1);
  mnl_attr_put_u8(request, IFLA_BR_NF_CALL_IP6TABLES, 1);
  mnl_attr_nest_end(request, data);
  mnl_attr_nest_end(request, info);
  return route.request(request, fmt::format("bridge {}: turn on nf_call_iptables", bridge));
}

Result<BridgePort> port_on_bridge(NetlinkSocket& route, const std::string& device,
                                  const std::string& bridge) {
  BOOST_OUTCOME_TRY(const unsigned bridge_index, index_of_device(bridge));
  BOOST_OUTCOME_TRY(const unsigned index, index_of_device(device));
  BOOST_OUTCOME_TRY(std::vector<BridgePort> ports, bridge_ports(route));
  for (BridgePort& port : ports) {
    if (port.index != index) continue;
    if (port.bridge_index == bridge_index) return std::move(port);
    return fail(ErrorCode::config, "device '{}' is a port of another bridge than '{}'", device,
                bridge);
  }
  BridgePort port{.index = index, .device = device, .bridge_index = bridge_index};
  // It will get the bridge's MTU, which is the lowest of its ports.
  port.mtu = 1500;
  RequestBuffer buffer;
  nlmsghdr* const request = link_request(buffer, RTM_GETLINK, AF_UNSPEC, bridge_index);
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  const auto read = [&](const nlmsghdr* message) {
    each_link_attribute(message, [&](int type, const nlattr* attribute) {
      if (type == IFLA_MTU) port.mtu = mnl_attr_get_u32(attribute);
    });
  };
  BOOST_OUTCOME_TRY(route.query(request, fmt::format("read bridge {}", bridge), read));
  return port;
}

std::array<std::uint8_t, 6> address_of_own_port(unsigned index) {
  return {
      0xfe, 0xff, 0xff, 0, static_cast<std::uint8_t>(index >> 8), static_cast<std::uint8_t>(index)};
}

Result<void> add_own_port(NetlinkSocket& route, unsigned index, const std::string& name,
                          const BridgePort& like, PortUse use) {
  const bool relay = use == PortUse::relay;
  const auto flag = static_cast<std::uint8_t>(relay ? 1 : 0);
  {
    // Before it is a port: a smaller MTU or a lower address than those of the others would become
    // the bridge's own.
    RequestBuffer buffer;
    nlmsghdr* const request = link_request(buffer, RTM_NEWLINK, AF_UNSPEC, index);
    const std::array<std::uint8_t, 6> address = address_of_own_port(index);
    mnl_attr_put(request, IFLA_ADDRESS, address.size(), address.data());
    mnl_attr_put_u32(request, IFLA_MTU, like.mtu);
    mnl_attr_put_u32(request, IFLA_TXQLEN, relay ? kRelayQueueFrames : 1);
    BOOST_OUTCOME_TRY(route.request(request, fmt::format("{}: set address and MTU", name)));
  }
  {
    RequestBuffer buffer;
    nlmsghdr* const request = link_request(buffer, RTM_NEWLINK, AF_UNSPEC, index);
    mnl_attr_put_u32(request, IFLA_MASTER, like.bridge_index);
    BOOST_OUTCOME_TRY(
        route.request(request, fmt::format("{}: make it a port of the bridge", name)));
  }
  {
    RequestBuffer buffer;
    nlmsghdr* const request = link_request(buffer, RTM_SETLINK, AF_BRIDGE, index);
    nlattr* const port = mnl_attr_nest_start(request, IFLA_PROTINFO);
    mnl_attr_put_u8(request, IFLA_BRPORT_LEARNING, flag);
    mnl_attr_put_u8(request, IFLA_BRPORT_UNICAST_FLOOD, flag);
    mnl_attr_put_u8(request, IFLA_BRPORT_MCAST_FLOOD, flag);
    mnl_attr_put_u8(request, IFLA_BRPORT_BCAST_FLOOD, flag);
    // What the bridge knows of the guest's groups stands at the guest's own port.
    if (relay) mnl_attr_put_u8(request, IFLA_BRPORT_MULTICAST_ROUTER, kAllMulticast);
    mnl_attr_put_u8(request, IFLA_BRPORT_ISOLATED, like.isolated ? 1 : 0);
    mnl_attr_nest_end(request, port);
    BOOST_OUTCOME_TRY(route.request(request, fmt::format("{}: set learning and flooding", name)));
  }
  BOOST_OUTCOME_TRY(const BridgeState bridge, bridge_state(route, like.bridge_index));
  if (bridge.filters_vlans) {
    for (const bridge_vlan_info& vlan : like.vlans) {
      RequestBuffer buffer;
      nlmsghdr* const request = link_request(buffer, RTM_SETLINK, AF_BRIDGE, index);
      nlattr* const spec = mnl_attr_nest_start(request, IFLA_AF_SPEC);
      mnl_attr_put(request, IFLA_BRIDGE_VLAN_INFO, sizeof vlan, &vlan);
      mnl_attr_nest_end(request, spec);
      BOOST_OUTCOME_TRY(route.request(request, fmt::format("{}: add VLAN {}", name, vlan.vid)));
    }
  }
  RequestBuffer buffer;
  nlmsghdr* const request = link_request(buffer, RTM_NEWLINK, AF_UNSPEC, index);
  auto* const link = static_cast<ifinfomsg*>(mnl_nlmsg_get_payload(request));
  link->ifi_flags = IFF_UP;
  link->ifi_change = IFF_UP;
  return route.request(request, fmt::format("{}: set it up", name));
}

Result<void> point_forwarding_entry(NetlinkSocket& route, const MacAddress& mac,
                                    const BridgePort& port, std::uint16_t vlan) {
  RequestBuffer buffer;
  nlmsghdr* const request = mnl_nlmsg_put_header(buffer.octets.data());
  request->nlmsg_type = RTM_NEWNEIGH;
  request->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
  auto* const entry = static_cast<ndmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ndmsg)));
  entry->ndm_family = AF_BRIDGE;
  entry->ndm_ifindex = static_cast<int>(port.index);
  entry->ndm_state = NUD_REACHABLE;
  entry->ndm_flags = NTF_MASTER;
  mnl_attr_put(request, NDA_LLADDR, mac.octets.size(), mac.octets.data());
  if (vlan != 0) mnl_attr_put_u16(request, NDA_VLAN, vlan);
  return route.request(request, fmt::format("point {} at port {}", mac, port.device));
}

}  // namespace understudy::netbuffer
