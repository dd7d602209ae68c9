// The C library's process descriptors, usable from C++: glibc 2.36 forgot to say that they are C.
#pragma once

#include <sys/types.h>

extern "C" {
#include <sys/pidfd.h>
}
