// The gate of a domain whose every frame, in either direction, is looked at: replay mode, and the
// time after a replay as long as connections have to be translated.
//
// Intuition: the domain's tap stays a port of its bridge, but rules fence it off in both
// directions. A port of our own takes its place, and we carry every frame between the two:
//
//    guest ═ tap ┤x│ bridge │├ us-relay ═ this process ═ packet socket on tap
//
//    frame of the guest   packet socket → on_output → whoever decides → to_network → us-relay
//    frame for the guest  us-relay      → on_input  → whoever decides → to_guest   → packet socket
//
// When this process is dead, hung or not yet started, nothing passes: as with output_gate.h, the
// closed gate is the state of the world without us.
//
// Frames travel together with their virtio_net_hdr, so that segments above the MTU and unfinished
// checksums pass as they are, as on the bridge itself.
//
// What a crash leaves behind: the rules, hence a closed gate. Our port goes with the process. The
// next close() for the same tap takes over; remove_stale_gates() (output_gate.h) clears up after
// domains that are gone.
//
// Not taken: NFQUEUE in both directions. It loses the Ethernet header, which a translated or
// suppressed frame needs to be sent anew; it sees IP only; a verdict can change a frame but not
// hold its offloads; and rules that come or go anywhere drop what it holds.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "netbuffer/frame_capture.h"
#include "netbuffer/output_gate.h"

namespace understudy {

/// A frame behind its virtio_net_hdr.
using RelayedFrame = netbuffer::CapturedFrame;

/// Carries the frames of one domain. Used on one thread: that of the executor.
class FrameRelay {
 public:
  /// Who decides about frames. Called from the event loop, and from take_in_outputs(). They may
  /// call to_network and to_guest, and must not destroy the relay.
  struct Handlers {
    /// The guest has sent a frame by this interface. In the order in which it sent them.
    std::function<void(std::uint16_t interface, RelayedFrame frame)> on_output;
    /// The bridge has a frame for the guest.
    std::function<void(std::uint16_t interface, RelayedFrame frame)> on_input;
    /// Some of the above were called; no more are at hand.
    std::function<void()> on_idle;
  };

  struct Counters {
    std::uint64_t outputs = 0;       ///< Frames taken from the guest.
    std::uint64_t inputs = 0;        ///< Frames taken from the bridge.
    std::uint64_t outputs_lost = 0;  ///< Never seen, or not passed on.
    std::uint64_t inputs_lost = 0;   ///< The guest's queue was full.
  };

  /// Installs the fence and begins to carry. When it returns, nothing passes but by the handlers.
  /// The taps need not be attached to their bridges yet. Takes over the tables that a dead process
  /// left. Blocks for some milliseconds. Errors as OutputGate::close; on one nothing that was not
  /// there before is left behind.
  static Result<std::unique_ptr<FrameRelay>> close(const boost::asio::any_io_executor& executor,
                                                   GateOptions options, Handlers handlers);
  FrameRelay(const FrameRelay&) = delete;
  FrameRelay& operator=(const FrameRelay&) = delete;
  /// Leaves the fence in place: the gate stays closed.
  ~FrameRelay();

  /// The barrier. To be called while the domain is paused: every frame that the guest sent before
  /// was given to on_output when this returns.
  Result<void> take_in_outputs();

  /// From here to resume_outputs() what the guest sends waits in the kernel, as far as it has room:
  /// for who can do nothing with it before then, and need not be woken for each frame. The barrier
  /// takes it in nevertheless.
  void defer_outputs();
  void resume_outputs();

  /// Sends a frame as the guest. A frame that cannot be sent is lost, and counted.
  void to_network(std::uint16_t interface, std::span<const std::uint8_t> header_and_frame);
  /// Gives a frame to the guest. True if its queue took it; else it is lost, and counted.
  bool to_guest(std::uint16_t interface, std::span<const std::uint8_t> header_and_frame);

  /// Points the bridges at our ports for the guests' addresses: what is for the guest comes to us
  /// from now on, also where it has not spoken yet. To be called again every minute or so.
  void refresh_forwarding();

  /// Takes the fence away: the bridge carries the frames itself again. Frames that are on their way
  /// at this very moment may be lost, as in a network. The object is spent afterwards.
  Result<void> open();

  [[nodiscard]] Counters counters() const;
  /// One entry for each interface, in the order of the options.
  [[nodiscard]] std::vector<LearnedAddresses> learned_addresses() const;
  /// How many octets of IP packet the interface takes at once.
  [[nodiscard]] std::size_t mtu(std::uint16_t interface) const;
  /// The device by which the bridge reaches the guest: ours. Empty for an interface that is not.
  [[nodiscard]] std::string device(std::size_t interface) const;

 private:
  class Implementation;
  explicit FrameRelay(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace understudy
