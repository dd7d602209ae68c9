// Any octets as a batch, with the checksum made right so that what lies behind it is reached: no
// crash, and whatever is accepted is encoded to the same octets again.
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "replay/input_log.h"

namespace replay = understudy::replay;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> payload(reinterpret_cast<const std::byte*>(data),
                                 reinterpret_cast<const std::byte*>(data) + size);
  if (payload.size() >= 40) {
    const std::uint64_t checksum = XXH3_64bits_withSeed(payload.data() + 40, payload.size() - 40,
                                                        XXH3_64bits(payload.data(), 32));
    for (std::size_t i = 0; i < 8; ++i) {
      payload[32 + i] = static_cast<std::byte>(checksum >> (8 * i));
    }
  }
  if (const auto batch = replay::decode_log_batch(payload)) {
    if (!std::ranges::equal(replay::encode(batch.value()), payload)) std::abort();
    replay::InputLog log({});
    (void)log.take_in(batch.value().records);
    (void)log.cut(understudy::EpochId(1));
  }
  if (const auto acknowledged = replay::decode_log_acknowledged(payload)) {
    if (!std::ranges::equal(replay::encode(acknowledged.value()), payload)) std::abort();
  }
  return 0;
}
