// Any octets as translations: no crash, and what is accepted is encoded to the same again.
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "replay/translator.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> octets(reinterpret_cast<const std::byte*>(data),
                                reinterpret_cast<const std::byte*>(data) + size);
  if (octets.size() >= 16) {
    const std::uint64_t checksum =
        XXH3_64bits_withSeed(octets.data() + 16, octets.size() - 16, XXH3_64bits(octets.data(), 8));
    for (std::size_t i = 0; i < 8; ++i) octets[8 + i] = static_cast<std::byte>(checksum >> (8 * i));
  }
  const auto translator = understudy::replay::Translator::decode(octets);
  if (!translator) return 0;
  const auto again = translator.value().encode();
  // The order of entries is the sender's; ours is that of the keys.
  if (again.size() != octets.size()) std::abort();
  if (!(understudy::replay::Translator::decode(again).value() == translator.value())) std::abort();
  return 0;
}
