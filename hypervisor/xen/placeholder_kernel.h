// A kernel that never runs.
//
// libxl builds a PVH domain around a kernel image. The domain that holds an image for another host
// gets all its memory from there, kernel included, so whatever is loaded first is overwritten. This
// is the smallest image that Xen's builder accepts (an ELF file with the note that makes a PVH
// kernel, PHYS32_ENTRY), so a backup needs neither the guest's kernel nor its initramfs, and is
// built faster. Its one instruction halts.
//
// An HVM domain whose kernel is handed over by its device model (kernel= in its configuration)
// needs one, too, of another kind: without it the device model on the backup would have other
// devices than the one on the primary.
#pragma once

#include <cstddef>
#include <vector>

namespace understudy::xen {

/// For a PVH domain: the octets of an ELF file.
std::vector<std::byte> placeholder_kernel();
/// For an HVM domain: the octets of a Linux boot image (bzImage) that QEMU accepts.
std::vector<std::byte> placeholder_boot_image();

}  // namespace understudy::xen
