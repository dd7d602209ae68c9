#include "netbuffer/netlink.h"

#include <cerrno>
#include <utility>

namespace understudy::netbuffer {
namespace {

// Reads answers to `sequence` until the acknowledgement or the end of a dump; returns its errno.
Result<int> read_answer(mnl_socket* socket, std::uint32_t sequence, std::string_view what,
                        const std::function<void(const nlmsghdr*)>& on_message) {
  alignas(nlmsghdr) std::array<char, 32768> buffer{};
  while (true) {
    const ssize_t received = mnl_socket_recvfrom(socket, buffer.data(), buffer.size());
    if (received < 0) {
      if (errno == EINTR) continue;
      return system_error(errno, fmt::format("{}: read netlink's answer", what));
    }
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
         mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence) continue;
      if (message->nlmsg_type == NLMSG_ERROR) {
        const auto* const answer = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message));
        return -answer->error;
      }
      if (message->nlmsg_type == NLMSG_DONE) return 0;
      if (on_message) on_message(message);
    }
  }
}

}  // namespace

Result<NetlinkSocket> NetlinkSocket::open(int protocol) {
  mnl_socket* const socket = mnl_socket_open2(protocol, SOCK_CLOEXEC);
  if (socket == nullptr) {
    if (errno == EPROTONOSUPPORT) {
      return fail(
          ErrorCode::unavailable, "this kernel has no netlink protocol {}{}", protocol,
          protocol == NETLINK_NETFILTER ? " (module nfnetlink, CONFIG_NETFILTER_NETLINK)" : "");
    }
    return system_error(errno, fmt::format("open a netlink socket of protocol {}", protocol));
  }
  NetlinkSocket opened(socket);
  if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) {
    return system_error(errno, "bind a netlink socket");
  }
  return opened;
}

Result<int> NetlinkSocket::try_request(nlmsghdr* request, std::string_view what) {
  request->nlmsg_seq = next_sequence();
  request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
  if (mnl_socket_sendto(raw(), request, request->nlmsg_len) < 0) {
    return system_error(errno, fmt::format("{}: send to netlink", what));
  }
  return read_answer(raw(), request->nlmsg_seq, what, nullptr);
}

Result<void> NetlinkSocket::request(nlmsghdr* request, std::string_view what) {
  BOOST_OUTCOME_TRY(const int error, try_request(request, what));
  if (error != 0) return system_error(error, what);
  return ok();
}

Result<void> NetlinkSocket::query(nlmsghdr* request, std::string_view what,
                                  const std::function<void(const nlmsghdr*)>& on_message) {
  request->nlmsg_seq = next_sequence();
  if (mnl_socket_sendto(raw(), request, request->nlmsg_len) < 0) {
    return system_error(errno, fmt::format("{}: send to netlink", what));
  }
  BOOST_OUTCOME_TRY(const int error, read_answer(raw(), request->nlmsg_seq, what, on_message));
  if (error != 0) return system_error(error, what);
  return ok();
}

Result<void> NetlinkSocket::dump(nlmsghdr* request, std::string_view what,
                                 const std::function<void(const nlmsghdr*)>& on_message) {
  request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_DUMP;
  return query(request, what, on_message);
}

}  // namespace understudy::netbuffer
