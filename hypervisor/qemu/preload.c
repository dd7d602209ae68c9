// understudy-preload.so: opens one userfaultfd inside QEMU, and that is all.
//
// The kernel ties a userfaultfd to the memory of the process that opens it, so the process whose
// writes are to be tracked has to open it itself. Everything else (handshake, registering the
// guest's memory, scanning) is done from outside by the agent, which takes a copy of the descriptor
// by pidfd_getfd(2); see write_tracking.h. Until the agent does so, nothing in QEMU is any
// different.
//
// Loaded by LD_PRELOAD. The variable is removed at once, so that programs which QEMU starts do not
// inherit the library. A kernel that refuses leaves QEMU as it was; the agent then finds no
// descriptor and says why.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

__attribute__((constructor)) static void open_userfaultfd(void) {
  unsetenv("LD_PRELOAD");
  // Write-protection in asynchronous mode is resolved by the kernel for its own writes too, so the
  // restricted kind, which needs no privilege, is as good as the full one.
  if (syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) < 0) {
    (void)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  }
}
