// Whatever octets a guest sends, reading its addresses neither crashes nor yields an address that
// no host can have.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "netbuffer/frame_addresses.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::span octets(data, bytes);
  if (const auto sender = understudy::sender_of_ip_packet(octets)) {
    if (!sender->can_be_a_host()) std::abort();
  }
  understudy::MacAddress mac;
  // The station is the frame's own source, so that the rest of the frame matters.
  for (std::size_t i = 0; i < 6 && i + 6 < bytes; ++i) mac.octets[i] = data[i + 6];
  if (const auto sender = understudy::sender_of_arp_frame(octets, mac)) {
    if (!sender->is_v4() || !sender->can_be_a_host()) std::abort();
  }
  return 0;
}
