// The primary's decisions in replay mode: which inputs are logged, which outputs may go, when the
// log is too long.
//
// Intuition: an output may leave as soon as the backup could make it again. A checkpoint of the
// state behind it is one way to be sure of that (remus mode). The other: the backup has the last
// committed checkpoint, every input since then that was delivered before the output, and a digest
// of the output to check its own against. Inputs and digests stand in one row of positions, so the
// second way is one comparison:
//
//   output:  held at position p → acknowledged (the backup has the log up to p) → released
//
// Either way suffices. What cannot be described to the backup (fragments, unknown protocols, ports
// with policy remus, flows beyond the table) goes the first way only.
//
//   what                                    input                output
//   -------------------------------------   ------------------   ---------------------------------
//   not IP; ICMP other than echo; IGMP      let in, not logged   log up to the last input
//   TCP, UDP, echo; port policy replay      logged, let in       log up to its own digest
//   TCP, UDP; port policy remus             logged, let in       commit
//   TCP, UDP; port policy open              let in, not logged   at once, within the lease
//   fragments, malformed, other IP          logged, let in       commit
//   frames above 64 KiB                     dropped              commit
//
// Inputs of remus ports are logged too: what they change is seen through other ports. Inputs of
// open ports are not, and what they have changed since the last commit is lost at a promotion;
// answers on replay ports that depend on it diverge, and are reset. Output of open ports still
// waits while the lease has run out: even of what is promised nothing, two hosts must not speak.
//
// The gap. When the log cannot be kept (bounds, or it only just begins), inputs are let in
// unlogged, and outputs go by commits alone: remus mode. To come back, a gap is written and inputs
// are logged again; but a checkpoint taken before all unlogged inputs were inside the guest would
// not contain them, and the log would not either. Therefore digests release nothing until a
// checkpoint is committed whose mark says `delivered` at or behind the gap.
//
// The lease is that of epoch_primary.h, "The lease", for the same reason: an acknowledgement that
// is read late must not let output go that the backup, promoted meanwhile, is about to repeat.
//
// Awkward cases:
//  · The link is lost: nothing is acknowledged, so everything stays held. Inputs are logged on, up
//    to the bounds. At the next hello the backup says how far its log goes; that counts as its
//    acknowledgement, and the rest is sent (again).
//  · The backup comes back without a log (it was restarted), or with one that we do not know (we
//    were): the log begins anew behind it, with a gap.
//  · Frames in flight between gate and guest at a pause: `delivered` says how far the guest had
//    certainly come; later ones count as after the checkpoint (input_log.h, "The cut").
//  · A pause whose checkpoint comes to nothing: its mark stays in the log and cuts nothing.
//  · Acknowledgements that are late, repeated, of another protection, or of what was never sent:
//    known already, or refused with an event.
//
// Not taken: releasing an output on the acknowledgement of the inputs alone, without its digest
// (saves no time, as both travel together), and letting it go unchecked (LLM).
//
// Actions are to be done in the order given. Not thread-safe; all of one domain's events come from
// one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/protection.h"
#include "replay/flow_table.h"
#include "replay/input_log.h"
#include "replay/packet.h"

namespace understudy::replay {

/// What is promised for a port of the guest.
enum class PortPolicy : std::uint8_t {
  remus,   ///< Output waits for the commit.
  replay,  ///< Output waits for the log.
  open,    ///< Output waits for no backup, and nothing is promised.
};

/// The policies of one domain, by the guest's port of a flow.
struct PortPolicies {
  PortPolicy standard = PortPolicy::replay;
  std::map<std::uint16_t, PortPolicy> ports;

  /// Echo has no port: it follows the standard.
  [[nodiscard]] PortPolicy of(const FlowKey& flow) const;
  /// Whether any output goes by the log.
  [[nodiscard]] bool any_replay() const;
};

/// Names one held frame for whoever holds it.
struct OutputId {
  std::uint16_t interface = 0;
  std::uint32_t packet_id = 0;  ///< As the gate's source counts them.
  auto operator<=>(const OutputId&) const = default;
};

/// Decides for one protection on the primary's side. A value: no thread, socket, clock or file.
class ReleaseRule {
 public:
  enum class State {
    fallen_back,  ///< Inputs are not logged; outputs go by commits (remus mode).
    rejoining,    ///< Inputs are logged; a gap is not yet cut; outputs go by commits.
    logging,      ///< Replay mode.
  };

  struct Config {
    ProtectionId protection;  ///< Not 0.
    Generation generation;    ///< The domain's here.
    PortPolicies policies;
    LogLimits limits;  ///< The backup's must not be lower.
    /// How long ago the last committed pause may be: what a promotion would have to replay.
    std::chrono::microseconds replay_time_max{30'000'000};
    /// How long remus mode lasts once the log was too long.
    std::chrono::microseconds fall_back_for{10'000'000};
    /// As EpochPrimary::Config::lease.
    std::chrono::microseconds lease{150'000};
    std::size_t flows_max = 65'536;
  };

  /// Let this held frame out.
  struct Release {
    OutputId output;
    auto operator<=>(const Release&) const = default;
  };
  /// There is something to send: call take_unsent until it gives nothing.
  struct SendLog {};
  /// Take the next checkpoint now: the log is half full, or half as old as it may be. Said once
  /// for each pause.
  struct CheckpointEarly {};
  /// Worth a line in the journal and the event list.
  enum class Event {
    replay_mode,             ///< From here on outputs go by the log.
    fell_back,               ///< The log reached a bound: remus mode for a while.
    log_restarted,           ///< The backup has no log of this protection.
    acknowledgement_refused  ///< Of another protection or generation, or of what was never sent.
  };
  struct Report {
    Event event;
    LogPosition position;
  };
  using Action = std::variant<Release, SendLog, CheckpointEarly, Report>;
  using Actions = std::vector<Action>;

  explicit ReleaseRule(const Config& config);

  // --- the link ---

  /// A bulk connection stands. `peer_log` is what the backup's hello says: how far its log of this
  /// protection goes, 0 if it has none.
  Actions on_link_up(Instant now, LogPosition peer_log);
  /// The connection is gone; what was not acknowledged may be lost.
  void on_link_down();
  /// The next records to be sent, at most about `bytes_max` octets of them (at least one record).
  /// Nothing if all is sent, or there is no link.
  std::optional<LogBatch> take_unsent(Instant now, std::size_t bytes_max);
  /// The same as the octets of `encode`, without a copy of the frames in between. Empty for
  /// nothing.
  std::vector<std::byte> take_unsent_encoded(Instant now, std::size_t bytes_max);
  Actions on_log_acknowledged(Instant now, const LogAcknowledged& acknowledged);
  /// As EpochPrimary::on_peer_heard.
  Actions on_peer_heard(Instant now, Instant sent_at);

  // --- frames ---

  struct InputVerdict {
    bool let_in = true;  ///< Else drop it. Either at once: nothing is waited for.
    Actions actions;
  };
  /// A frame for the guest is at the gate.
  InputVerdict on_input(Instant now, std::uint16_t interface, std::span<const std::uint8_t> frame,
                        ChecksumState checksum);
  /// All that was let in while log().last_position() was `position` or lower is inside the guest:
  /// the tap's queue was seen empty since, or the guest's ring past it. Never more than is certain.
  void on_delivered(LogPosition position);
  /// The gate holds this frame of the guest. In the order in which the guest sent them.
  Actions on_output(Instant now, OutputId output, std::span<const std::uint8_t> frame);
  /// The same for a frame of which only metadata is known: released by commits only.
  Actions on_strict_output(OutputId output);

  // --- checkpoints ---

  /// The domain stands still for the checkpoint of `epoch`, and every frame that it sent before was
  /// given to on_output. From the first time on the gate counts as closed. `translations` is
  /// Translator::encode() of this moment. The log up to the mark must be sent before the
  /// checkpoint's end. no_resources: the log has no room even for a mark; the capture must not
  /// count, and the protection has to begin anew.
  Result<Actions> on_paused(Instant now, EpochId epoch, std::vector<std::byte> translations);
  /// EpochPrimary says Release{epoch}.
  Actions on_epoch_released(Instant now, EpochId epoch);
  /// EpochPrimary says OpenGate: all that is held may go, and all that comes until the next pause.
  Actions on_gate_opened();
  /// The primary was superseded: all that is held is forgotten (and dropped by its holder).
  void on_dropped();

  // --- time and people ---

  Actions on_tick(Instant now);
  /// When on_tick must be called at the latest.
  [[nodiscard]] Instant next_deadline() const;
  /// Takes effect for frames to come. Without a port of policy replay nothing is logged but marks.
  Actions on_policies_changed(Instant now, PortPolicies policies);

  // --- status ---

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] const InputLog& log() const { return log_; }
  /// Up to where the backup has the log; monotonic.
  /// When the oldest batch was sent that the backup has not acknowledged; none if it has all.
  [[nodiscard]] std::optional<Instant> awaits_since() const {
    return unacknowledged_.empty() ? std::nullopt : std::optional(unacknowledged_.front().at);
  }
  [[nodiscard]] LogPosition acknowledged() const { return acknowledged_; }
  [[nodiscard]] std::size_t held() const {
    return by_log_.size() + by_commit_.size() + by_lease_.size();
  }
  /// The stretch of execution that a promotion now would have to replay.
  [[nodiscard]] std::chrono::microseconds replay_estimate(Instant now) const;
  [[nodiscard]] const FlowTable& flows() const { return flows_; }

 private:
  struct Held {
    std::uint64_t number;  ///< Counts all outputs, so that both queues can be merged.
    OutputId output;
    LogPosition position;  ///< In by_log_ only.
  };
  struct Seal {
    EpochId epoch;
    std::uint64_t outputs;  ///< Those with a lower number belong to it.
    Instant paused_at;
  };
  struct Sent {
    LogPosition up_to;
    Instant at;
  };

  std::vector<const LogRecord*> next_unsent(Instant now, std::size_t bytes_max);
  void hold_for_log(Instant now, OutputId output, Actions& actions);
  void hold_for_commit(OutputId output, Actions& actions);
  void release_proved(Instant now, Actions& actions);
  void release_numbered_below(std::uint64_t number, Actions& actions);
  bool append(Instant now, LogContent content, Actions& actions);
  void check_bounds(Instant now, Actions& actions);
  void fall_back(Instant now, Actions& actions);
  void rejoin_if_due(Instant now, Actions& actions);
  [[nodiscard]] bool has_room_to_rejoin() const;
  [[nodiscard]] bool logs() const { return state_ != State::fallen_back; }

  Config config_;
  State state_ = State::fallen_back;
  InputLog log_;
  FlowTable flows_;
  bool link_up_ = false;
  bool gate_closed_ = false;
  bool early_asked_ = false;
  LogPosition sent_;
  LogPosition acknowledged_;
  LogPosition delivered_;
  LogPosition gap_;
  std::deque<Sent> unacknowledged_;
  std::deque<Held> by_log_;
  std::deque<Held> by_commit_;
  std::deque<Held> by_lease_;
  std::deque<Seal> seals_;
  std::uint64_t outputs_ = 0;
  std::optional<Instant> heard_at_;
  /// The last committed pause, or the moment at which the log began.
  Instant replay_from_{};
  Instant rejoin_at_ = Instant::min();
};

/// Stable lower-case names, as used in status and events.
std::string_view to_string(PortPolicy policy);
std::string_view to_string(ReleaseRule::State state);
std::string_view to_string(ReleaseRule::Event event);

}  // namespace understudy::replay
