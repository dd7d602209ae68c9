#include "hypervisor/qemu/write_tracking.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "base/mapping.h"
#include "hypervisor/qemu/memory_file.h"
#include "hypervisor/qemu/pidfd.h"

namespace understudy {
namespace {

// From linux/userfaultfd.h and linux/fs.h of Linux 6.7, which Debian 12's headers do not have yet.
constexpr std::uint64_t kFeatureWpHugetlbfsShmem = 1u << 12;
constexpr std::uint64_t kFeatureWpUnpopulated = 1u << 13;
constexpr std::uint64_t kFeatureWpAsync = 1u << 15;
constexpr std::uint64_t kFeatures =
    kFeatureWpHugetlbfsShmem | kFeatureWpUnpopulated | kFeatureWpAsync;

struct ScanArguments {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t regions;
  std::uint64_t regions_count;
  std::uint64_t pages_max;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kProtectMatching = 1u << 0;
constexpr std::uint64_t kCheckAsynchronous = 1u << 1;
constexpr std::uint64_t kPageIsWritten = 1u << 1;

/// So many runs of pages fit into one answer; a longer answer takes further calls.
constexpr std::size_t kRegionsPerCall = 16384;

/// UFFDIO_API may be called once for each descriptor; later calls, as after an adoption, are
/// refused with EINVAL although all is well. A wrong guess shows at once, because registering fails
/// then.
Result<void> shake_hands(int userfaultfd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatures;
  if (::ioctl(userfaultfd, UFFDIO_API, &api) == 0) return ok();
  uffdio_api any{};
  any.api = UFFD_API;
  if (errno == EINVAL && ::ioctl(userfaultfd, UFFDIO_API, &any) != 0) return ok();
  return fail(ErrorCode::unavailable,
              "this kernel's userfaultfd has no asynchronous write-protection (Linux 6.7)");
}

Result<void> register_range(int userfaultfd, std::uint64_t address, std::uint64_t bytes) {
  uffdio_register request{};
  request.range.start = address;
  request.range.len = bytes;
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(userfaultfd, UFFDIO_REGISTER, &request) != 0) {
    return system_error(errno, "write-protecting guest memory (UFFDIO_REGISTER)");
  }
  return ok();
}

/// The lowest descriptor of the process that is a userfaultfd: the preloaded library opened it
/// before QEMU opened anything.
Result<int> find_userfaultfd(pid_t pid) {
  const std::string directory = fmt::format("/proc/{}/fd", pid);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(directory.c_str()), ::closedir);
  if (!entries) return system_error(errno, directory);
  int lowest = -1;
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string_view name(entry->d_name);
    int number = -1;
    if (std::from_chars(name.data(), name.data() + name.size(), number).ec != std::errc{}) continue;
    char target[64];
    const ssize_t length =
        ::readlinkat(::dirfd(entries.get()), entry->d_name, target, sizeof target);
    if (length <= 0) continue;
    const std::string_view link(target, static_cast<std::size_t>(length));
    if (link == "anon_inode:[userfaultfd]" && (lowest < 0 || number < lowest)) lowest = number;
  }
  if (lowest < 0) {
    return fail(ErrorCode::unavailable,
                "QEMU (process {}) holds no userfaultfd: understudy-preload.so was not loaded, or "
                "the kernel refused it",
                pid);
  }
  return lowest;
}

struct FoundMapping {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

/// Where the process has mapped the file. Neighbouring pieces are taken as one.
Result<FoundMapping> find_mapping(pid_t pid, int memory_fd, std::uint64_t bytes) {
  struct stat status {};
  if (::fstat(memory_fd, &status) != 0) return system_error(errno, "guest memory");
  const std::string path = fmt::format("/proc/{}/maps", pid);
  std::ifstream maps(path);
  FoundMapping found;
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0;
    unsigned long end = 0;
    unsigned long offset = 0;
    unsigned long inode = 0;
    unsigned int major_number = 0;
    unsigned int minor_number = 0;
    char mode[8];
    if (std::sscanf(line.c_str(), "%lx-%lx %7s %lx %x:%x %lu", &start, &end, mode, &offset,
                    &major_number, &minor_number, &inode) != 7) {
      continue;
    }
    if (inode != status.st_ino || makedev(major_number, minor_number) != status.st_dev) continue;
    if (offset == 0 && found.bytes == 0) found.address = start;
    if (start == found.address + found.bytes && offset == found.bytes) found.bytes += end - start;
  }
  if (found.bytes != bytes) {
    return fail(ErrorCode::unavailable, "{}: guest memory of {} bytes is not mapped in one piece",
                path, bytes);
  }
  return found;
}

}  // namespace

Result<void> probe_write_tracking() {
  UniqueFd userfaultfd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!userfaultfd.valid()) {
    constexpr int kUserModeOnly = 1;
    userfaultfd.reset(
        static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly)));
  }
  if (!userfaultfd.valid()) return system_error(errno, "userfaultfd");
  BOOST_OUTCOME_TRY(shake_hands(userfaultfd.get()));

  UniqueFd file(::memfd_create("understudy-probe", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), kPageBytes) != 0) {
    return system_error(errno, "memfd_create");
  }
  BOOST_OUTCOME_TRY(auto mapping,
                    Mapping::of_file(file.get(), kPageBytes, Mapping::Access::read_write, "probe"));
  const auto address = reinterpret_cast<std::uint64_t>(mapping.bytes().data());
  BOOST_OUTCOME_TRY(register_range(userfaultfd.get(), address, kPageBytes));
  UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return system_error(errno, "/proc/self/pagemap");
  ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.flags = kProtectMatching | kCheckAsynchronous;
  arguments.start = address;
  arguments.end = address + kPageBytes;
  arguments.category_mask = kPageIsWritten;
  if (::ioctl(pagemap.get(), kPagemapScan, &arguments) < 0) {
    return fail(ErrorCode::unavailable, "this kernel has no PAGEMAP_SCAN (Linux 6.7)");
  }
  return ok();
}

WriteTracker::WriteTracker(pid_t pid, UniqueFd userfaultfd, UniqueFd pagemap)
    : pid_(pid),
      userfaultfd_(std::move(userfaultfd)),
      pagemap_(std::move(pagemap)),
      regions_(kRegionsPerCall) {}

Result<WriteTracker> WriteTracker::open(pid_t pid, int pidfd) {
  BOOST_OUTCOME_TRY(const int number, find_userfaultfd(pid));
  UniqueFd userfaultfd(::pidfd_getfd(pidfd, number, 0));
  if (!userfaultfd.valid()) {
    return system_error(errno, fmt::format("taking the userfaultfd of process {}", pid));
  }
  // A pagemap belongs to the memory of the process that it was opened for, not to who opened it.
  const std::string path = fmt::format("/proc/{}/pagemap", pid);
  UniqueFd pagemap(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return system_error(errno, path);
  return WriteTracker(pid, std::move(userfaultfd), std::move(pagemap));
}

Result<void> WriteTracker::arm(int memory_fd, std::uint64_t bytes) {
  BOOST_OUTCOME_TRY(shake_hands(userfaultfd_.get()));
  BOOST_OUTCOME_TRY(const FoundMapping found, find_mapping(pid_, memory_fd, bytes));
  BOOST_OUTCOME_TRY(register_range(userfaultfd_.get(), found.address, found.bytes));
  mapping_address_ = found.address;
  mapping_bytes_ = found.bytes;
  return ok();
}

Result<void> WriteTracker::scan(std::uint64_t first, std::uint64_t count, DirtySet& out) {
  UNDERSTUDY_CHECK(armed(), "scan before arm");
  const std::uint64_t end = mapping_address_ + (first + count) * kPageBytes;
  std::uint64_t position = mapping_address_ + first * kPageBytes;
  while (position < end) {
    ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.flags = kProtectMatching | kCheckAsynchronous;
    arguments.start = position;
    arguments.end = end;
    arguments.regions = reinterpret_cast<std::uint64_t>(regions_.data());
    arguments.regions_count = regions_.size();
    arguments.category_mask = kPageIsWritten;
    arguments.return_mask = kPageIsWritten;
    const int filled = ::ioctl(pagemap_.get(), kPagemapScan, &arguments);
    if (filled < 0 && errno == EINTR) continue;
    if (filled < 0) return system_error(errno, "scanning for written pages (PAGEMAP_SCAN)");
    // Usually what follows lies behind what is there. But Linux walks in batches of 512 regions and
    // does not forget the position at which an earlier batch was full: after a walk that came to
    // its end, walk_end may still name that one. To go on from it is right with every kernel; what
    // was written again since then comes a second time, out of order.
    DirtySet again;
    for (int i = 0; i < filled; ++i) {
      const Region& region = regions_[static_cast<std::size_t>(i)];
      const PageRange range{(region.start - mapping_address_) / kPageBytes,
                            (region.end - region.start) / kPageBytes};
      const bool in_order = out.empty() || out.back().first + out.back().count <= range.first;
      append_range(in_order && again.empty() ? out : again, range);
    }
    if (!again.empty()) out = merge(out, again);
    // A process that has ended has no memory left to walk.
    if (arguments.walk_end <= position) {
      return fail(ErrorCode::unavailable, "scanning for written pages: process {} is gone", pid_);
    }
    position = arguments.walk_end;
  }
  return ok();
}

void WriteTracker::disarm() {
  if (!armed()) return;
  uffdio_range range{mapping_address_, mapping_bytes_};
  ::ioctl(userfaultfd_.get(), UFFDIO_UNREGISTER, &range);
  mapping_bytes_ = 0;
}

}  // namespace understudy
