#include "stage.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace understudy::stage {
namespace {

constexpr std::string_view kMagic = "understudy-test-";
constexpr std::chrono::seconds kPatience{10};

std::string in_namespace(const std::string& command, const Namespace* where) {
  if (where == nullptr) return command;
  return fmt::format("nsenter -t {} -n sh -c '{}'", where->pid(), command);
}

void put_word(Octets& octets, unsigned value) {
  octets.push_back(static_cast<std::uint8_t>(value >> 8));
  octets.push_back(static_cast<std::uint8_t>(value));
}

void put_ipv4(Octets& octets, const Octets& body) {
  Octets header = {0x45, 0};
  put_word(header, static_cast<unsigned>(20 + 8 + body.size()));
  header.insert(header.end(), {0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2});
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < header.size(); i += 2) sum += header[i] << 8 | header[i + 1];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  header[10] = static_cast<std::uint8_t>(~sum >> 8);
  header[11] = static_cast<std::uint8_t>(~sum);
  octets.insert(octets.end(), header.begin(), header.end());
  put_word(octets, 9);
  put_word(octets, 9);
  put_word(octets, static_cast<unsigned>(8 + body.size()));
  put_word(octets, 0);
}

void put_ipv6(Octets& octets, const Octets& body) {
  put_word(octets, 0x6000);
  put_word(octets, 0);
  put_word(octets, static_cast<unsigned>(8 + body.size()));
  octets.push_back(17);
  octets.push_back(64);
  for (const std::uint8_t last : {1, 2}) {
    octets.insert(octets.end(), {0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last});
  }
  put_word(octets, 9);
  put_word(octets, 9);
  put_word(octets, static_cast<unsigned>(8 + body.size()));
  put_word(octets, 0xffff);
}

}  // namespace

Namespace::Namespace() {
  std::array<int, 2> ready{};
  if (::pipe(ready.data()) != 0) std::abort();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    char done = ::unshare(CLONE_NEWNET) == 0 ? 'y' : 'n';
    if (::write(ready[1], &done, 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char done = 'n';
  EXPECT_EQ(::read(ready[0], &done, 1), 1);
  EXPECT_EQ(done, 'y') << "a network namespace needs CAP_SYS_ADMIN";
  ::close(ready[0]);
  ::close(ready[1]);
  run("ip link set lo up", this);
}

Namespace::~Namespace() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

int run(const std::string& command, const Namespace* where) {
  const int status = std::system(in_namespace(command, where).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string output_of(const std::string& command, const Namespace* where) {
  FILE* const pipe = ::popen(in_namespace(command, where).c_str(), "r");
  std::string output;
  std::array<char, 4096> part{};
  std::size_t bytes = 0;
  while ((bytes = std::fread(part.data(), 1, part.size(), pipe)) > 0) {
    output.append(part.data(), bytes);
  }
  ::pclose(pipe);
  return output;
}

Process::Process(const std::string& command, const Namespace& where) {
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const std::string pid = std::to_string(where.pid());
    const std::string replaced = "exec " + command;
    ::execlp("nsenter", "nsenter", "-t", pid.c_str(), "-n", "sh", "-c", replaced.c_str(), nullptr);
    ::_exit(127);
  }
}

Process::~Process() {
  if (ended()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::optional<int> Process::ended() {
  int status = 0;
  if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  return status_;
}

Station::Station(const Namespace& where, const std::string& device, bool offload_header)
    : header_bytes_(offload_header ? 10 : 0) {
  // A socket belongs to the namespace of the thread that opens it.
  std::thread([&] {
    const UniqueFd fd(
        ::open(fmt::format("/proc/{}/ns/net", where.pid()).c_str(), O_RDONLY | O_CLOEXEC));
    if (::setns(fd.get(), CLONE_NEWNET) != 0) return;
    socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
    const int one = 1;
    ::setsockopt(socket_.get(), SOL_PACKET, PACKET_AUXDATA, &one, sizeof one);
    ::setsockopt(socket_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one);
    if (offload_header) {
      EXPECT_EQ(::setsockopt(socket_.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one), 0);
    }
    const int bytes = 64 << 20;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }).join();
  EXPECT_TRUE(socket_.valid());
}

void Station::send(const Octets& frame) {
  while (::send(socket_.get(), frame.data(), frame.size(), 0) < 0) {
    ASSERT_TRUE(errno == ENOBUFS || errno == EAGAIN) << std::strerror(errno);
    pollfd writable = {socket_.get(), POLLOUT, 0};
    ::poll(&writable, 1, 1);
  }
}

std::vector<Octets> Station::received() {
  std::vector<Octets> frames;
  Octets buffer(128 * 1024);
  while (true) {
    iovec part = {buffer.data(), buffer.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(tpacket_auxdata))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t bytes = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (bytes < 0) return frames;
    Octets frame(buffer.begin(), buffer.begin() + bytes);
    for (cmsghdr* item = CMSG_FIRSTHDR(&message); item != nullptr;
         item = CMSG_NXTHDR(&message, item)) {
      if (item->cmsg_level != SOL_PACKET || item->cmsg_type != PACKET_AUXDATA) continue;
      tpacket_auxdata beside{};
      std::memcpy(&beside, CMSG_DATA(item), sizeof beside);
      if ((beside.tp_status & TP_STATUS_VLAN_VALID) == 0) continue;
      Octets tag;
      put_word(tag, beside.tp_vlan_tpid);
      put_word(tag, beside.tp_vlan_tci);
      frame.insert(frame.begin() + static_cast<std::ptrdiff_t>(header_bytes_) + 12, tag.begin(),
                   tag.end());
    }
    if (number_of(frame)) frames.push_back(std::move(frame));
  }
}

Octets frame(Kind kind, std::uint32_t number, std::size_t body_bytes) {
  Octets body(kMagic.begin(), kMagic.end());
  body.resize(std::max(body_bytes, kMagic.size() + 4) - 4, 0x55);
  put_word(body, number >> 16);
  put_word(body, number & 0xffff);

  Octets frame(kPeerMac.octets.begin(), kPeerMac.octets.end());
  if (kind == Kind::arp || kind == Kind::vlan_arp) frame.assign(6, 0xff);
  frame.insert(frame.end(), kGuestMac.octets.begin(), kGuestMac.octets.end());
  const auto arp = [&] {
    put_word(frame, 0x0806);
    frame.insert(frame.end(), {0, 1, 8, 0, 6, 4, 0, 1});
    frame.insert(frame.end(), kGuestMac.octets.begin(), kGuestMac.octets.end());
    frame.insert(frame.end(), {192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2});
  };
  switch (kind) {
    case Kind::ipv4:
      put_word(frame, 0x0800);
      put_ipv4(frame, body);
      break;
    case Kind::ipv6:
      put_word(frame, 0x86dd);
      put_ipv6(frame, body);
      break;
    case Kind::arp:
      arp();
      break;
    case Kind::vlan_ipv4:
      put_word(frame, 0x8100);
      put_word(frame, 7);
      put_word(frame, 0x0800);
      put_ipv4(frame, body);
      break;
    case Kind::vlan_arp:
      put_word(frame, 0x8100);
      put_word(frame, 7);
      arp();
      break;
    case Kind::double_vlan:
      put_word(frame, 0x88a8);
      put_word(frame, 7);
      put_word(frame, 0x8100);
      put_word(frame, 8);
      put_word(frame, 0x0800);
      put_ipv4(frame, body);
      break;
    case Kind::unknown:
      put_word(frame, 0x88b5);  // IEEE's local experimental ethertype.
      break;
    case Kind::llc:
      put_word(frame, static_cast<unsigned>(body.size() + 3));
      frame.insert(frame.end(), {0x42, 0x42, 0x03});
      break;
    case Kind::mpls:
      put_word(frame, 0x8847);
      frame.insert(frame.end(), {0, 1, 1, 64});
      break;
  }
  frame.insert(frame.end(), body.begin(), body.end());
  return frame;
}

std::optional<std::uint32_t> number_of(const Octets& frame) {
  const std::string_view text(reinterpret_cast<const char*>(frame.data()), frame.size());
  if (text.size() < kMagic.size() + 4 || text.find(kMagic) == std::string_view::npos) {
    return std::nullopt;
  }
  const auto* const end = frame.data() + frame.size() - 4;
  return static_cast<std::uint32_t>(end[0]) << 24 | static_cast<std::uint32_t>(end[1]) << 16 |
         static_cast<std::uint32_t>(end[2]) << 8 | end[3];
}

std::vector<std::uint32_t> numbers_of(const std::vector<Octets>& frames) {
  std::vector<std::uint32_t> numbers;
  for (const Octets& frame : frames) numbers.push_back(*number_of(frame));
  return numbers;
}

void Stage::SetUp() {
  ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << "a network namespace needs CAP_SYS_ADMIN";
  guest_namespace_ = std::make_unique<Namespace>();
  peer_namespace_ = std::make_unique<Namespace>();
  // No device makes addresses, and so frames, of its own.
  ASSERT_EQ(
      run(fmt::format("set -e; ip link set lo up; ip link add br0 type bridge; "
                      "ip link set br0 addrgenmode none; ip link set br0 up; "
                      "ip link add tap0 type veth peer name eth0 address {} netns {}; "
                      "ip link add peer0 type veth peer name eth0 address {} netns {}; "
                      "for d in tap0 peer0; do ip link set $d addrgenmode none master br0 up; done",
                      kGuestMac, guest_namespace_->pid(), kPeerMac, peer_namespace_->pid())),
      0);
  for (const auto* where : {guest_namespace_.get(), peer_namespace_.get()}) {
    ASSERT_EQ(run("ip link set eth0 addrgenmode none && ip link set eth0 up", where), 0);
  }
  ASSERT_TRUE(wait_until([] {
    return output_of("bridge link show").find("state forwarding") != std::string::npos &&
           output_of("bridge link show").find("state disabled") == std::string::npos;
  }));
  guest_ = std::make_unique<Station>(*guest_namespace_, "eth0");
  peer_ = std::make_unique<Station>(*peer_namespace_, "eth0");
}

void Stage::give_addresses() {
  for (int i = 1; i <= 2; ++i) {
    ASSERT_EQ(run(fmt::format("ip addr add 192.0.2.{}/24 dev eth0 && "
                              "ip addr add 2001:db8::{}/64 dev eth0 nodad",
                              i, i),
                  i == 1 ? guest_namespace_.get() : peer_namespace_.get()),
              0);
  }
}

GateOptions Stage::options() const {
  return {"web1", {{"tap0", "br0", kGuestMac}}, {}};
}

void Stage::close_gate(GateLimits limits) {
  GateOptions wanted = options();
  wanted.limits = limits;
  auto gate = OutputGate::close(io_.get_executor(), wanted);
  // Without a gate the rest of the test has no meaning; GoogleTest reports the exception.
  if (!gate) throw std::runtime_error(gate.error().message());
  gate_ = std::move(gate.value());
}

bool Stage::wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    io_.restart();
    io_.run_for(std::chrono::milliseconds(1));
    // Without anything to wait for the loop returns at once.
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

testing::AssertionResult Stage::holds(std::uint64_t ip, std::uint64_t other) {
  const bool met = wait_until([&] {
    const GateCounters counters = gate_->counters();
    return counters.ip.held.frames == ip && counters.other.held.frames == other;
  });
  if (met) return testing::AssertionSuccess();
  const GateCounters counters = gate_->counters();
  return testing::AssertionFailure()
         << "holds " << counters.ip.held.frames << " IP and " << counters.other.held.frames
         << " other frames, dropped " << counters.ip.dropped.frames << " and "
         << counters.other.dropped.frames;
}

std::vector<Octets> Stage::peer_received() {
  // The canary leaves by the bridge device itself. It may overtake frames that another CPU is still
  // busy with, so it is sent again until it comes through alone.
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(::if_nametoindex("br0"));
  const UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  std::vector<Octets> frames;
  for (bool alone = false; !alone;) {
    const std::uint32_t number = ++canary_;
    Octets canary = frame(Kind::unknown, number);
    std::fill_n(canary.begin(), 6, 0xff);
    canary[11] = 0xee;
    EXPECT_GT(::sendto(socket.get(), canary.data(), canary.size(), 0,
                       reinterpret_cast<sockaddr*>(&address), sizeof address),
              0);
    const std::size_t before = frames.size();
    bool seen = false;
    const bool in_time = wait_until([&] {
      for (Octets& got : peer_->received()) {
        if (number_of(got) == number) {
          seen = true;
        } else {
          frames.push_back(std::move(got));
        }
      }
      return seen;
    });
    EXPECT_TRUE(in_time) << "the canary was not seen";
    if (!in_time) break;
    alone = frames.size() == before;
  }
  return frames;
}

bool Stage::checkpoint_until(const std::function<bool()>& condition,
                             std::chrono::milliseconds interval) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    io_.restart();
    io_.run_for(interval);
    epoch_ = epoch_.next();
    EXPECT_TRUE(gate_->seal(epoch_));
    EXPECT_TRUE(gate_->release(epoch_));
  }
  return true;
}

}  // namespace understudy::stage
