// Any octets as a device state, on an empty base and on another: no crash, no result beyond the
// limit. Checksum, lengths and base are made right in some of the tries, so that the fuzzer gets
// past them; the xxh3 of the result never is, so a forged state is never accepted.
#include <xxhash.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "checkpoint/device_state.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace understudy;
  if (size == 0) return 0;
  const std::uint8_t choice = data[0];
  const auto* octets = reinterpret_cast<const std::byte*>(data) + 1;
  std::vector<std::byte> record(octets, octets + size - 1);
  const std::vector<std::byte> base((choice & 2) != 0 ? 1000 : 0, std::byte{0x44});
  if ((choice & 1) != 0 && record.size() >= kDeviceStateHeaderBytes) {
    const auto body_bytes = static_cast<std::uint32_t>(record.size() - kDeviceStateHeaderBytes);
    std::memcpy(record.data() + 8, &body_bytes, sizeof(body_bytes));
    if ((choice & 4) != 0) std::memcpy(record.data() + 12, &body_bytes, sizeof(body_bytes));
    const std::uint64_t base_hash = (std::to_integer<unsigned>(record[1]) & 2U) != 0
                                        ? XXH3_64bits(base.data(), base.size())
                                        : 0;
    std::memcpy(record.data() + 24, &base_hash, sizeof(base_hash));
    const std::uint64_t checksum = XXH3_64bits_withSeed(record.data() + kDeviceStateHeaderBytes,
                                                        body_bytes, XXH3_64bits(record.data(), 40));
    std::memcpy(record.data() + 40, &checksum, sizeof(checksum));
  }
  constexpr std::size_t limit = 1 << 20;
  const auto result = decode_device_state(record, base, limit);
  if (result && result.value().bytes.size() > limit) std::abort();
  return 0;
}
