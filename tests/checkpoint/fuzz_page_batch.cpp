// Any octets as a page batch: no crash, and the image changes only if the batch is valid. The
// checksum is made right in half of the tries, so that the fuzzer gets past it.
#include <xxhash.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "checkpoint/page_batch.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace understudy;
  if (size == 0) return 0;
  const bool sign = (data[0] & 1) != 0;
  const auto* octets = reinterpret_cast<const std::byte*>(data) + 1;
  std::vector<std::byte> batch(octets, octets + size - 1);
  if (sign && batch.size() >= kBatchHeaderBytes) {
    const auto body_bytes = static_cast<std::uint32_t>(batch.size() - kBatchHeaderBytes);
    std::memcpy(batch.data() + 4, &body_bytes, sizeof(body_bytes));
    const std::uint64_t checksum = XXH3_64bits_withSeed(batch.data() + kBatchHeaderBytes,
                                                        body_bytes, XXH3_64bits(batch.data(), 24));
    std::memcpy(batch.data() + 24, &checksum, sizeof(checksum));
  }
  constexpr std::size_t pages = 8;
  std::vector<std::byte> image(pages * kPageBytes, std::byte{0x33});
  const std::vector<std::byte> before = image;
  if (!apply_batch(batch, image) && image != before) std::abort();
  return 0;
}
