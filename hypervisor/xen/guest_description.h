// What a backup has to know of a Xen domain before it holds its image, besides name, memory, vCPUs
// and NICs (domain_config.h): carried as text in DomainConfig::xen.
//
// libxl's own JSON says how the domain is built. The rest is what the builder's result has to agree
// with: the layout of memory, the frames and ports of the rings, the processor as the guest sees
// it, the version of Xen whose context format the checkpoints have.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hypervisor/xen/guest_layout.h"
#include "hypervisor/xen/guest_state.h"

namespace understudy::xen {

/// One leaf of the processor as the guest sees it.
struct CpuidLeaf {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  bool operator==(const CpuidLeaf&) const = default;
};
/// One of its model-specific registers.
struct CpuMsr {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  bool operator==(const CpuMsr&) const = default;
};

/// Constant for as long as the domain runs on one host.
struct GuestDescription {
  std::string libxl;        ///< libxl's JSON of the domain's configuration.
  std::string xen_version;  ///< "4.17".
  Method method = Method::cooperative;
  GuestLayout layout;
  /// Those that the domain on the backup must have, too: where the rings are, and their ports.
  std::vector<HvmParameter> parameters;
  std::vector<CpuidLeaf> cpuid;
  std::vector<CpuMsr> msrs;

  bool operator==(const GuestDescription&) const = default;

  [[nodiscard]] std::string to_text() const;
  /// Reads what to_text() wrote. The libxl part is checked by libxl itself, later. Errors:
  /// bad_data, naming the member.
  static Result<GuestDescription> from_text(std::string_view text);
};

}  // namespace understudy::xen
