// What every session on this host works with. Owned by the agent, which outlives the sessions.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <memory>

#include "agent/config.h"
#include "agent/event_log.h"
#include "agent/state_store.h"
#include "arbiter/arbiter_service.h"
#include "hypervisor/domain.h"
#include "transport/link.h"

namespace understudy {

/// References into the agent. All calls come from `executor`'s one thread; `workers` is for what
/// takes processor time.
struct HostServices {
  boost::asio::any_io_executor executor;
  boost::asio::any_io_executor workers;
  const AgentConfig& config;
  EventLog& events;
  const StateStore& store;
  Hypervisor& hypervisor;
  ArbiterService& arbiter;  ///< Of the pair that the session belongs to.
  transport::Connector& connector;
};

}  // namespace understudy
