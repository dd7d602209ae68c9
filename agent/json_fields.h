// What JSON that came from a file or another host says, where an absent field is no fault.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

namespace understudy {

/// The text of `field`; empty where it is missing or no text.
inline std::string text_at(const boost::json::object& object, std::string_view field) {
  const auto* value = object.if_contains(field);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace understudy
