// Any bytes as a configuration file: accepted or refused, never worse.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "agent/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)understudy::AgentConfig::from_toml({reinterpret_cast<const char*>(data), size}, "fuzz");
  return 0;
}
