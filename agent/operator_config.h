// The tables of understudy.toml that come in any number: [[hook]], [[probe]], [[drill]].
//
// Errors name file, line, table and key, and what was expected.
#pragma once

#include <toml++/toml.h>

#include <string_view>
#include <vector>

#include "agent/hook_config.h"
#include "agent/probe_config.h"
#include "base/result.h"

namespace understudy {

/// `node` is what the document has under "hook".
Result<std::vector<HookConfig>> read_hooks(std::string_view file_name, const toml::node& node);
/// Under "probe".
Result<std::vector<ProbeConfig>> read_probes(std::string_view file_name, const toml::node& node);
/// Under "drill".
Result<std::vector<DrillConfig>> read_drills(std::string_view file_name, const toml::node& node);

}  // namespace understudy
