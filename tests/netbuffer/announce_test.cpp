// Announcements seen by those whom they are for: bridges, and neighbours' tables.
#include "netbuffer/announce.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "stage.h"

namespace understudy {
namespace {

using stage::kGuestMac;
using stage::output_of;
using stage::run;
using testing::HasSubstr;
using testing::Not;

class AnnounceTest : public stage::Stage {
 protected:
  Result<void> announce_now(std::vector<Announcement> announcements, unsigned rounds = 1) {
    std::optional<Result<void>> result;
    boost::asio::co_spawn(
        io_,
        [&]() -> Task<void> {
          result.emplace(co_await announce(announcements, {rounds, std::chrono::milliseconds(1)}));
        },
        boost::asio::detached);
    EXPECT_TRUE(wait_until([&] { return result.has_value(); }));
    return *result;
  }
  const std::vector<IpAddress> addresses_ = {IpAddress::parse("192.0.2.1").value(),
                                             IpAddress::parse("2001:db8::1").value()};
};

TEST_F(AnnounceTest, BridgePointsAtTheDomainAndNotAtTheUplinkAnyMore) {
  // The address was last seen behind the peer's port: the guest ran on the other host.
  ASSERT_EQ(run(fmt::format("bridge fdb replace {} dev peer0 master dynamic", kGuestMac)), 0);
  ASSERT_THAT(output_of("bridge fdb show br br0"),
              HasSubstr(fmt::format("{} dev peer0", kGuestMac)));
  const auto announced = announce_now({{"tap0", kGuestMac, {}}});
  ASSERT_TRUE(announced) << announced.error().message();
  EXPECT_THAT(output_of("bridge fdb show br br0"),
              HasSubstr(fmt::format("{} dev tap0", kGuestMac)));
}

TEST_F(AnnounceTest, NeighboursTablesAreCorrected) {
  give_addresses();
  ASSERT_EQ(run("ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 nud stale dev eth0 && "
                "ip neigh replace 2001:db8::1 lladdr 02:00:00:00:00:99 nud stale dev eth0",
                peer_namespace_.get()),
            0);
  ASSERT_TRUE(announce_now({{"tap0", kGuestMac, addresses_}}));
  const std::string mac = kGuestMac.to_string();
  EXPECT_TRUE(wait_until([&] {
    return output_of("ip -4 neigh show dev eth0", peer_namespace_.get()).find(mac) !=
               std::string::npos &&
           output_of("ip -6 neigh show dev eth0", peer_namespace_.get()).find(mac) !=
               std::string::npos;
  })) << output_of("ip neigh show", peer_namespace_.get());
}

TEST_F(AnnounceTest, BridgesOnTheWayLearnTheNewPlace) {
  // A second bridge behind the uplink of the first, as a switch between hosts.
  ASSERT_EQ(run("ip link add switch type bridge && ip link set switch addrgenmode none up && "
                "ip link add up0 type veth peer name down0 && "
                "ip link set up0 addrgenmode none master br0 up && "
                "ip link set down0 addrgenmode none master switch up && "
                "ip link add old0 type veth peer name old1 && ip link set old1 up && "
                "ip link set old0 addrgenmode none master switch up"),
            0);
  ASSERT_TRUE(wait_until(
      [] { return output_of("bridge link show").find("state disabled") == std::string::npos; }));
  ASSERT_EQ(run(fmt::format("bridge fdb replace {} dev old0 master dynamic", kGuestMac)), 0);
  ASSERT_TRUE(announce_now({{"tap0", kGuestMac, {}}}));
  EXPECT_TRUE(wait_until([] {
    return output_of("bridge fdb show br switch").find(fmt::format("{} dev down0", kGuestMac)) !=
           std::string::npos;
  }));
  EXPECT_THAT(output_of("bridge fdb show br switch"),
              Not(HasSubstr(fmt::format("{} dev old0 master", kGuestMac))));
}

TEST_F(AnnounceTest, VlansOfTheDomainsPortAreKept) {
  if (run("ip link set br0 type bridge vlan_filtering 1") != 0) {
    GTEST_SKIP() << "this kernel's bridges do not filter VLANs";
  }
  ASSERT_EQ(run("bridge vlan del dev tap0 vid 1 && bridge vlan add dev tap0 vid 7 pvid untagged && "
                "bridge vlan add dev peer0 vid 7 && "
                "ip link add third0 type veth peer name third1 && "
                "ip link set third1 addrgenmode none up && "
                "ip link set third0 addrgenmode none master br0 up"),
            0);
  ASSERT_TRUE(wait_until(
      [] { return output_of("bridge link show").find("state disabled") == std::string::npos; }));
  ASSERT_EQ(run("ip link add link eth0 name vlan7 type vlan id 7 && ip link set vlan7 up && "
                "ip addr add 192.0.2.2/24 dev vlan7 && "
                "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 nud stale dev vlan7",
                peer_namespace_.get()),
            0);
  const std::string before = output_of("cat /proc/thread-self/net/dev | grep third0");
  ASSERT_TRUE(announce_now({{"tap0", kGuestMac, {addresses_[0]}}}));
  EXPECT_TRUE(wait_until([&] {
    return output_of("ip neigh show dev vlan7", peer_namespace_.get())
               .find(kGuestMac.to_string()) != std::string::npos;
  }));
  EXPECT_EQ(output_of("cat /proc/thread-self/net/dev | grep third0"), before)
      << "a port outside of the VLAN gets nothing";
}

TEST_F(AnnounceTest, GuestIsNotShownItsOwnAnnouncements) {
  const std::string line = "grep eth0 /proc/thread-self/net/dev";
  const std::string before = output_of(line, guest_namespace_.get());
  ASSERT_TRUE(announce_now({{"tap0", kGuestMac, addresses_}}, 3));
  EXPECT_EQ(output_of(line, guest_namespace_.get()), before);
}

TEST_F(AnnounceTest, WrongDeviceIsNamedAndTheOthersAreAnnounced) {
  ASSERT_EQ(run("ip link add lonely type veth peer name other"), 0);
  ASSERT_EQ(run(fmt::format("bridge fdb replace {} dev peer0 master dynamic", kGuestMac)), 0);
  const auto missing = announce_now({{"tap9", kGuestMac, {}}, {"tap0", kGuestMac, {}}});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::no_such);
  EXPECT_THAT(missing.error().message(), HasSubstr("tap9"));
  EXPECT_THAT(output_of("bridge fdb show br br0"),
              HasSubstr(fmt::format("{} dev tap0", kGuestMac)));
  const auto no_port = announce_now({{"lonely", kGuestMac, {}}});
  ASSERT_FALSE(no_port);
  EXPECT_EQ(no_port.error().code(), ErrorCode::config);
}

}  // namespace
}  // namespace understudy
