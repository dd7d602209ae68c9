#include "agent/repair.h"

#include <fmt/format.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

RepairChoice wait_for(std::string what) {
  return {.name = {},
          .command = "(nothing)",
          .what = std::move(what),
          .risk = "none; it stays mute meanwhile"};
}

RepairChoice forget(const std::string& domain, std::string what, std::string risk) {
  return {.name = "forget",
          .command = fmt::format("understudy repair {} --choose forget", domain),
          .what = std::move(what),
          .risk = std::move(risk)};
}

RepairChoice solo(const std::string& domain, std::string risk) {
  return {.name = {},
          .command = fmt::format("understudy solo {}", domain),
          .what = "the copy here speaks alone, from where it stands",
          .risk = std::move(risk)};
}

RepairChoice stop(const std::string& domain, std::string risk) {
  return {.name = {},
          .command = fmt::format("understudy domain stop {} --force", domain),
          .what = "the copy here is destroyed",
          .risk = std::move(risk)};
}

}  // namespace

std::vector<RepairChoice> repair_choices(Trouble trouble, const std::string& domain,
                                         const std::string& peer) {
  const std::string other = peer.empty() ? "the other host" : peer;
  const std::string unseen = fmt::format(
      "a guest of {} that still runs on this host stays mute and is nobody's any more: end its "
      "process by hand",
      domain);
  switch (trouble) {
    case Trouble::none:
      return {};
    case Trouble::record_damaged:
    case Trouble::record_lost:
      return {
          wait_for(
              "put the file back as it was (from the disk's own repair, not from a backup) and "
              "restart the agent"),
          forget(
              domain, "the record is set aside; this host knows nothing of the domain any more",
              fmt::format("{}; its generation is forgotten, so that an older copy on {} could pass "
                          "for the newest",
                          unseen, other))};
    case Trouble::record_older:
      return {
          wait_for("put the newer file back and restart the agent"),
          {.name = "trust",
           .command = fmt::format("understudy repair {} --choose trust", domain),
           .what = "the older record counts as the last one",
           .risk = fmt::format("what was decided since is forgotten: if {} has taken the domain "
                               "over meanwhile and this record says that it speaks freely here, "
                               "two hosts speak",
                               other)},
          forget(domain, "the record is set aside; this host knows nothing of the domain any more",
                 unseen)};
    case Trouble::promotion_cut_off:
      return {
          wait_for(fmt::format("if {} still has its copy it keeps it, mute; `understudy solo {}` "
                               "there lets it speak",
                               other, domain)),
          forget(domain, "this host forgets the domain and its generation",
                 fmt::format("clients may have heard the copy that was lost here; if {} is "
                             "protected again, it goes on from an earlier state and nobody is "
                             "warned",
                             other))};
    case Trouble::domain_failed:
    case Trouble::retired:
      return {{.name = {},
               .command = "understudy domain start FILE",
               .what = "the guest is started anew here, under the next generation",
               .risk = fmt::format("its memory begins empty; a copy on {} that is still mute is "
                                   "then out of date for good",
                                   other)},
              forget(domain, "this host forgets the domain and its generation",
                     fmt::format("an older copy on {} could pass for the newest: clients would be "
                                 "told a second story",
                                 other))};
    case Trouble::backup_lost:
      return {wait_for(fmt::format("when {} is back, protection goes on and what is held leaves",
                                   other)),
              solo(domain, fmt::format("if {} runs the domain, or will, two hosts speak", other)),
              stop(domain, fmt::format("if {} has no whole image, the domain is lost", other))};
    case Trouble::newer_copy_lost:
      return {
          wait_for(fmt::format("the newer copy on {} may still be found", other)),
          solo(domain, fmt::format("what clients were told by the newer copy on {} is unsaid; if "
                                   "that copy lives after all, two hosts speak",
                                   other)),
          stop(domain, "if the newer copy is really gone, this was the last one")};
    case Trouble::split_brain:
      return {
          stop(domain, fmt::format("what clients were told here since the hosts parted is lost; "
                                   "the copy on {} goes on",
                                   other)),
          {.name = {},
           .command = fmt::format("understudy domain stop {} --force   (on {})", domain, other),
           .what = "the copy there is destroyed",
           .risk = "what clients were told there since the hosts parted is lost; the copy here "
                   "goes on"}};
  }
  return {};
}

boost::json::array to_json(const std::vector<RepairChoice>& choices) {
  boost::json::array list;
  for (const auto& choice : choices) {
    boost::json::object entry = {
        {"command", choice.command}, {"what", choice.what}, {"risk", choice.risk}};
    if (!choice.name.empty()) entry["choice"] = choice.name;
    list.push_back(std::move(entry));
  }
  return list;
}

std::string_view to_string(Trouble trouble) {
  switch (trouble) {
    case Trouble::none:
      return "none";
    case Trouble::record_damaged:
      return "record_damaged";
    case Trouble::record_older:
      return "record_older";
    case Trouble::record_lost:
      return "record_lost";
    case Trouble::promotion_cut_off:
      return "promotion_cut_off";
    case Trouble::domain_failed:
      return "domain_failed";
    case Trouble::retired:
      return "retired";
    case Trouble::backup_lost:
      return "backup_lost";
    case Trouble::newer_copy_lost:
      return "newer_copy_lost";
    case Trouble::split_brain:
      return "split_brain";
  }
  return "none";
}

}  // namespace understudy
