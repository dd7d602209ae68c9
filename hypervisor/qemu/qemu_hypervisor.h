// Domains on stock QEMU (7.2 or later; TCG or KVM; unmodified guests).
//
// Intuition: guest memory is a shared file that QEMU and we both map, so capturing it needs no help
// from QEMU; device state is what `migrate` writes when told to leave shared memory out; a standby
// is a QEMU that waits for an incoming migration and whose memory file we fill. What QEMU cannot
// give, the set of pages written, the kernel gives (see write_tracking.h).
//
// QEMU processes belong to themselves: they survive the death of the agent, and a later agent
// adopts them by process id and start time. What they hold dies with them: the memory file has no
// name and the taps are not persistent, so a crash of everything leaves no more than a socket and a
// log file.
//
// The alternative not taken: libvirt. It would own the command line, the monitor and the taps, and
// its view of a domain has no place for a checkpoint every 25 ms.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "hypervisor/domain.h"

namespace understudy {

/// How a QemuHypervisor works; the defaults suit a host of its own.
struct QemuOptions {
  /// Sockets and logs go here. Made if missing, for its owner only. Short: unix sockets allow 107
  /// characters for the whole path.
  std::filesystem::path runtime_directory = "/run/understudy";
  /// A tmpfs (or hugetlbfs) for guest memory.
  std::filesystem::path memory_directory = "/dev/shm";
  /// understudy-preload.so; empty means beside the running program, or where the build or the
  /// package put it.
  std::filesystem::path preload_library;
  /// Looked up in PATH unless it has a slash.
  std::string qemu_binary = "qemu-system-x86_64";
  /// Set only to try one of them: nothing is chosen automatically then, and a method that does not
  /// work is an error.
  std::optional<TrackingMethod> force_tracking;
  /// For QEMU to come up, and to go away.
  std::chrono::milliseconds start_timeout_ms{15000};
  /// For any single answer of a running QEMU.
  std::chrono::milliseconds answer_timeout_ms{5000};
  /// More device state than this is refused, and the checkpoint with it.
  std::size_t device_state_bytes_max = std::size_t{64} << 20;
};

/// A hypervisor that runs everything on `executor`, which must be that of a single-threaded
/// io_context and outlive what is made here.
std::unique_ptr<Hypervisor> make_qemu_hypervisor(boost::asio::any_io_executor executor,
                                                 QemuOptions options);

}  // namespace understudy
