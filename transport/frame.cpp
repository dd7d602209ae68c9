// The frame codec; the contract and the layout are in frame.h and docs/protocol-frames.md.
#include "transport/frame.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace understudy::transport {
namespace {

// "UNDS" as the octets stand on the wire.
constexpr std::array<std::uint8_t, 4> kMagic = {'U', 'N', 'D', 'S'};

constexpr std::size_t kVersionAt = 4;
constexpr std::size_t kTypeAt = 6;
constexpr std::size_t kLengthAt = 8;
constexpr std::size_t kFlagsAt = 12;
constexpr std::size_t kSequenceAt = 16;
constexpr std::size_t kChecksumAt = 24;

using Header = std::array<std::byte, kFrameHeaderBytes>;

template <typename Number>
void put(Header& header, std::size_t at, Number number) {
  for (std::size_t i = 0; i < sizeof(Number); ++i) {
    header[at + i] = static_cast<std::byte>(static_cast<std::uint64_t>(number) >> (8 * i));
  }
}

template <typename Number>
Number get(const Header& header, std::size_t at) {
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < sizeof(Number); ++i) {
    number |= std::to_integer<std::uint64_t>(header[at + i]) << (8 * i);
  }
  return static_cast<Number>(number);
}

// Over the header with its checksum field zero, then the payload.
std::uint64_t checksum(Header header, std::span<const std::byte> head,
                       std::span<const std::byte> body) {
  put<std::uint64_t>(header, kChecksumAt, 0);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, header.data(), header.size());
  if (!head.empty()) XXH3_64bits_update(&state, head.data(), head.size());
  if (!body.empty()) XXH3_64bits_update(&state, body.data(), body.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace

std::string_view to_string(FrameType type) {
  switch (type) {
    case FrameType::hello:
      return "hello";
    case FrameType::hello_reply:
      return "hello_reply";
    case FrameType::refusal:
      return "refusal";
    case FrameType::goodbye:
      return "goodbye";
    case FrameType::heartbeat:
      return "heartbeat";
    case FrameType::pairing:
      return "pairing";
    case FrameType::control:
      return "control";
    case FrameType::checkpoint_begin:
      return "checkpoint_begin";
    case FrameType::page_batch:
      return "page_batch";
    case FrameType::device_state:
      return "device_state";
    case FrameType::checkpoint_end:
      return "checkpoint_end";
    case FrameType::acknowledgement:
      return "acknowledgement";
    case FrameType::protection_begin:
      return "protection_begin";
    case FrameType::protection_reply:
      return "protection_reply";
    case FrameType::protection_end:
      return "protection_end";
    case FrameType::disk_batch:
      return "disk_batch";
    case FrameType::protection_options:
      return "protection_options";
    case FrameType::input_log:
      return "input_log";
    case FrameType::log_acknowledgement:
      return "log_acknowledgement";
  }
  return "unknown";
}

std::array<std::byte, kFrameHeaderBytes> encode_frame_header(FrameType type, std::uint32_t flags,
                                                             std::uint64_t sequence,
                                                             std::span<const std::byte> head,
                                                             std::span<const std::byte> body) {
  Header header{};
  std::memcpy(header.data(), kMagic.data(), kMagic.size());
  put(header, kVersionAt, kFrameVersion);
  put(header, kTypeAt, static_cast<std::uint16_t>(type));
  put(header, kLengthAt, static_cast<std::uint32_t>(head.size() + body.size()));
  put(header, kFlagsAt, flags);
  put(header, kSequenceAt, sequence);
  put(header, kChecksumAt, checksum(header, head, body));
  return header;
}

FrameDecoder::FrameDecoder(std::size_t payload_bytes_max) {
  set_payload_bytes_max(payload_bytes_max);
}

void FrameDecoder::set_payload_bytes_max(std::size_t payload_bytes_max) {
  payload_bytes_max_ = std::min(payload_bytes_max, kPayloadBytesCeiling);
}

void FrameDecoder::feed(std::span<const std::byte> octets) {
  while (!octets.empty() && !broken_) {
    const auto room = current_space();
    const auto part = octets.first(std::min(octets.size(), room.size()));
    std::memcpy(room.data(), part.data(), part.size());
    filled(part.size());
    octets = octets.subspan(part.size());
  }
}

std::span<std::byte> FrameDecoder::space() {
  if (broken_ || !ready_.empty()) return {};
  return current_space();
}

std::span<std::byte> FrameDecoder::current_space() {
  if (header_bytes_ < kFrameHeaderBytes) return std::span(header_).subspan(header_bytes_);
  return std::span(payload_).subspan(payload_bytes_);
}

void FrameDecoder::filled(std::size_t bytes) {
  if (broken_ || bytes == 0) return;
  if (header_bytes_ < kFrameHeaderBytes) {
    header_bytes_ += bytes;
    if (header_bytes_ < kFrameHeaderBytes) return;
    on_header();
  } else {
    payload_bytes_ += bytes;
  }
  if (!broken_ && payload_bytes_ == payload_.size()) on_payload();
}

void FrameDecoder::on_header() {
  if (std::memcmp(header_.data(), kMagic.data(), kMagic.size()) != 0) {
    return refuse(fail(ErrorCode::protocol, "no frame here: expected the octets 'UNDS'"));
  }
  if (const auto version = get<std::uint16_t>(header_, kVersionAt); version != kFrameVersion) {
    return refuse(fail(ErrorCode::protocol, "frame of version {}, expected version {}", version,
                       kFrameVersion));
  }
  // The number comes before the rest: of a replayed frame, nothing else matters.
  if (const auto sequence = get<std::uint64_t>(header_, kSequenceAt);
      sequence != expected_sequence_) {
    return refuse(fail(ErrorCode::bad_data, "frame number {}, expected {}: {}", sequence,
                       expected_sequence_,
                       sequence < expected_sequence_ ? "replayed or reordered" : "frames lost"));
  }
  const auto type = get<std::uint16_t>(header_, kTypeAt);
  const auto flags = get<std::uint32_t>(header_, kFlagsAt);
  if ((flags & ~static_cast<std::uint32_t>(kFrameIgnorable)) != 0) {
    return refuse(fail(ErrorCode::protocol,
                       "frame number {} of type {} has unknown flags {:#x}, expected only {:#x}",
                       expected_sequence_, type, flags, static_cast<unsigned>(kFrameIgnorable)));
  }
  if (to_string(FrameType{type}) == "unknown" && (flags & kFrameIgnorable) == 0) {
    return refuse(fail(ErrorCode::protocol, "frame number {} has the unknown type {}",
                       expected_sequence_, type));
  }
  const auto length = get<std::uint32_t>(header_, kLengthAt);
  if (length > payload_bytes_max_) {
    return refuse(fail(ErrorCode::bad_data,
                       "frame number {} ({}) announces {} octets, more than the limit of {}",
                       expected_sequence_, to_string(FrameType{type}), length, payload_bytes_max_));
  }
  payload_.resize(length);
  payload_bytes_ = 0;
}

void FrameDecoder::on_payload() {
  const FrameType type{get<std::uint16_t>(header_, kTypeAt)};
  if (get<std::uint64_t>(header_, kChecksumAt) != checksum(header_, payload_, {})) {
    return refuse(fail(ErrorCode::bad_data, "frame number {} ({}, {} octets): wrong checksum",
                       expected_sequence_, to_string(type), payload_.size()));
  }
  ++expected_sequence_;
  header_bytes_ = 0;
  payload_bytes_ = 0;
  if (to_string(type) == "unknown") {
    ++skipped_;
    payload_.clear();
    return;
  }
  ready_.push_back({type, std::move(payload_)});
  payload_ = {};
}

void FrameDecoder::refuse(Error error) {
  broken_ = std::move(error);
  payload_ = {};
}

Result<std::optional<Frame>> FrameDecoder::next() {
  if (!ready_.empty()) {
    std::optional<Frame> frame = std::move(ready_.front());
    ready_.pop_front();
    return frame;
  }
  if (broken_) return *broken_;
  return std::optional<Frame>{};
}

bool FrameDecoder::at_frame_border() const {
  return header_bytes_ == 0 && ready_.empty() && !broken_;
}

}  // namespace understudy::transport
