// A guest's memory, mapped into this process as one linear range.
//
// A range of addresses is reserved once, as long as the layout; the guest's pages are mapped into
// it, at fixed places. What has no page (a hole) reads as zeros and takes writes that mean nothing:
// private memory of ours. So the range is always safe to touch, mapped or not.
//
// Awkward case: a mapping keeps the guest's pages, not its frames. When the guest gives a page back
// (ballooning) and gets another for the same frame, the mapping still shows the old one. Whoever
// maps watches the domain's number of pages and maps again when it changes. For the same reason a
// destroyed domain does not quite go before its mappings go: unmap() first.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "hypervisor/xen/control.h"
#include "hypervisor/xen/guest_layout.h"

namespace understudy::xen {

class GuestMemory {
 public:
  enum class Access { read_only, read_write };

  static Result<GuestMemory> reserve(GuestLayout layout);

  /// Maps every page that the domain has. What was mapped before is let go of. Slow: call it on a
  /// thread that may block.
  Result<void> map(Control& control, DomainId domid, Access access);
  /// Shows zeros again.
  void unmap();
  [[nodiscard]] bool mapped() const { return mapped_; }

  [[nodiscard]] const GuestLayout& layout() const { return layout_; }
  [[nodiscard]] std::span<std::byte> bytes() { return range_.bytes(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return range_.bytes(); }
  /// Linear pages without memory, as of map().
  [[nodiscard]] const DirtySet& holes() const { return holes_; }
  /// All other linear pages.
  [[nodiscard]] DirtySet populated() const;

 private:
  GuestMemory(GuestLayout layout, Mapping range)
      : layout_(std::move(layout)), range_(std::move(range)) {}
  Result<void> make_hole(std::uint64_t first, std::uint64_t count);
  Result<void> map_stretch(Control& control, DomainId domid, int protection, std::uint64_t gfn,
                           const PageRange& stretch);
  Result<std::vector<int>> map_run(Control& control, DomainId domid, int protection,
                                   std::uint64_t gfn, const PageRange& run);

  GuestLayout layout_;
  Mapping range_;
  DirtySet holes_;
  bool mapped_ = false;
};

}  // namespace understudy::xen
