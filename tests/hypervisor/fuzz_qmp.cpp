// Whatever QEMU sends on its monitor: no crash, no growth beyond the limit of a line.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "hypervisor/qemu/qmp_message.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kLineBytesMax = 4096;
  constexpr std::size_t kChunkBytes = 512;
  understudy::QmpLineReader lines(kLineBytesMax);
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (!rest.empty()) {
    const std::string_view chunk = rest.substr(0, kChunkBytes);
    rest.remove_prefix(chunk.size());
    if (!lines.feed(chunk)) return 0;
    while (const auto line = lines.next()) {
      if (line->size() > kLineBytesMax) __builtin_trap();
      const auto message = understudy::parse_qmp_line(*line);
      if (!message && message.error().message().empty()) __builtin_trap();
    }
  }
  return 0;
}
