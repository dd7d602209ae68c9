// Whatever a user types or a peer sends as a domain's config: a valid config or an error, and a
// valid one survives the way through JSON.
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "hypervisor/domain_config.h"

namespace {

void check(const understudy::DomainConfig& config) {
  if (!config.validate()) __builtin_trap();
  const auto again = understudy::DomainConfig::from_json(config.to_json());
  if (!again || !(again.value() == config)) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto config = understudy::DomainConfig::from_toml(text, "fuzz.toml")) {
    check(config.value());
  }
  boost::system::error_code error;
  const boost::json::value json = boost::json::parse(text, error);
  if (!error) {
    if (const auto config = understudy::DomainConfig::from_json(json)) check(config.value());
  }
  return 0;
}
