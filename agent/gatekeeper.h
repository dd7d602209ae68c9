// What a session on the primary needs of a gate, whichever mode the domain is protected in.
//
//   RemusGatekeeper   output waits for commits; the kernel holds it      (netbuffer/output_gate.h)
//   ReplayGatekeeper  output waits for the log or for commits; we hold it (agent/replay_gate.h)
#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <span>
#include <vector>

#include "agent/replay_gate.h"
#include "base/task.h"
#include "netbuffer/output_gate.h"

namespace understudy {

/// The closed gate of one protected domain.
class Gatekeeper {
 public:
  virtual ~Gatekeeper() = default;
  Gatekeeper(const Gatekeeper&) = delete;
  Gatekeeper& operator=(const Gatekeeper&) = delete;

  /// Before a pause: waits, not long, for a moment at which the domain has answered what it was
  /// asked.
  virtual Task<void> quieten() { co_return; }
  /// After the pause, or instead of it: the end of what quieten() has done. May be repeated.
  virtual void let_in() {}
  /// The barrier: while the domain is paused for the checkpoint of `epoch`.
  virtual Task<Result<void>> seal(EpochId epoch) = 0;
  /// Lets out what was sealed up to and including `epoch`.
  virtual Result<void> release(EpochId epoch) = 0;
  /// Gives up everything held; the gate stays closed.
  virtual Result<void> drop_held() = 0;
  /// Lets everything out. The object is spent afterwards.
  virtual Result<void> open() = 0;
  /// Sends a frame that came for the domain after it had stopped here to where it runs now. Where
  /// inputs are logged there is none that the other host has not.
  virtual Result<void> pass_on(UnreadInput /*input*/) { return ok(); }

  [[nodiscard]] virtual TrafficCounters counters() const = 0;
  [[nodiscard]] virtual std::vector<LearnedAddresses> learned_addresses() const = 0;
  /// For status (docs/api.md, "replay"); null where there is nothing to say.
  [[nodiscard]] virtual boost::json::value replay_status() const { return nullptr; }

  // The input log; nothing of it concerns a gate that keeps none.

  /// A bulk link stands; the backup has the log up to `peer_log`.
  virtual void on_link_up(LogPosition /*peer_log*/) {}
  virtual void on_link_down() {}
  virtual void on_peer_heard(Instant /*sent_at*/) {}
  /// A log_acknowledgement frame came. Errors: bad_data, protocol.
  virtual Result<void> on_log_acknowledged(std::span<const std::byte> payload);

 protected:
  Gatekeeper() = default;
};

/// Remus mode.
class RemusGatekeeper final : public Gatekeeper {
 public:
  explicit RemusGatekeeper(std::unique_ptr<OutputGate> gate) : gate_(std::move(gate)) {}

  Task<Result<void>> seal(EpochId epoch) override { co_return gate_->seal(epoch); }
  Result<void> release(EpochId epoch) override { return gate_->release(epoch); }
  Result<void> drop_held() override { return gate_->drop_held(); }
  Result<void> open() override { return gate_->open(); }
  Result<void> pass_on(UnreadInput input) override {
    return gate_->pass_on(input.interface, std::move(input.octets));
  }
  [[nodiscard]] TrafficCounters counters() const override { return gate_->counters().total(); }
  [[nodiscard]] std::vector<LearnedAddresses> learned_addresses() const override {
    return gate_->learned_addresses();
  }

 private:
  std::unique_ptr<OutputGate> gate_;
};

/// Replay mode, and remus mode while connections are being translated.
class ReplayGatekeeper final : public Gatekeeper {
 public:
  /// `gate` is protecting; `domain` outlives this.
  ReplayGatekeeper(std::shared_ptr<ReplayGate> gate, Domain& domain)
      : gate_(std::move(gate)), domain_(domain) {}

  Task<void> quieten() override;
  void let_in() override { gate_->let_in(); }
  Task<Result<void>> seal(EpochId epoch) override;
  Result<void> release(EpochId epoch) override;
  Result<void> drop_held() override;
  Result<void> open() override;
  [[nodiscard]] TrafficCounters counters() const override { return gate_->counters(); }
  [[nodiscard]] std::vector<LearnedAddresses> learned_addresses() const override {
    return gate_->learned_addresses();
  }
  [[nodiscard]] boost::json::value replay_status() const override { return gate_->to_json(); }
  void on_link_up(LogPosition peer_log) override { gate_->on_link_up(peer_log); }
  void on_link_down() override { gate_->on_link_down(); }
  void on_peer_heard(Instant sent_at) override { gate_->on_peer_heard(sent_at); }
  Result<void> on_log_acknowledged(std::span<const std::byte> payload) override;

 private:
  std::shared_ptr<ReplayGate> gate_;
  Domain& domain_;
};

}  // namespace understudy
