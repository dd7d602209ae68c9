// Kernel modules that the kernel does not load by itself.
#pragma once

namespace understudy::netbuffer {

/// Runs `modprobe -q module` and waits for it. Whether it helped is for the caller to see: the
/// feature may be built in, or the program missing.
void load_kernel_module(const char* module);

}  // namespace understudy::netbuffer
