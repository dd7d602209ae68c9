// A drill's report, for a person: lines for a terminal, or a page for a browser.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "cli/terminal.h"

namespace understudy::cli {

/// One report (docs/api.md, "drills") as lines.
std::string drill_details(const boost::json::object& report, const Terminal& terminal);
/// Reports as a table, in the order given.
std::string drill_overview(const std::vector<const boost::json::object*>& reports,
                           const Terminal& terminal);
/// Reports as one HTML page that needs nothing from anywhere. What reports say is escaped.
std::string drill_page(const std::vector<const boost::json::object*>& reports);

}  // namespace understudy::cli
