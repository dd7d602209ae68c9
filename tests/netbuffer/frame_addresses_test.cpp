// Addresses are read off frames that a guest made up as it liked.
#include "netbuffer/frame_addresses.h"

#include <gtest/gtest.h>

#include "netbuffer/announce.h"

namespace understudy {
namespace {

const MacAddress kGuest{{0x52, 0x54, 0, 1, 2, 3}};

std::vector<std::uint8_t> frame_for(const char* address, std::size_t which) {
  return announcement_frames({"tap0", kGuest, {IpAddress::parse(address).value()}})[which];
}

// Cut at every length: nothing is read beyond the end, and nothing is made of half an address.
template <typename Read>
void expect_only_when_whole(std::span<const std::uint8_t> octets, std::size_t needed, Read read) {
  for (std::size_t bytes = 0; bytes <= octets.size(); ++bytes) {
    // A copy of exactly that size, so that a sanitizer sees any step too far.
    const std::vector<std::uint8_t> cut(octets.begin(), octets.begin() + bytes);
    EXPECT_EQ(read(cut).has_value(), bytes >= needed) << bytes;
  }
}

TEST(FrameAddresses, ArpSenderIsLearntOnceTheFrameIsWhole) {
  const auto arp = frame_for("192.0.2.7", 1);
  EXPECT_EQ(sender_of_arp_frame(arp, kGuest)->to_string(), "192.0.2.7");
  expect_only_when_whole(arp, 42, [](const auto& cut) { return sender_of_arp_frame(cut, kGuest); });
}

TEST(FrameAddresses, ArpBehindVlanTagsIsRead) {
  auto arp = frame_for("192.0.2.7", 1);
  for (const std::uint8_t type : {0x81, 0x88}) {
    const std::uint8_t low = type == 0x81 ? 0x00 : 0xa8;
    arp.insert(arp.begin() + 12, {type, low, 0, 5});
    EXPECT_TRUE(sender_of_arp_frame(arp, kGuest));
  }
  arp.insert(arp.begin() + 12, {0x81, 0, 0, 5});
  EXPECT_FALSE(sender_of_arp_frame(arp, kGuest)) << "three tags are more than anybody sends";
}

TEST(FrameAddresses, ArpOfAnotherStationTeachesNothing) {
  EXPECT_FALSE(sender_of_arp_frame(frame_for("192.0.2.7", 1), MacAddress{{2, 0, 0, 0, 0, 9}}));
}

TEST(FrameAddresses, ArpProbeTeachesNothing) {
  auto probe = frame_for("192.0.2.7", 1);
  std::fill_n(probe.begin() + 28, 4, 0);
  EXPECT_FALSE(sender_of_arp_frame(probe, kGuest));
}

TEST(FrameAddresses, Ipv4SourceIsLearntOnceTheHeaderIsWhole) {
  std::vector<std::uint8_t> packet(28);
  packet[0] = 0x45;
  const std::array<std::uint8_t, 4> source = {192, 0, 2, 1};
  std::copy(source.begin(), source.end(), packet.begin() + 12);
  EXPECT_EQ(sender_of_ip_packet(packet)->to_string(), "192.0.2.1");
  expect_only_when_whole(packet, 20, [](const auto& cut) { return sender_of_ip_packet(cut); });
  packet[12] = 224;
  EXPECT_FALSE(sender_of_ip_packet(packet)) << "multicast is nobody's source";
  packet[0] = 0x75;
  packet[12] = 192;
  EXPECT_FALSE(sender_of_ip_packet(packet)) << "version 7";
}

TEST(FrameAddresses, NeighbourAdvertisementTeachesItsTarget) {
  auto frame = frame_for("2001:db8::7", 1);
  std::vector<std::uint8_t> packet(frame.begin() + 14, frame.end());
  packet[8] = 0xfe;  // Its source is another address of the guest.
  packet[9] = 0x80;
  EXPECT_EQ(sender_of_ip_packet(packet)->to_string(), "2001:db8::7");
  packet[6] = 17;
  EXPECT_EQ(sender_of_ip_packet(packet)->octets()[0], 0xfe) << "UDP teaches its source";
}

TEST(FrameAddresses, DuplicateAddressDetectionTeachesNothing) {
  std::vector<std::uint8_t> solicitation(64);
  solicitation[0] = 0x60;
  solicitation[6] = 58;
  solicitation[40] = 135;
  EXPECT_FALSE(sender_of_ip_packet(solicitation)) << "the source is unspecified";
}

TEST(AddressBook, GuestThatMakesUpAddressesFillsNothingButItsOwnBook) {
  AddressBook book;
  for (unsigned i = 0; i < 1000; ++i) {
    book.add(
        IpAddress::v4({10, 0, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)}));
    book.add(IpAddress::v4({10, 0, 0, 0}));
  }
  EXPECT_EQ(book.addresses().size(), AddressBook::kMax);
  EXPECT_EQ(book.addresses().front().to_string(), "10.0.0.0");
}

}  // namespace
}  // namespace understudy
