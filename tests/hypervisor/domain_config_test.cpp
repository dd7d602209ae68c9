// Goal: a typo in a domain file is told with file, line and key; a valid config survives the way to
// the backup; whatever a peer sends is checked like whatever a user types.
#include "hypervisor/domain_config.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

namespace understudy {
namespace {

constexpr const char* kWhole = R"(name = "web1"
memory = "256 MiB"
vcpus = 2
kernel = "/boot/vmlinuz"
initrd = "/boot/initrd"
command_line = "console=ttyS0 quiet"
accelerator = "tcg"
console_log = "/var/log/web1"

[[nic]]
bridge = "br0"
mac = "52:54:00:12:34:56"

[[nic]]
bridge = "br1"
mac = "52:54:00:AB:CD:EF"
)";

std::string message_for(const std::string& text) {
  const auto config = DomainConfig::from_toml(text, "web1.toml");
  return config ? "accepted" : config.error().message();
}

TEST(DomainConfigTest, WholeFileIsRead) {
  const auto read = DomainConfig::from_toml(kWhole, "web1.toml");
  ASSERT_TRUE(read) << read.error().message();
  const DomainConfig& config = read.value();
  EXPECT_EQ(config.name, "web1");
  EXPECT_EQ(config.memory_bytes, std::uint64_t{256} << 20);
  EXPECT_EQ(config.vcpus, 2u);
  EXPECT_EQ(config.accelerator, Accelerator::tcg);
  ASSERT_EQ(config.nics.size(), 2u);
  EXPECT_EQ(config.nics[1].mac.to_string(), "52:54:00:ab:cd:ef");
  EXPECT_EQ(config.machine, "q35");
}

TEST(DomainConfigTest, TypoIsToldWithFileLineAndNearestKey) {
  EXPECT_EQ(message_for("name = \"a\"\nmemroy = \"1 GiB\"\n"),
            "web1.toml:2: unknown key \"memroy\"; did you mean \"memory\"?");
  const std::string far = message_for("xyzzy = 1\n");
  EXPECT_NE(far.find("web1.toml:1: unknown key \"xyzzy\"; known keys are name, memory"),
            std::string::npos)
      << far;
  EXPECT_NE(message_for("[[nic]]\nbrigde = \"br0\"\n").find("did you mean \"bridge\"?"),
            std::string::npos);
}

TEST(DomainConfigTest, WrongValuesNameLineAndKey) {
  const std::string start = "name = \"a\"\nmemory = \"64 MiB\"\nkernel = \"/k\"\n";
  EXPECT_EQ(message_for(start), "accepted");
  const auto expect = [&](const std::string& line, const std::string& part) {
    const std::string message = message_for(start + line);
    EXPECT_NE(message.find("web1.toml:4"), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("vcpus = 0\n", "vcpus");
  expect("vcpus = \"two\"\n", "vcpus");
  expect("initrd = \"relative/path\"\n", "initrd: \"relative/path\" must be an absolute path");
  expect("accelerator = \"xen\"\n", "automatic, kvm, tcg");
  expect("cpu = \"max -device evil\"\n", "cpu");
  expect("machine = \"q35,foo=bar\"\n", "machine");
  expect("image = 3\n", "image: expected text");
  expect("nic = 3\n", "[[nic]]");
  expect("name = \"b\"\n", "");  // A key given twice is the parser's to refuse.
  EXPECT_NE(message_for("name = \"a\"\nmemory = 256\n").find("web1.toml:2: memory: expected text"),
            std::string::npos);
  EXPECT_NE(message_for("name = \"a\"\nmemory = \"256\"\n").find("\"256 MiB\""), std::string::npos);
  EXPECT_NE(message_for("name = \"a\"\nmemory = \"1 KiB\"\nkernel = \"/k\"\n")
                .find("web1.toml:2: memory: 1024 bytes"),
            std::string::npos);
  EXPECT_NE(message_for("memory = \"64 MiB\"\nkernel = \"/k\"\n").find("missing key \"name\""),
            std::string::npos);
  EXPECT_NE(
      message_for("name = \"-a\"\nmemory = \"64 MiB\"\nkernel = \"/k\"\n").find("web1.toml:1"),
      std::string::npos);
  EXPECT_NE(message_for(start + "[[nic]]\nbridge = \"br0\"\n").find("missing key \"mac\""),
            std::string::npos);
  EXPECT_NE(message_for(start + "[[nic]]\nbridge = \"br0\"\nmac = \"52:54\"\n").find("web1.toml:6"),
            std::string::npos);
  EXPECT_NE(message_for("name = \"a\nmemory").find("web1.toml:1"), std::string::npos);
}

TEST(DomainConfigTest, LettersThatTheParserCannotTakeAreRefusedByLine) {
  const std::string start = "name = \"a\"\nmemory = \"64 MiB\"  # for Zoë's\nkernel = \"/k\"\n";
  EXPECT_EQ(message_for(start + "command_line = \"x=\\u00fc\"\n"), "accepted");
  EXPECT_NE(message_for(start + "command_line = \"x=ü\"\n").find("write it as \\uXXXX"),
            std::string::npos);
  EXPECT_NE(message_for(start + "schlüssel = 1\n").find("web1.toml:4: a character outside ASCII"),
            std::string::npos);
  EXPECT_NE(message_for("\xc5\xb3").find("web1.toml:1"), std::string::npos);
  EXPECT_NE(message_for(start + "cpu = \"\"\"\\\n ü\"\"\"\n").find("outside ASCII"),
            std::string::npos);
}

TEST(DomainConfigTest, HostilePeerIsRefusedByKey) {
  const auto refused = [](const char* text, const char* part) {
    const auto config = DomainConfig::from_json(boost::json::parse(text));
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().code(), ErrorCode::bad_data);
    EXPECT_NE(config.error().message().find(part), std::string::npos) << config.error().message();
  };
  refused("[]", "object");
  refused(R"({"name": 3})", "name");
  refused(R"({"name": "../../etc", "memory_bytes": 67108864, "kernel": "/k"})", "name");
  refused(R"({"name": "a", "memory_bytes": -1, "kernel": "/k"})", "memory_bytes");
  refused(R"({"name": "a", "memory_bytes": 67108864, "kernel": "/k", "later": 1})", "later");
  refused(R"({"name": "a", "memory_bytes": 67108864, "kernel": "/k", "nics": [{"bridge": "b"}]})",
          "nics");
  refused(R"({"name": "a", "memory_bytes": 67108864, "kernel": "/k", "cpu": "max,\n"})", "cpu");
  refused(R"({"name": "a", "memory_bytes": 67108864, "kernel": "/k\u0000x"})", "kernel");
}

TEST(DomainConfigTest, NothingIsLostOnTheWayToTheBackup) {
  EXPECT_TRUE(rc::check([] {
    DomainConfig config;
    config.name = "web" + std::to_string(*rc::gen::inRange(0, 1000));
    config.memory_bytes = std::uint64_t(*rc::gen::inRange(16, 100000)) << 20;
    config.vcpus = static_cast<unsigned>(*rc::gen::inRange(1, 256));
    const bool from_kernel = *rc::gen::arbitrary<bool>();
    if (from_kernel) {
      config.kernel = "/k";
      config.initrd = *rc::gen::element<std::string>("", "/i,with,commas");
      config.command_line = *rc::gen::element<std::string>("", "console=ttyS0 a=\"b c\"");
    } else {
      config.image = "/disk.qcow2";
    }
    config.machine = *rc::gen::element<std::string>("q35", "pc-q35-7.2", "microvm");
    config.cpu = *rc::gen::element<std::string>("max", "qemu64,+ssse3");
    config.accelerator =
        *rc::gen::element(Accelerator::automatic, Accelerator::kvm, Accelerator::tcg);
    const int nics = *rc::gen::inRange(0, 9);
    for (int i = 0; i < nics; ++i) {
      config.nics.push_back(
          {"br" + std::to_string(i), MacAddress{{0x52, 0x54, 0, *rc::gen::arbitrary<std::uint8_t>(),
                                                 0, static_cast<std::uint8_t>(i)}}});
    }
    RC_ASSERT(static_cast<bool>(config.validate()));
    const std::string wire = boost::json::serialize(config.to_json());
    const auto arrived = DomainConfig::from_json(boost::json::parse(wire));
    RC_ASSERT(static_cast<bool>(arrived));
    RC_ASSERT(arrived.value() == config);
  }));
}

}  // namespace
}  // namespace understudy
