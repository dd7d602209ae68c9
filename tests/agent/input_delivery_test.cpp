// Goal: a mark's `delivered` never names an input that may not be inside the guest. Not tested
// here: that QEMU counts as it is said to (tests/qemu_domain).
#include "agent/input_delivery.h"

#include <gtest/gtest.h>

#include <array>

namespace understudy {
namespace {

using namespace std::chrono_literals;

constexpr Instant kStart{};

std::array<InputProgress, 1> progress(std::uint64_t taken, bool empty) {
  return {InputProgress{taken, empty}};
}

TEST(InputDelivery, nothing_is_certain_before_the_queue_was_seen_empty_in_a_pause) {
  InputDelivery delivery(1);
  delivery.on_given(kStart, 0, LogPosition(5));
  delivery.on_progress(progress(100, false), true);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(5), true), LogPosition(0));
  delivery.on_progress(progress(101, true), false);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(5), true), LogPosition(0)) << "it runs";
  delivery.on_progress(progress(101, true), true);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(5), false), LogPosition(4))
      << "all but the newest, which may be in QEMU's hands";
}

TEST(InputDelivery, what_waits_in_the_queue_and_the_newest_that_was_taken_are_not_inside) {
  InputDelivery delivery(1);
  delivery.on_progress(progress(1000, true), true);
  for (std::uint64_t number = 1; number <= 7; ++number)
    delivery.on_given(kStart, 0, LogPosition(10 * number));
  delivery.on_progress(progress(1005, false), false);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(70), true), LogPosition(49))
      << "the fifth, at 50, was taken last";
  delivery.on_progress(progress(1007, true), false);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(70), false), LogPosition(69));
  EXPECT_EQ(delivery.followed(), 1U);
}

TEST(InputDelivery, the_newest_is_inside_after_a_silence_if_the_guest_has_room) {
  InputDelivery delivery(1);
  delivery.on_progress(progress(0, true), true);
  delivery.on_given(kStart, 0, LogPosition(3));
  delivery.on_progress(progress(1, true), true);
  EXPECT_FALSE(delivery.silent(kStart + 999ms));
  EXPECT_TRUE(delivery.silent(kStart + 1s));
  EXPECT_EQ(delivery.certain(kStart + 1s, LogPosition(9), false), LogPosition(2));
  EXPECT_EQ(delivery.certain(kStart + 999ms, LogPosition(9), true), LogPosition(2));
  EXPECT_EQ(delivery.certain(kStart + 1s, LogPosition(9), true), LogPosition(9));
}

TEST(InputDelivery, a_frame_that_was_never_taken_is_not_inside_however_old) {
  InputDelivery delivery(1);
  delivery.on_progress(progress(0, true), true);
  delivery.on_given(kStart, 0, LogPosition(3));
  EXPECT_EQ(delivery.certain(kStart + 60s, LogPosition(9), true), LogPosition(2));
}

TEST(InputDelivery, the_interface_that_is_behind_decides) {
  InputDelivery delivery(2);
  const std::array<InputProgress, 2> begin = {InputProgress{0, true}, InputProgress{0, true}};
  delivery.on_progress(begin, true);
  delivery.on_given(kStart, 0, LogPosition(1));
  delivery.on_given(kStart, 1, LogPosition(2));
  delivery.on_given(kStart, 0, LogPosition(3));
  const std::array<InputProgress, 2> later = {InputProgress{2, true}, InputProgress{0, false}};
  delivery.on_progress(later, true);
  EXPECT_EQ(delivery.certain(kStart, LogPosition(3), true), LogPosition(1));
}

TEST(InputDelivery, a_frame_lost_behind_the_queue_does_not_hold_the_log_for_ever) {
  InputDelivery delivery(1);
  delivery.on_progress(progress(0, true), true);
  delivery.on_given(kStart, 0, LogPosition(1));
  delivery.on_given(kStart, 0, LogPosition(2));
  // One was dropped without being counted; the queue is empty, in a pause.
  delivery.on_progress(progress(1, true), true);
  delivery.on_given(kStart, 0, LogPosition(3));
  delivery.on_progress(progress(2, true), true);
  EXPECT_GE(delivery.certain(kStart, LogPosition(3), false).value, 1U);
}

}  // namespace
}  // namespace understudy
