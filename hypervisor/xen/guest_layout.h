// Where a guest's memory lies in its frame numbers, and how that becomes one linear range.
//
// The engine knows a domain's memory as pages 0…n-1 without gaps. A Xen guest's frames (gfns) have
// gaps: the window below 4 GiB that belongs to devices, the special pages under 0xff000, the ACPI
// tables. The layout is the list of the areas that are memory in the ordinary sense; put end to
// end they are the linear range. It is fixed by the domain's configuration, so both hosts have the
// same one, and it does not move when the guest balloons: a frame without a page inside an area is
// a hole, which reads as zeros.
//
// Left out on purpose: the special pages (xenstore and console rings, I/O requests, identity page
// table). The domain that holds the image has its own ones, made by the same builder at the same
// frames; a guest that comes out of a suspend expects the rings to be fresh. Grant frames and
// other pages that the guest maps outside its memory are mapped again by the guest itself.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "hypervisor/domain.h"

namespace understudy::xen {

/// A run of guest frames that are memory.
struct Area {
  std::uint64_t first_gfn = 0;
  std::uint64_t count = 0;  ///< At least 1.
  auto operator<=>(const Area&) const = default;
};

/// The areas of one guest, in rising order, disjoint, none empty.
class GuestLayout {
 public:
  GuestLayout() = default;
  /// Errors: bad_data when the areas are not as promised above, reach beyond 2^40 frames, or are
  /// more than kAreasMax.
  static Result<GuestLayout> of(std::vector<Area> areas);
  /// The layout that Xen's builder gives a PVH guest of `memory_kib`: up to the device window, the
  /// rest from 4 GiB on. `acpi_frames` of ACPI tables are at their usual place (0: none).
  static Result<GuestLayout> pvh(std::uint64_t memory_kib, std::uint64_t acpi_frames);

  /// What may be memory of an HVM guest, whose firmware and device model put some beside what its
  /// configuration says: where to look for it. Without the special pages (rings, I/O requests) and
  /// without what is not memory there (the interrupt controller).
  static std::vector<Area> hvm_windows(std::uint64_t memory_kib, std::uint64_t highest_frame);

  static constexpr std::size_t kAreasMax = 16;
  /// The frame at which Xen's builder stops to put memory below 4 GiB, and where the ACPI tables
  /// of a PVH guest begin.
  static constexpr std::uint64_t kLowMemoryEnd = 0xf0000;
  static constexpr std::uint64_t kAcpiBegin = 0xfc000;
  static constexpr std::uint64_t kHighMemoryBegin = 0x100000;
  /// Of an HVM guest: what its firmware takes for itself, and the special pages within it.
  static constexpr std::uint64_t kFirmwareBegin = 0xfc000;
  static constexpr std::uint64_t kInterruptControllerFrame = 0xfee00;
  static constexpr std::uint64_t kSpecialBegin = 0xfeff0;
  static constexpr std::uint64_t kSpecialEnd = 0xff000;
  /// Memory of devices (option ROMs) begins where the guest's own ends.
  static constexpr std::uint64_t kDeviceMemoryFrames = 0x1000;

  [[nodiscard]] const std::vector<Area>& areas() const { return areas_; }
  /// Pages of the linear range.
  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  /// One more than the highest frame: what a dirty bitmap has to reach to.
  [[nodiscard]] std::uint64_t end_gfn() const;
  /// The frame of a linear page, which must be below pages().
  [[nodiscard]] std::uint64_t gfn_of(std::uint64_t page) const;

  /// The set bits of a bitmap by frame, as linear pages. `bitmap` reaches to end_gfn() at least.
  [[nodiscard]] DirtySet dirty_pages(std::span<const std::uint64_t> bitmap) const;

  bool operator==(const GuestLayout&) const = default;

 private:
  std::vector<Area> areas_;
  std::uint64_t pages_ = 0;
};

}  // namespace understudy::xen
