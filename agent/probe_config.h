// What the configuration says about probes, drills and the host's health ([[probe]], [[drill]],
// [health] in understudy.toml).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace understudy {

/// One [[probe]] table: a question to a service inside a guest, asked from outside.
struct ProbeConfig {
  std::string domain;
  std::string name;        ///< Unique within the domain; default: the kind.
  std::string kind;        ///< icmp, tcp, echo, http or command.
  std::string address;     ///< Of the guest; not for command, where it may be empty.
  std::uint16_t port = 0;  ///< tcp, echo, http; default 7 for echo, 80 for http.
  std::string path = "/";  ///< http.
  unsigned status = 200;   ///< http: the status that counts as well.
  std::string expect;      ///< tcp: what the service says first must begin with this.
  std::vector<std::string> command;
  std::chrono::microseconds interval{1'000'000};
  std::chrono::microseconds timeout{1'000'000};
  unsigned failures = 3;
  unsigned successes = 2;
  std::chrono::microseconds grace{30'000'000};
  std::string action = "event";  ///< event, restart or move.
};

/// One [[drill]] table: a drill that is held by itself.
struct DrillConfig {
  std::string domain;
  std::string kind = "dry";
  std::optional<std::chrono::microseconds> every;  ///< From the last one, or
  std::optional<unsigned> at_minute;  ///< each day at this minute of the day, local time.
};

}  // namespace understudy
