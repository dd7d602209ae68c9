// Frames that a guest sends, read off its tap before the bridge gets them.
//
// A packet socket on the tap sees each incoming frame before the bridge does, so it keeps working
// while the fence drops the original. Where IP frames are held in the kernel, a filter passes only
// what the IP hooks do not get: anything with a VLAN tag, and every ethertype but plain IPv4 and
// IPv6. Where all frames are held here, it passes all.
//
// A frame is kept together with its virtio_net_hdr: a guest with a VLAN interface hands over
// segments of up to 64 KiB with unfinished checksums, and only with that header can they be put
// back the way they came.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy::netbuffer {

/// The octets of a virtio_net_hdr (10) followed by a frame from its Ethernet header on, VLAN tag in
/// place: exactly what a TAP device with IFF_VNET_HDR takes.
struct CapturedFrame {
  static constexpr std::size_t kHeaderBytes = 10;

  std::vector<std::uint8_t> octets;
  /// Of the frame itself.
  [[nodiscard]] std::size_t bytes() const { return octets.size() - kHeaderBytes; }
  [[nodiscard]] std::span<const std::uint8_t> frame() const {
    return std::span(octets).subspan(kHeaderBytes);
  }
  /// Whether the transport checksum is only that of the pseudo header.
  [[nodiscard]] bool checksum_is_partial() const { return (octets[0] & 1U) != 0; }
  /// 'Checksum already verified' is the host's knowledge, not part of the frame.
  void keep_only_what_travels() { octets[0] &= 1U; }
};

class FrameCapture {
 public:
  enum class Frames { not_ip, all };
  /// Listens on the device of that index. `device` is for messages. Errors: permission,
  /// unavailable.
  static Result<FrameCapture> open(unsigned device_index, const std::string& device,
                                   std::uint32_t socket_buffer_bytes,
                                   Frames frames = Frames::not_ip);

  /// Becomes readable when there are frames. Non-blocking.
  [[nodiscard]] int fd() const { return socket_.get(); }

  /// Takes in what is there, at most `frames_max` frames, in order. Returns whether the socket is
  /// empty now. A device that went down is no error: it may come up again.
  Result<bool> drain(std::size_t frames_max, const std::function<void(CapturedFrame)>& on_frame);

  /// Hands a frame to whoever is behind the device (the guest), past the bridge and its rules. A
  /// full queue drops it, as a network would: the error is no_resources.
  Result<void> send(std::span<const std::uint8_t> header_and_frame);

  /// Frames that were lost between kernel and us, so far.
  [[nodiscard]] std::uint64_t lost() const;

 private:
  FrameCapture(UniqueFd socket, std::string device)
      : socket_(std::move(socket)), device_(std::move(device)), buffer_(kBufferBytes) {}
  static constexpr std::size_t kBufferBytes = 256 * 1024;

  UniqueFd socket_;
  std::string device_;
  std::vector<std::uint8_t> buffer_;
  mutable std::uint64_t lost_ = 0;
};

}  // namespace understudy::netbuffer
