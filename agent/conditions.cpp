#include "agent/conditions.h"

#include <algorithm>
#include <boost/json.hpp>

#include "agent/event_log.h"

namespace understudy {

void Conditions::set(std::string_view type, std::optional<bool> status, std::string_view reason,
                     std::string message) {
  auto found = std::ranges::find(conditions_, type, &Condition::type);
  if (found == conditions_.end()) {
    conditions_.push_back({std::string(type), status, std::string(reason), std::move(message),
                           std::chrono::system_clock::now()});
    return;
  }
  if (found->status != status) found->since = std::chrono::system_clock::now();
  found->status = status;
  found->reason = reason;
  found->message = std::move(message);
}

void Conditions::remove(std::string_view type) {
  std::erase_if(conditions_, [&](const Condition& condition) { return condition.type == type; });
}

boost::json::array Conditions::to_json() const {
  boost::json::array list;
  for (const auto& condition : conditions_) {
    boost::json::value status = nullptr;
    if (condition.status) status = *condition.status;
    list.push_back({{"type", condition.type},
                    {"status", status},
                    {"reason", condition.reason},
                    {"message", condition.message},
                    {"since", rfc3339(condition.since)}});
  }
  return list;
}

}  // namespace understudy
