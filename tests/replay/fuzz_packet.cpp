// Any octets as a frame: nothing is read or written beyond them, and after a change the checksum is
// right if it was right before.
#include <algorithm>
#include <cstdlib>

#include "replay/packet.h"

namespace replay = understudy::replay;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  replay::Frame frame(data, data + std::min(size, replay::kFrameBytesMax));
  replay::Packet packet = replay::parse(frame);
  if (packet.in_a_flow() && packet.payload_at + packet.payload_bytes > frame.size()) std::abort();
  if (packet.kind != replay::FrameKind::tcp) return 0;
  replay::complete_checksums(frame, packet);
  replay::TcpEditor editor(frame, packet, replay::ChecksumState::complete);
  editor.set_sequence(packet.tcp.sequence + 0x12345678);
  editor.set_acknowledgement(packet.tcp.acknowledgement - 7);
  editor.set_timestamps({1, 2});
  for (std::size_t i = 0; i < packet.tcp.sack_count; ++i) editor.set_sack(i, {3, 4});
  // Options that overlap (the same one twice) are written where the last one stands; still right.
  if (!replay::transport_checksum_is_right(frame, packet)) std::abort();
  for (const replay::Frame& part : replay::split_tcp(frame, 100)) {
    if (replay::parse(part).kind != replay::FrameKind::tcp) std::abort();
  }
  return 0;
}
