// Status as a list of conditions, each with its reason and since when it holds.
#pragma once

#include <boost/json/array.hpp>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace understudy {

/// The conditions of one domain, in the order in which they were first set. The types and reasons
/// are the closed list of docs/api.md; `since` is the time of the last change of a condition's
/// status.
class Conditions {
 public:
  /// States condition `type`. `status`: true, false, or nothing for unknown.
  void set(std::string_view type, std::optional<bool> status, std::string_view reason,
           std::string message);
  /// Removes condition `type`: it has no meaning in the present role.
  void remove(std::string_view type);
  /// Removes all.
  void clear() { conditions_.clear(); }
  [[nodiscard]] boost::json::array to_json() const;

 private:
  struct Condition {
    std::string type;
    std::optional<bool> status;
    std::string reason;
    std::string message;
    std::chrono::system_clock::time_point since;
  };
  std::vector<Condition> conditions_;
};

}  // namespace understudy
