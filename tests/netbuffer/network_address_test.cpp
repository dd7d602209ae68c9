#include "base/network_address.h"

#include <gtest/gtest.h>

namespace understudy {
namespace {

TEST(MacAddress, IsReadAndWrittenInEitherCase) {
  const auto mac = MacAddress::parse("52:54:00:AB:cd:ef");
  ASSERT_TRUE(mac);
  EXPECT_EQ(mac.value().to_string(), "52:54:00:ab:cd:ef");
  EXPECT_FALSE(mac.value().is_group());
  EXPECT_TRUE(MacAddress::broadcast().is_group());
}

TEST(MacAddress, RefusesWhatNoInterfaceCanHave) {
  for (const char* const text :
       {"", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "52-54-00-ab-cd-ef", "5g:54:00:ab:cd:ef",
        "525400abcdef", "52:54:00:ab:cd:e", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00", " 52:54:00:ab:cd:e"}) {
    const auto mac = MacAddress::parse(text);
    ASSERT_FALSE(mac) << text;
    EXPECT_EQ(mac.error().code(), ErrorCode::config);
    EXPECT_NE(mac.error().message().find(text), std::string::npos);
  }
}

TEST(IpAddress, IsReadAndWrittenInBothFamilies) {
  for (const char* const text : {"192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "fe80::1"}) {
    const auto address = IpAddress::parse(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(address.value().to_string(), text);
  }
  EXPECT_EQ(IpAddress::parse("192.0.2.1").value().octets().size(), 4U);
  EXPECT_EQ(IpAddress::parse("::1").value().octets().size(), 16U);
  EXPECT_NE(IpAddress::parse("0.0.0.0").value(), IpAddress::parse("::").value());
}

TEST(IpAddress, RefusesWhatIsNone) {
  for (const std::string_view text :
       {std::string_view(""), std::string_view("192.0.2"), std::string_view("192.0.2.256"),
        std::string_view("2001:db8::1/64"), std::string_view("fe80::1%eth0"),
        std::string_view("host"), std::string_view("192.0.2.1\0x", 11)}) {
    const auto address = IpAddress::parse(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code(), ErrorCode::config);
  }
}

TEST(IpAddress, KnowsWhichAddressesAHostCanHave) {
  for (const char* const text : {"192.0.2.1", "10.0.0.255", "169.254.1.1", "2001:db8::1",
                                 "fe80::5054:ff:fe12:3456", "1::"}) {
    EXPECT_TRUE(IpAddress::parse(text).value().can_be_a_host()) << text;
  }
  for (const char* const text :
       {"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"}) {
    EXPECT_FALSE(IpAddress::parse(text).value().can_be_a_host()) << text;
  }
}

}  // namespace
}  // namespace understudy
