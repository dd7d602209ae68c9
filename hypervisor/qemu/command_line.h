// From a config to QEMU's command line: a pure function, because both hosts must come to the same
// devices at the same addresses, or the device state of one does not fit the other.
#pragma once

#include <string>
#include <vector>

#include "hypervisor/domain_config.h"

namespace understudy {

/// The numbers of the descriptors that a QEMU process inherits.
inline constexpr int kMonitorDescriptor = 3;   ///< A listening unix socket.
inline constexpr int kMemoryDescriptor = 4;    ///< The guest's memory.
inline constexpr int kFirstTapDescriptor = 5;  ///< The first NIC's tap; the next one's follows.

/// The arguments of QEMU for a valid `config` whose accelerator is chosen. A standby gets the same,
/// and two more that keep it waiting.
std::vector<std::string> qemu_arguments(const std::string& qemu_binary, const DomainConfig& config,
                                        bool as_standby);

}  // namespace understudy
