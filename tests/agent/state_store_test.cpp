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
  StateStore open() { return StateStore::open(folder_ / "domains").value(); }

  std::filesystem::path folder_;
  DomainRecord record_;
  std::map<std::string, Error> damaged_;
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
  EXPECT_NE(damaged_.at("web1").message().find("checksum"), std::string::npos);
}

TEST_F(StateStoreTest, FolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_ / "in-the-way") << "x";
  auto store = StateStore::open(folder_ / "in-the-way" / "domains");
  ASSERT_FALSE(store);
  EXPECT_NE(store.error().message().find("in-the-way"), std::string::npos);
}

}  // namespace
}  // namespace understudy
