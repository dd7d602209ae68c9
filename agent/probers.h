// Probes: one question to a service inside a guest, asked from outside it, as a client would.
//
// Intuition: each kind is a few lines of a protocol with a time limit over the whole of it. Nothing
// is installed in the guest. The socket may belong to another network namespace (a drill asks its
// isolated copy the same questions).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <string>

#include "agent/probe_config.h"
#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// What came of one probe.
struct ProbeResult {
  bool passed = false;
  std::string message;  ///< "HTTP status 200", "connection refused", "no answer within 1000 ms".
  std::chrono::microseconds took{0};
  /// It did not pass, and the guest itself said so (a refusal, another answer than expected): a
  /// gate that held its answers would not have let that out.
  bool answered = false;
};

/// Asks once. `network`: a descriptor of the network namespace to ask from, -1 for ours. Never
/// fails otherwise than by a ProbeResult that did not pass; takes no longer than config.timeout and
/// a little.
Task<ProbeResult> probe_once(boost::asio::any_io_executor executor, ProbeConfig config,
                             int network = -1);

}  // namespace understudy
