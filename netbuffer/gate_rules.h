// The gate's rules in the kernel: three nft tables for each tap, put in, found and taken out.
//
//   table ip  understudy-TAP      (and the same as ip6)
//     chain hold      prerouting, before everything but defragmentation:
//                     frame came in by bridge port TAP     → NFQUEUE, no bypass
//                     packet came in by TAP as a plain device → drop
//     chain vouch     prerouting, after everything:
//                     frame came in by bridge port TAP     → set the mark's bit
//   table bridge  understudy-TAP
//     chain fence     prerouting, right after br_netfilter:
//                     from TAP, without the bit → drop;  from TAP → clear the bit
//     chain no_return forward: from our injection port to TAP → drop
//
// Where a domain's frames are carried by us in both directions (frame_relay.h) there is one table:
//
//   table bridge  understudy-TAP
//     chain fence     prerouting, before everything: from TAP → drop
//     chain no_return postrouting: to TAP → drop
//
// Intuition of the fence: a frame that never went through the IP hooks cannot carry the bit, for
// whatever reason it did not: it is not IP, it carries a VLAN tag, or somebody turned the bridge's
// nf_call_iptables off. The bit is set as the very last thing in the IP hooks, because others
// (connection marks) may overwrite marks in between; it is cleared at once after the fence, so no
// other part of the host sees it.
//
// Why `match physdev` and `target NFQUEUE` (xtables through nft_compat): nft's own `queue` is
// missing in some kernels, and it has no expression at all for the port by which a bridged frame
// came in. One way for all kernels is better than two ways, of which one is always less tested.
//
// Installing is one batch, hence atomic: tables of the same name are replaced, nothing is half
// there. The kernel drops everything in every NFQUEUE of the namespace when a base chain goes away
// (nf_queue_nf_hook_drop), so taking rules out costs other domains what they hold at that moment:
// like a lost frame, and never a leak.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "netbuffer/netlink.h"

namespace understudy::netbuffer {

/// The bit of a frame's mark that says 'came through the IP hooks' between those and the fence.
inline constexpr std::uint32_t kVouchedMark = 0x08000000;

/// What the rules of one tap need to know.
struct GateRules {
  std::string domain;
  std::string device;
  std::string injection_device;
  std::uint16_t queue = 0;
};

/// Fences these taps off in both directions, all or none: what comes in from one is dropped before
/// the bridge looks at it, and the bridge sends it nothing. For whoever carries the frames himself
/// (frame_relay.h). Replaces tables of the same names. Errors: permission, unavailable.
Result<void> install_relay_rules(NetlinkSocket& netfilter, const std::string& domain,
                                 std::span<const std::string> devices);

/// A table that is ours by name and comment.
struct GateTable {
  std::uint8_t family = 0;
  std::string domain;
  std::string device;
};

/// The name of the tables of `device`.
std::string gate_table_name(std::string_view device);

/// Installs the rules of all taps, or none. Errors: permission, unavailable (naming the modules).
Result<void> install_gate_rules(NetlinkSocket& netfilter, std::span<const GateRules> rules);

/// Takes out the rules that hold and drop, but leaves the (now empty) chains: frames that are still
/// queued survive. To be followed by remove_gate_tables.
Result<void> open_gate_rules(NetlinkSocket& netfilter, std::span<const std::string> devices);

/// Every table of ours in this namespace.
Result<std::vector<GateTable>> list_gate_tables(NetlinkSocket& netfilter);

/// Removes these tables, all or none. Tables that are not there (any more) are left out by the
/// caller.
Result<void> remove_gate_tables(NetlinkSocket& netfilter, std::span<const GateTable> tables);

}  // namespace understudy::netbuffer
