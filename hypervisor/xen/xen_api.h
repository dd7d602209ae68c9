// Xen's C headers, in one place: they are written for C with GNU extensions and need care in C++.
#pragma once

extern "C" {
#include <xenctrl.h>
#include <xenforeignmemory.h>
#include <xenguest.h>
#include <xenstore.h>
#include <xentoollog.h>
// After xenctrl.h:
#include <xen/hvm/params.h>
}
