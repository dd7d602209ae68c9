// Page batches: each page in its smallest form, the mirror always in step with what was sent, and
// nothing written unless the whole batch is valid. Properties run over random histories of a small
// memory; damage is tried exhaustively on a small batch and at random on large ones.
#include "checkpoint/page_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <set>
#include <tuple>

#include "tests/checkpoint/pages.h"

namespace understudy {
namespace {

using test::copy_of;
using test::Memory;
using test::Write;
using testing::HasSubstr;

class Batches : public testing::Test {
 protected:
  std::vector<std::byte> encode_all() {
    return copy_of(encoder_.encode(EpochId(1), test::stage_all(memory_), *mirror_));
  }

  Memory memory_{16};
  std::shared_ptr<Mirror> mirror_ = Mirror::create(16).value();
  PageBatchEncoder encoder_;
};

/// Makes the checksum right again, so that what lies behind it is tested.
void sign(std::vector<std::byte>& batch) {
  const std::uint64_t checksum =
      XXH3_64bits_withSeed(batch.data() + kBatchHeaderBytes, batch.size() - kBatchHeaderBytes,
                           XXH3_64bits(batch.data(), 24));
  std::memcpy(batch.data() + 24, &checksum, sizeof(checksum));
}

TEST_F(Batches, untouched_zero_memory_sends_nothing) {
  EXPECT_TRUE(encode_all().empty());
  const EncodeStatistics statistics = encoder_.take_statistics();
  EXPECT_EQ(statistics.pages_in, 16U);
  EXPECT_EQ(statistics.pages_unchanged, 16U);
  EXPECT_EQ(statistics.encoded_bytes, 0U);
}

TEST_F(Batches, each_page_travels_in_its_smallest_form) {
  memory_.change(1, Write::random, 1);
  memory_.change(2, Write::random, 2);
  memory_.change(3, Write::octet, 3);
  (void)encode_all();
  (void)encoder_.take_statistics();
  memory_.change(1, Write::octet, 4);   // One line.
  memory_.change(2, Write::zero, 0);    // Zero again.
  memory_.change(4, Write::random, 5);  // New.
  const std::vector<std::byte> batch = encode_all();
  const EncodeStatistics statistics = encoder_.take_statistics();
  EXPECT_EQ(statistics.pages_lines, 1U);
  EXPECT_EQ(statistics.lines, 1U);
  EXPECT_EQ(statistics.pages_zero, 1U);
  EXPECT_EQ(statistics.pages_raw, 1U);
  EXPECT_EQ(statistics.pages_unchanged, 13U);
  EXPECT_EQ(statistics.encoded_bytes, batch.size());
  EXPECT_LE(batch.size(), kBatchHeaderBytes + 3 * 8 + 8 + kLineBytes + kPageBytes);
  PageBatchDecoder decoder;
  ASSERT_TRUE(decoder.decode(batch, 16));
  EXPECT_EQ(decoder.header().epoch, EpochId(1));
  ASSERT_EQ(decoder.pages().size(), 3U);
  EXPECT_EQ(decoder.pages()[0].form, PageForm::lines);
  EXPECT_EQ(decoder.pages()[1].form, PageForm::zero);
  EXPECT_EQ(decoder.pages()[2].form, PageForm::raw);
}

TEST_F(Batches, content_that_packs_well_is_packed) {
  for (std::size_t page = 0; page < 16; ++page) memory_.change(page, Write::text, 1);
  const std::vector<std::byte> batch = encode_all();
  EXPECT_LT(batch.size(), 16 * kPageBytes / 50);
  Memory image(16);
  ASSERT_TRUE(apply_batch(batch, image.bytes()));
  EXPECT_EQ(image, memory_);
}

TEST_F(Batches, a_batch_never_exceeds_its_bound) {
  Memory memory(kBatchPagesMax);
  const auto mirror = Mirror::create(kBatchPagesMax).value();
  for (std::size_t page = 0; page < kBatchPagesMax; ++page) {
    memory.change(page, Write::random, page);
  }
  const auto batch = copy_of(encoder_.encode(EpochId(1), test::stage_all(memory), *mirror));
  EXPECT_EQ(batch.size(), kBatchBytesMax);
  Memory image(kBatchPagesMax);
  ASSERT_TRUE(apply_batch(batch, image.bytes()));
  EXPECT_EQ(image, memory);
}

TEST_F(Batches, pages_with_one_line_unchanged_each_have_room_in_the_encoder) {
  // The largest plain body in form lines: 63 lines of each page.
  Memory memory(kBatchPagesMax);
  const auto mirror = Mirror::create(kBatchPagesMax).value();
  for (std::size_t page = 0; page < kBatchPagesMax; ++page) {
    memory.change(page, Write::random, page);
    std::memset(memory.page(page) + 5 * kLineBytes, 0, kLineBytes);
  }
  const auto batch = copy_of(encoder_.encode(EpochId(1), test::stage_all(memory), *mirror));
  EXPECT_EQ(encoder_.take_statistics().pages_lines, kBatchPagesMax);
  EXPECT_LE(batch.size(), kBatchBytesMax);
  Memory image(kBatchPagesMax);
  ASSERT_TRUE(apply_batch(batch, image.bytes()));
  EXPECT_EQ(image, memory);
}

TEST_F(Batches, without_copies_changed_pages_are_sent_whole_and_zero_ones_known) {
  const auto bits = Mirror::create(16, Mirror::Keep::zero_bits).value();
  Memory image(16);
  memory_.change(1, Write::random, 1);
  memory_.change(2, Write::octet, 2);
  for (int round = 0; round < 2; ++round) {
    const auto batch = copy_of(encoder_.encode(EpochId(1), test::stage_all(memory_), *bits));
    ASSERT_TRUE(apply_batch(batch, image.bytes()));
    EXPECT_EQ(image, memory_);
  }
  const EncodeStatistics statistics = encoder_.take_statistics();
  EXPECT_EQ(statistics.pages_unchanged, 28U);
  EXPECT_EQ(statistics.pages_lines, 1U);  // Against zeros, the first time.
  EXPECT_EQ(statistics.pages_raw, 3U);
  memory_.change(1, Write::zero, 0);
  const auto batch = copy_of(encoder_.encode(EpochId(1), test::stage_all(memory_), *bits));
  ASSERT_TRUE(apply_batch(batch, image.bytes()));
  EXPECT_EQ(image, memory_);
  EXPECT_EQ(encoder_.take_statistics().pages_zero, 1U);
}

TEST_F(Batches, every_truncation_and_every_flipped_bit_is_refused_and_nothing_written) {
  memory_.change(1, Write::octet, 1);
  memory_.change(2, Write::text, 2);
  (void)encode_all();
  memory_.change(1, Write::octet, 2);
  memory_.change(2, Write::zero, 2);
  memory_.change(3, Write::octet, 3);
  const std::vector<std::byte> batch = encode_all();
  Memory image(16);
  image.change(1, Write::random, 77);
  const Memory untouched = image;
  for (std::size_t length = 0; length < batch.size(); ++length) {
    EXPECT_FALSE(apply_batch(std::span(batch).first(length), image.bytes())) << length;
  }
  for (std::size_t bit = 0; bit < batch.size() * 8; ++bit) {
    std::vector<std::byte> damaged = batch;
    damaged[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    EXPECT_FALSE(apply_batch(damaged, image.bytes())) << "bit " << bit;
  }
  EXPECT_EQ(image, untouched);
}

TEST_F(Batches, lies_with_a_right_checksum_are_refused_by_name) {
  memory_.change(1, Write::random, 1);
  std::memset(memory_.page(1), 0, kLineBytes);  // Form lines.
  memory_.change(2, Write::random, 2);          // Form raw.
  const std::vector<std::byte> batch = encode_all();
  ASSERT_EQ(batch[1], std::byte{0}) << "random content must not have been packed";
  // Body: entries at 32 and 40, the bitmap at 48, content from 56 on.
  const auto lie = [&](std::size_t at, int value) {
    std::vector<std::byte> liar = batch;
    liar[at] = static_cast<std::byte>(value);
    sign(liar);
    Memory image(16);
    const Result<void> result = apply_batch(liar, image.bytes());
    if (result) return std::string("accepted");
    EXPECT_EQ(image, Memory(16));
    return result.error().message();
  };
  EXPECT_EQ(lie(40, 2), "accepted");  // The helper itself: nothing changed.
  EXPECT_THAT(lie(0, 2), HasSubstr("version 2"));
  EXPECT_THAT(lie(1, 0x80), HasSubstr("unknown flags"));
  EXPECT_THAT(lie(1, 1), HasSubstr("lz4"));
  EXPECT_THAT(lie(2, 0), HasSubstr("0 pages"));
  EXPECT_THAT(lie(3, 2), HasSubstr("pages"));
  EXPECT_THAT(lie(4, 0), HasSubstr("octets of body"));
  EXPECT_THAT(lie(8, 0), HasSubstr("plain"));
  EXPECT_THAT(lie(12, 1), HasSubstr("reserved"));
  EXPECT_THAT(lie(32, 3), HasSubstr("unknown form 3"));
  EXPECT_THAT(lie(32, 0), HasSubstr("too many"));        // Content left over.
  EXPECT_THAT(lie(32, 2), HasSubstr("content"));         // Content missing.
  EXPECT_THAT(lie(33, 2), HasSubstr("after page 2"));    // Doubled.
  EXPECT_THAT(lie(33, 9), HasSubstr("after page 9"));    // Falling.
  EXPECT_THAT(lie(41, 16), HasSubstr("memory has 16"));  // Beyond.
  EXPECT_THAT(lie(47, 1), HasSubstr("memory has 16"));   // Far beyond.
  EXPECT_THAT(lie(48, 0xFF), HasSubstr("content"));      // One line more than there is.
  EXPECT_THAT(lie(49, 0), HasSubstr("too many"));
}

TEST_F(Batches, a_plain_size_that_lies_about_lz4_is_refused) {
  for (std::size_t page = 0; page < 16; ++page) memory_.change(page, Write::text, 1);
  std::vector<std::byte> batch = encode_all();
  ASSERT_EQ(batch[1], std::byte{1});
  batch[8] = static_cast<std::byte>(std::to_integer<unsigned>(batch[8]) - 1);
  sign(batch);
  Memory image(16);
  const Result<void> result = apply_batch(batch, image.bytes());
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message(), HasSubstr("lz4"));
}

TEST(BatchChain, loss_doubling_and_disorder_show) {
  const auto chain = [](std::initializer_list<std::uint64_t> checksums) {
    BatchChain built;
    for (const std::uint64_t checksum : checksums) built.add(checksum);
    return built.value();
  };
  const std::set<std::uint64_t> values{chain({}),     chain({1}),       chain({2}), chain({1, 2}),
                                       chain({2, 1}), chain({1, 2, 2}), chain({0}), chain({0, 0})};
  EXPECT_EQ(values.size(), 8U);
}

// --- Properties ----------------------------------------------------------------------------------

constexpr std::size_t kPages = 12;

/// One epoch's writes: page, manner, seed.
using Writes = std::vector<std::tuple<std::uint8_t, std::uint8_t, std::uint16_t>>;

std::vector<std::size_t> write_all(Memory& memory, const Writes& writes) {
  std::set<std::size_t> dirty;
  for (const auto& [page, write, seed] : writes) {
    memory.change(page % kPages, static_cast<Write>(write % test::kWrites), seed);
    dirty.insert(page % kPages);
  }
  return {dirty.begin(), dirty.end()};
}

RC_GTEST_PROP(BatchProperty, the_image_follows_the_memory_through_any_history,
              (const std::vector<Writes>& history)) {
  const auto comparers = available_page_comparers();
  PageBatchEncoder encoder(*comparers[*rc::gen::inRange<std::size_t>(0, comparers.size())]);
  Memory memory(kPages);
  Memory image(kPages);
  const auto mirror = Mirror::create(kPages).value();
  for (const Writes& writes : history) {
    const std::vector<std::size_t> dirty = write_all(memory, writes);
    const auto batch = encoder.encode(EpochId(1), test::stage(memory, dirty), *mirror);
    if (!batch.empty()) RC_ASSERT(apply_batch(batch, image.bytes()).has_value());
    RC_ASSERT(image == memory);
    for (std::size_t page = 0; page < kPages; ++page) {
      RC_ASSERT(
          std::memcmp(mirror->known_content(PageNumber(page)), memory.page(page), kPageBytes) == 0);
    }
  }
}

RC_GTEST_PROP(BatchProperty, applying_twice_is_applying_once,
              (const std::vector<Writes>& history)) {
  Memory memory(kPages);
  Memory image(kPages);
  const auto mirror = Mirror::create(kPages).value();
  PageBatchEncoder encoder;
  for (const Writes& writes : history) {
    const auto batch =
        encoder.encode(EpochId(1), test::stage(memory, write_all(memory, writes)), *mirror);
    if (batch.empty()) continue;
    RC_ASSERT(apply_batch(batch, image.bytes()).has_value());
    RC_ASSERT(apply_batch(batch, image.bytes()).has_value());
    RC_ASSERT(image == memory);
  }
}

RC_GTEST_PROP(BatchProperty, a_damaged_batch_is_refused_and_changes_nothing,
              (const Writes& before, const Writes& writes)) {
  Memory memory(kPages);
  const auto mirror = Mirror::create(kPages).value();
  PageBatchEncoder encoder;
  (void)encoder.encode(EpochId(1), test::stage(memory, write_all(memory, before)), *mirror);
  Memory image = memory;
  auto batch =
      copy_of(encoder.encode(EpochId(2), test::stage(memory, write_all(memory, writes)), *mirror));
  RC_PRE(!batch.empty());
  const Memory untouched = image;
  if (*rc::gen::arbitrary<bool>()) {
    batch.resize(*rc::gen::inRange<std::size_t>(0, batch.size()));
  } else {
    const std::size_t at = *rc::gen::inRange<std::size_t>(0, batch.size());
    batch[at] ^= static_cast<std::byte>(*rc::gen::inRange(1, 256));
  }
  RC_ASSERT(apply_batch(batch, image.bytes()).has_error());
  RC_ASSERT(image == untouched);
}

}  // namespace
}  // namespace understudy
