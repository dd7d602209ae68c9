// How a domain in replay mode wants its ports treated: what `protect` and `set` are told, what the
// record keeps, and what the backup has to know.
#pragma once

#include <boost/json/value.hpp>
#include <string_view>

#include "base/result.h"
#include "replay/release_rule.h"
#include "replay/replayer.h"

namespace understudy {

/// The options of one protection in replay mode.
struct ReplayOptions {
  replay::PortPolicies policies;
  replay::OnDivergence on_divergence = replay::OnDivergence::reset;
};

/// {"ports": {"5432": "remus", "80": "replay"}, "on_divergence": "reset"}; all of it may be
/// missing.
boost::json::value to_json(const ReplayOptions& options);
/// Reads that. null is the defaults. Errors: usage, naming the field and what it may be.
Result<ReplayOptions> replay_options_from(const boost::json::value& json);

/// "remus" or "replay"; nothing else is a mode.
bool is_mode(std::string_view mode);

}  // namespace understudy
