// Which guests can be protected, and how their checkpoints are made: what can be said from a few
// facts, without asking Xen.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "hypervisor/xen/guest_state.h"

namespace understudy::xen {

/// What a guest is.
struct GuestTraits {
  bool translated = true;  ///< PVH or HVM, as opposed to PV.
  bool hap = true;         ///< Hardware assisted paging.
  bool hvm = false;        ///< HVM, as opposed to PVH.
  /// The guest has told Xen how it wants to hear of events: PV drivers are at work in it.
  bool pv_drivers = true;
};

/// Chooses the method for a guest; `wanted` is xen.method: "auto", or one that is insisted on.
/// Errors, each with the reason: config (such a guest cannot be protected, or not that way),
/// unavailable (not yet).
Result<Method> choose_method(const GuestTraits& guest, std::string_view wanted);

/// Why a guest's checkpoints are made with `method`: one sentence for people.
std::string_view reason_for(Method method);

/// Why a host with Xen `here` cannot hold the image of a guest that runs on Xen `there`, if so.
std::optional<std::string> version_obstacle(std::string_view here, std::string_view there);

}  // namespace understudy::xen
