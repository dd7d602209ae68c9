#include "tests/scene/paced_datagrams.h"

#include <cstring>

#include "tests/guest/pattern.h"

namespace understudy::scene {
namespace {

using namespace std::chrono_literals;

// After the last one was sent, so long for those that are late.
constexpr auto kLastOnes = 500ms;

}  // namespace

PacedDatagrams::PacedDatagrams(ClientOptions options, unsigned per_second,
                               std::size_t datagram_bytes)
    : Traffic("paced", 7, std::move(options)),
      pace_(std::chrono::nanoseconds(1s) / std::max(per_second, 1U)),
      datagram_bytes_(std::max<std::size_t>(datagram_bytes, 16)) {
  counts_.resize(this->options().connections);
}

std::uint64_t PacedDatagrams::sent() const {
  std::uint64_t sum = 0;
  for (const Count& count : counts_) sum += count.sent;
  return sum;
}

std::uint64_t PacedDatagrams::lost() const {
  std::uint64_t sum = 0;
  for (const Count& count : counts_) sum += count.sent - count.returned;
  return sum;
}

void PacedDatagrams::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto made = UdpSocket::connect(options().address, options().port);
  if (!made) {
    witness.broke(made.error().message());
    return;
  }
  const std::uint64_t seed =
      guest::mix(static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) ^ index);
  Count& count = counts_[index];
  std::vector<bool> returned;
  std::string datagram(datagram_bytes_, '\0');
  std::string reply;
  const auto take = [&] {
    std::uint64_t number = 0;
    if (reply.size() != datagram_bytes_) return witness.wrong(reply.size());
    std::memcpy(&number, reply.data(), sizeof number);
    if (number >= returned.size() ||
        guest::count_wrong(seed, number * 8, std::span(reply).subspan(sizeof number)) > 0) {
      return witness.wrong(reply.size());
    }
    if (returned[number]) return;
    returned[number] = true;
    ++count.returned;
    witness.verified(reply.size());
  };
  auto next = Clock::now();
  while (!stop.stop_requested()) {
    if (Clock::now() >= next) {
      const std::uint64_t number = returned.size();
      std::memcpy(datagram.data(), &number, sizeof number);
      guest::fill_pattern(seed, number * 8, std::span(datagram).subspan(sizeof number));
      returned.push_back(false);
      ++count.sent;
      made.value().send(datagram);
      next += pace_;
      continue;
    }
    // Rounded up: an early wake-up would only turn round here.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
    const auto outcome = made.value().receive(reply, std::max(left, 0ms), stop);
    if (outcome == TcpSocket::Outcome::done) take();
  }
  const auto end = Clock::now() + kLastOnes;
  while (count.returned < count.sent && Clock::now() < end) {
    if (made.value().receive(reply, kLastOnes, abandoned()) == TcpSocket::Outcome::done) take();
  }
}

}  // namespace understudy::scene
