// The API of hooks and drills: /v1/hooks…, /v1/drills…, POST /v1/domains/NAME/drill.
#pragma once

#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/http_server.h"
#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// Whether operations_routes() answers requests on this path ("v1", "hooks", …).
bool is_operations_route(const std::vector<std::string>& path);
/// The answer, or the error that becomes one.
Task<Result<HttpResponse>> operations_routes(Agent& agent, std::vector<std::string> path,
                                             const HttpRequest& request);

}  // namespace understudy
