// Each record comes back as it went; each single wrong octet that matters is refused by name; the
// octets themselves are pinned, so that a change of layout cannot happen by accident.
#include "checkpoint/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace understudy {
namespace {

using testing::HasSubstr;

CheckpointBegin a_begin() {
  return {ProtectionId(0x1122334455667788), Generation(3), EpochId(7), EpochId(6), 65536, 250};
}

CheckpointEnd an_end() {
  return {EpochId(7), 2,    250,
          0xDEADBEEF, 2900, {std::byte{0x0A}, std::byte{0x0B}, std::byte{0x0C}}};
}

CheckpointAcknowledged an_acknowledgement() {
  return {ProtectionId(9), Generation(3), EpochId(7)};
}

TEST(Records, come_back_as_they_went) {
  EXPECT_EQ(decode_checkpoint_begin(encode(a_begin())).value(), a_begin());
  EXPECT_EQ(decode_checkpoint_end(encode(an_end())).value(), an_end());
  EXPECT_EQ(decode_checkpoint_acknowledged(encode(an_acknowledgement())).value(),
            an_acknowledgement());
}

TEST(Records, the_octets_of_a_begin_are_those_of_the_specification) {
  const std::vector<std::byte> octets = encode(a_begin());
  std::string hex;
  for (const std::byte octet : octets) hex += fmt::format("{:02x}", std::to_integer<int>(octet));
  EXPECT_EQ(hex,
            "0100000000000000"
            "8877665544332211"
            "0300000000000000"
            "0700000000000000"
            "0600000000000000"
            "0000010000000000"
            "fa00000000000000");
}

TEST(Records, any_other_length_is_refused) {
  const auto expect_refused_at_other_lengths = [](std::vector<std::byte> whole, auto decode) {
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const auto result = decode(std::span<const std::byte>(whole).first(length));
      ASSERT_FALSE(result) << length;
      EXPECT_EQ(result.error().code(), ErrorCode::bad_data);
    }
    whole.push_back(std::byte{0});
    const auto result = decode(std::span<const std::byte>(whole));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), ErrorCode::bad_data);
  };
  expect_refused_at_other_lengths(encode(a_begin()), decode_checkpoint_begin);
  expect_refused_at_other_lengths(encode(an_end()), decode_checkpoint_end);
  expect_refused_at_other_lengths(encode(an_acknowledgement()), decode_checkpoint_acknowledged);
}

TEST(Records, another_version_is_refused_by_its_number) {
  std::vector<std::byte> octets = encode(a_begin());
  octets[0] = std::byte{2};
  octets.resize(8);  // A later version may be shorter: it is the version that we name.
  const auto result = decode_checkpoint_begin(octets);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::protocol);
  EXPECT_THAT(result.error().message(), HasSubstr("version 2"));
}

TEST(Records, unknown_flags_are_refused) {
  std::vector<std::byte> octets = encode(an_end());
  octets[1] = std::byte{0x40};
  const auto result = decode_checkpoint_end(octets);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::protocol);
  EXPECT_THAT(result.error().message(), HasSubstr("0x40"));
}

TEST(Records, reserved_octets_must_be_zero) {
  for (const std::size_t at : {2U, 3U, 4U, 7U}) {
    std::vector<std::byte> octets = encode(an_acknowledgement());
    octets[at] = std::byte{1};
    EXPECT_FALSE(decode_checkpoint_acknowledged(octets)) << at;
  }
  for (const std::size_t at : {2U, 3U, 44U, 47U}) {
    std::vector<std::byte> octets = encode(an_end());
    octets[at] = std::byte{1};
    EXPECT_FALSE(decode_checkpoint_end(octets)) << at;
  }
}

TEST(Records, numbers_beyond_their_limits_are_refused) {
  const auto refused = [](std::size_t at, std::uint64_t value) {
    std::vector<std::byte> octets = encode(a_begin());
    for (std::size_t i = 0; i < 8; ++i) octets[at + i] = static_cast<std::byte>(value >> (8 * i));
    return !decode_checkpoint_begin(octets);
  };
  EXPECT_FALSE(refused(8, 1));                    // The helper itself: a protection may be 1.
  EXPECT_TRUE(refused(8, 0));                     // No protection.
  EXPECT_TRUE(refused(24, 0));                    // No epoch.
  EXPECT_TRUE(refused(32, 7));                    // Builds upon itself.
  EXPECT_TRUE(refused(32, 8));                    // Builds upon the future.
  EXPECT_TRUE(refused(40, 0));                    // No memory.
  EXPECT_TRUE(refused(40, kMemoryPagesMax + 1));  // Too much.
  EXPECT_TRUE(refused(48, 65537));                // More dirty pages than pages.
}

TEST(Records, a_length_field_cannot_ask_for_memory) {
  std::vector<std::byte> octets = encode(an_end());
  for (std::size_t i = 40; i < 44; ++i) octets[i] = std::byte{0xFF};
  const auto result = decode_checkpoint_end(octets);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message(), HasSubstr("at most 65536"));
}

}  // namespace
}  // namespace understudy
