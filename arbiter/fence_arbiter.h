// The arbiter `fence`: who has switched the other host off may hold the domain.
//
// Intuition: a fence agent (Debian's fence-agents: fence_ipmilan, fence_virsh, …) is run with
// action `off`, then with action `status`. Only when the first succeeds *and* the second says 'off'
// (exit status 2, by the agents' convention) is the claim granted. A run that fails, or does not
// end in time and is killed, grants nothing and is repeated.
//
// Awkward cases:
// - Both hosts live, and each fences the other: the backup asks as soon as the primary is silent,
// the
//   primary only `solo_after` later, so the backup shoots first. Whoever is off does not shoot.
// - An agent that says 'off' of a host that runs: a lying arbiter. The primary's gate is still
//   closed, so a promotion remains safe; a solo would not be. Test the agent before trusting it.
//
// Options that are secret go to the agent's stdin, out of a file with mode 0600; never on a command
// line.
#pragma once

#include "arbiter/arbiter_service.h"

namespace understudy {

/// `config` has kind fence and a command. Errors: config.
Result<std::unique_ptr<ArbiterService>> make_fence_arbiter(boost::asio::any_io_executor executor,
                                                           const ArbiterConfig& config,
                                                           const std::string& peer,
                                                           ArbiterService::Answered answered);

}  // namespace understudy
