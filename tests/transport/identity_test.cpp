// Names, fingerprints, addresses, and the file that holds this host's key.
#include "transport/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/transport/scratch_folder.h"

namespace understudy::transport {
namespace {

using testing::HasSubstr;

TEST(Fingerprint, is_read_in_both_forms_in_which_it_is_shown) {
  const auto identity = TlsIdentity::generate().value();
  const Fingerprint& fingerprint = identity->fingerprint();
  EXPECT_EQ(fingerprint.hex().size(), 64U);
  EXPECT_EQ(fingerprint.groups().size(), 64U + 15U);
  EXPECT_EQ(Fingerprint::parse(fingerprint.hex()).value(), fingerprint);
  EXPECT_EQ(Fingerprint::parse(fingerprint.groups()).value(), fingerprint);
}

TEST(Fingerprint, what_is_none_is_refused) {
  for (const std::string& text :
       {std::string(), std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'g')}) {
    EXPECT_FALSE(Fingerprint::parse(text)) << text;
  }
}

TEST(Endpoint, numeric_addresses_of_both_families_are_read_back) {
  for (const std::string text : {"192.0.2.1:7411", "[2001:db8::1]:7411", "127.0.0.1:0"}) {
    EXPECT_EQ(Endpoint::parse(text).value().text(), text);
  }
}

TEST(Endpoint, names_missing_ports_and_bare_v6_are_refused) {
  for (const std::string_view text :
       {"", ":", "hostB:7411", "192.0.2.1", "192.0.2.1:", "192.0.2.1:70000", "192.0.2.1:74x",
        "2001:db8::1:7411", "[192.0.2.1]:7411", "[2001:db8::1]", "192.0.2.300:1"}) {
    EXPECT_FALSE(Endpoint::parse(text)) << text;
  }
}

TEST(HostName, only_plain_names_pass) {
  for (const std::string& good :
       {std::string("hostA"), std::string("a"), std::string("b-1.lab_2"), std::string(63, 'x')}) {
    EXPECT_TRUE(check_host_name(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string(64, 'x'), std::string("-a"), std::string("a b"),
        std::string("a/b"), std::string("ä"), std::string("a\n"), std::string("../x")}) {
    EXPECT_FALSE(check_host_name(bad)) << bad;
  }
}

TEST(TlsIdentity, is_made_once_and_stays_the_same_after_a_restart) {
  const ScratchFolder folder;
  const auto file = folder.path() / "new" / "identity.pem";
  const auto first = TlsIdentity::load_or_create(file);
  ASSERT_TRUE(first) << first.error().message();
  const auto second = TlsIdentity::load_or_create(file);
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(first.value()->fingerprint(), second.value()->fingerprint());
  struct stat about {};
  ASSERT_EQ(::stat(file.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600U);
  ASSERT_EQ(::stat(file.parent_path().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700U);
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".new"));
}

TEST(TlsIdentity, two_hosts_never_have_the_same) {
  EXPECT_NE(TlsIdentity::generate().value()->fingerprint(),
            TlsIdentity::generate().value()->fingerprint());
}

TEST(TlsIdentity, a_key_that_others_can_read_is_refused) {
  const ScratchFolder folder;
  const auto file = folder.path() / "identity.pem";
  ASSERT_TRUE(TlsIdentity::load_or_create(file));
  ::chmod(file.c_str(), 0644);
  const auto again = TlsIdentity::load_or_create(file);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), ErrorCode::permission);
  EXPECT_THAT(again.error().message(), HasSubstr("mode 644"));
}

TEST(TlsIdentity, garbage_and_a_key_with_a_foreign_certificate_are_refused_and_left_alone) {
  const ScratchFolder folder;
  const auto one = folder.path() / "one.pem";
  const auto two = folder.path() / "two.pem";
  ASSERT_TRUE(TlsIdentity::load_or_create(one));
  ASSERT_TRUE(TlsIdentity::load_or_create(two));
  const auto text_of = [](const auto& file) {
    std::ifstream in(file);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string key = text_of(one).substr(0, text_of(one).find("-----BEGIN CERT"));
  const std::string foreign = text_of(two).substr(text_of(two).find("-----BEGIN CERT"));
  for (const std::string& content :
       {std::string("garbage"), std::string(), key, foreign, key + foreign}) {
    std::ofstream(one) << content;
    const auto loaded = TlsIdentity::load_or_create(one);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code(), ErrorCode::bad_data);
    EXPECT_THAT(loaded.error().message(), HasSubstr("one.pem"));
    EXPECT_EQ(text_of(one), content);
  }
}

TEST(TlsIdentity, what_a_crash_left_half_written_does_not_stand_in_the_way) {
  const ScratchFolder folder;
  const auto file = folder.path() / "identity.pem";
  std::ofstream(file.string() + ".new") << "half";
  EXPECT_TRUE(TlsIdentity::load_or_create(file));
}

}  // namespace
}  // namespace understudy::transport
