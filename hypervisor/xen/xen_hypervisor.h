// Domains on Xen 4.17 or later, made by any toolstack that is built on libxl (xl create).
//
// Intuition: Xen itself knows which pages a guest wrote (log-dirty), lets dom0 map them, and hands
// out the state of processors and interrupt controllers. What it does not hand out is the state of
// PV drivers, which is spread over the hypervisor, xenstore and the backends; so at each checkpoint
// the guest is asked to suspend (it knows how: that is what it does in every migration), copied,
// and told that the suspend was cancelled. On the backup the suspend was not cancelled: the guest
// finds itself in another domain and connects its frontends anew.
//
// The backup holds a domain that libxl built from the same configuration, paused, with none of the
// guest's software; its memory is the image. Promotion loads the context and lets it run: no
// memory is copied.
//
// The alternative not taken: a libxl migration stream into libxl_domain_create_restore. It would
// need a stream synthesised to libxl's and libxc's formats, in a helper process that we cannot look
// into, with the state of the domain complete only after the stream's end; see docs/xen.md.
//
// What a crash of the agent leaves behind: on the primary the domain itself, perhaps suspended or
// paused (adopt() sets it going); on the backup a paused domain "NAME--standby" (clean_up()).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "hypervisor/domain.h"

namespace understudy {

/// How a Xen hypervisor works.
struct XenOptions {
  /// For the placeholder kernel.
  std::filesystem::path runtime_directory = "/run/understudy";
  /// "auto", "cooperative" or "transparent".
  std::string method = "auto";
  /// For a guest to answer the request to suspend.
  std::chrono::milliseconds suspend_timeout{5'000};
};

/// Why this is no place for Xen domains (no Xen, not dom0, no xenstore …), or nothing.
std::string xen_obstacle();

/// Errors: unavailable, with the reason, where xen_obstacle() has one.
Result<std::unique_ptr<Hypervisor>> make_xen_hypervisor(boost::asio::any_io_executor executor,
                                                        XenOptions options);

}  // namespace understudy
