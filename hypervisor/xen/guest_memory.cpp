#include "hypervisor/xen/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace understudy::xen {
namespace {

constexpr std::uint64_t kPagesPerCall = 8192;

}  // namespace

Result<GuestMemory> GuestMemory::reserve(GuestLayout layout) {
  BOOST_OUTCOME_TRY(auto range, Mapping::anonymous(layout.pages() * kPageBytes));
  return GuestMemory(std::move(layout), std::move(range));
}

Result<void> GuestMemory::make_hole(std::uint64_t first, std::uint64_t count) {
  void* const at = range_.bytes().data() + first * kPageBytes;
  if (::mmap(at, count * kPageBytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return system_error(errno, "address space for a guest's memory");
  }
  return ok();
}

Result<std::vector<int>> GuestMemory::map_run(Control& control, DomainId domid, int protection,
                                              std::uint64_t gfn, const PageRange& run) {
  std::vector<xen_pfn_t> frames(run.count);
  std::vector<int> errors(run.count);
  for (std::uint64_t i = 0; i < run.count; ++i) frames[i] = gfn + i;
  control.log().begin();
  void* const at = range_.bytes().data() + run.first * kPageBytes;
  if (::xenforeignmemory_map2(control.memory(), domid, at, protection, MAP_FIXED, run.count,
                              frames.data(), errors.data()) == nullptr) {
    return control.log().error(errno, fmt::format("mapping the memory of domain {}", domid));
  }
  return errors;
}

// Linux cannot take a part out of a mapping of a guest's pages. So what has no page must not be
// mapped in the first place: a stretch with holes is tried, taken away, and mapped run by run.
Result<void> GuestMemory::map_stretch(Control& control, DomainId domid, int protection,
                                      std::uint64_t gfn, const PageRange& stretch) {
  BOOST_OUTCOME_TRY(const auto missing, map_run(control, domid, protection, gfn, stretch));
  const auto is_hole = [](int error) { return error != 0; };
  if (std::ranges::none_of(missing, is_hole)) return ok();
  BOOST_OUTCOME_TRY(make_hole(stretch.first, stretch.count));
  for (std::uint64_t i = 0; i < stretch.count;) {
    const std::uint64_t begin = i;
    const bool hole = missing[begin] != 0;
    while (i < stretch.count && (missing[i] != 0) == hole) ++i;
    const PageRange run{stretch.first + begin, i - begin};
    if (!hole) {
      BOOST_OUTCOME_TRY(const auto errors, map_run(control, domid, protection, gfn + begin, run));
      if (std::ranges::any_of(errors, is_hole)) {
        return fail(ErrorCode::try_again, "the memory of domain {} changes while it is mapped",
                    domid);
      }
    } else if (!holes_.empty() && holes_.back().first + holes_.back().count == run.first) {
      holes_.back().count += run.count;
    } else {
      holes_.push_back(run);
    }
  }
  return ok();
}

Result<void> GuestMemory::map(Control& control, DomainId domid, Access access) {
  unmap();
  const int protection = access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
  std::uint64_t base = 0;
  for (const Area& area : layout_.areas()) {
    for (std::uint64_t done = 0; done < area.count; done += kPagesPerCall) {
      const PageRange stretch{base + done, std::min(kPagesPerCall, area.count - done)};
      mapped_ = true;
      if (auto mapped = map_stretch(control, domid, protection, area.first_gfn + done, stretch);
          !mapped) {
        unmap();
        return mapped.error();
      }
    }
    base += area.count;
  }
  return ok();
}

void GuestMemory::unmap() {
  if (!mapped_) return;
  // Replacing a mapping by private memory cannot fail for want of addresses: they are ours.
  UNDERSTUDY_CHECK(make_hole(0, layout_.pages()).has_value(),
                   "a guest's memory could not be unmapped");
  mapped_ = false;
  holes_.clear();
}

DirtySet GuestMemory::populated() const {
  DirtySet pages;
  std::uint64_t next = 0;
  for (const PageRange& hole : holes_) {
    if (hole.first > next) pages.push_back({next, hole.first - next});
    next = hole.first + hole.count;
  }
  if (next < layout_.pages()) pages.push_back({next, layout_.pages() - next});
  return pages;
}

}  // namespace understudy::xen
