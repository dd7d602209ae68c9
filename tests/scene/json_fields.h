// Fields of the JSON that agents answer with: read without surprises where one is absent or of
// another type. Tests, demo and benchmarks judge by values, and a missing one shall read as
// nothing, not end the program.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

namespace understudy::scene {

/// The text at `key`; "" if there is none.
std::string text_at(const boost::json::object& object, std::string_view key);
/// The number at `key`; 0 if there is none.
double number_at(const boost::json::object& object, std::string_view key);
/// The object at `key`; an empty one if there is none. Valid as long as `object`.
const boost::json::object& object_at(const boost::json::object& object, std::string_view key);

}  // namespace understudy::scene
