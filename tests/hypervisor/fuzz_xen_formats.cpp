// Whatever a peer sends as the state or the description of a Xen guest: an error or a value, never
// a crash, and a value survives being written and read again.
#include <xxhash.h>

#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "hypervisor/xen/guest_description.h"
#include "hypervisor/xen/guest_state.h"
#include "hypervisor/xen/pv_guest_state.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace understudy;
  if (size == 0) return 0;
  const std::span rest(data + 1, size - 1);
  if ((*data & 1) != 0) {
    const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
    const auto guest = xen::GuestDescription::from_text(text);
    if (guest) {
      const auto again = xen::GuestDescription::from_text(guest.value().to_text());
      UNDERSTUDY_CHECK(again && again.value() == guest.value(), "a description changed on the way");
    }
    return 0;
  }
  if ((*data & 4) != 0) {
    const auto state = xen::PvGuestState::decode(std::as_bytes(rest));
    if (state) {
      const auto again = xen::PvGuestState::decode(state.value().encode());
      UNDERSTUDY_CHECK(again && again.value() == state.value(), "a state changed on the way");
    }
    return 0;
  }
  const auto bytes_of_rest = std::as_bytes(rest);
  std::vector<std::byte> octets(bytes_of_rest.begin(), bytes_of_rest.end());
  if ((*data & 2) != 0 && octets.size() >= 32) {
    // Past the checksum, where the records are.
    std::memcpy(octets.data(), "USXENGS1\1\0\0\0", 12);
    const std::uint64_t bytes = octets.size();
    std::memcpy(octets.data() + 16, &bytes, sizeof bytes);
    const std::uint64_t sum = ::XXH3_64bits(octets.data() + 32, octets.size() - 32);
    std::memcpy(octets.data() + 24, &sum, sizeof sum);
  }
  const auto state = xen::GuestState::decode(octets);
  if (state) {
    const auto again = xen::GuestState::decode(state.value().encode());
    UNDERSTUDY_CHECK(again && again.value() == state.value(), "a state changed on the way");
  }
  return 0;
}
