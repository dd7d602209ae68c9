// Which Xen guests are protected, how, and in which words the others are refused. Goal: each kind
// of guest that docs/xen.md names has its outcome. What needs a real Xen is in tests/xen; hosts
// without HAP or with another Xen are not to be had there, so they are here.
#include <gtest/gtest.h>

#include "hypervisor/xen/guest_checks.h"
#include "hypervisor/xen/guest_layout.h"

namespace understudy::xen {
namespace {

void expect_refused(const GuestTraits& guest, std::string_view wanted, std::string_view words) {
  const auto chosen = choose_method(guest, wanted);
  ASSERT_FALSE(chosen) << words;
  EXPECT_NE(chosen.error().message().find(words), std::string::npos) << chosen.error().message();
}

TEST(XenGuestChecks, pvh_takes_part_and_hvm_is_stopped) {
  EXPECT_EQ(choose_method({}, "auto").value(), Method::cooperative);
  EXPECT_EQ(choose_method({}, "cooperative").value(), Method::cooperative);
  const GuestTraits hvm{.hvm = true, .pv_drivers = false};
  EXPECT_EQ(choose_method(hvm, "auto").value(), Method::transparent);
  EXPECT_EQ(choose_method(hvm, "transparent").value(), Method::transparent);
  EXPECT_NE(reason_for(Method::cooperative), reason_for(Method::transparent));
}

TEST(XenGuestChecks, a_method_that_would_lose_state_is_refused_even_if_insisted_on) {
  expect_refused({}, "transparent", "would lose it");
  expect_refused({.hvm = true, .pv_drivers = false}, "cooperative", "cannot take part");
}

TEST(XenGuestChecks, what_cannot_be_protected_is_refused_by_name) {
  expect_refused({.translated = false}, "auto", "PV domain");
  expect_refused({.hap = false}, "auto", "without hardware assisted paging");
  expect_refused({.hvm = true, .pv_drivers = true}, "auto", "uses PV drivers");
  expect_refused({.pv_drivers = false}, "auto", "shows no PV drivers");
}

TEST(XenGuestChecks, another_version_of_xen_cannot_hold_the_image) {
  EXPECT_FALSE(version_obstacle("4.17", "4.17"));
  EXPECT_EQ(version_obstacle("4.17", "4.19").value(),
            "version 4.17 here, 4.19 on the primary: the formats of state differ");
}

// The windows are looked through frame by frame; what they leave out must be left out.
TEST(XenGuestLayout, hvm_windows_leave_the_special_pages_out) {
  const auto small = GuestLayout::hvm_windows(128 * 1024, 0xfffff);
  ASSERT_EQ(small.size(), 4U);
  EXPECT_EQ(small[0], (Area{0, 0x8000 + GuestLayout::kDeviceMemoryFrames}));
  // Six GiB: the rest lies from 4 GiB on.
  const std::uint64_t frames = std::uint64_t{6} << 18U;
  const std::uint64_t highest = GuestLayout::kHighMemoryBegin + frames;
  const auto large = GuestLayout::hvm_windows(frames * 4, highest);
  EXPECT_EQ(large.back().first_gfn, GuestLayout::kHighMemoryBegin);
  for (const auto& windows : {small, large}) {
    ASSERT_TRUE(GuestLayout::of(windows));
    for (const Area& window : windows) {
      const auto holds = [&window](std::uint64_t frame) {
        return frame >= window.first_gfn && frame < window.first_gfn + window.count;
      };
      EXPECT_FALSE(holds(GuestLayout::kInterruptControllerFrame));
      EXPECT_FALSE(holds(0xfefff));  // xenstore's ring
      EXPECT_FALSE(holds(0xfeff8));
    }
  }
}

// A guest that never had a frame above its memory has no window there.
TEST(XenGuestLayout, hvm_windows_end_at_the_highest_frame) {
  const auto windows = GuestLayout::hvm_windows(128 * 1024, 0x7fff);
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_EQ(windows[0], (Area{0, 0x8000}));
}

}  // namespace
}  // namespace understudy::xen
