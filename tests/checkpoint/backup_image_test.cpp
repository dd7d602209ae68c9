// The image on the backup: whole or nothing, holes stay holes, memory that runs out is an error and
// not a signal. The image is a real file in memory, because holes and limits are the kernel's.
#include "checkpoint/backup_image.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

using test::copy_of;
using test::Memory;
using test::Write;
using testing::HasSubstr;

constexpr std::size_t kPages = 64;

class Image : public testing::Test {
 protected:
  Image() { open_image(BackupLimits{}); }

  void open_image(BackupLimits limits) {
    image_ = BackupImage::create(mapping_.bytes(), file_.get(), limits).value();
  }

  static UniqueFd make_file() {
    UniqueFd file(::memfd_create("understudy-test-image", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(file.get(), kPages * kPageBytes), 0);
    return file;
  }

  /// Pages that the file really occupies.
  std::size_t file_pages() const {
    struct stat status {};
    EXPECT_EQ(::fstat(file_.get(), &status), 0);
    return static_cast<std::size_t>(status.st_blocks) * 512 / kPageBytes;
  }

  /// All changes of memory_ since the last call, as one batch.
  std::vector<std::byte> batch(EpochId epoch) {
    return copy_of(encoder_.encode(epoch, test::stage_all(memory_), *mirror_));
  }

  CheckpointBegin begin_of(std::uint64_t epoch, std::uint64_t base) const {
    return {ProtectionId(1), Generation(1), EpochId(epoch), EpochId(base), kPages, kPages};
  }

  std::vector<std::byte> device_record(std::uint64_t epoch) {
    const auto text = fmt::format("device state of epoch {}", epoch);
    return device_encoder_.encode(EpochId(epoch), std::as_bytes(std::span(text))).value();
  }

  std::string held_device_state() const {
    const auto held = image_->committed_device_state();
    return {reinterpret_cast<const char*>(held.data()), held.size()};
  }

  /// Sends the changes of memory_ as a checkpoint, up to its end; the end is returned.
  CheckpointEnd send(std::uint64_t epoch, std::uint64_t base) {
    EXPECT_TRUE(image_->begin(begin_of(epoch, base)));
    CheckpointEnd end{EpochId(epoch)};
    BatchChain chain;
    std::vector<std::byte> pages = batch(EpochId(epoch));
    if (!pages.empty()) {
      end.batches = 1;
      chain.add(pages);
      PageBatchDecoder decoder;
      EXPECT_TRUE(decoder.decode(pages, kPages));
      end.pages = decoder.pages().size();
      EXPECT_TRUE(image_->add(std::move(pages)));
    }
    EXPECT_TRUE(image_->device_state(device_record(epoch)));
    end.chain = chain.value();
    return end;
  }

  void commit(std::uint64_t epoch, std::uint64_t base) {
    const CheckpointEnd end = send(epoch, base);
    EXPECT_TRUE(image_->complete(end));
  }

  /// Reads the file and not the mapping: looking at a hole through a mapping gives it
  /// memory, which is also why BackupImage keeps a bit for each page.
  bool image_is(const Memory& memory) const {
    std::vector<std::byte> content(kPages * kPageBytes);
    EXPECT_EQ(::pread(file_.get(), content.data(), content.size(), 0),
              static_cast<ssize_t>(content.size()));
    return std::ranges::equal(content, memory.bytes());
  }

  UniqueFd file_ = make_file();
  Mapping mapping_ =
      Mapping::of_file(file_.get(), kPages* kPageBytes, Mapping::Access::read_write, "test image")
          .value();
  std::unique_ptr<BackupImage> image_;

  Memory memory_{kPages};
  std::shared_ptr<Mirror> mirror_ = Mirror::create(kPages).value();
  PageBatchEncoder encoder_;
  DeviceStateEncoder device_encoder_;
};

TEST_F(Image, a_complete_copy_and_then_epochs) {
  EXPECT_FALSE(image_->consistent());
  memory_.change(1, Write::random, 1);
  memory_.change(2, Write::octet, 2);
  commit(1, 0);
  EXPECT_TRUE(image_->consistent());
  EXPECT_EQ(image_->applied(), EpochId(1));
  EXPECT_TRUE(image_is(memory_));
  EXPECT_EQ(held_device_state(), "device state of epoch 1");
  memory_.change(1, Write::octet, 3);
  memory_.change(3, Write::random, 3);
  commit(2, 1);
  EXPECT_EQ(image_->committed(), EpochId(2));
  EXPECT_EQ(image_->applied(), EpochId(1));
  EXPECT_FALSE(image_is(memory_));
  EXPECT_EQ(image_->apply(), EpochId(2));
  EXPECT_TRUE(image_is(memory_));
  EXPECT_EQ(held_device_state(), "device state of epoch 2");
  EXPECT_EQ(image_->staged_bytes(), 0U);
}

TEST_F(Image, nothing_of_an_incomplete_checkpoint_is_ever_seen) {
  memory_.change(1, Write::random, 1);
  commit(1, 0);
  const Memory committed = memory_;
  memory_.change(1, Write::random, 2);
  memory_.change(9, Write::random, 3);
  (void)send(2, 1);
  EXPECT_TRUE(image_is(committed));
  EXPECT_EQ(image_->settle().value(), EpochId(1));  // The primary died.
  EXPECT_TRUE(image_is(committed));
  EXPECT_EQ(held_device_state(), "device state of epoch 1");
  EXPECT_FALSE(image_->receiving());
  EXPECT_EQ(image_->staged_bytes(), 0U);
}

TEST_F(Image, promotion_brings_in_what_was_acknowledged_but_not_applied) {
  memory_.change(1, Write::random, 1);
  commit(1, 0);
  memory_.change(1, Write::octet, 2);
  commit(2, 1);
  memory_.change(2, Write::random, 3);
  commit(3, 2);
  const Memory committed = memory_;
  memory_.change(2, Write::random, 4);
  (void)send(4, 3);
  EXPECT_EQ(image_->settle().value(), EpochId(3));
  EXPECT_TRUE(image_is(committed));
  EXPECT_EQ(held_device_state(), "device state of epoch 3");
}

TEST_F(Image, a_void_image_cannot_be_promoted) {
  const auto nothing = image_->settle();
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code(), ErrorCode::try_again);
  memory_.change(1, Write::random, 1);
  commit(1, 0);
  // A new complete copy makes the old image void from its first octet on.
  mirror_->reset();
  device_encoder_.reset();
  (void)send(2, 0);
  EXPECT_FALSE(image_->consistent());
  EXPECT_TRUE(image_->committed_device_state().empty());
  image_->drop();
  EXPECT_FALSE(image_->settle());
}

TEST_F(Image, a_second_complete_copy_starts_from_zeros_as_the_mirror_does) {
  for (std::size_t page = 0; page < kPages; ++page) memory_.change(page, Write::random, page);
  commit(1, 0);
  EXPECT_EQ(file_pages(), kPages);
  for (std::size_t page = 8; page < kPages; ++page) memory_.change(page, Write::zero, 0);
  mirror_->reset();
  device_encoder_.reset();
  commit(2, 0);
  EXPECT_TRUE(image_is(memory_));
  EXPECT_EQ(image_->populated_pages(), 8U);
}

TEST_F(Image, zero_pages_leave_holes_alone) {
  // A page that became zero on a primary which keeps no copies is sent although the backup has a
  // hole there: made here by a mirror that thinks otherwise.
  memory_.change(1, Write::random, 1);
  for (std::size_t page = 0; page < kPages; ++page) {
    memory_.change(page, Write::random, page);
  }
  (void)batch(EpochId(1));
  for (std::size_t page = 0; page < kPages; ++page) memory_.change(page, Write::zero, 0);
  commit(1, 0);
  EXPECT_EQ(image_->populated_pages(), 0U);
  EXPECT_EQ(file_pages(), 0U);
}

TEST_F(Image, only_pages_with_content_get_memory) {
  memory_.change(3, Write::octet, 1);
  memory_.change(4, Write::octet, 1);
  memory_.change(40, Write::random, 1);
  commit(1, 0);
  EXPECT_EQ(file_pages(), 3U);
  EXPECT_EQ(image_->populated_pages(), 3U);
}

TEST_F(Image, holes_are_found_when_an_image_is_taken_up_again) {
  memory_.change(3, Write::octet, 1);
  memory_.change(63, Write::octet, 1);
  commit(1, 0);
  open_image(BackupLimits{});
  EXPECT_EQ(image_->populated_pages(), 2U);
}

/// A file in a tmpfs of `pages` pages, mounted in a namespace of its own that ends with the thread
/// that made it; the descriptor keeps the file system alive. Invalid without the right to mount.
UniqueFd file_on_small_tmpfs(std::size_t pages) {
  UniqueFd file;
  std::jthread([&] {
    if (::unshare(CLONE_NEWNS) != 0) return;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    const std::string size = fmt::format("size={}", pages * kPageBytes);
    if (::mount("tmpfs", "/tmp", "tmpfs", 0, size.c_str()) != 0) return;
    file.reset(::open("/tmp/image", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(file.get(), kPages * kPageBytes), 0);
  }).join();
  return file;
}

TEST_F(Image, a_full_dev_shm_is_an_error_before_the_acknowledgement_and_no_signal) {
  UniqueFd small = file_on_small_tmpfs(16);
  if (!small.valid()) GTEST_SKIP() << "needs the right to mount";
  file_ = std::move(small);
  mapping_ =
      Mapping::of_file(file_.get(), kPages * kPageBytes, Mapping::Access::read_write, "image")
          .value();
  open_image(BackupLimits{});
  for (std::size_t page = 0; page < 10; ++page) memory_.change(page, Write::random, page);
  commit(1, 0);
  const Memory committed = memory_;
  for (std::size_t page = 5; page < 25; ++page) memory_.change(page, Write::random, 100 + page);
  ASSERT_TRUE(image_->begin(begin_of(2, 1)));
  const auto result = image_->add(batch(EpochId(2)));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::no_resources);
  EXPECT_THAT(result.error().message(), HasSubstr("memory for 15 pages from page 10 on"));
  EXPECT_FALSE(image_->complete(CheckpointEnd{EpochId(2)}));
  EXPECT_EQ(image_->settle().value(), EpochId(1));
  EXPECT_TRUE(image_is(committed));
}

TEST_F(Image, staging_is_bounded) {
  open_image(BackupLimits{.staged_bytes_max = 10'000});
  commit(1, 0);
  memory_.change(1, Write::random, 1);
  commit(2, 1);  // Waits for apply(), and counts.
  memory_.change(1, Write::random, 2);
  memory_.change(2, Write::random, 3);
  ASSERT_TRUE(image_->begin(begin_of(3, 2)));
  const auto result = image_->add(batch(EpochId(3)));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::no_resources);
  EXPECT_THAT(result.error().message(), HasSubstr("10000"));
}

TEST_F(Image, counts_chain_and_device_state_must_match) {
  const auto refused = [this](auto change) {
    memory_.change(5, Write::octet, 1);
    CheckpointEnd end = send(1, 0);
    change(end);
    const auto result = image_->complete(end);
    EXPECT_FALSE(image_->consistent());
    image_->drop();
    mirror_->reset();
    device_encoder_.reset();
    return result ? std::string("accepted") : result.error().message();
  };
  EXPECT_THAT(refused([](CheckpointEnd& end) { end.batches += 1; }), HasSubstr("2 batches"));
  EXPECT_THAT(refused([](CheckpointEnd& end) { end.pages -= 1; }), HasSubstr("0 pages"));
  EXPECT_THAT(refused([](CheckpointEnd& end) { end.chain ^= 1; }), HasSubstr("chain"));
  EXPECT_THAT(refused([](CheckpointEnd& end) { end.epoch = EpochId(2); }), HasSubstr("end of"));
  ASSERT_TRUE(image_->begin(begin_of(1, 0)));
  const auto result = image_->complete(CheckpointEnd{EpochId(1)});
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message(), HasSubstr("without device state"));
}

TEST_F(Image, what_comes_out_of_order_is_refused) {
  EXPECT_FALSE(image_->add(batch(EpochId(1))));
  EXPECT_FALSE(image_->device_state(device_record(1)));
  EXPECT_FALSE(image_->complete(CheckpointEnd{EpochId(1)}));
  device_encoder_.reset();
  EXPECT_FALSE(image_->begin(begin_of(2, 1)));  // Nothing to build upon.
  commit(5, 0);
  EXPECT_FALSE(image_->begin(begin_of(5, 0)));  // Once more.
  EXPECT_FALSE(image_->begin(begin_of(7, 6)));  // A gap.
  CheckpointBegin larger = begin_of(6, 5);
  larger.memory_pages = kPages + 1;
  EXPECT_FALSE(image_->begin(larger));
  ASSERT_TRUE(image_->begin(begin_of(6, 5)));
  EXPECT_FALSE(image_->begin(begin_of(7, 5)));  // One is open.
  EXPECT_TRUE(image_->consistent());
}

TEST_F(Image, a_batch_of_another_epoch_or_a_second_device_state_ends_the_checkpoint) {
  commit(1, 0);
  memory_.change(1, Write::octet, 1);
  ASSERT_TRUE(image_->begin(begin_of(2, 1)));
  EXPECT_FALSE(image_->add(batch(EpochId(3))));
  EXPECT_FALSE(image_->device_state(device_record(2)));  // Nothing is taken any more.
  image_->drop();
  device_encoder_.reset();
  ASSERT_TRUE(image_->begin(begin_of(2, 1)));
  const auto record = device_record(2);
  EXPECT_TRUE(image_->device_state(record));
  EXPECT_FALSE(image_->device_state(record));
  EXPECT_FALSE(image_->complete(CheckpointEnd{EpochId(2)}));
}

TEST_F(Image, without_a_file_a_new_copy_begins_with_zeros) {
  Memory plain(kPages);
  image_ = BackupImage::create(plain.bytes(), -1).value();
  memory_.change(1, Write::random, 1);
  commit(1, 0);
  EXPECT_EQ(plain, memory_);
  memory_.change(1, Write::zero, 1);
  commit(2, 1);
  image_->apply();
  EXPECT_EQ(plain, memory_);
  plain.change(3, Write::random, 3);  // Never told to the image, so never looked at.
  memory_.change(2, Write::random, 2);
  commit(3, 2);
  image_->apply();
  memory_.change(2, Write::zero, 2);
  mirror_->reset();
  device_encoder_.reset();
  commit(4, 0);
  plain.change(3, Write::zero, 3);
  EXPECT_EQ(plain, memory_);
}

TEST_F(Image, the_next_checkpoint_arrives_while_the_last_is_applied) {
  commit(1, 0);
  std::jthread worker;
  for (std::uint64_t epoch = 2; epoch < 40; ++epoch) {
    for (std::size_t i = 0; i < 20; ++i) {
      const std::size_t page = (epoch * 7 + i) % kPages;
      memory_.change(page, i % 5 == 0 ? Write::zero : Write::random, epoch * 100 + i);
    }
    commit(epoch, epoch - 1);  // While the worker is busy.
    if (worker.joinable()) worker.join();
    worker = std::jthread([this] { image_->apply(); });
  }
  worker.join();
  EXPECT_EQ(image_->settle().value(), EpochId(39));
  EXPECT_TRUE(image_is(memory_));
}

}  // namespace
}  // namespace understudy
