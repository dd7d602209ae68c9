// The status, told to Prometheus.
#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace understudy {

/// The metrics that follow from `status` (docs/api.md, GET /v1/status), in Prometheus' text format
/// 0.0.4. Names keep Prometheus' conventions: base units, `_total` for counters, `_info` for
/// labels, 0 and 1 for states.
std::string metrics_text(const boost::json::value& status);

}  // namespace understudy
