// A dry drill: does the last commit boot on? Answered by trying, where nobody can hear it.
//
// In the order of time: a second domain is prepared, cut off from every network (its cost is
// memory, which is checked first); the image of the last commit is copied into it, while the
// primary and the protection go on; it runs; it is asked what probes would ask, from within its own
// network; it is thrown away. A promotion that comes meanwhile goes first.
//
// What it does not show: that clients reach the domain here (bridge, switch), and how long a
// promotion takes. A planned or a real drill shows these.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/object.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "agent/backup_session.h"
#include "agent/probe_config.h"
#include "hypervisor/domain.h"

namespace understudy {

/// What a dry drill works with. The references must outlive it.
struct DryDrill {
  boost::asio::any_io_executor executor;
  Hypervisor& hypervisor;
  std::shared_ptr<BackupSession> backup;
  std::vector<ProbeConfig>
      probes;  ///< Of the domain; without any, its learnt addresses are pinged.
  /// Set by whoever no longer wants it: it ends soon, its outcome `cancelled`.
  std::shared_ptr<const bool> cancelled;
};

/// Holds it and completes `report` (which has id, domain, kind …): outcome, summary, epoch,
/// phases, checks, to_mend. Nothing of the copy is left when it returns.
Task<boost::json::object> hold_dry_drill(DryDrill drill, boost::json::object report);

/// An address for our end of a wire to `guest` (IPv4) that lies in its network, whatever its prefix
/// is (up to 30 bits), and is neither its own nor a network's first or last. Pure.
IpAddress neighbour_of(const IpAddress& guest);

}  // namespace understudy
