#include "netbuffer/frame_capture.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace understudy::netbuffer {
namespace {

// The virtio specification's header without the count of buffers, in the host's byte order; the
// kernel's own declaration of it is not C++.
struct OffloadHeader {
  static constexpr std::uint8_t kNeedsChecksum = 1;
  static constexpr std::uint8_t kNoSegmentation = 0;

  std::uint8_t flags;
  std::uint8_t segmentation;
  std::uint16_t header_bytes;
  std::uint16_t segment_bytes;
  std::uint16_t checksum_start;
  std::uint16_t checksum_offset;
};
static_assert(sizeof(OffloadHeader) == CapturedFrame::kHeaderBytes);

constexpr std::size_t kVlanTagOffset = 2 * ETH_ALEN;
constexpr std::size_t kVlanTagBytes = 4;

constexpr std::uint32_t kAncillary = static_cast<std::uint32_t>(SKF_AD_OFF);

// Drop what the host sends to the guest; pass what is tagged; drop plain IPv4 and IPv6; pass.
std::array<sock_filter, 9> not_ip_filter() {
  return {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAncillary + SKF_AD_PKTTYPE),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 5, 0),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAncillary + SKF_AD_VLAN_TAG_PRESENT),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAncillary + SKF_AD_PROTOCOL),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, 0x7fffffff),
  }};
}

// Drop what the host sends to the guest; pass everything else.
std::array<sock_filter, 4> from_guest_filter() {
  return {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kAncillary + SKF_AD_PKTTYPE),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, 0x7fffffff),
  }};
}

// The kernel takes the outer tag out of the frame and tells it beside; it goes back to its place,
// and what the header says about places behind it moves along.
void put_tag_back(std::vector<std::uint8_t>& octets, const tpacket_auxdata& beside) {
  const std::uint16_t type = (beside.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0
                                 ? beside.tp_vlan_tpid
                                 : std::uint16_t{ETH_P_8021Q};
  const std::array<std::uint8_t, kVlanTagBytes> tag = {
      static_cast<std::uint8_t>(type >> 8), static_cast<std::uint8_t>(type),
      static_cast<std::uint8_t>(beside.tp_vlan_tci >> 8),
      static_cast<std::uint8_t>(beside.tp_vlan_tci)};
  octets.insert(octets.begin() + CapturedFrame::kHeaderBytes + kVlanTagOffset, tag.begin(),
                tag.end());
  OffloadHeader header{};
  std::memcpy(&header, octets.data(), sizeof header);
  if ((header.flags & OffloadHeader::kNeedsChecksum) != 0) header.checksum_start += kVlanTagBytes;
  if (header.segmentation != OffloadHeader::kNoSegmentation) header.header_bytes += kVlanTagBytes;
  std::memcpy(octets.data(), &header, sizeof header);
}

}  // namespace

Result<FrameCapture> FrameCapture::open(unsigned device_index, const std::string& device,
                                        std::uint32_t socket_buffer_bytes, Frames frames) {
  const std::string what = fmt::format("packet socket on {}", device);
  // Protocol 0: nothing arrives before the filter is in place.
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) {
    if (errno == EAFNOSUPPORT) {
      return fail(ErrorCode::unavailable,
                  "{}: this kernel has no packet sockets (module af_packet, CONFIG_PACKET)", what);
    }
    return system_error(errno, what);
  }
  auto not_ip = not_ip_filter();
  auto all = from_guest_filter();
  const std::span<sock_filter> program =
      frames == Frames::all ? std::span<sock_filter>(all) : std::span<sock_filter>(not_ip);
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  const int one = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0 ||
      ::setsockopt(socket.get(), SOL_PACKET, PACKET_AUXDATA, &one, sizeof one) < 0 ||
      ::setsockopt(socket.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0) {
    return system_error(errno, what);
  }
  // Frames for the guest need no queueing discipline: its own queue says when it is full.
  if (frames == Frames::all &&
      ::setsockopt(socket.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0) {
    return system_error(errno, what);
  }
  const int bytes = static_cast<int>(std::min<std::uint32_t>(socket_buffer_bytes, 1U << 30));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(device_index);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    return system_error(errno, what);
  }
  return FrameCapture(std::move(socket), device);
}

Result<bool> FrameCapture::drain(std::size_t frames_max,
                                 const std::function<void(CapturedFrame)>& on_frame) {
  for (std::size_t frames = 0; frames < frames_max;) {
    iovec part = {buffer_.data(), buffer_.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(tpacket_auxdata))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t received = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_TRUNC);
    if (received < 0) {
      if (errno == EAGAIN) return true;
      // The device is down or gone; once it is up again, frames come again.
      if (errno == EINTR || errno == ENETDOWN) continue;
      // A kind of offload that virtio_net_hdr cannot describe: this frame cannot be put back.
      if (errno == EINVAL) {
        ++lost_;
        ++frames;
        continue;
      }
      return system_error(errno, fmt::format("read frames of {}", device_));
    }
    ++frames;
    const auto bytes = static_cast<std::size_t>(received);
    if (bytes > buffer_.size() || bytes < CapturedFrame::kHeaderBytes + ETH_HLEN) {
      ++lost_;
      continue;
    }
    CapturedFrame frame;
    frame.octets.assign(buffer_.begin(), buffer_.begin() + received);
    frame.keep_only_what_travels();
    for (cmsghdr* item = CMSG_FIRSTHDR(&message); item != nullptr;
         item = CMSG_NXTHDR(&message, item)) {
      if (item->cmsg_level != SOL_PACKET || item->cmsg_type != PACKET_AUXDATA) continue;
      tpacket_auxdata beside{};
      std::memcpy(&beside, CMSG_DATA(item), sizeof beside);
      if ((beside.tp_status & TP_STATUS_VLAN_VALID) != 0) put_tag_back(frame.octets, beside);
    }
    on_frame(std::move(frame));
  }
  return false;
}

Result<void> FrameCapture::send(std::span<const std::uint8_t> header_and_frame) {
  while (::send(socket_.get(), header_and_frame.data(), header_and_frame.size(), MSG_DONTWAIT) <
         0) {
    if (errno == EINTR) continue;
    if (errno == ENOBUFS || errno == EAGAIN || errno == ENETDOWN) {
      return fail(ErrorCode::no_resources, "{} takes no more frames", device_);
    }
    return system_error(errno, fmt::format("hand a frame to {}", device_));
  }
  return ok();
}

std::uint64_t FrameCapture::lost() const {
  tpacket_stats statistics{};
  socklen_t bytes = sizeof statistics;
  // Reading clears the kernel's counters.
  if (::getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &statistics, &bytes) == 0) {
    lost_ += statistics.tp_drops;
  }
  return lost_;
}

}  // namespace understudy::netbuffer
