// Whether the service inside a guest is well, judged from the answers to probes; and the same of a
// host, judged from readings.
//
// Intuition: one failed probe is noise, three in a row are a fault; one that passes after that is
// luck, two are a recovery. Right after the domain was started, moved or promoted it is given time.
// What a verdict leads to (an event, a restart, a move) is the operator's choice: here is only
// decided *when* it is time to act, once for each illness and not for ever.
//
// Awkward cases:
// - While the gate holds output (the backup is lost, say), no answer can arrive, however well the
//   service is. Such an outcome is `held`, not `failed`: it neither counts nor heals.
// - A restart that does not help: it is tried again after the grace period, at most `acts_max`
//   times until the service has been well again. A loop of restarts helps nobody.
// - A service that is as ill on the next host as it was here (it hangs in its guest, or the probe
// asks for
//   the wrong port) would be moved to and fro for ever: with `acts_only_after_well` nothing is done
//   before it has been well where it runs now.
// - What a promotion cannot heal: the image holds the guest with its illness. That is why nothing
//   here ever leads to a promotion.
//
// Not taken: a score that decays (phi, or a moving average). Nobody can say at three in the morning
// why it said what it said.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace understudy {

/// The health of one service by one probe. Pure: moments come in as arguments and never go back.
class Health {
 public:
  using Moment = std::chrono::steady_clock::time_point;

  enum class Outcome {
    passed,
    failed,
    held,  ///< It failed while output was held: says nothing about the service.
  };
  enum class State {
    unknown,  ///< No probe has passed or failed often enough yet.
    healthy,
    unhealthy,
  };
  struct Config {
    unsigned failures = 3;   ///< In a row, before it is unhealthy. At least 1.
    unsigned successes = 2;  ///< In a row, before it is healthy again. At least 1.
    /// After the domain came to run here, anew or at all: failures do not count for so long.
    std::chrono::microseconds grace{30'000'000};
    unsigned acts_max = 3;
    /// Only a service that has been well since it began to run here is acted for.
    bool acts_only_after_well = false;
  };
  /// What an outcome led to. `act`: now is the moment for what the operator has configured.
  struct Change {
    State from = State::unknown;
    State to = State::unknown;
    bool act = false;
    bool operator==(const Change&) const = default;
  };

  /// Begins with a grace period.
  Health(const Config& config, Moment now);

  /// A probe has ended. Nothing if that changes nothing and nothing is to be done.
  std::optional<Change> on_outcome(Moment now, Outcome outcome);
  /// The domain began to run here: started, restarted, moved or promoted. A grace period begins;
  /// the state stays until probes tell another one.
  void on_begun(Moment now);

  [[nodiscard]] State state() const { return state_; }
  /// Whether the last outcome was `held`.
  [[nodiscard]] bool held() const { return held_; }
  [[nodiscard]] unsigned failures_in_a_row() const { return failures_; }

 private:
  std::optional<Change> failed();
  std::optional<Change> passed();

  Config config_;
  Moment counts_from_;
  State state_ = State::unknown;
  unsigned failures_ = 0;
  unsigned successes_ = 0;
  unsigned acts_ = 0;       ///< Since it was healthy.
  bool acted_ = false;      ///< Since it began to run here.
  bool well_here_ = false;  ///< Since it began to run here.
  bool held_ = false;
};
/// "unknown", "healthy" or "unhealthy".
std::string_view to_string(Health::State state);

/// A host's own health: each reading has a threshold, and is well again only a quarter beyond it.
class HostHealth {
 public:
  /// 0 switches a check off.
  struct Config {
    std::uint64_t memory_bytes_min = std::uint64_t{128} << 20;
    std::uint64_t disk_bytes_min = std::uint64_t{256} << 20;
    std::chrono::microseconds loop_lag_max{100'000};
    /// Processes that want to run, for each processor, in hundredths; off unless asked for: what is
    /// much depends on the host.
    std::uint64_t load_percent_max = 0;
    /// The share of the last 10 s in which all processes stood still for want of memory.
    std::uint64_t memory_pressure_percent_max = 30;
    unsigned readings = 3;  ///< In a row, before a check changes its mind.
  };
  struct Reading {
    std::uint64_t memory_bytes = 0;         ///< Available.
    std::uint64_t disk_bytes = 0;           ///< Free, of the state directory's file system.
    std::chrono::microseconds loop_lag{0};  ///< How late the agent's loop came to a timer.
    std::uint64_t load_percent = 0;
    std::uint64_t memory_pressure_percent = 0;  ///< 0 where the kernel does not tell.
  };
  enum class Check { memory, disk, loop, load, memory_pressure };
  struct Change {
    Check check = Check::memory;
    bool healthy = true;
    bool operator==(const Change&) const = default;
  };

  explicit HostHealth(const Config& config) : config_(config) {}
  std::vector<Change> on_reading(const Reading& reading);
  [[nodiscard]] bool healthy(Check check) const { return at(check).healthy; }
  [[nodiscard]] bool healthy() const;

 private:
  struct One {
    bool healthy = true;
    unsigned against = 0;  ///< Readings in a row that speak against `healthy`.
  };
  [[nodiscard]] const One& at(Check check) const {
    return checks_[static_cast<std::size_t>(check)];
  }
  void judge(Check check, bool ill, bool well, std::vector<Change>& changes);

  Config config_;
  One checks_[5];
};
/// "memory", "disk", "loop", "load" or "memory_pressure".
std::string_view to_string(HostHealth::Check check);

}  // namespace understudy
