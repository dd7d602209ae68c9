// Any octets as any record: no crash, and whatever is accepted is encoded to the same octets again.
#include <algorithm>
#include <cstdlib>

#include "checkpoint/records.h"

namespace {

template <typename Decoded>
void same_again(const Decoded& decoded, std::span<const std::byte> payload) {
  if (!decoded) return;
  if (!std::ranges::equal(understudy::encode(decoded.value()), payload)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span payload(reinterpret_cast<const std::byte*>(data), size);
  same_again(understudy::decode_checkpoint_begin(payload), payload);
  same_again(understudy::decode_checkpoint_end(payload), payload);
  same_again(understudy::decode_checkpoint_acknowledged(payload), payload);
  return 0;
}
