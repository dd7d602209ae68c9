// The file of paired peers: what is in it, what may not get in, what a failed write leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/transport/scratch_folder.h"
#include "transport/identity.h"

namespace understudy::transport {
namespace {

using testing::HasSubstr;

Fingerprint fingerprint(std::uint8_t octet) {
  Fingerprint made;
  made.octets.fill(octet);
  return made;
}

Peer host_b() {
  return {"hostB",
          fingerprint(0xb),
          {{{"192.0.2.2", 7411}, {}}, {{"2001:db8::2", 7411}, "2001:db8::1"}}};
}

TEST(PeerStore, what_was_put_is_there_after_a_restart) {
  const ScratchFolder folder;
  const auto file = folder.path() / "peers.json";
  {
    const auto store = PeerStore::load(file).value();
    EXPECT_TRUE(store->all().empty());
    ASSERT_TRUE(store->put(host_b()));
    ASSERT_TRUE(store->put({"hostC", fingerprint(0xc), {}}));
    ASSERT_TRUE(store->remove("hostC"));
  }
  const auto store = PeerStore::load(file);
  ASSERT_TRUE(store) << store.error().message();
  ASSERT_EQ(store.value()->all(), std::vector{host_b()});
  EXPECT_NE(store.value()->find(fingerprint(0xb)), nullptr);
  EXPECT_EQ(store.value()->find(fingerprint(0xc)), nullptr);
  struct stat about {};
  ASSERT_EQ(::stat(file.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600U);
}

TEST(PeerStore, a_name_cannot_be_taken_over_by_another_certificate) {
  const auto store = PeerStore::in_memory();
  ASSERT_TRUE(store->put(host_b()));
  const auto taken = store->put({"hostB", fingerprint(0xe), {}});
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), ErrorCode::exists);
  EXPECT_EQ(store->find("hostB")->fingerprint, fingerprint(0xb));
}

TEST(PeerStore, putting_the_same_certificate_again_replaces_name_and_addresses) {
  const auto store = PeerStore::in_memory();
  ASSERT_TRUE(store->put(host_b()));
  ASSERT_TRUE(store->put({"hostZ", fingerprint(0xb), {}}));
  ASSERT_EQ(store->all().size(), 1U);
  EXPECT_EQ(store->all().front().name, "hostZ");
}

TEST(PeerStore, bad_names_and_addresses_are_refused) {
  const auto store = PeerStore::in_memory();
  EXPECT_FALSE(store->put({"host B", fingerprint(1), {}}));
  EXPECT_FALSE(store->put({"hostB", fingerprint(1), {{{"hostB.example", 1}, {}}}}));
  EXPECT_FALSE(store->put({"hostB", fingerprint(1), {{{"192.0.2.1", 1}, "eth0"}}}));
  EXPECT_FALSE(store->put({"hostB", fingerprint(1), std::vector<PeerAddress>(17)}));
  EXPECT_TRUE(store->all().empty());
}

TEST(PeerStore, removing_an_unknown_peer_says_so) {
  const auto removed = PeerStore::in_memory()->remove("hostB");
  ASSERT_FALSE(removed);
  EXPECT_EQ(removed.error().code(), ErrorCode::no_such);
}

TEST(PeerStore, a_change_that_cannot_be_written_changes_nothing) {
  const ScratchFolder folder;
  const auto file = folder.path() / "peers.json";
  const auto store = PeerStore::load(file).value();
  ASSERT_TRUE(store->put(host_b()));
  // A folder that is not empty stands where the new file is to be written.
  std::filesystem::create_directories(file.string() + ".new/x");
  const auto put = store->put({"hostC", fingerprint(0xc), {}});
  ASSERT_FALSE(put);
  EXPECT_THAT(put.error().message(), HasSubstr("peers.json.new"));
  EXPECT_EQ(store->find("hostC"), nullptr);
  EXPECT_FALSE(store->remove("hostB"));
  EXPECT_NE(store->find("hostB"), nullptr);
  std::filesystem::remove_all(file.string() + ".new");
  EXPECT_EQ(PeerStore::load(file).value()->all(), std::vector{host_b()});
}

TEST(PeerStore, a_broken_file_is_refused_with_the_entry_that_is_wrong) {
  const ScratchFolder folder;
  const auto file = folder.path() / "peers.json";
  const std::string hex(64, 'a');
  const struct {
    std::string content;
    std::string complaint;
  } cases[] = {
      {"", "no JSON"},
      {"{", "no JSON"},
      {"[]", "\"version\": 1"},
      {R"({"version": 2, "peers": []})", "\"version\": 1"},
      {R"({"version": 1, "peers": {}})", "array \"peers\""},
      {R"({"version": 1, "peers": [7]})", "peer 0: expected an object"},
      {R"({"version": 1, "peers": [{"name": "b"}]})", "\"fingerprint\""},
      {R"({"version": 1, "peers": [{"name": "b", "fingerprint": "12"}]})", "64 hexadecimal"},
      {R"({"version": 1, "peers": [{"name": "b", "fingerprint": ")" + hex + R"("}]})",
       "\"addresses\""},
      {R"({"version": 1, "peers": [{"name": "b", "fingerprint": ")" + hex +
           R"(", "addresses": [{"remote": "b:1"}]}]})",
       "no address with port"},
      {R"({"version": 1, "peers": [{"name": "b", "fingerprint": ")" + hex +
           R"(", "addresses": []}, {"name": "b", "fingerprint": ")" + std::string(64, 'b') +
           R"(", "addresses": []}]})",
       "peer 1: name or fingerprint of 'b' occurs twice"},
  };
  for (const auto& [content, complaint] : cases) {
    std::ofstream(file) << content;
    ::chmod(file.c_str(), 0600);
    const auto store = PeerStore::load(file);
    ASSERT_FALSE(store) << content;
    EXPECT_EQ(store.error().code(), ErrorCode::bad_data);
    EXPECT_THAT(store.error().message(), HasSubstr(complaint));
    EXPECT_THAT(store.error().message(), HasSubstr("peers.json"));
  }
}

}  // namespace
}  // namespace understudy::transport
