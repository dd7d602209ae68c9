// Device states: small where little changed, right whatever changed, refused where anything does
// not fit. Random states are in device_state_property_test.
#include "checkpoint/device_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

using testing::HasSubstr;

std::vector<std::byte> random_state(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> state(bytes);
  for (std::byte& octet : state) octet = static_cast<std::byte>(random());
  return state;
}

TEST(DeviceState, a_state_that_changed_little_costs_little) {
  std::vector<std::byte> state = random_state(300'000, 1);
  DeviceStateEncoder encoder;
  const auto first = encoder.encode(EpochId(1), state).value();
  EXPECT_GT(first.size(), 300'000U);
  const DeviceState held = decode_device_state(first, {}).value();
  EXPECT_EQ(held.bytes, state);
  for (const std::size_t at : {5U, 70'000U, 299'999U}) state[at] ^= std::byte{1};
  const auto second = encoder.encode(EpochId(2), state).value();
  EXPECT_LT(second.size(), 600U);
  const DeviceState next = decode_device_state(second, held.bytes).value();
  EXPECT_EQ(next.bytes, state);
  EXPECT_EQ(next.epoch, EpochId(2));
}

TEST(DeviceState, grows_shrinks_and_vanishes) {
  DeviceStateEncoder encoder;
  std::vector<std::byte> held;
  for (const std::size_t bytes :
       {100U, 64U, 65U, 10'000U, 9'999U, 0U, 1U, 64U * 64U, 64U * 64U + 1}) {
    const std::vector<std::byte> state = random_state(bytes, 1);
    const auto record = encoder.encode(EpochId(1), state).value();
    auto decoded = decode_device_state(record, held);
    ASSERT_TRUE(decoded) << decoded.error().message();
    EXPECT_EQ(decoded.value().bytes, state);
    held = std::move(decoded.value().bytes);
  }
}

TEST(DeviceState, a_receiver_with_another_base_refuses) {
  const auto state = random_state(1000, 1);
  DeviceStateEncoder encoder;
  (void)encoder.encode(EpochId(1), state).value();
  const auto record = encoder.encode(EpochId(2), state).value();
  const auto result = decode_device_state(record, random_state(1000, 2));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::bad_data);
  EXPECT_THAT(result.error().message(), HasSubstr("builds upon"));
  encoder.reset();
  const auto fresh = encoder.encode(EpochId(3), state).value();
  EXPECT_EQ(decode_device_state(fresh, random_state(1000, 2)).value().bytes, state);
}

TEST(DeviceState, every_truncation_and_every_flipped_bit_is_refused) {
  auto state = random_state(700, 1);
  DeviceStateEncoder encoder;
  (void)encoder.encode(EpochId(1), state).value();
  const auto base = state;
  state[300] ^= std::byte{1};
  const auto record = encoder.encode(EpochId(2), state).value();
  ASSERT_TRUE(decode_device_state(record, base));
  for (std::size_t length = 0; length < record.size(); ++length) {
    EXPECT_FALSE(decode_device_state(std::span(record).first(length), base)) << length;
  }
  for (std::size_t bit = 0; bit < record.size() * 8; ++bit) {
    auto damaged = record;
    damaged[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    EXPECT_FALSE(decode_device_state(damaged, base)) << "bit " << bit;
  }
}

TEST(DeviceState, the_receivers_limit_holds) {
  const auto state = random_state(1000, 1);
  DeviceStateEncoder encoder;
  const auto record = encoder.encode(EpochId(1), state).value();
  EXPECT_TRUE(decode_device_state(record, {}, 1000));
  const auto result = decode_device_state(record, {}, 999);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message(), HasSubstr("at most 999"));
}

TEST(DeviceState, a_state_that_is_too_large_is_refused_and_the_base_stays) {
  const auto state = random_state(1000, 1);
  DeviceStateEncoder encoder;
  (void)encoder.encode(EpochId(1), state).value();
  const auto refused = encoder.encode(EpochId(2), std::vector<std::byte>(kDeviceStateBytesMax + 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::no_resources);
  EXPECT_TRUE(decode_device_state(encoder.encode(EpochId(3), state).value(), state));
}

}  // namespace
}  // namespace understudy
