// A kernel that never runs.
//
// libxl builds a PVH domain around a kernel image. The domain that holds an image for another host
// gets all its memory from there, kernel included, so whatever is loaded first is overwritten. This
// is the smallest image that Xen's builder accepts (an ELF file with the note that makes a PVH
// kernel, PHYS32_ENTRY), so a backup needs neither the guest's kernel nor its initramfs, and is
// built faster. Its one instruction halts.
#pragma once

#include <cstddef>
#include <vector>

namespace understudy::xen {

/// The octets of the ELF file.
std::vector<std::byte> placeholder_kernel();

}  // namespace understudy::xen
