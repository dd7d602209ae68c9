// The agent's status as tables for people, and the exit status that a script reads.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <string>
#include <string_view>

#include "cli/terminal.h"

namespace understudy::cli {

using WallClock = std::chrono::system_clock;

/// `status` of a domain that is as it should be is 0; these are the others (docs/api.md, "States").
inline constexpr int degraded_status = 3;
inline constexpr int not_protected_status = 4;

/// The exit status for a domain's state. A state that is not known counts as degraded.
int status_for_state(std::string_view state);

/// The colour that a state is shown in.
Colour colour_of_state(std::string_view state);

/// "3.2 min ago" for an RFC 3339 time; the text itself if it is not one.
std::string age_of(std::string_view rfc3339, WallClock::time_point now);

/// All domains, peers, and the conditions that are not as wanted.
std::string status_overview(const boost::json::object& status, const Terminal& terminal,
                            WallClock::time_point now);

/// One domain in full.
std::string domain_details(const boost::json::object& domain, const Terminal& terminal,
                           WallClock::time_point now);

/// The names, roles and states of the domains in `status`.
std::string domain_list(const boost::json::object& status, const Terminal& terminal);

/// The peers in `peers` (an answer with "peers") with their paths.
std::string peer_list(const boost::json::object& peers, const Terminal& terminal,
                      WallClock::time_point now);

/// The phases of a promotion.
std::string timeline_view(const boost::json::object& timeline, const Terminal& terminal);

/// The list of hosts of a domain object's `renewal`, who is next, and whether it goes home; empty
/// if there is no list.
std::string renewal_line(const boost::json::object& renewal);

}  // namespace understudy::cli
