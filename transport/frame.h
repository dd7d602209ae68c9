// Frames: how a stream of octets between two hosts is cut into messages, and how a broken, replayed
// or hostile stream is told from a good one. Pure logic: bytes in, frames out; no sockets.
//
// Intuition: TLS already guards the octets between two processes. The frame layer guards what TLS
// cannot see: a bug in a sender, memory that rots between encoding and encryption, a peer of
// another version, and a length field that asks for all our memory. So each frame says what it is,
// how long it is, which number it has, and carries a checksum over all of that.
//
// Awkward cases: a length is checked against the link's limit before anything is allocated. A
// number that does not follow the last one (replayed, reordered, lost) ends the stream. A type that
// we do not know ends the stream too, unless its sender marked it as ignorable. After the first
// error the decoder stays in error: a stream that lied once is not searched for the next good
// frame.
//
// Not taken: resynchronising on the magic number (right for radio, wrong where TCP and TLS already
// promise a whole stream: a gap is an attack or a bug), and variable-length headers.
//
// The octets are drawn in docs/protocol-frames.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace understudy::transport {

/// The version of the frame layer that this code speaks. A frame of another version is refused;
/// `hello` is where versions are agreed, before any other frame.
inline constexpr std::uint16_t kFrameVersion = 1;

/// Octets of every frame header.
inline constexpr std::size_t kFrameHeaderBytes = 32;

/// The largest payload that any link may be configured to accept (64 MiB).
inline constexpr std::size_t kPayloadBytesCeiling = std::size_t{64} << 20;

/// What a frame is. Numbers are part of the protocol and never reused. The transport looks into
/// hello … goodbye and heartbeat and pairing only; the rest belongs to the rooms above.
enum class FrameType : std::uint16_t {
  hello = 1,              ///< First frame of the connecting side.
  hello_reply = 2,        ///< First frame of the accepting side.
  refusal = 3,            ///< Why the sender will not go on; text. The link ends.
  goodbye = 4,            ///< The sender ends the link on purpose; text. The link ends.
  heartbeat = 5,          ///< "I am alive", see heartbeat.h.
  pairing = 6,            ///< A step of pairing, see pairing.h.
  control = 16,           ///< A JSON request, reply or event between agents.
  checkpoint_begin = 32,  ///< From here on: owned by the checkpoint room.
  page_batch = 33,
  device_state = 34,
  checkpoint_end = 35,
  acknowledgement = 36,
  protection_begin = 37,
  protection_reply = 38,
  protection_end = 39,
  disk_batch = 40,
  protection_options = 41,
  input_log = 48,  ///< From here on: owned by the replay room.
  log_acknowledgement = 49,
};

/// The name of `type` for logs and errors ("page_batch"), "unknown" when it has none.
std::string_view to_string(FrameType type);

/// Flag bits of a frame. All others must be zero.
enum FrameFlags : std::uint32_t {
  kFrameNoFlags = 0,
  /// A receiver that does not know the type skips the frame instead of ending the link.
  kFrameIgnorable = 1U << 0,
};

/// One whole, verified frame.
struct Frame {
  FrameType type{};
  std::vector<std::byte> payload;
};

/// Writes the header of a frame whose payload is `head` followed by `body`, checksum included.
/// `sequence` numbers the frames of one direction of one link, from 1 without gaps.
/// head.size() + body.size() must not exceed kPayloadBytesCeiling.
std::array<std::byte, kFrameHeaderBytes> encode_frame_header(FrameType type, std::uint32_t flags,
                                                             std::uint64_t sequence,
                                                             std::span<const std::byte> head,
                                                             std::span<const std::byte> body = {});

/// Turns octets into frames. One decoder for each direction of each link.
///
/// Two ways in: `feed` copies octets from anywhere; `space`/`filled` let a reader put octets
/// straight where they belong (no copy of a payload). They may be mixed.
class FrameDecoder {
 public:
  /// `payload_bytes_max`: payloads above it are refused before memory is taken for them.
  explicit FrameDecoder(std::size_t payload_bytes_max);

  /// Changes the limit for the frames whose headers have not arrived yet.
  void set_payload_bytes_max(std::size_t payload_bytes_max);

  /// Takes octets as they came off the wire, in order. Frames that they complete are kept until
  /// `next` takes them, so feed no more than you are willing to hold.
  void feed(std::span<const std::byte> octets);

  /// Where the next octets of the stream belong: never empty while no whole frame is waiting and
  /// the stream is good, empty otherwise. Valid until the next call of a member.
  [[nodiscard]] std::span<std::byte> space();
  /// Says that the first `bytes` of what `space` returned now hold octets of the stream.
  void filled(std::size_t bytes);

  /// The next whole frame; nothing when more octets are needed; an error (bad_data or protocol)
  /// when the stream is broken, and then for ever. Frames before the break are still delivered
  /// first.
  Result<std::optional<Frame>> next();

  /// True when the stream may end here: no part of a frame is waiting.
  [[nodiscard]] bool at_frame_border() const;
  /// Ignorable frames of unknown types that were skipped.
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }

 private:
  std::span<std::byte> current_space();
  void on_header();
  void on_payload();
  void refuse(Error error);

  std::size_t payload_bytes_max_ = 0;
  std::array<std::byte, kFrameHeaderBytes> header_{};
  std::size_t header_bytes_ = 0;    // octets of header_ that have arrived
  std::vector<std::byte> payload_;  // sized by the header
  std::size_t payload_bytes_ = 0;   // octets of payload_ that have arrived
  std::uint64_t expected_sequence_ = 1;
  std::uint64_t skipped_ = 0;
  std::deque<Frame> ready_;  // whole, verified, not yet taken
  std::optional<Error> broken_;
};

}  // namespace understudy::transport
