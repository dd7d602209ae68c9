// What an operator can do about a domain that cannot help itself, and what each way risks.
//
// Intuition: everything here errs on the mute side by itself, so a trouble that is left alone costs
// availability and nothing else. To get out of it somebody must say what no machine can know (which
// copy the clients have heard last, whether a host is really off), and whoever says it wants to see
// what it costs to be wrong. This file knows the troubles and the ways out; the agent does them.
#pragma once

#include <boost/json/array.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace understudy {

/// Why a domain waits for a person.
enum class Trouble {
  none,
  record_damaged,     ///< Its record is torn or spoilt: nothing is known of it.
  record_older,       ///< Its record is not the last one that was written.
  record_lost,        ///< Its record is gone.
  promotion_cut_off,  ///< Its takeover was interrupted and the copy here is lost.
  domain_failed,      ///< Its hypervisor died here.
  retired,            ///< Nothing is here but the memory of its generation.
  backup_lost,        ///< It runs here, mute, because its backup is not heard.
  newer_copy_lost,    ///< It runs here, mute: the other host had taken it over, and lost it.
  split_brain,        ///< Two hosts run it, and neither may decide alone.
};
/// The stable lower-case name of `trouble`.
std::string_view to_string(Trouble trouble);

/// One way out.
struct RepairChoice {
  std::string_view name;  ///< What `understudy repair NAME --choose` takes; empty: see `command`.
  std::string command;    ///< What to type.
  std::string what;       ///< What it does.
  std::string risk;       ///< What it costs if the operator is wrong.
};

/// The ways out of `trouble` with `domain`, the harmless ones first. `peer`: the other host; may be
/// empty.
std::vector<RepairChoice> repair_choices(Trouble trouble, const std::string& domain,
                                         const std::string& peer);

/// docs/api.md, "repair".
boost::json::array to_json(const std::vector<RepairChoice>& choices);

}  // namespace understudy
