// A hostile log, and a guest and clients that send anything: the replayer neither crashes nor hands
// out frames that break their format, and it comes to an end.
//
// The input is a row of steps: what (record, guest's frame, client's frame, tick), and octets for
// it. Frames are taken as they are, or made from a few octets so that flows meet.
#include <cstdlib>

#include "replay/replayer.h"

namespace replay = understudy::replay;

namespace {

class Octets {
 public:
  Octets(const std::uint8_t* data, std::size_t size) : left_(data, size) {}
  std::uint8_t next() {
    if (left_.empty()) return 0;
    const std::uint8_t octet = left_.front();
    left_ = left_.subspan(1);
    return octet;
  }
  std::uint32_t number() { return static_cast<std::uint32_t>(next() << 24 | next() << 8 | next()); }
  [[nodiscard]] bool empty() const { return left_.empty(); }

 private:
  std::span<const std::uint8_t> left_;
};

replay::Frame segment(Octets& octets, bool from_guest) {
  const auto guest = understudy::IpAddress::v4({10, 0, 0, 1});
  const auto client = understudy::IpAddress::v4({10, 0, 0, 2});
  const std::uint16_t port = octets.next() % 3;
  replay::TcpSegment segment{.source_mac = {{2, 0, 0, 0, 0, 1}},
                             .destination_mac = {{2, 0, 0, 0, 0, 2}},
                             .source = from_guest ? guest : client,
                             .destination = from_guest ? client : guest,
                             .source_port = from_guest ? std::uint16_t{80} : port,
                             .destination_port = from_guest ? port : std::uint16_t{80}};
  segment.header.flags = octets.next();
  segment.header.sequence = octets.number();
  segment.header.acknowledgement = octets.number();
  segment.header.window = octets.next();
  const std::uint8_t more = octets.next();
  if ((more & 1) != 0) segment.header.timestamps = {octets.number(), octets.number()};
  if ((more & 2) != 0) {
    segment.header.sack_count = 1;
    segment.header.sack[0] = {octets.number(), octets.number()};
  }
  const std::vector<std::uint8_t> payload(more >> 2, more);
  segment.payload = payload;
  return replay::build_tcp(segment);
}

void check(const replay::Replayer::Actions& actions) {
  for (const auto& action : actions) {
    const replay::Frame* frame = nullptr;
    if (const auto* out = std::get_if<replay::Replayer::ToGuest>(&action)) frame = &out->frame;
    if (const auto* out = std::get_if<replay::Replayer::ToNetwork>(&action)) frame = &out->frame;
    if (frame == nullptr) continue;
    const replay::Packet packet = replay::parse(*frame);
    if (packet.kind == replay::FrameKind::tcp &&
        !replay::transport_checksum_is_right(*frame, packet)) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Octets octets(data, std::min<std::size_t>(size, 4096));
  std::vector<replay::LogRecord> records;
  understudy::LogPosition position(1);
  for (int count = octets.next() % 32; count > 0; --count) {
    replay::LogContent content;
    if (octets.next() % 2 == 0) {
      content = replay::InputRecord{0, replay::ChecksumState::complete, segment(octets, false)};
    } else {
      replay::OutputRecord output;
      output.flow = {understudy::IpAddress::v4({10, 0, 0, 1}),
                     understudy::IpAddress::v4({10, 0, 0, 2}), 80,
                     static_cast<std::uint16_t>(octets.next() % 3),
                     static_cast<std::uint8_t>(octets.next() % 4 == 0 ? 17 : 6)};
      output.flags = octets.next() % 64;
      output.window_scale = octets.next() % 15;
      output.sequence_base = octets.number();
      output.offset = octets.next();
      output.length = octets.next();
      output.acknowledgement = octets.number();
      output.timestamp = octets.number();
      content = output;
    }
    records.push_back({position, std::move(content)});
    position = position.next();
  }
  understudy::Instant now{};
  replay::Replayer replayer({}, now, std::move(records), {});
  while (!octets.empty()) {
    now += std::chrono::milliseconds(octets.next());
    switch (octets.next() % 3) {
      case 0:
        check(replayer.on_guest_frame(now, 0, segment(octets, true),
                                      replay::ChecksumState::complete));
        break;
      case 1:
        check(replayer.on_client_frame(now, 0, segment(octets, false),
                                       replay::ChecksumState::complete));
        break;
      default:
        check(replayer.on_tick(now));
    }
  }
  // Left alone, every flow comes to an end.
  for (int i = 0; i < 3000 && replayer.replaying(); ++i) {
    now += std::chrono::milliseconds(50);
    check(replayer.on_tick(now));
  }
  if (replayer.replaying()) std::abort();
  return 0;
}
