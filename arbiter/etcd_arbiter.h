// The arbiter `etcd`: three machines (or one) that neither host of the pair is.
//
// Intuition: etcd_messages.h says what is written down and how it is judged; this file talks to
// etcd over TLS, in coroutines on the agent's thread, with a limit on every exchange. A claim that
// cannot be answered (no endpoint answers, no leader) stays pending and is tried again each second:
// who has no answer has no right.
//
// Awkward case: a claim that is forgotten while its swap may be on the way. It is followed up until
// it is known whether it happened, and a grant is told even then: a right that nobody remembers
// would keep the other host mute for nothing, or leave this one believing in a backup that may not
// promote.
#pragma once

#include "arbiter/arbiter_service.h"

namespace understudy {

/// `config` has kind etcd. Errors: config, naming the file that cannot be used.
Result<std::unique_ptr<ArbiterService>> make_etcd_arbiter(boost::asio::any_io_executor executor,
                                                          const ArbiterConfig& config,
                                                          const std::string& self,
                                                          ArbiterService::Answered answered);

}  // namespace understudy
