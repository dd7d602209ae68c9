#include "netbuffer/output_gate.h"

#include <linux/if_ether.h>
#include <net/if.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cstring>
#include <deque>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include "base/unique_fd.h"
#include "netbuffer/bridge.h"
#include "netbuffer/device_lock.h"
#include "netbuffer/frame_addresses.h"
#include "netbuffer/frame_capture.h"
#include "netbuffer/frame_queue.h"
#include "netbuffer/gate_rules.h"
#include "netbuffer/injection_port.h"
#include "netbuffer/netlink.h"

namespace understudy {
namespace {

using netbuffer::BridgePort;
using netbuffer::CapturedFrame;
using netbuffer::FrameCapture;
using netbuffer::FrameQueue;
using netbuffer::GateRules;
using netbuffer::GateTable;
using netbuffer::InjectionPort;
using netbuffer::NetlinkSocket;
using netbuffer::QueuedFrame;
using netbuffer::Verdict;

// Low numbers are what other programs are configured with by hand.
constexpr std::uint16_t kFirstQueue = 30000;
constexpr unsigned kQueueSpread = 30000;
// Between two looks at the clock of others on this thread.
constexpr std::size_t kFramesAtOnce = 4096;
// A domain that is not really paused could keep seal() busy for ever.
constexpr std::size_t kFramesPerSealMax = 4 * 65536;

// With these on, the IP hooks get tagged frames too, which the packet socket keeps as well: each
// would leave twice.
Result<void> refuse_tagged_frames_in_ip_hooks() {
  for (const char* const name : {"bridge-nf-filter-vlan-tagged", "bridge-nf-filter-pppoe-tagged"}) {
    std::ifstream file(fmt::format("/proc/sys/net/bridge/{}", name));
    int value = 0;
    if (file >> value && value != 0) {
      return fail(ErrorCode::config,
                  "sysctl net.bridge.{} is {}: the gate holds tagged frames itself and expects 0",
                  name, value);
    }
  }
  return ok();
}

}  // namespace

/// Everything about one interface: a source of IP frames held in the kernel, a source of other
/// frames held here, and the way back for the latter.
class OutputGatePort : public std::enable_shared_from_this<OutputGatePort> {
 public:
  static Result<std::shared_ptr<OutputGatePort>> create(
      const boost::asio::any_io_executor& executor, NetlinkSocket& route,
      const GateInterface& interface, const GateLimits& limits) {
    BOOST_OUTCOME_TRY(const unsigned bridge_index, netbuffer::index_of_device(interface.bridge));
    BOOST_OUTCOME_TRY(const BridgePort port, netbuffer::find_bridge_port(route, interface.device));
    if (port.bridge_index != bridge_index) {
      return fail(ErrorCode::config, "device '{}' is a port of another bridge than '{}'",
                  interface.device, interface.bridge);
    }
    BOOST_OUTCOME_TRY(UniqueFd lock, netbuffer::lock_device(interface.device));
    BOOST_OUTCOME_TRY(netbuffer::send_bridged_ip_to_hooks(route, port, interface.bridge));
    BOOST_OUTCOME_TRY(refuse_tagged_frames_in_ip_hooks());
    // The index is unique within the namespace, so domains do not get into each other's way.
    const auto preferred = static_cast<std::uint16_t>(kFirstQueue + port.index % kQueueSpread);
    BOOST_OUTCOME_TRY(FrameQueue queue, FrameQueue::open({preferred, limits.ip_frames_max,
                                                          limits.socket_buffer_bytes}));
    BOOST_OUTCOME_TRY(InjectionPort injection, InjectionPort::create(route, port));
    BOOST_OUTCOME_TRY(FrameCapture capture,
                      FrameCapture::open(port.index, interface.device, limits.socket_buffer_bytes));
    return std::make_shared<OutputGatePort>(executor, interface, limits, std::move(lock),
                                            std::move(queue), std::move(injection),
                                            std::move(capture));
  }

  OutputGatePort(const boost::asio::any_io_executor& executor, GateInterface interface,
                 const GateLimits& limits, UniqueFd lock, FrameQueue queue, InjectionPort injection,
                 FrameCapture capture)
      : interface_(std::move(interface)),
        limits_(limits),
        lock_(std::move(lock)),
        queue_(std::move(queue)),
        injection_(std::move(injection)),
        capture_(std::move(capture)),
        queue_ready_(executor, queue_.fd()),
        capture_ready_(executor, capture_.fd()) {}

  // The descriptors belong to the queue and the capture; Asio only waits on them.
  ~OutputGatePort() {
    queue_ready_.release();
    capture_ready_.release();
  }
  OutputGatePort(const OutputGatePort&) = delete;
  OutputGatePort& operator=(const OutputGatePort&) = delete;

  [[nodiscard]] GateRules rules(const std::string& domain) const {
    return {domain, interface_.device, injection_.device(), queue_.number()};
  }
  [[nodiscard]] const GateInterface& interface() const { return interface_; }
  [[nodiscard]] const AddressBook& addresses() const { return addresses_; }

  void start() {
    wait_for_queue();
    wait_for_capture();
  }

  Result<void> take_in_everything() {
    BOOST_OUTCOME_TRY(take_in_queue(kFramesPerSealMax));
    BOOST_OUTCOME_TRY(take_in_capture(kFramesPerSealMax));
    return ok();
  }

  void seal(EpochId epoch) {
    ip_.seal(epoch);
    other_.seal(epoch);
  }

  Result<void> release(EpochId epoch) {
    // Others first: what an ARP frame tells may be needed to deliver the answers to the packets.
    auto other = put_back(other_.release(epoch).up_to);
    BOOST_OUTCOME_TRY(let_go(ip_.release(epoch).up_to));
    return other;
  }

  Result<void> release_all() {
    auto other = put_back(other_.release_all());
    BOOST_OUTCOME_TRY(let_go(ip_.release_all()));
    return other;
  }

  Result<void> drop_all() {
    other_.drop_all();
    other_frames_.clear();
    if (const auto up_to = ip_.drop_all()) {
      BOOST_OUTCOME_TRY(queue_.verdict_up_to(up_to->last_packet_id, Verdict::drop));
    }
    return ok();
  }

  Result<void> pass_on(std::vector<std::uint8_t> octets) {
    constexpr std::size_t kDestination = CapturedFrame::kHeaderBytes;
    constexpr std::size_t kSource = kDestination + ETH_ALEN;
    if (octets.size() < kDestination + ETH_HLEN ||
        !std::equal(interface_.mac.octets.begin(), interface_.mac.octets.end(),
                    octets.begin() + kDestination)) {
      return ok();
    }
    std::ranges::copy(injection_.address(), octets.begin() + kSource);
    return injection_.inject(octets);
  }

  [[nodiscard]] GateCounters counters() const {
    GateCounters counters{ip_.counters(), other_.counters()};
    counters.ip.dropped.frames += queue_.kernel_drops();
    counters.other.dropped.frames += capture_.lost();
    return counters;
  }

 private:
  struct ReleasedTraffic {
    std::uint32_t token = 0;
    Traffic traffic;
  };
  static constexpr std::size_t kReleasesRemembered = 64;

  void wait_for_queue() {
    queue_ready_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                            [weak = weak_from_this()](const boost::system::error_code& error) {
                              const auto self = weak.lock();
                              if (self && !error) self->on_queue_ready();
                            });
  }
  void wait_for_capture() {
    capture_ready_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                              [weak = weak_from_this()](const boost::system::error_code& error) {
                                const auto self = weak.lock();
                                if (self && !error) self->on_capture_ready();
                              });
  }

  void on_queue_ready() {
    const auto drained = take_in_queue(kFramesAtOnce);
    if (!drained) {
      // Held frames stay held, and seal() will meet the error again and pass it on.
      spdlog::error("gate: reading stopped device={} error=\"{}\"", interface_.device,
                    drained.error().message());
      return;
    }
    if (drained.value()) return wait_for_queue();
    boost::asio::post(queue_ready_.get_executor(), [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->on_queue_ready();
    });
  }
  void on_capture_ready() {
    const auto drained = take_in_capture(kFramesAtOnce);
    if (!drained) {
      spdlog::error("gate: reading stopped device={} error=\"{}\"", interface_.device,
                    drained.error().message());
      return;
    }
    if (drained.value()) return wait_for_capture();
    boost::asio::post(capture_ready_.get_executor(), [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->on_capture_ready();
    });
  }

  Result<bool> take_in_queue(std::size_t frames_max) {
    return queue_.drain(
        frames_max, [this](const QueuedFrame& frame) { on_ip_frame(frame); },
        [this](std::uint32_t token) { on_missing(token); });
  }
  Result<bool> take_in_capture(std::size_t frames_max) {
    return capture_.drain(frames_max,
                          [this](CapturedFrame frame) { on_other_frame(std::move(frame)); });
  }

  void on_ip_frame(const QueuedFrame& frame) {
    if (frame.source == interface_.mac) {
      if (const auto sender = sender_of_ip_packet(frame.start)) addresses_.add(*sender);
    }
    if (ip_.counters().held.bytes + frame.bytes > limits_.ip_bytes_max) {
      ip_.on_rejected({1, frame.bytes});
      // If even this fails the frame stays held, and the next verdict takes it along: late, and
      // never early, since it precedes the barrier that follows.
      (void)queue_.drop_one(frame.packet_id);
      return;
    }
    ip_.on_frame(frame.packet_id, frame.bytes);
  }

  void on_other_frame(CapturedFrame frame) {
    if (const auto sender = sender_of_arp_frame(frame.frame(), interface_.mac)) {
      addresses_.add(*sender);
    }
    const Traffic& held = other_.counters().held;
    if (held.frames >= limits_.other_frames_max ||
        held.bytes + frame.bytes() > limits_.other_bytes_max) {
      other_.on_rejected({1, frame.bytes()});
      return;
    }
    other_.on_frame(++last_other_id_, frame.bytes());
    other_frames_.push_back(std::move(frame));
  }

  Result<void> let_go(const std::optional<EpochGate::UpTo>& up_to) {
    if (!up_to) return ok();
    const auto token = queue_.verdict_up_to(up_to->last_packet_id, Verdict::let_go);
    if (!token) {
      ip_.on_lost(up_to->traffic);
      return token.error();
    }
    if (releases_.size() == kReleasesRemembered) releases_.pop_front();
    releases_.push_back({token.value(), up_to->traffic});
    return ok();
  }

  // The kernel had nothing to release: somebody removed a netfilter chain in this namespace.
  void on_missing(std::uint32_t token) {
    const auto release = std::find_if(releases_.begin(), releases_.end(),
                                      [&](const ReleasedTraffic& r) { return r.token == token; });
    if (release == releases_.end()) return;
    spdlog::warn("gate: held frames were dropped by the kernel device={} frames={}",
                 interface_.device, release->traffic.frames);
    ip_.on_lost(release->traffic);
    releases_.erase(release);
  }

  Result<void> put_back(const std::optional<EpochGate::UpTo>& up_to) {
    if (!up_to) return ok();
    Result<void> result = ok();
    for (std::uint64_t i = 0; i < up_to->traffic.frames; ++i) {
      const CapturedFrame frame = std::move(other_frames_.front());
      other_frames_.pop_front();
      auto injected = injection_.inject(frame.octets);
      if (injected) continue;
      other_.on_lost({1, frame.bytes()});
      if (result) result = injected.error();
    }
    return result;
  }

  GateInterface interface_;
  GateLimits limits_;
  UniqueFd lock_;
  FrameQueue queue_;
  InjectionPort injection_;
  FrameCapture capture_;
  boost::asio::posix::stream_descriptor queue_ready_;
  boost::asio::posix::stream_descriptor capture_ready_;
  EpochGate ip_;
  EpochGate other_;
  std::deque<CapturedFrame> other_frames_;  // As many as other_ holds, in the same order.
  std::uint32_t last_other_id_ = 0;
  std::deque<ReleasedTraffic> releases_;
  AddressBook addresses_;
};

class OutputGate::Implementation {
 public:
  Implementation(std::string domain_name, NetlinkSocket netfilter_socket)
      : domain(std::move(domain_name)), netfilter(std::move(netfilter_socket)) {}

  // Does `step` on every port even where one fails; returns the first error.
  template <typename Step>
  Result<void> on_each_port(Step step) {
    Result<void> result = ok();
    for (const auto& port : ports) {
      Result<void> done = step(*port);
      if (!done && result) result = done.error().in(port->interface().device);
    }
    if (!result) return result.error().in(fmt::format("gate of domain {}", domain));
    return result;
  }

  std::string domain;
  NetlinkSocket netfilter;
  std::vector<std::shared_ptr<OutputGatePort>> ports;
  EpochId last_sealed;
};

Result<std::unique_ptr<OutputGate>> OutputGate::close(const boost::asio::any_io_executor& executor,
                                                      GateOptions options) {
  const auto where = [&](const Error& error) {
    return error.in(fmt::format("close the gate of domain {}", options.domain));
  };
  auto netfilter = NetlinkSocket::open(NETLINK_NETFILTER);
  if (!netfilter) return where(netfilter.error());
  auto route = NetlinkSocket::open(NETLINK_ROUTE);
  if (!route) return where(route.error());

  auto implementation =
      std::make_unique<Implementation>(options.domain, std::move(netfilter.value()));
  std::vector<GateRules> rules;
  for (const GateInterface& interface : options.interfaces) {
    auto port = OutputGatePort::create(executor, route.value(), interface, options.limits);
    if (!port) return where(port.error());
    rules.push_back(port.value()->rules(options.domain));
    implementation->ports.push_back(std::move(port.value()));
  }
  // Listeners first, rules last: at no moment is a frame dropped for want of a listener. A frame
  // that is not IP may, in between, both pass and be kept, and so leave twice, which networks do.
  if (!rules.empty()) {
    auto installed = netbuffer::install_gate_rules(implementation->netfilter, rules);
    if (!installed) return where(installed.error());
  }
  for (const auto& port : implementation->ports) port->start();
  for (const GateRules& gate : rules) {
    spdlog::info("gate: closed domain={} device={} queue={} injection={}", gate.domain, gate.device,
                 gate.queue, gate.injection_device);
  }
  return std::unique_ptr<OutputGate>(new OutputGate(std::move(implementation)));
}

OutputGate::OutputGate(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}

OutputGate::~OutputGate() = default;

Result<void> OutputGate::seal(EpochId epoch) {
  if (epoch <= implementation_->last_sealed) {
    return fail(ErrorCode::protocol,
                "gate of domain {}: cannot seal epoch {}, the last one sealed is {}",
                implementation_->domain, epoch, implementation_->last_sealed);
  }
  // All or none: after an error every port is still in the epoch before.
  BOOST_OUTCOME_TRY(implementation_->on_each_port(
      [](OutputGatePort& port) { return port.take_in_everything(); }));
  for (const auto& port : implementation_->ports) port->seal(epoch);
  implementation_->last_sealed = epoch;
  return ok();
}

Result<void> OutputGate::release(EpochId epoch) {
  if (epoch > implementation_->last_sealed) {
    return fail(ErrorCode::protocol,
                "gate of domain {}: cannot release epoch {}, the last one sealed is {}",
                implementation_->domain, epoch, implementation_->last_sealed);
  }
  return implementation_->on_each_port([&](OutputGatePort& port) { return port.release(epoch); });
}

Result<void> OutputGate::drop_held() {
  return implementation_->on_each_port([](OutputGatePort& port) -> Result<void> {
    BOOST_OUTCOME_TRY(port.take_in_everything());
    return port.drop_all();
  });
}

Result<void> OutputGate::pass_on(std::size_t interface,
                                 std::vector<std::uint8_t> header_and_frame) {
  if (interface >= implementation_->ports.size()) {
    return fail(ErrorCode::internal, "gate of domain {}: no interface {}", implementation_->domain,
                interface);
  }
  return implementation_->ports[interface]->pass_on(std::move(header_and_frame));
}

Result<void> OutputGate::open() {
  const auto release_all = [](OutputGatePort& port) -> Result<void> {
    BOOST_OUTCOME_TRY(port.take_in_everything());
    return port.release_all();
  };
  std::vector<std::string> devices;
  std::vector<GateTable> tables;
  BOOST_OUTCOME_TRY(auto present, netbuffer::list_gate_tables(implementation_->netfilter));
  for (const auto& port : implementation_->ports) {
    const std::string& device = port->interface().device;
    const auto before = tables.size();
    for (GateTable& table : present) {
      if (table.device == device) tables.push_back(table);
    }
    if (tables.size() == before + 3) devices.push_back(device);
  }
  // Most of what is held goes before any newer frame can; what comes while the rules change goes
  // right after; and only then, with nothing left in the queue, do the chains go, because the
  // kernel drops everything queued when a chain goes.
  BOOST_OUTCOME_TRY(implementation_->on_each_port(release_all));
  if (!devices.empty()) {
    BOOST_OUTCOME_TRY(netbuffer::open_gate_rules(implementation_->netfilter, devices));
  }
  BOOST_OUTCOME_TRY(implementation_->on_each_port(release_all));
  BOOST_OUTCOME_TRY(netbuffer::remove_gate_tables(implementation_->netfilter, tables));
  spdlog::info("gate: open domain={}", implementation_->domain);
  return ok();
}

GateCounters OutputGate::counters() const {
  GateCounters sum;
  for (const auto& port : implementation_->ports) {
    const GateCounters counters = port->counters();
    sum.ip += counters.ip;
    sum.other += counters.other;
  }
  return sum;
}

std::vector<LearnedAddresses> OutputGate::learned_addresses() const {
  std::vector<LearnedAddresses> learned;
  for (const auto& port : implementation_->ports) {
    learned.push_back(
        {port->interface().device, port->interface().mac, port->addresses().addresses()});
  }
  return learned;
}

Result<std::vector<GateRecord>> remove_stale_gates(
    const std::function<bool(const GateRecord&)>& keep) {
  BOOST_OUTCOME_TRY(NetlinkSocket netfilter, NetlinkSocket::open(NETLINK_NETFILTER));
  BOOST_OUTCOME_TRY(std::vector<GateTable> tables, netbuffer::list_gate_tables(netfilter));
  std::vector<GateRecord> removed;
  std::erase_if(tables, [&](const GateTable& table) {
    const GateRecord record{table.domain, table.device};
    if (std::find(removed.begin(), removed.end(), record) != removed.end()) return false;
    if (keep(record)) return true;
    removed.push_back(record);
    return false;
  });
  BOOST_OUTCOME_TRY(netbuffer::remove_gate_tables(netfilter, tables));
  for (const GateRecord& gate : removed) {
    spdlog::info("gate: removed stale rules domain={} device={}", gate.domain, gate.device);
  }
  return removed;
}

}  // namespace understudy
