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

Result<void> GuestMemory::map(Control& control, DomainId domid, Access access) {
  unmap();
  const int protection = access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
  std::uint64_t base = 0;
  for (const Area& area : layout_.areas()) {
    for (std::uint64_t done = 0; done < area.count; done += kPagesPerCall) {
      const std::uint64_t count = std::min(kPagesPerCall, area.count - done);
      std::vector<xen_pfn_t> frames(count);
      std::vector<int> errors(count);
      for (std::uint64_t i = 0; i < count; ++i) frames[i] = area.first_gfn + done + i;
      const std::uint64_t first = base + done;
      control.log().begin();
      mapped_ = true;
      void* const at = range_.bytes().data() + first * kPageBytes;
      if (::xenforeignmemory_map2(control.memory(), domid, at, protection, MAP_FIXED, count,
                                  frames.data(), errors.data()) == nullptr) {
        const Error error =
            control.log().error(errno, fmt::format("mapping the memory of domain {}", domid));
        unmap();
        return error;
      }
      for (std::uint64_t i = 0; i < count; ++i) {
        if (errors[i] == 0) continue;
        const std::uint64_t begin = i;
        while (i + 1 < count && errors[i + 1] != 0) ++i;
        const PageRange hole{first + begin, i - begin + 1};
        if (auto made = make_hole(hole.first, hole.count); !made) {
          unmap();
          return made.error();
        }
        if (!holes_.empty() && holes_.back().first + holes_.back().count == hole.first) {
          holes_.back().count += hole.count;
        } else {
          holes_.push_back(hole);
        }
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
