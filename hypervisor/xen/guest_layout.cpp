#include "hypervisor/xen/guest_layout.h"

#include <algorithm>
#include <bit>

namespace understudy::xen {
namespace {

constexpr std::uint64_t kFramesMax = std::uint64_t{1} << 40;
constexpr std::uint64_t kBitsPerWord = 64;

// Adds one page to a set whose last range may end right before it.
void append(DirtySet& set, std::uint64_t page) {
  if (!set.empty() && set.back().first + set.back().count == page) {
    ++set.back().count;
  } else {
    set.push_back({page, 1});
  }
}

}  // namespace

Result<GuestLayout> GuestLayout::of(std::vector<Area> areas) {
  if (areas.empty() || areas.size() > kAreasMax) {
    return fail(ErrorCode::bad_data, "guest layout: {} areas, expected 1 to {}", areas.size(),
                kAreasMax);
  }
  GuestLayout layout;
  std::uint64_t end = 0;
  for (const Area& area : areas) {
    if (area.count == 0 || area.count > kFramesMax || area.first_gfn > kFramesMax ||
        area.first_gfn < end) {
      return fail(ErrorCode::bad_data,
                  "guest layout: an area of {} frames from {:#x} on is empty, out of order or "
                  "beyond the address space",
                  area.count, area.first_gfn);
    }
    end = area.first_gfn + area.count;
    layout.pages_ += area.count;
  }
  layout.areas_ = std::move(areas);
  return layout;
}

Result<GuestLayout> GuestLayout::pvh(std::uint64_t memory_kib, std::uint64_t acpi_frames) {
  const std::uint64_t frames = memory_kib / 4;
  if (acpi_frames > kHighMemoryBegin - kAcpiBegin) {
    return fail(ErrorCode::bad_data, "guest layout: {} frames of ACPI tables", acpi_frames);
  }
  std::vector<Area> areas;
  if (frames > 0) areas.push_back({0, std::min(frames, kLowMemoryEnd)});
  if (acpi_frames > 0) areas.push_back({kAcpiBegin, acpi_frames});
  if (frames > kLowMemoryEnd) areas.push_back({kHighMemoryBegin, frames - kLowMemoryEnd});
  return of(std::move(areas));
}

std::vector<Area> GuestLayout::hvm_windows(std::uint64_t memory_kib, std::uint64_t highest_frame) {
  const std::uint64_t frames = memory_kib / 4;
  const std::uint64_t end = highest_frame + 1;
  std::vector<Area> windows;
  const auto add = [&](std::uint64_t first, std::uint64_t beyond) {
    beyond = std::min(beyond, end);
    if (first < beyond) windows.push_back({first, beyond - first});
  };
  add(0, std::min(frames + kDeviceMemoryFrames, kFirmwareBegin));
  add(kFirmwareBegin, kInterruptControllerFrame);
  add(kInterruptControllerFrame + 1, kSpecialBegin);
  add(kSpecialEnd, kHighMemoryBegin);
  if (frames > kLowMemoryEnd) {
    add(kHighMemoryBegin, kHighMemoryBegin + frames - kLowMemoryEnd + kDeviceMemoryFrames);
  }
  return windows;
}

std::uint64_t GuestLayout::end_gfn() const {
  return areas_.empty() ? 0 : areas_.back().first_gfn + areas_.back().count;
}

std::uint64_t GuestLayout::gfn_of(std::uint64_t page) const {
  for (const Area& area : areas_) {
    if (page < area.count) return area.first_gfn + page;
    page -= area.count;
  }
  UNDERSTUDY_CHECK(false, "guest layout: a page beyond the end");
  return 0;
}

DirtySet GuestLayout::dirty_pages(std::span<const std::uint64_t> bitmap) const {
  UNDERSTUDY_CHECK(bitmap.size() * kBitsPerWord >= end_gfn(), "guest layout: bitmap too short");
  DirtySet dirty;
  std::uint64_t base = 0;  // The linear page of the area's first frame.
  for (const Area& area : areas_) {
    const std::uint64_t end = area.first_gfn + area.count;
    for (std::uint64_t gfn = area.first_gfn; gfn < end;) {
      const std::uint64_t bit = gfn % kBitsPerWord;
      const std::uint64_t word = bitmap[gfn / kBitsPerWord] >> bit;
      if (word == 0) {
        gfn += kBitsPerWord - bit;
        continue;
      }
      gfn += static_cast<std::uint64_t>(std::countr_zero(word));
      if (gfn < end) append(dirty, base + gfn - area.first_gfn);
      ++gfn;
    }
    base += area.count;
  }
  return dirty;
}

}  // namespace understudy::xen
