// Reading an agent's JSON without trusting it: a missing or odd field is "not there", never an
// error.
//
// The agent may be newer or older than this command; a table with one dash in it serves the
// operator better than no table.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace understudy::cli {

/// The string at `key`; empty if there is none. Made printable (see terminal.h).
std::string text_at(const boost::json::object& object, std::string_view key);

/// The number at `key`, of whatever kind it was written as.
std::optional<double> number_at(const boost::json::object& object, std::string_view key);

/// The number at `key` as digits: integers in full, others with one decimal. Empty if there is
/// none.
std::string digits_at(const boost::json::object& object, std::string_view key);

/// The truth value at `key`.
std::optional<bool> bool_at(const boost::json::object& object, std::string_view key);

/// The object at `key`, or an empty one.
const boost::json::object& object_at(const boost::json::object& object, std::string_view key);

/// The objects in the array at `key`; whatever else is in it is skipped.
std::vector<const boost::json::object*> objects_at(const boost::json::object& object,
                                                   std::string_view key);

}  // namespace understudy::cli
