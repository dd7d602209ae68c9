// Records of domains: what is saved is read again, and what a disk spoilt is noticed.

#include "agent/state_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <fstream>

namespace understudy {
namespace {

class StateStoreTest : public testing::Test {
 protected:
  StateStoreTest() {
    std::string pattern = testing::TempDir() + "state-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    record_.name = "web1";
    record_.role = Role::primary;
    record_.generation = Generation(3);
    record_.protection = 77;
    record_.peer = "hostB";
    record_.mode = "remus";
    record_.interval_us = 25'000;
    record_.config = {{"name", "web1"}};
    record_.runtime = {{"pid", 1}};
  }
  ~StateStoreTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file() const { return folder_ / "domains" / "web1.domain.json"; }
  StateStore open() { return StateStore::open(folder_ / "domains", folder_ / "witnesses").value(); }

  std::filesystem::path folder_;
  DomainRecord record_;
  std::map<std::string, Damage> damaged_;
};

TEST_F(StateStoreTest, WhatIsSavedIsReadAgain) {
  ASSERT_TRUE(open().save(record_));
  const auto records = open().load(damaged_);
  ASSERT_EQ(records.size(), 1U);
  const auto& read = records.at("web1");
  EXPECT_EQ(read.role, Role::primary);
  EXPECT_EQ(read.generation, Generation(3));
  EXPECT_EQ(read.protection, 77U);
  EXPECT_EQ(read.peer, "hostB");
  EXPECT_EQ(read.config, record_.config);
  EXPECT_TRUE(damaged_.empty());
}

TEST_F(StateStoreTest, LaterSaveReplacesAndRemoveForgets) {
  const auto store = open();
  ASSERT_TRUE(store.save(record_));
  record_.generation = Generation(4);
  ASSERT_TRUE(store.save(record_));
  EXPECT_EQ(open().load(damaged_).at("web1").generation, Generation(4));
  ASSERT_TRUE(store.remove("web1"));
  ASSERT_TRUE(store.remove("web1"));
  EXPECT_TRUE(open().load(damaged_).empty());
}

TEST_F(StateStoreTest, EveryTornFileIsNoticed) {
  ASSERT_TRUE(open().save(record_));
  std::ifstream in(file());
  const std::string whole((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    std::ofstream(file(), std::ios::trunc) << whole.substr(0, bytes);
    damaged_.clear();
    EXPECT_TRUE(open().load(damaged_).empty()) << bytes;
    EXPECT_TRUE(damaged_.contains("web1")) << bytes;
  }
}

TEST_F(StateStoreTest, FlippedBitIsNoticed) {
  ASSERT_TRUE(open().save(record_));
  std::fstream change(file(), std::ios::in | std::ios::out);
  change.seekp(40);
  change.put('~');
  change.close();
  EXPECT_TRUE(open().load(damaged_).empty());
  EXPECT_NE(damaged_.at("web1").error.message().find("checksum"), std::string::npos);
}

TEST_F(StateStoreTest, OlderRecordIsNoticed) {
  ASSERT_TRUE(open().save(record_));
  std::filesystem::copy_file(file(), folder_ / "yesterday");
  record_.generation = Generation(4);
  ASSERT_TRUE(open().save(record_));
  std::filesystem::copy_file(folder_ / "yesterday", file(),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(open().load(damaged_).empty());
  EXPECT_NE(damaged_.at("web1").error.message().find("older"), std::string::npos);
  // A person may decide to trust it all the same.
  EXPECT_EQ(open().read_older("web1").value().generation, Generation(3));
}

TEST_F(StateStoreTest, LostRecordIsNoticed) {
  ASSERT_TRUE(open().save(record_));
  std::filesystem::remove(file());
  EXPECT_TRUE(open().load(damaged_).empty());
  EXPECT_NE(damaged_.at("web1").error.message().find("lost"), std::string::npos);
  ASSERT_TRUE(open().set_aside("web1"));
  damaged_.clear();
  open().load(damaged_);
  EXPECT_TRUE(damaged_.empty());
}

TEST_F(StateStoreTest, RecordOfAnotherNameIsNoticed) {
  ASSERT_TRUE(open().save(record_));
  std::filesystem::copy_file(file(), folder_ / "domains" / "web2.domain.json");
  EXPECT_EQ(open().load(damaged_).size(), 1U);
  EXPECT_TRUE(damaged_.contains("web2"));
}

TEST_F(StateStoreTest, CrashBetweenRecordAndWitnessLeavesTheNewerRecord) {
  ASSERT_TRUE(open().save(record_));
  std::filesystem::copy_file(folder_ / "witnesses" / "web1.witness", folder_ / "before");
  record_.generation = Generation(4);
  ASSERT_TRUE(open().save(record_));
  std::filesystem::copy_file(folder_ / "before", folder_ / "witnesses" / "web1.witness",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(open().load(damaged_).at("web1").generation, Generation(4));
  // After a reboot there is no witness at all.
  std::filesystem::remove_all(folder_ / "witnesses");
  EXPECT_EQ(open().load(damaged_).at("web1").generation, Generation(4));
  EXPECT_TRUE(damaged_.empty());
  record_.generation = Generation(5);
  ASSERT_TRUE(open().save(record_));
  EXPECT_EQ(open().load(damaged_).at("web1").generation, Generation(5));
}

TEST_F(StateStoreTest, DamagedRecordIsSetAsideNotDeleted) {
  ASSERT_TRUE(open().save(record_));
  std::ofstream(file(), std::ios::trunc) << "x";
  open().load(damaged_);
  ASSERT_TRUE(damaged_.contains("web1"));
  ASSERT_TRUE(open().set_aside("web1"));
  EXPECT_TRUE(std::filesystem::exists(file().string() + ".damaged"));
  damaged_.clear();
  EXPECT_TRUE(open().load(damaged_).empty());
  EXPECT_TRUE(damaged_.empty());
}

TEST_F(StateStoreTest, FolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_ / "in-the-way") << "x";
  auto store = StateStore::open(folder_ / "in-the-way" / "domains", folder_ / "witnesses");
  ASSERT_FALSE(store);
  EXPECT_NE(store.error().message().find("in-the-way"), std::string::npos);
}

}  // namespace
}  // namespace understudy
