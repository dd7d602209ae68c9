// One NFQUEUE: where the kernel holds the IP frames of one tap until we say so.
//
// The kernel tells us of each frame (its number, its length, and the first octets, enough to read
// the guest's addresses) and keeps the frame itself. A verdict on a number settles every frame up
// to it in one call.
//
// Awkward cases:
//  · Notifications that do not fit into the socket: the kernel drops the frame too, so no frame is
//    ever held that we do not know of. Counted by the kernel; see kernel_drops().
//  · Somebody removes a netfilter chain anywhere in the namespace: the kernel drops everything
//    queued. The next verdict finds nothing (ENOENT) and says so through `on_missing`.
//  · The number is taken by another process: the next one is tried. A dead process frees its
//    number at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"
#include "netbuffer/netlink.h"

namespace understudy::netbuffer {

/// A notification: the kernel holds this frame. `start` is valid during the call only.
struct QueuedFrame {
  std::uint32_t packet_id = 0;
  std::size_t bytes = 0;  ///< Of the IP packet, all of it.
  std::span<const std::uint8_t>
      start;          ///< The packet's first octets, from the guest: do not trust.
  MacAddress source;  ///< All zero if the kernel did not say.
};

enum class Verdict { let_go, drop };

class FrameQueue {
 public:
  struct Options {
    std::uint16_t preferred_number = 0;
    std::uint32_t frames_max = 0;
    std::uint32_t socket_buffer_bytes = 0;
  };

  /// Binds a free queue, the preferred one or one of those that follow. From here on the kernel
  /// holds what rules send there. Errors: permission, unavailable, no_resources (all taken).
  static Result<FrameQueue> open(const Options& options);

  [[nodiscard]] std::uint16_t number() const { return number_; }
  /// Becomes readable when there are notifications. Non-blocking.
  [[nodiscard]] int fd() const { return socket_.fd(); }

  /// Takes in what is there, at most about `frames_max` frames, and calls `on_frame` for each in
  /// the order of the queue. Returns whether the socket is empty now. `on_missing` is called for
  /// each verdict that found no frame, with what verdict_up_to returned for it.
  Result<bool> drain(std::size_t frames_max,
                     const std::function<void(const QueuedFrame&)>& on_frame,
                     const std::function<void(std::uint32_t)>& on_missing);

  /// Settles every frame up to and including `packet_id`: one system call. Frames go in the order
  /// in which they came. Returns a token for `on_missing`.
  Result<std::uint32_t> verdict_up_to(std::uint32_t packet_id, Verdict verdict);
  /// Drops this one frame.
  Result<void> drop_one(std::uint32_t packet_id);

  /// Frames that the kernel dropped because the queue or the socket was full, so far.
  [[nodiscard]] std::uint64_t kernel_drops() const;

 private:
  FrameQueue(NetlinkSocket socket, std::uint16_t number);
  Result<int> configure(std::uint16_t number, const Options& options);
  Result<int> await_answer(std::uint32_t sequence);
  void dispatch(std::span<const char> datagram,
                const std::function<void(const QueuedFrame&)>& on_frame,
                const std::function<void(std::uint32_t)>& on_missing, std::size_t& frames);
  Result<std::uint32_t> send_verdict(std::uint16_t type, std::uint32_t packet_id, Verdict verdict);

  NetlinkSocket socket_;
  std::uint16_t number_ = 0;
  std::unique_ptr<std::array<char, 64 * 1024>> buffer_;
  /// Notifications that came while an answer was awaited; drained first.
  std::vector<std::vector<char>> early_;
};

}  // namespace understudy::netbuffer
