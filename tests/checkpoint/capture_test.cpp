// Capture from end to end: dirty pages in, batches out, applied to an image; with an arena that is
// too small, a sink that is slow, a sink that fails, pages that come twice, and giving up half-way.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <optional>

#include "checkpoint/backup_image.h"
#include "checkpoint/checkpoint_encoder.h"
#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
using test::Memory;
using test::Write;

constexpr std::size_t kPages = 1500;

class Capture : public testing::Test {
 protected:
  ~Capture() override {
    capture_.reset();
    pool_.join();
  }

  void make_capture(std::size_t chunks, CaptureLimits limits = {}) {
    capture_ = std::make_unique<CheckpointCapture>(
        context_.get_executor(), pool_.get_executor(), StagingArena::create(chunks).value(),
        mirror_, [this](std::vector<std::byte> batch) { return sink(std::move(batch)); }, limits);
  }

  Task<Result<void>> sink(std::vector<std::byte> batch) {
    ++batches_;
    chain_.add(batch);
    if (batches_ == fail_at_) co_return fail(ErrorCode::unavailable, "the link is gone");
    // A slow link: others get their turn before it takes the batch.
    for (int i = 0; i < 3; ++i) {
      co_await asio::post(context_.get_executor(), asio::use_awaitable);
    }
    co_return apply_batch(batch, image_.bytes());
  }

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    asio::co_spawn(
        context_,
        [](Task<T> inner, std::optional<T>& outcome) -> Task<void> {
          outcome.emplace(co_await std::move(inner));
        }(std::move(task), result),
        asio::detached);
    // Until the coroutine is done, not until idle: work on the pool keeps posting.
    while (!result) context_.run_one();
    return *std::move(result);
  }

  Task<Result<CaptureTotals>> checkpoint(EpochId epoch, DirtySet dirty) {
    capture_->begin(epoch);
    BOOST_OUTCOME_CO_TRY(co_await capture_->copy(memory_.bytes(), dirty));
    co_return co_await capture_->send_rest();
  }

  void change_all(Write write, std::uint64_t seed) {
    for (std::size_t page = 0; page < kPages; ++page) memory_.change(page, write, seed + page);
  }

  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
  asio::thread_pool pool_{3};
  Memory memory_{kPages};
  Memory image_{kPages};
  std::shared_ptr<Mirror> mirror_ = Mirror::create(kPages).value();
  std::unique_ptr<CheckpointCapture> capture_;
  BatchChain chain_;
  std::uint64_t batches_ = 0;
  std::uint64_t fail_at_ = 0;
};

TEST_F(Capture, the_image_becomes_the_memory_and_totals_are_true) {
  make_capture(16);
  change_all(Write::random, 1);
  const CaptureTotals totals = run(checkpoint(EpochId(1), {{0, kPages}})).value();
  EXPECT_EQ(image_, memory_);
  EXPECT_EQ(totals.batches, batches_);
  EXPECT_EQ(totals.pages, kPages);
  EXPECT_EQ(totals.chain, chain_.value());
  EXPECT_EQ(totals.statistics.pages_raw, kPages);
}

TEST_F(Capture, a_dirty_set_larger_than_arena_and_limit_goes_through_both) {
  make_capture(2, {.encoded_bytes_max = 1});
  change_all(Write::random, 1);
  EXPECT_TRUE(run(checkpoint(EpochId(1), {{0, kPages}})));
  EXPECT_EQ(image_, memory_);
}

TEST_F(Capture, many_epochs_of_scattered_pages) {
  make_capture(4);
  std::mt19937_64 random(1);
  for (std::uint64_t epoch = 1; epoch < 25; ++epoch) {
    DirtySet dirty;
    for (std::uint64_t page = random() % 9; page < kPages; page += 1 + random() % 9) {
      memory_.change(page, static_cast<Write>(random() % test::kWrites), random());
      dirty.push_back({page, 1});
    }
    ASSERT_TRUE(run(checkpoint(EpochId(epoch), dirty)));
    ASSERT_EQ(image_, memory_) << "epoch " << epoch;
  }
}

TEST_F(Capture, unchanged_pages_send_nothing_which_is_full_compare) {
  make_capture(2);
  change_all(Write::text, 1);
  ASSERT_TRUE(run(checkpoint(EpochId(1), {{0, kPages}})));
  batches_ = 0;
  memory_.change(1200, Write::octet, 5);
  const CaptureTotals totals = run(checkpoint(EpochId(2), {{0, kPages}})).value();
  EXPECT_EQ(totals.pages, 1U);
  EXPECT_EQ(totals.statistics.pages_unchanged, kPages - 1);
  EXPECT_EQ(batches_, 1U);
  EXPECT_EQ(image_, memory_);
}

TEST_F(Capture, no_dirty_pages_make_an_empty_checkpoint) {
  make_capture(1);
  const CaptureTotals totals = run(checkpoint(EpochId(1), {})).value();
  EXPECT_EQ(totals.batches, 0U);
  EXPECT_EQ(totals.chain, 0U);
}

TEST_F(Capture, a_page_that_is_dirty_again_within_the_pause_arrives_in_its_last_state) {
  make_capture(16);
  for (std::uint64_t epoch = 1; epoch < 20; ++epoch) {
    change_all(Write::octet, epoch);
    capture_->begin(EpochId(epoch));
    ASSERT_TRUE(run(capture_->copy(memory_.bytes(), DirtySet{{0, 1000}})));
    // A device finished its write before its state was saved.
    memory_.change(17, Write::octet, epoch);
    memory_.change(999, epoch % 2 == 0 ? Write::zero : Write::random, epoch);
    ASSERT_TRUE(run(capture_->copy(memory_.bytes(), DirtySet{{17, 1}, {999, kPages - 999}})));
    ASSERT_TRUE(run(capture_->send_rest()));
    ASSERT_EQ(image_, memory_) << "epoch " << epoch;
  }
}

TEST_F(Capture, rounds_of_precopy_are_one_checkpoint) {
  make_capture(4);
  change_all(Write::text, 1);
  capture_->begin(EpochId(1));
  ASSERT_TRUE(run(capture_->copy(memory_.bytes(), DirtySet{{0, kPages}})));
  const CaptureTotals first = run(capture_->send_rest()).value();
  memory_.change(5, Write::octet, 1);
  ASSERT_TRUE(run(capture_->copy(memory_.bytes(), DirtySet{{5, 1}})));
  const CaptureTotals both = run(capture_->send_rest()).value();
  EXPECT_EQ(both.batches, first.batches + 1);
  EXPECT_EQ(both.pages, first.pages + 1);
  EXPECT_EQ(both.chain, chain_.value());
  EXPECT_EQ(image_, memory_);
}

TEST_F(Capture, a_dirty_set_that_breaks_its_promise_is_refused) {
  make_capture(2);
  capture_->begin(EpochId(1));
  const auto result = run(capture_->copy(memory_.bytes(), DirtySet{{kPages - 1, 2}}));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::internal);
  EXPECT_FALSE(run(capture_->copy(memory_.bytes().first(kPageBytes), DirtySet{{0, 1}})));
}

TEST_F(Capture, the_link_breaks_at_the_nth_batch_and_a_new_synchronisation_heals) {
  for (std::uint64_t n = 1; n <= 6; ++n) {
    capture_.reset();
    mirror_->reset();
    std::ranges::fill(image_.bytes(), std::byte{0});
    make_capture(3, {.encoded_bytes_max = 2 * kBatchBytesMax});
    change_all(Write::random, n);
    batches_ = 0;
    fail_at_ = n;
    const auto broken = run(checkpoint(EpochId(1), {{0, kPages}}));
    ASSERT_FALSE(broken) << n;
    EXPECT_EQ(broken.error().code(), ErrorCode::unavailable);
    fail_at_ = 0;
    capture_->abandon();
    mirror_->reset();
    std::ranges::fill(image_.bytes(), std::byte{0});
    ASSERT_TRUE(run(checkpoint(EpochId(2), {{0, kPages}})));
    EXPECT_EQ(image_, memory_) << n;
  }
}

TEST_F(Capture, may_go_at_any_time_while_workers_work) {
  change_all(Write::random, 1);
  for (int round = 0; round < 10; ++round) {
    make_capture(16);
    capture_->begin(EpochId(1));
    ASSERT_TRUE(run(capture_->copy(memory_.bytes(), DirtySet{{0, kPages}})));
    capture_.reset();
    mirror_->reset();
    EXPECT_EQ(mirror_->resident_bytes(), 0U);
  }
}

}  // namespace
}  // namespace understudy
