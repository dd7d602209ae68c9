#include "netbuffer/frame_queue.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace understudy::netbuffer {
namespace {

// IPv6 header, ICMPv6 header and the target of a neighbour advertisement are 64 octets.
constexpr std::uint32_t kCopiedBytes = 96;
// A notification is below 400 octets; each is a datagram of its own.
constexpr std::size_t kDatagramBytes = 1024;
constexpr std::size_t kDatagramsAtOnce = 64;
constexpr int kNumbersTried = 256;

nlmsghdr* queue_message(RequestBuffer& buffer, std::uint16_t type, std::uint16_t number) {
  nlmsghdr* const header = mnl_nlmsg_put_header(buffer.octets.data());
  header->nlmsg_type = static_cast<std::uint16_t>(NFNL_SUBSYS_QUEUE << 8 | type);
  header->nlmsg_flags = NLM_F_REQUEST;
  auto* const netfilter =
      static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(nfgenmsg)));
  netfilter->nfgen_family = AF_UNSPEC;
  netfilter->version = NFNETLINK_V0;
  netfilter->res_id = htons(number);
  return header;
}

struct KernelLine {
  bool found = false;
  std::uint64_t drops = 0;
};

// What the kernel says about queue `number` of this thread's namespace.
KernelLine kernel_line(std::uint16_t number) {
  std::ifstream file("/proc/thread-self/net/netfilter/nfnetlink_queue");
  std::string line;
  while (std::getline(file, line)) {
    // number, port id, frames queued, copy mode, copy range, dropped (queue full), dropped (socket
    // full), last id, 1
    std::istringstream fields(line);
    std::uint64_t queue = 0, port = 0, queued = 0, mode = 0, range = 0, full = 0, unheard = 0;
    if (!(fields >> queue >> port >> queued >> mode >> range >> full >> unheard)) continue;
    if (queue == number) return {true, full + unheard};
  }
  return {};
}

}  // namespace

FrameQueue::FrameQueue(NetlinkSocket socket, std::uint16_t number)
    : socket_(std::move(socket)),
      number_(number),
      buffer_(std::make_unique<std::array<char, kDatagramBytes * kDatagramsAtOnce>>()) {}

Result<FrameQueue> FrameQueue::open(const Options& options) {
  BOOST_OUTCOME_TRY(NetlinkSocket socket, NetlinkSocket::open(NETLINK_NETFILTER));
  const int one = 1;
  ::setsockopt(socket.fd(), SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one);
  const int bytes =
      static_cast<int>(std::min<std::uint32_t>(options.socket_buffer_bytes, 1U << 30));
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);

  FrameQueue queue(std::move(socket), 0);
  for (int attempt = 0; attempt < kNumbersTried; ++attempt) {
    const auto number = static_cast<std::uint16_t>(options.preferred_number + attempt);
    BOOST_OUTCOME_TRY(const int error, queue.configure(number, options));
    if (error == 0) {
      queue.number_ = number;
      ::fcntl(queue.fd(), F_SETFL, ::fcntl(queue.fd(), F_GETFL) | O_NONBLOCK);
      return queue;
    }
    // EPERM means either 'belongs to another process' or 'you may not'.
    const bool taken = error == EBUSY || (error == EPERM && kernel_line(number).found);
    if (taken) continue;
    if (error == EINVAL || error == EOPNOTSUPP) {
      return fail(ErrorCode::unavailable,
                  "this kernel has no NFQUEUE (module nfnetlink_queue, "
                  "CONFIG_NETFILTER_NETLINK_QUEUE): {}",
                  std::strerror(error));
    }
    return system_error(error, fmt::format("bind NFQUEUE {}", number));
  }
  return fail(ErrorCode::no_resources, "NFQUEUE {} and the {} after it are all taken",
              options.preferred_number, kNumbersTried - 1);
}

Result<int> FrameQueue::configure(std::uint16_t number, const Options& options) {
  {
    RequestBuffer buffer;
    nlmsghdr* const request = queue_message(buffer, NFQNL_MSG_CONFIG, number);
    nfqnl_msg_config_cmd command{};
    command.command = NFQNL_CFG_CMD_BIND;
    mnl_attr_put(request, NFQA_CFG_CMD, sizeof command, &command);
    request->nlmsg_flags |= NLM_F_ACK;
    request->nlmsg_seq = socket_.next_sequence();
    if (mnl_socket_sendto(socket_.raw(), request, request->nlmsg_len) < 0) return errno;
    BOOST_OUTCOME_TRY(const int error, await_answer(request->nlmsg_seq));
    if (error != 0) return error;
  }
  RequestBuffer buffer;
  nlmsghdr* const request = queue_message(buffer, NFQNL_MSG_CONFIG, number);
  nfqnl_msg_config_params parameters{};
  parameters.copy_mode = NFQNL_COPY_PACKET;
  parameters.copy_range = htonl(kCopiedBytes);
  mnl_attr_put(request, NFQA_CFG_PARAMS, sizeof parameters, &parameters);
  mnl_attr_put_u32(request, NFQA_CFG_QUEUE_MAXLEN, htonl(options.frames_max));
  // Without this flag the kernel would cut offloaded frames up before it queues them.
  mnl_attr_put_u32(request, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_GSO));
  mnl_attr_put_u32(request, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO));
  request->nlmsg_flags |= NLM_F_ACK;
  request->nlmsg_seq = socket_.next_sequence();
  if (mnl_socket_sendto(socket_.raw(), request, request->nlmsg_len) < 0) return errno;
  return await_answer(request->nlmsg_seq);
}

// Waits for the answer to a request. Rules that a dead process left may point at this very queue,
// so frames can arrive in between: those are kept for the first drain.
Result<int> FrameQueue::await_answer(std::uint32_t sequence) {
  while (true) {
    const ssize_t received = ::recv(fd(), buffer_->data(), buffer_->size(), 0);
    if (received < 0) {
      if (errno == EINTR) continue;
      return system_error(errno, "read the answer about an NFQUEUE");
    }
    const auto* const message = reinterpret_cast<const nlmsghdr*>(buffer_->data());
    if (mnl_nlmsg_ok(message, static_cast<int>(received)) && message->nlmsg_type == NLMSG_ERROR &&
        message->nlmsg_seq == sequence) {
      return -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message))->error;
    }
    early_.emplace_back(buffer_->data(), buffer_->data() + received);
  }
}

Result<bool> FrameQueue::drain(std::size_t frames_max,
                               const std::function<void(const QueuedFrame&)>& on_frame,
                               const std::function<void(std::uint32_t)>& on_missing) {
  std::size_t frames = 0;
  for (const std::vector<char>& datagram : std::exchange(early_, {})) {
    dispatch(datagram, on_frame, on_missing, frames);
  }
  std::array<mmsghdr, kDatagramsAtOnce> headers{};
  std::array<iovec, kDatagramsAtOnce> parts{};
  for (std::size_t i = 0; i < kDatagramsAtOnce; ++i) {
    parts[i] = {buffer_->data() + i * kDatagramBytes, kDatagramBytes};
    headers[i].msg_hdr.msg_iov = &parts[i];
    headers[i].msg_hdr.msg_iovlen = 1;
  }
  while (frames < frames_max) {
    const int received = ::recvmmsg(fd(), headers.data(), headers.size(), MSG_DONTWAIT, nullptr);
    if (received < 0) {
      if (errno == EAGAIN) return true;
      if (errno == EINTR) continue;
      return system_error(errno, fmt::format("read notifications of NFQUEUE {}", number_));
    }
    for (int i = 0; i < received; ++i) {
      const auto index = static_cast<std::size_t>(i);
      dispatch({buffer_->data() + index * kDatagramBytes, headers[index].msg_len}, on_frame,
               on_missing, frames);
    }
    if (static_cast<std::size_t>(received) < kDatagramsAtOnce) return true;
  }
  return false;
}

void FrameQueue::dispatch(std::span<const char> datagram,
                          const std::function<void(const QueuedFrame&)>& on_frame,
                          const std::function<void(std::uint32_t)>& on_missing,
                          std::size_t& frames) {
  int left = static_cast<int>(datagram.size());
  for (auto* message = reinterpret_cast<const nlmsghdr*>(datagram.data());
       mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
    if (message->nlmsg_type == NLMSG_ERROR) {
      const auto* const answer = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message));
      if (answer->error != 0) on_missing(message->nlmsg_seq);
      continue;
    }
    if (message->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) continue;
    QueuedFrame frame;
    bool numbered = false;
    std::size_t whole_bytes = 0;
    const auto* const end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
    for (auto* attribute =
             static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, sizeof(nfgenmsg)));
         mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
         attribute = mnl_attr_next(attribute)) {
      const auto* const payload = static_cast<const std::uint8_t*>(mnl_attr_get_payload(attribute));
      const std::size_t payload_bytes = mnl_attr_get_payload_len(attribute);
      switch (mnl_attr_get_type(attribute)) {
        case NFQA_PACKET_HDR:
          if (payload_bytes < sizeof(nfqnl_msg_packet_hdr)) break;
          frame.packet_id =
              ntohl(reinterpret_cast<const nfqnl_msg_packet_hdr*>(payload)->packet_id);
          numbered = true;
          break;
        case NFQA_HWADDR:
          if (payload_bytes < sizeof(nfqnl_msg_packet_hw)) break;
          std::copy_n(reinterpret_cast<const nfqnl_msg_packet_hw*>(payload)->hw_addr, 6,
                      frame.source.octets.begin());
          break;
        case NFQA_CAP_LEN:
          if (payload_bytes >= sizeof(std::uint32_t)) {
            whole_bytes = ntohl(mnl_attr_get_u32(attribute));
          }
          break;
        case NFQA_PAYLOAD:
          frame.start = {payload, payload_bytes};
          break;
        default:
          break;
      }
    }
    if (!numbered) continue;
    // The kernel gives the whole length only where it copied less.
    frame.bytes = whole_bytes != 0 ? whole_bytes : frame.start.size();
    ++frames;
    on_frame(frame);
  }
}

Result<std::uint32_t> FrameQueue::verdict_up_to(std::uint32_t packet_id, Verdict verdict) {
  return send_verdict(NFQNL_MSG_VERDICT_BATCH, packet_id, verdict);
}

Result<void> FrameQueue::drop_one(std::uint32_t packet_id) {
  BOOST_OUTCOME_TRY(send_verdict(NFQNL_MSG_VERDICT, packet_id, Verdict::drop));
  return ok();
}

Result<std::uint32_t> FrameQueue::send_verdict(std::uint16_t type, std::uint32_t packet_id,
                                               Verdict verdict) {
  alignas(nlmsghdr) std::array<char, 128> octets{};
  nlmsghdr* const request = mnl_nlmsg_put_header(octets.data());
  request->nlmsg_type = static_cast<std::uint16_t>(NFNL_SUBSYS_QUEUE << 8 | type);
  request->nlmsg_flags = NLM_F_REQUEST;
  request->nlmsg_seq = socket_.next_sequence();
  auto* const netfilter =
      static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(nfgenmsg)));
  netfilter->version = NFNETLINK_V0;
  netfilter->res_id = htons(number_);
  nfqnl_msg_verdict_hdr header{};
  header.verdict = htonl(verdict == Verdict::let_go ? NF_ACCEPT : NF_DROP);
  header.id = htonl(packet_id);
  mnl_attr_put(request, NFQA_VERDICT_HDR, sizeof header, &header);
  if (mnl_socket_sendto(socket_.raw(), request, request->nlmsg_len) < 0) {
    return system_error(errno, fmt::format("send a verdict to NFQUEUE {}", number_));
  }
  return request->nlmsg_seq;
}

std::uint64_t FrameQueue::kernel_drops() const {
  return kernel_line(number_).drops;
}

}  // namespace understudy::netbuffer
