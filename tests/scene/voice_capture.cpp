#include "tests/scene/voice_capture.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstring>
#include <future>
#include <mutex>

#include "tests/scene/network_namespace.h"

namespace understudy::scene {
namespace {

/// scene.h: 52:54:00:77:00:10.
constexpr std::array<unsigned char, 6> kGuest = {0x52, 0x54, 0x00, 0x77, 0x00, 0x10};

}  // namespace

struct VoiceCapture::State {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::atomic<bool> over = false;
  mutable std::mutex mutex;
  std::vector<Turn> turns;

  void heard(char host) {
    const double at =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    const std::lock_guard lock(mutex);
    if (turns.empty() || turns.back().host != host) turns.push_back({host, at, at, 0});
    turns.back().last_ms = at;
    ++turns.back().frames;
  }
};

VoiceCapture::VoiceCapture(std::shared_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<VoiceCapture>> VoiceCapture::start(const std::string& network_namespace) {
  std::unique_ptr<VoiceCapture> capture(new VoiceCapture(std::make_shared<State>()));
  std::promise<Result<void>> ready;
  auto started = ready.get_future();
  capture->thread_ = std::thread([state = capture->state_, network_namespace, &ready] {
    if (auto entered = enter_network_namespace(network_namespace); !entered) {
      ready.set_value(entered);
      return;
    }
    // One socket for all ports: their frames come in the order in which they were on the wire.
    const UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    std::vector<unsigned> ports;
    for (const char* const port : {"port-a", "port-b", "port-c", "port-d"})
      if (const unsigned index = ::if_nametoindex(port); index != 0) ports.push_back(index);
    if (!socket.valid() || ports.size() < 2) {
      ready.set_value(system_error(errno, "capture on the client's bridge"));
      return;
    }
    const int buffer_bytes = 32 << 20;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes);
    ready.set_value(ok());
    std::array<unsigned char, 64> frame{};
    while (!state->over) {
      pollfd wait{socket.get(), POLLIN, 0};
      if (::poll(&wait, 1, 100) <= 0) continue;
      sockaddr_ll from{};
      socklen_t length = sizeof from;
      const auto count = ::recvfrom(socket.get(), frame.data(), frame.size(), MSG_DONTWAIT,
                                    reinterpret_cast<sockaddr*>(&from), &length);
      if (count < 14 || from.sll_pkttype == PACKET_OUTGOING) continue;
      if (std::memcmp(frame.data() + 6, kGuest.data(), kGuest.size()) != 0) continue;
      for (std::size_t host = 0; host < ports.size(); ++host) {
        if (static_cast<unsigned>(from.sll_ifindex) == ports[host])
          state->heard(static_cast<char>('A' + host));
      }
    }
  });
  if (auto outcome = started.get(); !outcome) return outcome.error();
  return capture;
}

VoiceCapture::~VoiceCapture() {
  state_->over = true;
  if (thread_.joinable()) thread_.join();
}

std::string VoiceCapture::turns() const {
  const std::lock_guard lock(state_->mutex);
  std::string hosts;
  for (const Turn& turn : state_->turns) hosts += turn.host;
  return hosts;
}

std::string VoiceCapture::story() const {
  const std::lock_guard lock(state_->mutex);
  std::string text;
  for (const Turn& turn : state_->turns)
    text += fmt::format("  host {} from {:.1f} to {:.1f} ms, {} frames\n", turn.host, turn.first_ms,
                        turn.last_ms, turn.frames);
  return text;
}

std::uint64_t VoiceCapture::frames_of(char host) const {
  const std::lock_guard lock(state_->mutex);
  std::uint64_t frames = 0;
  for (const Turn& turn : state_->turns) frames += turn.host == host ? turn.frames : 0;
  return frames;
}

}  // namespace understudy::scene
