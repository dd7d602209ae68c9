#include "cli/json_view.h"

#include <fmt/format.h>

#include "cli/terminal.h"

namespace understudy::cli {

namespace json = boost::json;

std::string text_at(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_string()) {
    return {};
  }
  return printable(std::string_view(value->get_string().data(), value->get_string().size()));
}

std::optional<double> number_at(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_number()) {
    return std::nullopt;
  }
  return value->to_number<double>();
}

std::string digits_at(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_number()) {
    return {};
  }
  if (value->is_int64()) {
    return fmt::format("{}", value->get_int64());
  }
  if (value->is_uint64()) {
    return fmt::format("{}", value->get_uint64());
  }
  return fmt::format("{:.1f}", value->get_double());
}

std::optional<bool> bool_at(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_bool()) {
    return std::nullopt;
  }
  return value->get_bool();
}

const json::object& object_at(const json::object& object, std::string_view key) {
  static const json::object nothing;
  const json::value* const value = object.if_contains(key);
  return value != nullptr && value->is_object() ? value->get_object() : nothing;
}

std::vector<const json::object*> objects_at(const json::object& object, std::string_view key) {
  std::vector<const json::object*> result;
  const json::value* const value = object.if_contains(key);
  if (value != nullptr && value->is_array()) {
    for (const json::value& element : value->get_array()) {
      if (element.is_object()) {
        result.push_back(&element.get_object());
      }
    }
  }
  return result;
}

}  // namespace understudy::cli
