// Hostile octets for the frame decoder: whatever comes, it ends in frames or in an error, takes no
// more memory than its limit, and the way in which the octets were cut makes no difference.
//
// The first octet says how the rest is cut. Random octets never carry a right checksum, so where
// the second octet is odd the checksum and the number of each would-be frame are set right first.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "transport/frame.h"

namespace {

using understudy::transport::Frame;
using understudy::transport::FrameDecoder;
using understudy::transport::FrameType;

constexpr std::size_t kPayloadBytesMax = 4096;

struct Outcome {
  std::vector<Frame> frames;
  bool broken = false;
};

// Cuts pieces out of `octets` and puts a valid header before each.
std::vector<std::byte> framed(std::span<const std::byte> octets) {
  std::vector<std::byte> stream;
  std::uint64_t sequence = 1;
  while (octets.size() >= 4) {
    const auto type = FrameType{std::to_integer<std::uint16_t>(octets[0])};
    const std::uint32_t flags = std::to_integer<std::uint32_t>(octets[1]) & 3U;
    const std::size_t bytes =
        std::min(octets.size() - 4, std::to_integer<std::size_t>(octets[2]) * 32);
    const auto payload = octets.subspan(4, bytes);
    const auto header =
        understudy::transport::encode_frame_header(type, flags, sequence++, payload);
    stream.insert(stream.end(), header.begin(), header.end());
    stream.insert(stream.end(), payload.begin(), payload.end());
    octets = octets.subspan(4 + bytes);
  }
  return stream;
}

void drain(FrameDecoder& decoder, Outcome& outcome) {
  for (;;) {
    auto next = decoder.next();
    if (!next) {
      outcome.broken = true;
      return;
    }
    if (!next.value()) return;
    if (next.value()->payload.size() > kPayloadBytesMax) std::abort();
    outcome.frames.push_back(std::move(*next.value()));
  }
}

Outcome decode_in_pieces(std::span<const std::byte> stream, std::size_t piece) {
  FrameDecoder decoder(kPayloadBytesMax);
  Outcome outcome;
  while (!stream.empty()) {
    const auto part = stream.first(std::min(piece, stream.size()));
    decoder.feed(part);
    stream = stream.subspan(part.size());
    drain(decoder, outcome);
  }
  return outcome;
}

Outcome decode_in_place(std::span<const std::byte> stream, std::size_t piece) {
  FrameDecoder decoder(kPayloadBytesMax);
  Outcome outcome;
  while (!stream.empty() && !outcome.broken) {
    const auto space = decoder.space();
    if (space.empty()) std::abort();
    const auto part = stream.first(std::min({piece, stream.size(), space.size()}));
    std::memcpy(space.data(), part.data(), part.size());
    decoder.filled(part.size());
    stream = stream.subspan(part.size());
    drain(decoder, outcome);
  }
  return outcome;
}

bool equal(const Outcome& one, const Outcome& other) {
  return one.broken == other.broken &&
         std::ranges::equal(one.frames, other.frames, [](const Frame& a, const Frame& b) {
           return a.type == b.type && a.payload == b.payload;
         });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t piece = data[0] + 1U;
  const auto rest = std::as_bytes(std::span(data, size)).subspan(2);
  const std::vector<std::byte> stream =
      (data[1] & 1) != 0 ? framed(rest) : std::vector(rest.begin(), rest.end());
  const Outcome whole = decode_in_pieces(stream, stream.size() + 1);
  if (!equal(whole, decode_in_pieces(stream, piece))) std::abort();
  if (!equal(whole, decode_in_place(stream, piece))) std::abort();
  return 0;
}
