// Who holds the gate of a device in this namespace.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy::netbuffer {

/// Held as long as the descriptor is open. An abstract unix address, which belongs to the network
/// namespace and is free again the moment the process is gone, unlike any file. Error: exists.
Result<UniqueFd> lock_device(const std::string& device);

}  // namespace understudy::netbuffer
