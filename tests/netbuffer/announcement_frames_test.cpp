// The frames of an announcement, octet by octet where a switch or a neighbour looks.
#include <gtest/gtest.h>

#include "netbuffer/announce.h"

namespace understudy {
namespace {

const MacAddress kGuest{{0x52, 0x54, 0, 1, 2, 3}};
using Octets = std::vector<std::uint8_t>;

Octets part(const Octets& frame, std::size_t from, std::size_t count) {
  return {frame.begin() + static_cast<std::ptrdiff_t>(from),
          frame.begin() + static_cast<std::ptrdiff_t>(from + count)};
}

TEST(AnnouncementFrames, GuestWithoutKnownAddressIsAnnouncedToSwitches) {
  const auto frames = announcement_frames({"tap0", kGuest, {}});
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(part(frames[0], 0, 6), Octets(6, 0xff));
  EXPECT_EQ(part(frames[0], 6, 6), (Octets{0x52, 0x54, 0, 1, 2, 3}));
  EXPECT_EQ(part(frames[0], 12, 2), (Octets{0x80, 0x35}));
  EXPECT_EQ(frames[0].size(), 60U) << "shorter frames are runts";
}

TEST(AnnouncementFrames, Ipv4GoesOutAsRequestAndAsReply) {
  const auto frames =
      announcement_frames({"tap0", kGuest, {IpAddress::parse("192.0.2.7").value()}});
  ASSERT_EQ(frames.size(), 3U);
  for (std::size_t i = 1; i < 3; ++i) {
    EXPECT_EQ(part(frames[i], 12, 2), (Octets{0x08, 0x06}));
    EXPECT_EQ(part(frames[i], 20, 2), (Octets{0, static_cast<std::uint8_t>(i)}));
    EXPECT_EQ(part(frames[i], 28, 4), (Octets{192, 0, 2, 7}));
    EXPECT_EQ(part(frames[i], 38, 4), (Octets{192, 0, 2, 7}));
  }
}

TEST(AnnouncementFrames, Ipv6AdvertisementHasAChecksumThatHolds) {
  const auto frames =
      announcement_frames({"tap0", kGuest, {IpAddress::parse("2001:db8::7").value()}});
  ASSERT_EQ(frames.size(), 2U);
  const Octets& frame = frames[1];
  EXPECT_EQ(part(frame, 0, 6), (Octets{0x33, 0x33, 0, 0, 0, 1}));
  EXPECT_EQ(frame[14 + 7], 255) << "hop limit";
  EXPECT_EQ(frame[54 + 4], 0x20) << "override, not solicited, no router";
  // Over pseudo header and message, the checksum included, the sum is all ones.
  std::uint32_t sum = 58 + 32;
  for (std::size_t i = 14 + 8; i + 1 < frame.size(); i += 2) sum += frame[i] << 8 | frame[i + 1];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  EXPECT_EQ(sum, 0xffffU);
}

}  // namespace
}  // namespace understudy
