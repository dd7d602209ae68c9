#include "tests/sim/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "tests/sim/inside.h"

namespace understudy::sim {
namespace {

class Cluster {
 public:
  explicit Cluster(const ClusterOptions& options)
      : options_(options), dice_(mix(options.seed, 77)) {}

  ClusterOutcome run() {
    set_up();
    while (true) {
      // The earliest event of all worlds, or the next blow if that is earlier.
      Seat* next = nullptr;
      for (auto& seat : seats_) {
        const auto at = seat->world.next_at();
        if (at && (next == nullptr || *at < *next->world.next_at())) next = seat.get();
      }
      if (next == nullptr) break;
      if (struck_ < blows_.size() && blows_[struck_].at <= *next->world.next_at()) {
        strike(blows_[struck_++]);
        continue;
      }
      now_ = *next->world.next_at();
      next->world.step();
      if (next->world.broken()) break;
    }
    return verdict();
  }

 private:
  /// A domain's place in the cluster: which of the hosts its sides are.
  struct Seat final : Machines {
    Seat(Cluster& of, const Options& options, int primary, int backup)
        : cluster(of), hosts{primary, backup}, world(options, this) {}
    Clock clock_of(int side) override {
      return cluster.clocks_[static_cast<std::size_t>(hosts[static_cast<std::size_t>(side)])];
    }
    void power_off(int side, Time back_after) override {
      cluster.fence(*this, hosts[static_cast<std::size_t>(side)], back_after);
    }
    [[nodiscard]] std::optional<int> side_on(int host) const {
      for (int side = 0; side < 2; ++side) {
        if (hosts[static_cast<std::size_t>(side)] == host) return side;
      }
      return std::nullopt;
    }
    Cluster& cluster;
    std::array<int, 2> hosts;
    World world;
  };

  void set_up() {
    const int count = options_.hosts.value_or(static_cast<int>(dice_.between(2, 5)));
    outcome_.hosts = count;
    for (int host = 0; host < count; ++host) {
      clocks_.push_back({dice_.between(0, 1'000'000'000), dice_.between(900, 1100)});
    }
    const auto domains = dice_.between(2, 4);
    for (std::int64_t index = 0; index < domains; ++index) {
      const int primary = static_cast<int>(dice_.between(0, count - 1));
      const int backup = static_cast<int>((primary + dice_.between(1, count - 1)) %
                                          static_cast<std::int64_t>(count));
      Options options;
      options.seed = dice_.next();
      options.canary = options_.canary;
      options.no_small_troubles = options_.no_small_troubles;
      options.variation = options_.variation;
      options.trace = options_.trace;
      outcome_.domains.emplace_back(primary, backup);
      seats_.push_back(std::make_unique<Seat>(*this, options, primary, backup));
    }
    const auto faults = dice_.between(0, 8);
    for (std::int64_t index = 0; index < faults; ++index) {
      const Time at = dice_.between(30 * kMs, kHealAt - 10 * kMs);
      const auto fault = static_cast<Fault>(dice_.between(0, kFaults - 1));
      blows_.push_back({at, fault, static_cast<int>(dice_.between(0, count - 1)), dice_.next()});
    }
    if (options_.given) blows_ = options_.blows;
    std::ranges::sort(blows_, {}, &Blow::at);
    for (auto& seat : seats_) seat->world.begin();
  }

  /// Whether a fault is of the network between hosts: it may concern one pair of them alone.
  static bool is_of_the_network(Fault fault) {
    switch (fault) {
      case Fault::break_link:
      case Fault::cut_one_way:
      case Fault::cut_both_ways:
      case Fault::slow_link:
      case Fault::lose_heartbeats:
      case Fault::flap:
      case Fault::duplicate:
        return true;
      default:
        return false;
    }
  }
  void strike(const Blow& blow) {
    outcome_.blows.push_back(blow);
    Random dice(blow.dice);
    if (blow.fault == Fault::crash) {
      return power_off(blow.host, blow.at, dice.between(60 * kMs, 900 * kMs));
    }
    const bool everywhere =
        blow.fault == Fault::arbiter_outage || blow.fault == Fault::arbiter_emptied;
    // One cable, or the host's switch.
    std::optional<int> only;
    if (is_of_the_network(blow.fault) && dice.once_in(2)) {
      only = static_cast<int>(dice.between(0, outcome_.hosts - 1));
    }
    for (auto& seat : seats_) {
      const auto side = everywhere ? std::optional(0) : seat->side_on(blow.host);
      if (!side) continue;
      if (only && !seat->side_on(*only)) continue;
      seat->world.strike({blow.at, blow.fault, *side, blow.dice});
    }
  }
  void power_off(int host, Time at, Time back_after) {
    for (auto& seat : seats_) {
      if (const auto side = seat->side_on(host)) seat->world.crash_side(*side, at, back_after);
    }
  }
  void fence(const Seat& by, int host, Time back_after) {
    for (const auto& seat : seats_) {
      if (seat.get() != &by && seat->side_on(host)) ++outcome_.domains_hit_by_a_fence_of_another;
    }
    power_off(host, now_, back_after);
  }

  ClusterOutcome verdict() {
    for (std::size_t index = 0; index < seats_.size(); ++index) {
      const Seat& seat = *seats_[index];
      // A world whose time has not come to an end has nothing to answer for if another has failed.
      const bool cut_short = std::ranges::any_of(
          seats_, [&](const auto& other) { return other.get() != &seat && other->world.broken(); });
      if (cut_short && !seat.world.broken()) continue;
      const Outcome outcome = seats_[index]->world.verdict();
      if (!outcome.violation.empty() && outcome_.violation.empty()) {
        outcome_.violation = fmt::format("web{}: {}", index + 1, outcome.violation);
        outcome_.story = outcome.story;
      }
      for (std::size_t what = 0; what < kReached; ++what)
        outcome_.reached[what] += outcome.reached[what];
      outcome_.released += outcome.released;
      outcome_.trace_digest = mix(outcome_.trace_digest, outcome.trace_digest);
    }
    return outcome_;
  }

  ClusterOptions options_;
  Random dice_;
  ClusterOutcome outcome_;
  std::vector<Machines::Clock> clocks_;
  std::vector<std::unique_ptr<Seat>> seats_;
  std::vector<Blow> blows_;
  std::size_t struck_ = 0;
  Time now_ = 0;
};

}  // namespace

ClusterOutcome run(const ClusterOptions& options) {
  return Cluster(options).run();
}

}  // namespace understudy::sim
