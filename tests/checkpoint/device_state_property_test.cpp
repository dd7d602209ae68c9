// For every pair of device states: what is decoded is what was encoded; and no damage goes unseen.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "checkpoint/device_state.h"

namespace understudy {
namespace {

std::vector<std::byte> octets(const std::vector<std::uint8_t>& values) {
  std::vector<std::byte> result;
  result.reserve(values.size());
  for (const std::uint8_t value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

/// States that often share content with `base`: a change of a few octets, or of the length.
rc::Gen<std::vector<std::uint8_t>> neighbour_of(std::vector<std::uint8_t> base) {
  return rc::gen::map(
      rc::gen::pair(rc::gen::arbitrary<std::vector<std::pair<std::uint16_t, std::uint8_t>>>(),
                    rc::gen::arbitrary<std::uint16_t>()),
      [base = std::move(base)](const auto& change) {
        std::vector<std::uint8_t> state = base;
        if (change.second % 3 == 0) state.resize(change.second % 2000);
        for (const auto& [at, value] : change.first) {
          if (!state.empty()) state[at % state.size()] = value;
        }
        return state;
      });
}

RC_GTEST_PROP(DeviceStateProperty, decode_of_encode_is_the_state, ()) {
  const auto first = *rc::gen::scale(8.0, rc::gen::arbitrary<std::vector<std::uint8_t>>());
  const auto second = *neighbour_of(first);
  DeviceStateEncoder encoder;
  const auto record_1 = encoder.encode(EpochId(1), octets(first)).value();
  const auto record_2 = encoder.encode(EpochId(2), octets(second)).value();
  const auto held = decode_device_state(record_1, {});
  RC_ASSERT(held.has_value());
  RC_ASSERT(held.value().bytes == octets(first));
  const auto next = decode_device_state(record_2, held.value().bytes);
  RC_ASSERT(next.has_value());
  RC_ASSERT(next.value().bytes == octets(second));
}

RC_GTEST_PROP(DeviceStateProperty, damage_is_seen, ()) {
  const auto state = *rc::gen::scale(8.0, rc::gen::arbitrary<std::vector<std::uint8_t>>());
  DeviceStateEncoder encoder;
  auto record = encoder.encode(EpochId(1), octets(state)).value();
  const std::size_t at = *rc::gen::inRange<std::size_t>(0, record.size());
  record[at] ^= static_cast<std::byte>(*rc::gen::inRange(1, 256));
  RC_ASSERT(decode_device_state(record, {}).has_error());
}

}  // namespace
}  // namespace understudy
