#include "agent/probers.h"

#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/icmp.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "agent/command_run.h"
#include "base/unique_fd.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// A socket belongs to the namespace of the thread that makes it; a thread of its own enters there.
Result<UniqueFd> open_socket(int network, int domain, int type, int protocol) {
  UniqueFd fd;
  int failure = 0;
  const auto make = [&] {
    fd.reset(::socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    if (!fd.valid()) failure = errno;
  };
  if (network < 0) {
    make();
  } else {
    std::thread([&] {
      if (::setns(network, CLONE_NEWNET) != 0) {
        failure = errno;
        return;
      }
      make();
    }).join();
  }
  if (!fd.valid()) return system_error(failure, "a socket for a probe");
  return fd;
}

// Closes the socket when the time is over: whatever waits on it then ends with an error.
template <typename Socket>
class TimeLimit {
 public:
  TimeLimit(const asio::any_io_executor& executor, std::shared_ptr<Socket> socket,
            std::chrono::microseconds limit)
      : timer_(executor), over_(std::make_shared<bool>(false)) {
    timer_.expires_after(limit);
    timer_.async_wait([socket = std::move(socket), over = over_](const error_code& error) {
      if (error) return;
      *over = true;
      error_code ignored;
      socket->close(ignored);
    });
  }
  ~TimeLimit() { timer_.cancel(); }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;
  [[nodiscard]] bool over() const { return *over_; }

 private:
  asio::steady_timer timer_;
  std::shared_ptr<bool> over_;
};

std::string reason(const error_code& error, bool over, const ProbeConfig& config) {
  if (over) return fmt::format("no answer within {} ms", config.timeout.count() / 1000);
  if (error == asio::error::eof) return "the connection was closed early";
  return error.message();
}

// Whether that came from the other side.
bool is_answer(const error_code& error) {
  return error == asio::error::connection_refused || error == asio::error::connection_reset ||
         error == asio::error::eof;
}

using Tcp = asio::ip::tcp;

// What a TCP service has said so far, and the rest of the talk with it.
struct Talk {
  std::shared_ptr<Tcp::socket> socket;
  std::string heard;
};

// Reads until `enough` says so; at most 64 KiB.
template <typename Enough>
Task<error_code> read_until(Talk& talk, Enough enough) {
  constexpr std::size_t kHeardBytesMax = std::size_t{64} << 10;
  std::array<char, 4096> piece{};
  error_code error;
  while (!enough(talk.heard) && talk.heard.size() < kHeardBytesMax) {
    const std::size_t count = co_await talk.socket->async_read_some(
        asio::buffer(piece), asio::redirect_error(asio::use_awaitable, error));
    talk.heard.append(piece.data(), count);
    if (error) co_return error;
  }
  co_return error;
}

Task<error_code> say(Talk& talk, const std::string& words) {
  error_code error;
  co_await asio::async_write(*talk.socket, asio::buffer(words),
                             asio::redirect_error(asio::use_awaitable, error));
  co_return error;
}

std::string beginning(const std::string& heard) {
  return on_one_line(heard.substr(0, 60));
}

// After the connection stands: the talk of each kind.
Task<ProbeResult> talk_with(Talk& talk, const ProbeConfig& config, error_code& error) {
  if (config.kind == "tcp") {
    if (config.expect.empty()) co_return ProbeResult{true, "connected", {}};
    const auto enough = [&](const std::string& heard) {
      return heard.size() >= config.expect.size();
    };
    error = co_await read_until(talk, enough);
    if (talk.heard.starts_with(config.expect)) co_return ProbeResult{true, "greeted", {}};
    co_return ProbeResult{false, fmt::format("greeted with '{}'", beginning(talk.heard)), {}, true};
  }
  if (config.kind == "echo") {
    static std::atomic<std::uint64_t> number{0};
    const std::string words = fmt::format("understudy probe {} {}\n", ::getpid(), ++number);
    error = co_await say(talk, words);
    if (error) co_return ProbeResult{};
    const auto enough = [&](const std::string& heard) { return heard.size() >= words.size(); };
    error = co_await read_until(talk, enough);
    if (talk.heard == words) co_return ProbeResult{true, "echoed", {}};
    co_return ProbeResult{false, fmt::format("echoed '{}'", beginning(talk.heard)), {}, true};
  }
  const std::string host =
      config.address.find(':') == std::string::npos ? config.address : "[" + config.address + "]";
  const std::string request = fmt::format(
      "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: understudy\r\n\r\n", config.path, host);
  error = co_await say(talk, request);
  if (error) co_return ProbeResult{};
  const auto line = [](const std::string& heard) { return heard.find('\n') != std::string::npos; };
  error = co_await read_until(talk, line);
  // "HTTP/1.1 200 OK"
  const auto blank = talk.heard.find(' ');
  unsigned status = 0;
  if (talk.heard.starts_with("HTTP/") && blank != std::string::npos && line(talk.heard)) {
    std::from_chars(talk.heard.data() + blank + 1, talk.heard.data() + talk.heard.size(), status);
    error = {};
  }
  if (status == 0 && !error)
    co_return ProbeResult{false, fmt::format("not HTTP: '{}'", beginning(talk.heard)), {}, true};
  co_return ProbeResult{status == config.status,
                        status == config.status
                            ? fmt::format("HTTP status {}", status)
                            : fmt::format("HTTP status {}, expected {}", status, config.status),
                        {},
                        status != config.status};
}

Task<ProbeResult> probe_tcp(asio::any_io_executor executor, const ProbeConfig& config,
                            int network) {
  const auto address = asio::ip::make_address(config.address);
  auto fd = open_socket(network, address.is_v6() ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  if (!fd) co_return ProbeResult{false, fd.error().message(), {}};
  Talk talk;
  talk.socket = std::make_shared<Tcp::socket>(executor);
  error_code error;
  talk.socket->assign(address.is_v6() ? Tcp::v6() : Tcp::v4(), fd.value().release(), error);
  const TimeLimit limit(executor, talk.socket, config.timeout);
  const Tcp::endpoint endpoint(address, config.port);
  co_await talk.socket->async_connect(endpoint, asio::redirect_error(asio::use_awaitable, error));
  if (error)
    co_return ProbeResult{false, reason(error, limit.over(), config), {}, is_answer(error)};
  ProbeResult result = co_await talk_with(talk, config, error);
  if (error && !result.passed) {
    result.message = reason(error, limit.over(), config);
    result.answered = is_answer(error) && !limit.over();
  }
  // A reset leaves nothing behind, in the guest nor here.
  talk.socket->set_option(asio::socket_base::linger(true, 0), error);
  talk.socket->close(error);
  co_return result;
}

std::uint16_t checksum(const std::array<std::uint8_t, 16>& octets) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < octets.size(); i += 2) sum += (octets[i] << 8U) | octets[i + 1];
  while (sum >> 16U) sum = (sum & 0xffffU) + (sum >> 16U);
  return static_cast<std::uint16_t>(~sum);
}

Task<ProbeResult> probe_icmp(asio::any_io_executor executor, const ProbeConfig& config,
                             int network) {
  using Icmp = asio::ip::icmp;
  const auto address = asio::ip::make_address(config.address);
  const bool v6 = address.is_v6();
  auto fd = open_socket(network, v6 ? AF_INET6 : AF_INET, SOCK_RAW,
                        v6 ? int{IPPROTO_ICMPV6} : int{IPPROTO_ICMP});
  if (!fd) co_return ProbeResult{false, fd.error().message(), {}};
  const auto socket = std::make_shared<Icmp::socket>(executor);
  error_code error;
  socket->assign(v6 ? Icmp::v6() : Icmp::v4(), fd.value().release(), error);
  const TimeLimit limit(executor, socket, config.timeout);
  static std::atomic<std::uint16_t> sequence{0};
  const std::uint16_t number = ++sequence;
  const auto identity = static_cast<std::uint16_t>(::getpid());
  std::array<std::uint8_t, 16> echo{};
  echo[0] = v6 ? 128 : 8;
  echo[4] = static_cast<std::uint8_t>(identity >> 8U);
  echo[5] = static_cast<std::uint8_t>(identity);
  echo[6] = static_cast<std::uint8_t>(number >> 8U);
  echo[7] = static_cast<std::uint8_t>(number);
  std::memcpy(&echo[8], "understu", 8);
  if (!v6) {  // For IPv6 the kernel does it.
    const std::uint16_t sum = checksum(echo);
    echo[2] = static_cast<std::uint8_t>(sum >> 8U);
    echo[3] = static_cast<std::uint8_t>(sum);
  }
  const Icmp::endpoint there(address, 0);
  co_await socket->async_send_to(asio::buffer(echo), there,
                                 asio::redirect_error(asio::use_awaitable, error));
  while (!error) {
    std::array<std::uint8_t, 1500> packet{};
    Icmp::endpoint from;
    const std::size_t count = co_await socket->async_receive_from(
        asio::buffer(packet), from, asio::redirect_error(asio::use_awaitable, error));
    // For IPv4 the IP header comes along.
    const std::size_t start = v6 ? 0 : (packet[0] & 15U) * 4U;
    if (error || count < start + 8 || from.address() != address) continue;
    const std::uint8_t* const answer = &packet[start];
    if (answer[0] == (v6 ? 129 : 0) && std::memcmp(answer + 4, &echo[4], 4) == 0)
      co_return ProbeResult{true, "echo reply", {}};
  }
  co_return ProbeResult{false, reason(error, limit.over(), config), {}};
}

Task<ProbeResult> probe_command(asio::any_io_executor executor, const ProbeConfig& config,
                                int network) {
  CommandLine line;
  line.words = config.command;
  if (network >= 0) {
    line.words.insert(line.words.begin(),
                      {"nsenter", fmt::format("--net=/proc/{}/fd/{}", ::getpid(), network), "--"});
  }
  line.environment = {{"UNDERSTUDY_DOMAIN", config.domain},
                      {"UNDERSTUDY_ADDRESS", config.address},
                      {"UNDERSTUDY_REHEARSAL", network >= 0 ? "1" : ""}};
  line.time_max = std::chrono::duration_cast<std::chrono::milliseconds>(config.timeout);
  line.output_bytes_max = 300;
  const auto end = co_await run_command_line(executor, std::move(line));
  if (!end) co_return ProbeResult{false, end.error().message(), {}};
  std::string message = end.value().ending;
  if (!end.value().output.empty()) message += ": " + end.value().output;
  co_return ProbeResult{end.value().succeeded, std::move(message), {}};
}

}  // namespace

Task<ProbeResult> probe_once(asio::any_io_executor executor, ProbeConfig config, int network) {
  const auto begun = std::chrono::steady_clock::now();
  ProbeResult result;
  if (config.kind == "command") {
    result = co_await probe_command(executor, config, network);
  } else if (config.kind == "icmp") {
    result = co_await probe_icmp(executor, config, network);
  } else {
    result = co_await probe_tcp(executor, config, network);
  }
  result.took = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begun);
  co_return result;
}

}  // namespace understudy
