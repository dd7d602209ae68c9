// The frame decoder against every way in which a stream can go wrong. Goal: a frame is delivered
// exactly as it was sent, or the stream ends with an error that says why; nothing in between.
#include "transport/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>

namespace understudy::transport {
namespace {

using testing::HasSubstr;
using Octets = std::vector<std::byte>;

constexpr std::size_t kLimit = 1 << 20;

Octets octets(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Octets frame(FrameType type, const Octets& payload, std::uint64_t sequence,
             std::uint32_t flags = kFrameNoFlags) {
  const auto header = encode_frame_header(type, flags, sequence, payload);
  Octets all(header.begin(), header.end());
  all.insert(all.end(), payload.begin(), payload.end());
  return all;
}

// The error that a stream ends in; empty when it does not.
std::string error_of(FrameDecoder& decoder, ErrorCode* code = nullptr) {
  for (;;) {
    const auto next = decoder.next();
    if (!next) {
      if (code != nullptr) *code = next.error().code();
      return next.error().message();
    }
    if (!next.value()) return {};
  }
}

std::string error_after(const Octets& stream, ErrorCode* code = nullptr) {
  FrameDecoder decoder(kLimit);
  decoder.feed(stream);
  return error_of(decoder, code);
}

void put(Octets& frame, std::size_t at, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) frame[at + i] = static_cast<std::byte>(value >> (8 * i));
}

TEST(Frame, has_the_octets_that_the_document_draws) {
  // Written out by hand from docs/protocol-frames.md, apart from the checksum.
  const Octets made = frame(FrameType::control, octets("{}"), 7, kFrameIgnorable);
  ASSERT_EQ(made.size(), 34U);
  const std::array<unsigned char, 24> expected = {'U', 'N', 'D', 'S', 1, 0, 16, 0, 2, 0, 0, 0,
                                                  1,   0,   0,   0,   7, 0, 0,  0, 0, 0, 0, 0};
  EXPECT_EQ(std::memcmp(made.data(), expected.data(), expected.size()), 0);
}

TEST(Frame, head_and_body_give_the_same_octets_as_one_payload) {
  const Octets whole = octets("headbody");
  EXPECT_EQ(encode_frame_header(FrameType::page_batch, 0, 3, whole),
            encode_frame_header(FrameType::page_batch, 0, 3, octets("head"), octets("body")));
}

TEST(Frame, any_frames_cut_anywhere_arrive_as_they_were_sent) {
  const bool holds = rc::check([](const std::vector<std::vector<std::uint8_t>>& payloads) {
    Octets stream;
    for (std::size_t i = 0; i < payloads.size(); ++i) {
      Octets payload(payloads[i].size());
      if (!payload.empty()) std::memcpy(payload.data(), payloads[i].data(), payload.size());
      const auto part = frame(FrameType::control, payload, i + 1);
      stream.insert(stream.end(), part.begin(), part.end());
    }
    FrameDecoder decoder(kLimit);
    std::size_t arrived = 0;
    const bool in_place = *rc::gen::arbitrary<bool>();
    for (std::span<const std::byte> rest = stream; !rest.empty();) {
      const auto cut = *rc::gen::inRange<std::size_t>(1, 80);
      if (in_place) {
        const auto space = decoder.space();
        RC_ASSERT(!space.empty());
        const auto bytes = std::min({cut, rest.size(), space.size()});
        std::memcpy(space.data(), rest.data(), bytes);
        decoder.filled(bytes);
        rest = rest.subspan(bytes);
      } else {
        const auto bytes = std::min(cut, rest.size());
        decoder.feed(rest.first(bytes));
        rest = rest.subspan(bytes);
      }
      for (;;) {
        auto next = decoder.next();
        RC_ASSERT(next.has_value());
        if (!next.value()) break;
        RC_ASSERT(arrived < payloads.size());
        RC_ASSERT(next.value()->payload.size() == payloads[arrived].size());
        // Outside the macro, which takes its expression apart and would compare empty ones, too.
        const bool same = payloads[arrived].empty() ||
                          std::memcmp(next.value()->payload.data(), payloads[arrived].data(),
                                      payloads[arrived].size()) == 0;
        RC_ASSERT(same);
        ++arrived;
      }
    }
    RC_ASSERT(arrived == payloads.size());
    RC_ASSERT(decoder.at_frame_border());
  });
  EXPECT_TRUE(holds);
}

TEST(Frame, a_truncated_frame_is_never_delivered) {
  const Octets whole = frame(FrameType::control, octets("hello there"), 1);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    FrameDecoder decoder(kLimit);
    decoder.feed(std::span(whole).first(length));
    const auto next = decoder.next();
    ASSERT_TRUE(next) << length;
    EXPECT_FALSE(next.value()) << length;
    EXPECT_EQ(decoder.at_frame_border(), length == 0) << length;
  }
}

TEST(Frame, every_single_flipped_bit_is_found) {
  const Octets whole = frame(FrameType::control, octets("a payload of some octets"), 1);
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    Octets broken = whole;
    broken[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    FrameDecoder decoder(kLimit);
    decoder.feed(broken);
    // A length that became larger makes the decoder wait for octets: give it some.
    decoder.feed(Octets(kLimit));
    const auto next = decoder.next();
    EXPECT_FALSE(next) << "bit " << bit << " went unnoticed";
  }
}

TEST(Frame, a_length_above_the_limit_is_refused_before_memory_is_taken) {
  Octets claim = frame(FrameType::control, {}, 1);
  put(claim, 8, 0xffffffff, 4);
  FrameDecoder decoder(1000);
  decoder.feed(claim);
  ErrorCode code{};
  EXPECT_THAT(error_of(decoder, &code), HasSubstr("announces 4294967295 octets"));
  EXPECT_EQ(code, ErrorCode::bad_data);
  EXPECT_TRUE(decoder.space().empty());
}

TEST(Frame, the_limit_itself_is_accepted_and_one_octet_more_is_not) {
  FrameDecoder decoder(1000);
  decoder.feed(frame(FrameType::control, Octets(1000), 1));
  EXPECT_EQ(decoder.next().value()->payload.size(), 1000U);
  decoder.feed(frame(FrameType::control, Octets(1001), 2));
  EXPECT_THAT(error_of(decoder), HasSubstr("limit of 1000"));
}

TEST(Frame, no_link_can_raise_its_limit_above_the_ceiling) {
  Octets claim = frame(FrameType::control, {}, 1);
  put(claim, 8, kPayloadBytesCeiling + 1, 4);
  FrameDecoder decoder(~std::size_t{0});
  decoder.feed(claim);
  EXPECT_THAT(error_of(decoder), HasSubstr("more than the limit"));
}

TEST(Frame, a_replayed_frame_is_refused) {
  Octets stream = frame(FrameType::control, octets("pay 100"), 1);
  const Octets again = stream;
  stream.insert(stream.end(), again.begin(), again.end());
  EXPECT_THAT(error_after(stream), HasSubstr("frame number 1, expected 2: replayed or reordered"));
}

TEST(Frame, a_missing_frame_is_noticed) {
  EXPECT_THAT(error_after(frame(FrameType::control, {}, 2)),
              HasSubstr("frame number 2, expected 1: frames lost"));
}

TEST(Frame, swapped_frames_are_refused) {
  Octets stream = frame(FrameType::control, octets("second"), 2);
  const Octets first = frame(FrameType::control, octets("first"), 1);
  stream.insert(stream.end(), first.begin(), first.end());
  EXPECT_THAT(error_after(stream), HasSubstr("expected 1"));
}

TEST(Frame, an_unknown_type_ends_the_stream_unless_it_may_be_ignored) {
  const FrameType unknown{999};
  ErrorCode code{};
  EXPECT_THAT(error_after(frame(unknown, octets("?"), 1), &code), HasSubstr("unknown type 999"));
  EXPECT_EQ(code, ErrorCode::protocol);

  FrameDecoder decoder(kLimit);
  decoder.feed(frame(unknown, octets("?"), 1, kFrameIgnorable));
  decoder.feed(frame(FrameType::control, octets("!"), 2));
  const auto next = decoder.next();
  ASSERT_TRUE(next && next.value());
  EXPECT_EQ(next.value()->payload, octets("!"));
  EXPECT_EQ(decoder.skipped(), 1U);
}

TEST(Frame, unknown_flags_other_versions_and_foreign_octets_are_refused) {
  ErrorCode code{};
  EXPECT_THAT(error_after(frame(FrameType::control, {}, 1, 1U << 31), &code),
              HasSubstr("unknown flags"));
  EXPECT_EQ(code, ErrorCode::protocol);
  Octets other = frame(FrameType::control, {}, 1);
  put(other, 4, 2, 2);
  EXPECT_THAT(error_after(other, &code), HasSubstr("version 2, expected version 1"));
  EXPECT_EQ(code, ErrorCode::protocol);
  EXPECT_THAT(error_after(octets("GET / HTTP/1.1\r\nHost: example\r\n\r\n")), HasSubstr("'UNDS'"));
}

TEST(Frame, frames_before_the_break_are_still_delivered_and_none_after_it) {
  FrameDecoder decoder(kLimit);
  decoder.feed(frame(FrameType::control, octets("good"), 1));
  Octets bad = frame(FrameType::control, octets("bad"), 2);
  bad.back() ^= std::byte{1};
  decoder.feed(bad);
  decoder.feed(frame(FrameType::control, octets("late"), 2));
  ASSERT_EQ(decoder.next().value()->payload, octets("good"));
  EXPECT_FALSE(decoder.next());
  EXPECT_FALSE(decoder.next());
  EXPECT_FALSE(decoder.at_frame_border());
}

TEST(Frame, every_type_of_the_protocol_has_a_name_and_no_other_has) {
  unsigned named = 0;
  for (unsigned type = 0; type < 65536; ++type) {
    if (to_string(FrameType{static_cast<std::uint16_t>(type)}) != "unknown") ++named;
  }
  EXPECT_EQ(named, 19U);
}

}  // namespace
}  // namespace understudy::transport
