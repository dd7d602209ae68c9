// The gate: no frame leaves a protected domain before the backup holds the state that made it.
//
// Intuition: the kernel holds the frames (NFQUEUE), we hold the key. Rules send every frame that
// enters the bridge from the domain's tap into a queue; nobody but us can let it out, so when we
// are dead, hung or not yet started, nothing leaves. A closed gate is the state of the world
// without us; an open one is a decision.
//
//   close() ─▶ [ seal(n) while the domain is paused ─▶ release(n) on acknowledgement ]* ─▶ open()
//                                                                  or drop_held(), or destruction
//
// How frames travel:
//  · IPv4 and IPv6: table ip and ip6 `understudy-<tap>` hands them to an NFQUEUE in the kernel
//    (bridged frames pass there because the gate turns on the bridge's nf_call_iptables and
//    nf_call_ip6tables). One system call releases an epoch.
//  · Everything else (ARP, VLAN-tagged, unknown ethertypes): read from the tap by a packet socket,
//    kept in this process, and put back on release through a port of our own on the same bridge.
//    Their original is dropped by table bridge `understudy-<tap>`.
//  · That same table is also the fence behind the queue: it lets nothing pass that does not carry
//    the mark which only a frame that came through the IP hooks has. If somebody turns
//    nf_call_iptables off again, frames are dropped, not leaked.
//
// Order: frames of one path leave in the order in which the guest sent them. Between the two paths
// there is no order; none is needed, because the frames of one conversation always take the same
// path, and a network may deliver an ARP frame and an IP packet in either order.
//
// What a crash leaves behind: the three tables of each tap (no table-owner flag, on purpose), hence
// a closed gate. The queue and its frames, the packet socket and the injection port go with the
// process. The next close() for the same tap takes over, atomically; remove_stale_gates() clears
// up after domains that are gone.
//
// Not taken: `plug` queues (they need an ifb, and a bypass is one deleted qdisc away); the nft
// `queue` expression in family bridge (not in every kernel, and it sees the same frames); netdev
// ingress hooks (cannot queue).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/network_address.h"
#include "base/result.h"
#include "netbuffer/epoch_gate.h"

namespace understudy {

/// Where the domain's frames come out: a port of a bridge, in the network namespace of the caller.
struct GateInterface {
  std::string device;  ///< The tap or vif, enslaved to `bridge`.
  std::string bridge;
  MacAddress mac;  ///< Of the guest's interface, not of the tap.
};

/// How much may be held, for each interface. At a limit the newest frame is dropped and counted, as
/// a full queue in a network would do; the guest's TCP slows down.
struct GateLimits {
  std::uint32_t ip_frames_max = 65536;
  std::uint64_t ip_bytes_max = 256ULL << 20;
  std::uint32_t other_frames_max = 4096;
  std::uint64_t other_bytes_max = 4ULL << 20;
  /// Of each socket that carries notifications or captured frames. The kernel drops what does not
  /// fit, which is counted; at most so many bytes of kernel memory are used while we are busy.
  std::uint32_t socket_buffer_bytes = 32U << 20;
};

struct GateOptions {
  std::string domain;  ///< Written into the tables, so that a later start knows whose they are.
  std::vector<GateInterface> interfaces;
  GateLimits limits;
};

/// Octets are those of the IP packet for `ip`, of the whole frame for `other`.
struct GateCounters {
  TrafficCounters ip;
  TrafficCounters other;

  [[nodiscard]] TrafficCounters total() const {
    TrafficCounters sum = ip;
    sum += other;
    return sum;
  }
};

/// The addresses that a guest was seen to use behind one interface, in the order in which they were
/// learnt. Bounded; a guest can only lie about itself. What an announcement needs.
struct LearnedAddresses {
  std::string device;
  MacAddress mac;
  std::vector<IpAddress> addresses;
};

/// The gate of one domain, closed as long as it exists. Used on one thread: that of the executor.
class OutputGate {
 public:
  /// Installs the rules and starts to hold: when it returns, no frame of the domain leaves any
  /// more. Frames that were already past the bridge are not called back. Takes over the tables
  /// that a dead process left for the same taps. Blocks for some milliseconds (netlink); the
  /// executor must be that of the calling thread.
  ///
  /// Errors: no_such (device or bridge), config (the device is no port of that bridge, or tagged
  /// frames are sent to iptables), permission, unavailable (a kernel feature is missing; the text
  /// names module and option), exists (another process holds this gate), no_resources. On an error
  /// nothing that was not there before is left behind.
  static Result<std::unique_ptr<OutputGate>> close(const boost::asio::any_io_executor& executor,
                                                   GateOptions options);

  OutputGate(const OutputGate&) = delete;
  OutputGate& operator=(const OutputGate&) = delete;
  /// Leaves the rules in place: the gate stays closed, and what was held is dropped by the kernel.
  ~OutputGate();

  /// The barrier. To be called while the domain is paused: takes in every notification of the
  /// kernel that is outstanding, so that every frame that the guest sent before its pause is
  /// inside `epoch`. Non-blocking, well below a millisecond. Epochs rise; a repeated or older one
  /// is refused (protocol) and changes nothing.
  Result<void> seal(EpochId epoch);

  /// Lets out every frame that was sealed up to and including `epoch`: one system call for each
  /// interface, and one for each frame that is not IP. Repeated and late acknowledgements do
  /// nothing; an epoch that was never sealed is refused (protocol).
  Result<void> release(EpochId epoch);

  /// Gives up everything held, sealed or not: for a primary that was superseded. The gate stays
  /// closed.
  Result<void> drop_held();

  /// Sends `header_and_frame` (as CapturedFrame has it), which came here for the guest behind the
  /// interface of that index, to where the guest is now. For after a hand-over, when the guest has
  /// been announced elsewhere. Whoever sees it go by takes it for ours: the sender's address stays
  /// with the sender's own port. Frames for others than the guest are left out. Errors: the bridge
  /// does not take it.
  Result<void> pass_on(std::size_t interface, std::vector<std::uint8_t> header_and_frame);

  /// Solo, or no longer protected: lets everything held out in order, then removes the rules. The
  /// object is spent afterwards. A frame that the guest sends in the very moment of the change may
  /// be overtaken by its successors, but none is lost. On an error the gate may still be closed;
  /// calling again is safe.
  Result<void> open();

  /// Includes what the kernel dropped.
  [[nodiscard]] GateCounters counters() const;
  /// One entry for each interface, in the order of the options.
  [[nodiscard]] std::vector<LearnedAddresses> learned_addresses() const;

 private:
  class Implementation;
  explicit OutputGate(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

/// Whether this kernel, and our rights, are enough for a gate: rules are installed and a queue is
/// bound in an empty network namespace that vanishes with the probe, so nothing that exists is
/// touched (a module may be loaded). Takes some milliseconds; may be called on any thread. Errors:
/// permission, unavailable; the text names what is missing.
Result<void> probe_gate();

/// A gate that exists in this network namespace, whoever installed it.
struct GateRecord {
  std::string domain;
  std::string device;
  bool operator==(const GateRecord&) const = default;
};

/// For the start of an agent: removes the tables of those gates for which `keep` says false, and
/// returns them. A gate is recognised by the name *and* the comment of its table; everything else
/// is left alone. To remove the gate of a domain that still runs is to open it, so `keep` must
/// answer true unless the domain is known not to run here (close() takes over the rules of those
/// that do). Errors: permission, unavailable.
Result<std::vector<GateRecord>> remove_stale_gates(
    const std::function<bool(const GateRecord&)>& keep);

}  // namespace understudy
