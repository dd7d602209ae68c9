#include "netbuffer/announce.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <cerrno>
#include <initializer_list>
#include <optional>

#include "base/unique_fd.h"
#include "netbuffer/bridge.h"
#include "netbuffer/netlink.h"

namespace understudy {
namespace {

using netbuffer::BridgePort;
using netbuffer::BridgeState;
using netbuffer::NetlinkSocket;

using Octets = std::vector<std::uint8_t>;

constexpr std::uint16_t kEtherTypeRarp = 0x8035;
constexpr std::size_t kTagOffset = 2 * ETH_ALEN;
constexpr MacAddress kAllNodesMac = {{0x33, 0x33, 0, 0, 0, 1}};
constexpr std::array<std::uint8_t, 16> kAllNodes = {0xff, 0x02, 0, 0, 0, 0, 0, 0,
                                                    0,    0,    0, 0, 0, 0, 0, 1};

void put(Octets& frame, std::span<const std::uint8_t> octets) {
  frame.insert(frame.end(), octets.begin(), octets.end());
}
void put_word(Octets& frame, unsigned value) {
  frame.push_back(static_cast<std::uint8_t>(value >> 8));
  frame.push_back(static_cast<std::uint8_t>(value));
}

Octets ethernet(const MacAddress& to, const MacAddress& from, std::uint16_t type) {
  Octets frame;
  put(frame, to.octets);
  put(frame, from.octets);
  put_word(frame, type);
  return frame;
}

// RFC 826, also the form of RARP: hardware 1 (Ethernet), protocol IPv4, lengths 6 and 4.
void put_arp_body(Octets& frame, unsigned operation, const MacAddress& sender_mac,
                  std::span<const std::uint8_t> sender, const MacAddress& target_mac,
                  std::span<const std::uint8_t> target) {
  put_word(frame, 1);
  put_word(frame, ETH_P_IP);
  frame.push_back(6);
  frame.push_back(4);
  put_word(frame, operation);
  put(frame, sender_mac.octets);
  put(frame, sender);
  put(frame, target_mac.octets);
  put(frame, target);
  frame.resize(ETH_ZLEN);
}

Octets rarp(const MacAddress& mac) {
  constexpr std::array<std::uint8_t, 4> kNobody{};
  Octets frame = ethernet(MacAddress::broadcast(), mac, kEtherTypeRarp);
  constexpr unsigned kReverseRequest = 3;
  put_arp_body(frame, kReverseRequest, mac, kNobody, mac, kNobody);
  return frame;
}

// RFC 5227 §3 allows either form; sender and target are the same address in both.
Octets gratuitous_arp(const MacAddress& mac, const IpAddress& address, bool as_reply) {
  Octets frame = ethernet(MacAddress::broadcast(), mac, ETH_P_ARP);
  put_arp_body(frame, as_reply ? 2 : 1, mac, address.octets(),
               as_reply ? MacAddress::broadcast() : MacAddress{}, address.octets());
  return frame;
}

std::uint16_t checksum(std::span<const std::uint8_t> octets) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < octets.size(); i += 2) sum += octets[i] << 8 | octets[i + 1];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

// RFC 4861 §4.4 and §7.2.6: to all nodes, override set, with the option that carries the address.
Octets neighbour_advertisement(const MacAddress& mac, const IpAddress& address) {
  constexpr std::uint8_t kIcmpv6 = 58;
  constexpr std::uint8_t kAdvertisement = 136;
  constexpr std::uint8_t kOverride = 0x20;
  constexpr std::uint8_t kTargetLinkLayer = 2;
  Octets message = {kAdvertisement, 0, 0, 0, kOverride, 0, 0, 0};
  put(message, address.octets());
  message.push_back(kTargetLinkLayer);
  message.push_back(1);  // In units of 8 octets.
  put(message, mac.octets);

  Octets pseudo_header;
  put(pseudo_header, address.octets());
  put(pseudo_header, kAllNodes);
  put_word(pseudo_header, 0);
  put_word(pseudo_header, static_cast<unsigned>(message.size()));
  put_word(pseudo_header, 0);
  put_word(pseudo_header, kIcmpv6);
  put(pseudo_header, message);
  const std::uint16_t sum = checksum(pseudo_header);
  message[2] = static_cast<std::uint8_t>(sum >> 8);
  message[3] = static_cast<std::uint8_t>(sum);

  Octets frame = ethernet(kAllNodesMac, mac, ETH_P_IPV6);
  put_word(frame, 0x6000);
  put_word(frame, 0);
  put_word(frame, static_cast<unsigned>(message.size()));
  frame.push_back(kIcmpv6);
  frame.push_back(255);  // Receivers take nothing that may have crossed a router.
  put(frame, address.octets());
  put(frame, kAllNodes);
  put(frame, message);
  return frame;
}

// How frames of the domain's port appear on `port`; nothing if they do not appear there at all.
struct Egress {
  std::optional<std::uint16_t> tag;
};
std::optional<Egress> egress_of(const BridgePort& from, const BridgePort& port,
                                std::uint16_t vlan) {
  if (port.bridge_index != from.bridge_index || port.index == from.index || !port.forwarding) {
    return std::nullopt;
  }
  if (port.isolated && from.isolated) return std::nullopt;
  if (vlan == 0) return Egress{};
  for (const bridge_vlan_info& member : port.vlans) {
    if (member.vid != vlan) continue;
    if ((member.flags & BRIDGE_VLAN_INFO_UNTAGGED) != 0) return Egress{};
    return Egress{vlan};
  }
  return std::nullopt;
}

// One round for one interface.
Result<void> send_round(NetlinkSocket& route, int socket, const Announcement& announcement) {
  BOOST_OUTCOME_TRY(const BridgePort own, netbuffer::find_bridge_port(route, announcement.device));
  BOOST_OUTCOME_TRY(const BridgeState bridge, netbuffer::bridge_state(route, own.bridge_index));
  std::uint16_t vlan = 0;
  if (bridge.filters_vlans) {
    for (const bridge_vlan_info& member : own.vlans) {
      if ((member.flags & BRIDGE_VLAN_INFO_PVID) != 0) vlan = member.vid;
    }
    if (vlan == 0) {
      return fail(ErrorCode::config, "port '{}' takes no untagged frames (it has no PVID)",
                  announcement.device);
    }
  }
  // The port may still be down for a moment; the bridge learns from the guest's own frames then.
  if (auto pointed = netbuffer::point_forwarding_entry(route, announcement.mac, own, vlan);
      !pointed) {
    spdlog::debug("announce: {}", pointed.error().message());
  }
  const std::vector<Octets> frames = announcement_frames(announcement);
  BOOST_OUTCOME_TRY(const std::vector<BridgePort> ports, netbuffer::bridge_ports(route));
  for (const BridgePort& port : ports) {
    const auto egress = egress_of(own, port, vlan);
    if (!egress) continue;
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = static_cast<int>(port.index);
    for (Octets frame : frames) {
      if (egress->tag) {
        Octets tag;
        put_word(tag, ETH_P_8021Q);
        put_word(tag, *egress->tag);
        frame.insert(frame.begin() + kTagOffset, tag.begin(), tag.end());
      }
      if (::sendto(socket, frame.data(), frame.size(), MSG_DONTWAIT,
                   reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        spdlog::debug("announce: not sent device={} port={} error=\"{}\"", announcement.device,
                      port.device, std::strerror(errno));
      }
    }
  }
  return ok();
}

}  // namespace

std::vector<std::vector<std::uint8_t>> announcement_frames(const Announcement& announcement) {
  std::vector<Octets> frames;
  frames.push_back(rarp(announcement.mac));
  for (const IpAddress& address : announcement.addresses) {
    if (address.is_v4()) {
      frames.push_back(gratuitous_arp(announcement.mac, address, false));
      frames.push_back(gratuitous_arp(announcement.mac, address, true));
    } else {
      frames.push_back(neighbour_advertisement(announcement.mac, address));
    }
  }
  return frames;
}

Task<Result<void>> announce(std::vector<Announcement> announcements, AnnouncementRounds rounds) {
  BOOST_OUTCOME_CO_TRY(NetlinkSocket route, NetlinkSocket::open(NETLINK_ROUTE));
  // Protocol 0: this socket only sends.
  const UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!socket.valid()) co_return system_error(errno, "announce: open a packet socket");

  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  Result<void> result = ok();
  for (unsigned round = 0; round < rounds.rounds; ++round) {
    if (round > 0) {
      timer.expires_after(rounds.interval);
      const auto [error] =
          co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      if (error) break;
    }
    for (const Announcement& announcement : announcements) {
      auto sent = send_round(route, socket.get(), announcement);
      if (!sent && result) result = sent.error().in("announce");
    }
  }
  co_return result;
}

}  // namespace understudy
