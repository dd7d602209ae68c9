// Which pages a process wrote: asynchronous userfaultfd write-protection, read by PAGEMAP_SCAN
// (Linux 6.7; Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst).
//
// Intuition: protected pages carry a mark in QEMU's page tables. The first write to one takes a
// fault of about a microsecond, in which the kernel drops the mark and lets the write through,
// without asking anybody. One system call later finds all pages without a mark, and marks them
// again in the same instant: that is take-and-clear.
//
// The userfaultfd has to be opened by the process that writes; a preloaded library does that
// (preload.c) and nothing else. We fetch a copy by pidfd_getfd, so that an agent that was restarted
// gets it as easily as the one that started the process.
//
// Awkward cases: only writes through that process's own mapping are seen (kernel writes on its
// behalf, such as a read(2) into guest memory, included). A page that the process touches for the
// first time, even by reading, has no mark and is reported as written: harmless.
//
// The alternative not taken: soft-dirty bits, which need a pass over all page tables to clear and
// are often not built in; and QEMU's own dirty log, which no QMP command of 7.2 hands out page by
// page.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "hypervisor/domain.h"

namespace understudy {

/// Says whether this kernel can do it, by trying on a page of our own. Errors say what is missing.
Result<void> probe_write_tracking();

/// Tracks the writes of one process to one file that it has mapped.
class WriteTracker {
 public:
  /// Gets hold of the process's userfaultfd. Errors say which step was refused.
  static Result<WriteTracker> open(pid_t pid, int pidfd);

  /// Protects the mapping of the file behind `memory_fd`, all `bytes` of it. May be repeated. Pages
  /// are marked by the first scan().
  Result<void> arm(int memory_fd, std::uint64_t bytes);
  /// Appends to `out` the pages in [`first`, `first` + `count`) written since they were last
  /// scanned, and marks them anew. Sorted and disjoint. `arm` must have succeeded.
  Result<void> scan(std::uint64_t first, std::uint64_t count, DirtySet& out);
  /// Takes the protection away; writes cost nothing any more.
  void disarm();
  [[nodiscard]] bool armed() const { return mapping_bytes_ != 0; }

 private:
  WriteTracker(pid_t pid, UniqueFd userfaultfd, UniqueFd pagemap);

  /// One run of pages in the kernel's answer (struct page_region of linux/fs.h).
  struct Region {
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t categories;
  };

  pid_t pid_ = 0;
  UniqueFd userfaultfd_;
  UniqueFd pagemap_;
  std::uint64_t mapping_address_ = 0;  ///< In the address space of the process.
  std::uint64_t mapping_bytes_ = 0;
  std::vector<Region> regions_;  ///< Room for the kernel's answers, kept to save allocations.
};

}  // namespace understudy
