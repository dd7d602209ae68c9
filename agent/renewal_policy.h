// Where a domain may be protected to, and whether it goes home: what `protect` and `set` are told,
// what the record keeps, and what the backup has to know because it will be the primary one day.
#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "failover/failback.h"

namespace understudy {

/// The policy of one domain, the same on every host that has to do with it.
struct RenewalPolicy {
  /// The hosts on which it may be, in their order, its present one among them (a ring:
  /// failover/renewal.h). No name twice.
  std::vector<std::string> hosts;
  std::string home;  ///< Where it belongs: the host that was first told to protect it.
  Failback::Config failback;

  [[nodiscard]] bool names(std::string_view host) const;
};

/// What `set` is to change of it; what is not named stays.
struct RenewalChange {
  std::vector<std::string> to;         ///< Not empty: the whole list anew.
  std::vector<std::string> add_hosts;  ///< Put at its end.
  std::vector<std::string> remove_hosts;
  std::string failback;                ///< Empty: stays.
  std::uint64_t failback_delay_s = 0;  ///< 0: stays.
  std::uint64_t minimum_stay_s = 0;    ///< 0: stays.

  [[nodiscard]] bool empty() const;
};

/// The policy of a domain that `self` protects to `to` for the first time.
RenewalPolicy first_policy(const std::string& self, const std::vector<std::string>& to);
/// `policy` with `change` applied, on the host `self`, which stays in the list. Errors: usage (an
/// unknown failback mode, a host that is not in the list, more hosts than allowed).
Result<RenewalPolicy> changed(RenewalPolicy policy, const RenewalChange& change,
                              const std::string& self);

/// {"hosts": ["hostA", "hostB"], "home": "hostA", "failback": "never", "failback_delay_s": 300,
/// "minimum_stay_s": 600}.
boost::json::value to_json(const RenewalPolicy& policy);
/// Reads that. null is no policy: an empty list. Errors: usage, naming the field and what it may
/// be.
Result<RenewalPolicy> renewal_policy_from(const boost::json::value& json);

}  // namespace understudy
