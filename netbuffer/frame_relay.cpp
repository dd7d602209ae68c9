#include "netbuffer/frame_relay.h"

#include <linux/if_ether.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "netbuffer/bridge.h"
#include "netbuffer/device_lock.h"
#include "netbuffer/frame_addresses.h"
#include "netbuffer/gate_rules.h"
#include "netbuffer/injection_port.h"
#include "netbuffer/netlink.h"

namespace understudy {
namespace {

using netbuffer::BridgePort;
using netbuffer::FrameCapture;
using netbuffer::GateTable;
using netbuffer::InjectionPort;
using netbuffer::NetlinkSocket;
using netbuffer::PortUse;

// Between two looks at the clock of others on this thread.
constexpr std::size_t kFramesAtOnce = 256;
// A domain that is not really paused could keep the barrier busy for ever.
constexpr std::size_t kFramesPerBarrierMax = 4 * 65536;

}  // namespace

/// One interface: the guest's tap on one side, our port on the other.
class FrameRelayPort : public std::enable_shared_from_this<FrameRelayPort> {
 public:
  static Result<std::shared_ptr<FrameRelayPort>> create(
      const boost::asio::any_io_executor& executor, NetlinkSocket& route, std::uint16_t index,
      const GateInterface& interface, const GateLimits& limits, FrameRelay::Handlers& handlers) {
    BOOST_OUTCOME_TRY(const BridgePort port,
                      netbuffer::port_on_bridge(route, interface.device, interface.bridge));
    BOOST_OUTCOME_TRY(UniqueFd lock, netbuffer::lock_device(interface.device));
    BOOST_OUTCOME_TRY(InjectionPort own, InjectionPort::create(route, port, PortUse::relay));
    BOOST_OUTCOME_TRY(FrameCapture tap,
                      FrameCapture::open(port.index, interface.device, limits.socket_buffer_bytes,
                                         FrameCapture::Frames::all));
    return std::make_shared<FrameRelayPort>(executor, index, interface, port, std::move(lock),
                                            std::move(own), std::move(tap), handlers);
  }

  FrameRelayPort(const boost::asio::any_io_executor& executor, std::uint16_t index,
                 GateInterface interface, BridgePort port, UniqueFd lock, InjectionPort own,
                 FrameCapture tap, FrameRelay::Handlers& handlers)
      : index_(index),
        interface_(std::move(interface)),
        port_(std::move(port)),
        lock_(std::move(lock)),
        own_(std::move(own)),
        tap_(std::move(tap)),
        handlers_(handlers),
        tap_ready_(executor, tap_.fd()),
        own_ready_(executor, own_.fd()) {}

  // The descriptors belong to the capture and the port; Asio only waits on them.
  ~FrameRelayPort() {
    tap_ready_.release();
    own_ready_.release();
  }
  FrameRelayPort(const FrameRelayPort&) = delete;
  FrameRelayPort& operator=(const FrameRelayPort&) = delete;

  [[nodiscard]] const GateInterface& interface() const { return interface_; }
  [[nodiscard]] const AddressBook& addresses() const { return addresses_; }
  [[nodiscard]] const std::string& own_device() const { return own_.device(); }
  [[nodiscard]] std::size_t mtu() const { return port_.mtu; }

  void start() {
    wait(tap_ready_, &FrameRelayPort::take_in_outputs);
    wait(own_ready_, &FrameRelayPort::take_in_inputs);
  }
  void defer_outputs() { outputs_deferred_ = true; }
  void resume_outputs() {
    outputs_deferred_ = false;
    if (!std::exchange(outputs_parked_, false)) return;
    boost::asio::post(tap_ready_.get_executor(), [weak = weak_from_this()] {
      if (const auto self = weak.lock()) {
        self->on_ready(self->tap_ready_, &FrameRelayPort::take_in_outputs);
      }
    });
  }
  /// Frames that passed by the bridge itself, before the fence stood, are no business of ours.
  Result<void> forget_what_passed() {
    const auto nothing = [](const RelayedFrame&) {};
    BOOST_OUTCOME_TRY(tap_.drain(kFramesPerBarrierMax, nothing));
    BOOST_OUTCOME_TRY(own_.drain(kFramesPerBarrierMax, nothing));
    return ok();
  }
  /// Nothing is handed to anybody from here on.
  void stop() { stopped_ = true; }

  Result<bool> take_in_outputs(std::size_t frames_max) {
    return tap_.drain(frames_max, [this](RelayedFrame frame) {
      if (stopped_) return;
      ++counters_.outputs;
      learn(frame.frame());
      handlers_.on_output(index_, std::move(frame));
    });
  }

  void to_network(std::span<const std::uint8_t> frame) {
    if (own_.inject(frame)) return;
    ++counters_.outputs_lost;
  }
  bool to_guest(std::span<const std::uint8_t> frame) {
    if (tap_.send(frame)) return true;
    ++counters_.inputs_lost;
    return false;
  }

  Result<void> point_at_us(NetlinkSocket& route) {
    BOOST_OUTCOME_TRY(const BridgePort own, netbuffer::find_bridge_port(route, own_.device()));
    return netbuffer::point_forwarding_entry(route, interface_.mac, own, 0);
  }
  Result<void> point_at_guest(NetlinkSocket& route) {
    return netbuffer::point_forwarding_entry(route, interface_.mac, port_, 0);
  }

  [[nodiscard]] FrameRelay::Counters counters() const {
    FrameRelay::Counters counters = counters_;
    counters.outputs_lost += tap_.lost();
    return counters;
  }

 private:
  using TakeIn = Result<bool> (FrameRelayPort::*)(std::size_t);

  // What the guest has said by now stood before what comes: whoever tells the order of both is told
  // it as it was.
  Result<bool> take_in_inputs(std::size_t frames_max) {
    BOOST_OUTCOME_TRY(take_in_outputs(kFramesAtOnce));
    return own_.drain(frames_max, [this](RelayedFrame frame) {
      if (stopped_) return;
      ++counters_.inputs;
      handlers_.on_input(index_, std::move(frame));
    });
  }

  void wait(boost::asio::posix::stream_descriptor& ready, TakeIn take_in) {
    ready.async_wait(
        boost::asio::posix::descriptor_base::wait_read,
        [weak = weak_from_this(), &ready, take_in](const boost::system::error_code& error) {
          const auto self = weak.lock();
          if (self && !error) self->on_ready(ready, take_in);
        });
  }

  void on_ready(boost::asio::posix::stream_descriptor& ready, TakeIn take_in) {
    if (&ready == &tap_ready_ && outputs_deferred_) {
      outputs_parked_ = true;
      return;
    }
    const auto drained = (this->*take_in)(kFramesAtOnce);
    if (!stopped_ && handlers_.on_idle) handlers_.on_idle();
    if (!drained) {
      spdlog::error("relay: reading stopped device={} error=\"{}\"", interface_.device,
                    drained.error().message());
      return;
    }
    if (drained.value()) return wait(ready, take_in);
    boost::asio::post(ready.get_executor(), [weak = weak_from_this(), &ready, take_in] {
      if (const auto self = weak.lock()) self->on_ready(ready, take_in);
    });
  }

  void learn(std::span<const std::uint8_t> frame) {
    if (const auto sender = sender_of_arp_frame(frame, interface_.mac))
      return addresses_.add(*sender);
    if (frame.size() <= ETH_HLEN) return;
    if (!std::equal(interface_.mac.octets.begin(), interface_.mac.octets.end(),
                    frame.begin() + ETH_ALEN)) {
      return;
    }
    const unsigned type = static_cast<unsigned>(frame[12]) << 8U | frame[13];
    if (type != ETH_P_IP && type != ETH_P_IPV6) return;
    if (const auto sender = sender_of_ip_packet(frame.subspan(ETH_HLEN))) addresses_.add(*sender);
  }

  std::uint16_t index_;
  GateInterface interface_;
  BridgePort port_;
  UniqueFd lock_;
  InjectionPort own_;
  FrameCapture tap_;
  FrameRelay::Handlers& handlers_;
  boost::asio::posix::stream_descriptor tap_ready_;
  boost::asio::posix::stream_descriptor own_ready_;
  AddressBook addresses_;
  FrameRelay::Counters counters_;
  bool stopped_ = false;
  bool outputs_deferred_ = false;
  bool outputs_parked_ = false;  ///< There are some, and nobody waits for the tap.
};

class FrameRelay::Implementation {
 public:
  Implementation(std::string domain_name, NetlinkSocket netfilter_socket,
                 NetlinkSocket route_socket, Handlers given_handlers)
      : domain(std::move(domain_name)),
        netfilter(std::move(netfilter_socket)),
        route(std::move(route_socket)),
        handlers(std::move(given_handlers)) {}
  ~Implementation() {
    // A wait under way may keep a port for one more turn of the loop.
    for (const auto& port : ports) port->stop();
  }
  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  [[nodiscard]] std::vector<std::string> devices() const {
    std::vector<std::string> names;
    names.reserve(ports.size());
    for (const auto& port : ports) names.push_back(port->interface().device);
    return names;
  }

  std::string domain;
  NetlinkSocket netfilter;
  NetlinkSocket route;
  Handlers handlers;
  std::vector<std::shared_ptr<FrameRelayPort>> ports;
};

Result<std::unique_ptr<FrameRelay>> FrameRelay::close(const boost::asio::any_io_executor& executor,
                                                      GateOptions options, Handlers handlers) {
  const auto where = [&](const Error& error) {
    return error.in(fmt::format("close the gate of domain {}", options.domain));
  };
  auto netfilter = NetlinkSocket::open(NETLINK_NETFILTER);
  if (!netfilter) return where(netfilter.error());
  auto route = NetlinkSocket::open(NETLINK_ROUTE);
  if (!route) return where(route.error());

  auto implementation = std::make_unique<Implementation>(
      options.domain, std::move(netfilter.value()), std::move(route.value()), std::move(handlers));
  for (const GateInterface& interface : options.interfaces) {
    auto port = FrameRelayPort::create(executor, implementation->route,
                                       static_cast<std::uint16_t>(implementation->ports.size()),
                                       interface, options.limits, implementation->handlers);
    if (!port) return where(port.error());
    implementation->ports.push_back(std::move(port.value()));
  }
  const std::vector<std::string> devices = implementation->devices();
  if (!devices.empty()) {
    auto installed =
        netbuffer::install_relay_rules(implementation->netfilter, options.domain, devices);
    if (!installed) return where(installed.error());
  }
  std::unique_ptr<FrameRelay> relay(new FrameRelay(std::move(implementation)));
  relay->refresh_forwarding();
  for (const auto& port : relay->implementation_->ports) {
    if (auto forgotten = port->forget_what_passed(); !forgotten) return where(forgotten.error());
    port->start();
    spdlog::info("relay: closed domain={} device={} port={}", options.domain,
                 port->interface().device, port->own_device());
  }
  return relay;
}

FrameRelay::FrameRelay(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}

FrameRelay::~FrameRelay() = default;

Result<void> FrameRelay::take_in_outputs() {
  for (const auto& port : implementation_->ports) {
    BOOST_OUTCOME_TRY(port->take_in_outputs(kFramesPerBarrierMax));
  }
  return ok();
}

void FrameRelay::defer_outputs() {
  for (const auto& port : implementation_->ports) port->defer_outputs();
}

void FrameRelay::resume_outputs() {
  for (const auto& port : implementation_->ports) port->resume_outputs();
}

void FrameRelay::to_network(std::uint16_t interface, std::span<const std::uint8_t> frame) {
  if (interface < implementation_->ports.size()) {
    implementation_->ports[interface]->to_network(frame);
  }
}

bool FrameRelay::to_guest(std::uint16_t interface, std::span<const std::uint8_t> frame) {
  return interface < implementation_->ports.size() &&
         implementation_->ports[interface]->to_guest(frame);
}

void FrameRelay::refresh_forwarding() {
  for (const auto& port : implementation_->ports) {
    if (auto pointed = port->point_at_us(implementation_->route); !pointed) {
      spdlog::debug("relay: device={} {}", port->interface().device, pointed.error().message());
    }
  }
}

Result<void> FrameRelay::open() {
  std::vector<GateTable> tables;
  BOOST_OUTCOME_TRY(auto present, netbuffer::list_gate_tables(implementation_->netfilter));
  const std::vector<std::string> devices = implementation_->devices();
  for (GateTable& table : present) {
    if (std::ranges::find(devices, table.device) != devices.end()) tables.push_back(table);
  }
  BOOST_OUTCOME_TRY(take_in_outputs());
  BOOST_OUTCOME_TRY(netbuffer::remove_gate_tables(implementation_->netfilter, tables));
  for (const auto& port : implementation_->ports) {
    port->stop();
    if (auto pointed = port->point_at_guest(implementation_->route); !pointed) {
      spdlog::debug("relay: device={} {}", port->interface().device, pointed.error().message());
    }
  }
  spdlog::info("relay: open domain={}", implementation_->domain);
  return ok();
}

FrameRelay::Counters FrameRelay::counters() const {
  Counters sum;
  for (const auto& port : implementation_->ports) {
    const Counters counters = port->counters();
    sum.outputs += counters.outputs;
    sum.inputs += counters.inputs;
    sum.outputs_lost += counters.outputs_lost;
    sum.inputs_lost += counters.inputs_lost;
  }
  return sum;
}

std::vector<LearnedAddresses> FrameRelay::learned_addresses() const {
  std::vector<LearnedAddresses> learned;
  for (const auto& port : implementation_->ports) {
    learned.push_back(
        {port->interface().device, port->interface().mac, port->addresses().addresses()});
  }
  return learned;
}

std::size_t FrameRelay::mtu(std::uint16_t interface) const {
  return interface < implementation_->ports.size() ? implementation_->ports[interface]->mtu()
                                                   : 1500;
}

std::string FrameRelay::device(std::size_t interface) const {
  return interface < implementation_->ports.size() ? implementation_->ports[interface]->own_device()
                                                   : std::string();
}

}  // namespace understudy
