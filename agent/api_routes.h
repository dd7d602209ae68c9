// docs/api.md, turned into calls on the agent: paths, bodies and errors; no decisions.
#pragma once

#include "agent/agent.h"
#include "agent/http_server.h"

namespace understudy {

/// The handler for the control socket. `agent` must outlive it.
HttpHandler api_routes(Agent& agent);

/// The handler for the metrics port: GET /metrics, nothing else.
HttpHandler metrics_routes(Agent& agent);

/// An error as an answer of the API (docs/api.md, "Errors").
HttpResponse to_response(const Error& error, boost::json::array findings = {});

}  // namespace understudy
