#include "agent/renewal_policy.h"

#include <algorithm>
#include <boost/json.hpp>

namespace understudy {
namespace {

namespace json = boost::json;

constexpr std::size_t kHostsMax = 64;
constexpr std::size_t kNameBytesMax = 255;
constexpr std::uint64_t kSecondsMax = 31'536'000;

void add_once(std::vector<std::string>& hosts, const std::string& host) {
  if (std::ranges::find(hosts, host) == hosts.end()) hosts.push_back(host);
}

Result<void> check_name(const std::string& host) {
  if (host.empty() || host.size() > kNameBytesMax)
    return fail(ErrorCode::usage, "a host's name has 1 to {} bytes, not {}", kNameBytesMax,
                host.size());
  return ok();
}

Result<std::string> text_at(const json::object& object, std::string_view field) {
  const auto* value = object.if_contains(field);
  if (value == nullptr || !value->is_string())
    return fail(ErrorCode::usage, "renewal: field '{}': expected a string", field);
  return std::string(value->get_string());
}

Result<std::chrono::seconds> seconds_at(const json::object& object, std::string_view field) {
  const auto* value = object.if_contains(field);
  boost::system::error_code error;
  const auto seconds =
      value != nullptr && value->is_number() ? value->to_number<std::uint64_t>(error) : 0;
  if (value == nullptr || !value->is_number() || error || seconds > kSecondsMax)
    return fail(ErrorCode::usage, "renewal: field '{}': expected seconds, at most a year", field);
  return std::chrono::seconds(seconds);
}

}  // namespace

bool RenewalPolicy::names(std::string_view host) const {
  return std::ranges::find(hosts, host) != hosts.end();
}

bool RenewalChange::empty() const {
  return to.empty() && add_hosts.empty() && remove_hosts.empty() && failback.empty() &&
         failback_delay_s == 0 && minimum_stay_s == 0;
}

RenewalPolicy first_policy(const std::string& self, const std::vector<std::string>& to) {
  RenewalPolicy policy{.hosts = {self}, .home = self, .failback = {}};
  for (const auto& host : to) add_once(policy.hosts, host);
  return policy;
}

Result<RenewalPolicy> changed(RenewalPolicy policy, const RenewalChange& change,
                              const std::string& self) {
  if (!change.to.empty()) {
    policy.hosts = {self};
    for (const auto& host : change.to) {
      BOOST_OUTCOME_TRY(check_name(host));
      add_once(policy.hosts, host);
    }
  }
  for (const auto& host : change.add_hosts) {
    BOOST_OUTCOME_TRY(check_name(host));
    add_once(policy.hosts, host);
  }
  for (const auto& host : change.remove_hosts) {
    if (host == self) return fail(ErrorCode::usage, "{} is this host itself: it stays", host);
    if (std::erase(policy.hosts, host) == 0)
      return fail(ErrorCode::usage, "{} is not in the list", host);
  }
  if (policy.hosts.size() > kHostsMax)
    return fail(ErrorCode::usage, "{} hosts, at most {} are allowed", policy.hosts.size(),
                kHostsMax);
  if (!change.failback.empty()) {
    BOOST_OUTCOME_TRY(policy.failback.mode, failback_mode_from(change.failback));
  }
  if (change.failback_delay_s > kSecondsMax || change.minimum_stay_s > kSecondsMax)
    return fail(ErrorCode::usage, "failback: at most a year");
  if (change.failback_delay_s != 0)
    policy.failback.delay = std::chrono::seconds(change.failback_delay_s);
  if (change.minimum_stay_s != 0)
    policy.failback.minimum_stay = std::chrono::seconds(change.minimum_stay_s);
  return policy;
}

json::value to_json(const RenewalPolicy& policy) {
  return {{"hosts", json::array(policy.hosts.begin(), policy.hosts.end())},
          {"home", policy.home},
          {"failback", to_string(policy.failback.mode)},
          {"failback_delay_s", policy.failback.delay.count()},
          {"minimum_stay_s", policy.failback.minimum_stay.count()}};
}

Result<RenewalPolicy> renewal_policy_from(const json::value& value) {
  RenewalPolicy policy;
  if (value.is_null()) return policy;
  const auto* object = value.if_object();
  if (object == nullptr) return fail(ErrorCode::usage, "renewal: expected an object");
  const auto* hosts = object->if_contains("hosts");
  if (hosts == nullptr || !hosts->is_array() || hosts->get_array().size() > kHostsMax)
    return fail(ErrorCode::usage, "renewal: field 'hosts': expected a list of at most {} names",
                kHostsMax);
  for (const auto& host : hosts->get_array()) {
    if (!host.is_string()) return fail(ErrorCode::usage, "renewal: field 'hosts': expected names");
    const std::string name(host.get_string());
    BOOST_OUTCOME_TRY(check_name(name));
    add_once(policy.hosts, name);
  }
  BOOST_OUTCOME_TRY(policy.home, text_at(*object, "home"));
  BOOST_OUTCOME_TRY(const auto mode, text_at(*object, "failback"));
  BOOST_OUTCOME_TRY(policy.failback.mode, failback_mode_from(mode));
  BOOST_OUTCOME_TRY(policy.failback.delay, seconds_at(*object, "failback_delay_s"));
  BOOST_OUTCOME_TRY(policy.failback.minimum_stay, seconds_at(*object, "minimum_stay_s"));
  return policy;
}

}  // namespace understudy
