// The outcome of the demo: what the clients saw, as figures, as JSON and in words.
#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <vector>

#include "demo/narrator.h"
#include "tests/scene/replay_fields.h"
#include "tests/scene/traffic.h"

namespace understudy::demo {

/// What one kind of checking client saw, over its connections.
struct KindSummary {
  std::string kind;
  std::string what;  ///< In words: "transfers, each with a receipt".
  /// One connection for the whole play; false: a new one for each request, `survived` meaning that
  /// no request failed.
  bool long_lived = true;
  unsigned connections = 0;
  unsigned survived = 0;
  std::uint64_t bytes_verified = 0;
  std::uint64_t bytes_wrong = 0;
  std::uint64_t operations = 0;
  std::optional<double> outage_ms_median;
  std::optional<double> outage_ms_worst;
  double quiet_before_ms = 0;  ///< Longest silence of any connection before the kill.
  std::vector<std::string> failures;
};

/// Sums up the reports of one kind.
KindSummary summarise(std::string kind, std::string what, bool long_lived,
                      const std::vector<scene::ConnectionReport>& reports);

/// A program that is not ours, at work during the kill.
struct RealClient {
  std::string name;  ///< "curl".
  std::string what;  ///< "one download, 8 MB".
  bool fine = false;
  std::string outcome;  ///< In words.
};

/// All that the demo has found.
struct Report {
  std::string mode;
  std::string hypervisor;
  std::string accelerator;
  std::string interval;
  std::vector<KindSummary> kinds;
  std::vector<double> outages_ms;  ///< Of all long-lived connections.
  std::vector<RealClient> real_clients;
  scene::PingReport ping;
  scene::Audit audit;
  std::uint64_t checkpoints = 0;
  double pause_ms_p50 = 0;
  double pause_ms_p99 = 0;
  std::optional<double> detect_ms;
  std::optional<double> promote_ms;
  std::optional<double> running_ms;            ///< From the kill until the guest ran on host B.
  boost::json::object timeline;                ///< As the agent tells it.
  std::optional<scene::ReplayOutcome> replay;  ///< In replay mode.
  std::vector<double>
      answers_ms;  ///< What the ledger's clients waited, protected, before the kill.

  /// Long-lived ones, and how many of them lived on.
  [[nodiscard]] unsigned connections() const;
  [[nodiscard]] unsigned survived() const;
  [[nodiscard]] std::uint64_t bytes_verified() const;
  [[nodiscard]] std::uint64_t bytes_wrong() const;
  /// Over the long-lived connections; empty if none came back.
  [[nodiscard]] std::optional<double> outage_ms_median() const;
  [[nodiscard]] std::optional<double> outage_ms_worst() const;
  /// No acknowledged operation lost, repeated or invented, no wrong byte, every connection alive,
  /// every real client content.
  [[nodiscard]] bool nothing_lost() const;

  [[nodiscard]] boost::json::object to_json() const;
  /// The closing act.
  void tell(Narrator& narrator) const;
};

}  // namespace understudy::demo
