// libxenlight: Xen's own toolstack, for what is done seldom and is complicated: finding out how a
// domain is made, making one like it, and ending one.
//
// Everything here blocks, from milliseconds to many seconds; it is called on one thread that may.
// libxl may fork (hotplug scripts, device models): it reaps its own children only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"
#include "hypervisor/xen/xen_log.h"

struct libxl__ctx;  // NOLINT(bugprone-reserved-identifier): libxl's own.

namespace understudy::xen {

using DomainId = std::uint32_t;

/// One of a domain's NICs, as far as it concerns us.
struct NicFacts {
  std::string bridge;
  MacAddress mac;
  int number = 0;         ///< libxl's devid.
  std::string device;     ///< The configured name of its interface in dom0; empty: libxl's default.
  bool emulated = false;  ///< The device model emulates it, too (HVM).
};

/// What a domain's configuration says.
struct DomainSettings {
  std::string json;  ///< libxl's own form of it.
  std::string name;
  std::string uuid;     ///< 32 hexadecimal digits.
  bool hvm = false;     ///< Has firmware and a device model; PVH otherwise.
  bool kernel = false;  ///< Is started with a kernel of its configuration, not from a disk.
  unsigned vcpus = 1;
  std::uint64_t memory_kib = 0;      ///< That the guest is to have now.
  std::uint64_t memory_max_kib = 0;  ///< That it is built for.
  std::vector<NicFacts> nics;
  /// Why such a domain cannot be protected, if so.
  std::optional<std::string> obstacle;
};

/// One libxl context. One thread.
class Toolstack {
 public:
  /// Errors: unavailable, with libxl's words.
  static Result<std::unique_ptr<Toolstack>> open();
  ~Toolstack();
  Toolstack(const Toolstack&) = delete;
  Toolstack& operator=(const Toolstack&) = delete;

  /// Errors: no_such.
  Result<DomainId> find(const std::string& name);
  /// All domains whose name ends in `suffix`.
  std::vector<DomainId> find_all(std::string_view suffix);
  Result<DomainSettings> settings_of(DomainId domid);
  /// Reads libxl's JSON, which a peer may have sent. Errors: bad_data.
  Result<DomainSettings> settings_from(const std::string& json);

  /// Memory that a domain of these settings takes in all.
  Result<std::uint64_t> needed_bytes(const DomainSettings& settings);

  /// Makes a domain of these settings under another name, paused; its kernel, if it has one, is
  /// `kernel` and nothing else is loaded. A device model waits for its state
  /// (DeviceModel::arguments_of_standby). On an error nothing is left.
  Result<DomainId> create_paused(const DomainSettings& settings, const std::string& name,
                                 const std::filesystem::path& kernel);
  /// Ends a domain and all that belongs to it. A domain that is gone is no error.
  Result<void> destroy(DomainId domid);
  Result<void> rename(DomainId domid, const std::string& name);

 private:
  Toolstack() = default;

  XenLog log_;
  libxl__ctx* context_ = nullptr;
};

}  // namespace understudy::xen
