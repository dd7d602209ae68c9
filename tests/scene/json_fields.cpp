#include "tests/scene/json_fields.h"

#include <boost/json.hpp>

namespace understudy::scene {

namespace json = boost::json;

std::string text_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

double number_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  boost::system::error_code error;
  const double number = value == nullptr ? 0 : value->to_number<double>(error);
  return error ? 0 : number;
}

const json::object& object_at(const json::object& object, std::string_view key) {
  static const json::object none;
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_object() ? value->get_object() : none;
}

}  // namespace understudy::scene
