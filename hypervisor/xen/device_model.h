// The device model of an HVM domain: the QEMU that libxl has started for it, asked over its
// monitor.
//
// Intuition: four words. It stops (no device writes to the guest's memory any more), gives its
// devices' state, goes on; on the backup another one, which waits for an incoming migration, takes
// such a state and goes on from there. The guest's memory is not its business: Xen has that.
// Everything blocks, for some milliseconds; used on the domain's thread.
//
// libxl gives each device model two monitors: one for itself, which it opens for each command, and
// one for tools that look at statistics. This is the second one, so libxl is never kept waiting.
//
// Awkward cases: a device model writes to the guest's memory by itself (network cards do), past the
// hypervisor's log of written pages; it tells Xen of it only while log_writes() is on. A connection
// that a dead process held may have left it stopped: whoever connects anew lets it go on.
//
// Not taken: xen-load-devices-state, made for this purpose. In QEMU 7.2 it ends QEMU by a failed
// assertion whenever it is called.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "hypervisor/qemu/qmp_message.h"

namespace understudy::xen {

class DeviceModel {
 public:
  /// The monitor of a domain's device model.
  static std::filesystem::path monitor_of(std::uint32_t domid);

  /// Connects to the monitor at `monitor`. States pass through files in `scratch`, which should lie
  /// in memory. Errors: unavailable, if nobody answers there.
  static Result<std::unique_ptr<DeviceModel>> connect(const std::filesystem::path& monitor,
                                                      std::filesystem::path scratch);

  /// All its devices stand still. Does nothing if they do already.
  Result<void> stop();
  Result<void> go_on();
  /// Whether Xen is to hear of pages that devices write.
  Result<void> log_writes(bool wanted);
  /// The state of all devices. It has to be stopped.
  Result<std::vector<std::byte>> save_state();
  /// Takes a state that an equal device model has given, and goes on from there. It has been
  /// started with arguments_of_standby(); used once.
  Result<void> start_from(std::span<const std::byte> state);

  /// What a device model that is to take a state is started with, beside what libxl gives it: it
  /// waits, and adds no memory of its own to the guest's (option ROMs of network cards: those that
  /// the guest has come with its image).
  static const std::vector<std::string>& arguments_of_standby();

  /// More than that is no state of devices.
  static constexpr std::size_t kStateBytesMax = std::size_t{8} << 20;

 private:
  DeviceModel(UniqueFd socket, std::filesystem::path scratch);
  Result<QmpMessage> receive(std::chrono::steady_clock::time_point limit);
  /// What the command returns. `fd` travels beside it, if it is not -1.
  Result<boost::json::value> execute(std::string_view command, boost::json::object arguments = {},
                                     int fd = -1);

  UniqueFd socket_;
  std::filesystem::path scratch_;
  QmpLineReader lines_;
  std::uint64_t next_id_ = 1;
};

}  // namespace understudy::xen
