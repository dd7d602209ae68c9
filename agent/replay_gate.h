// The gate of a domain in replay mode: carries its frames, and does what the release rule and the
// replayer decide.
//
// Intuition: every frame of the domain, in either direction, comes by here
// (netbuffer/frame_relay.h). Up to two things stand in its way:
//
//   for the guest   bridge ─▶ ReleaseRule (logs it) ─▶ Replayer (translates, or lets it wait) ─▶
//   guest of the guest    guest ─▶ Replayer (compares, translates) ─▶ ReleaseRule (holds it) ─▶
//   bridge
//
// The rule is there while the domain is protected; the replayer is there from a promotion until
// nothing is left to be replayed or translated. So inputs are logged as the client sent them, and
// outputs are judged as the client sees them, also where a domain that was promoted once is
// protected again. When neither is there any more, the gate opens by itself and the bridge carries
// the frames as it did.
//
// Awkward cases:
//  · A frame that is not translated passes as it came, with its offloads. One that the replayer
//  made
//    or completed is cut up to the interface's MTU.
//  · More output than may be held: the newest frame is dropped, as in a full network queue.
//  · A checkpoint is best taken between two requests: what the guest is at work on it will finish
//  by
//    itself after a promotion, in whatever order its scheduler likes, before the replayer can have
//    a say (replay/replayer.h, "Order"). So requests wait for some milliseconds before a pause,
//    until those before them are answered, or time is up. See quieten().
//  · An input alone is in no hurry: it travels with the next output, or after some milliseconds, or
//    when enough has come together. Each message costs two hosts a wake-up.
//  · `delivered` of a mark: see input_delivery.h.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "agent/input_delivery.h"
#include "base/condition.h"
#include "hypervisor/domain.h"
#include "netbuffer/frame_relay.h"
#include "replay/release_rule.h"
#include "replay/replayer.h"

namespace understudy {

/// The gate of one domain. Used on one thread. Made with close(), kept by shared_ptr.
class ReplayGate : public std::enable_shared_from_this<ReplayGate> {
 public:
  /// What a protection wants to be told. Not called any more after the protection's end.
  struct ProtectionHooks {
    /// An encoded batch.
    std::function<void(std::vector<std::byte>)> send_log;
    std::function<void()> capture_early;
    std::function<void()> ask_progress;  ///< on_input_progress is wanted before long.
    std::function<void(const replay::ReleaseRule::Report&)> report;
  };
  /// What a promotion wants to be told.
  struct ReplayHooks {
    std::function<void(const replay::Replayer::Report&)> report;
    std::function<void()> replayed;  ///< No flow is led any more.
  };

  /// Fences the interfaces off; from here on nothing passes but through this object. Errors as
  /// FrameRelay::close.
  static Result<std::shared_ptr<ReplayGate>> close(const boost::asio::any_io_executor& executor,
                                                   const std::string& domain,
                                                   std::span<const OutputInterface> interfaces);
  ~ReplayGate();
  ReplayGate(const ReplayGate&) = delete;
  ReplayGate& operator=(const ReplayGate&) = delete;

  // --- protection ---

  /// From here on the rule decides about output.
  void protect(const replay::ReleaseRule::Config& config, ProtectionHooks hooks);
  /// The protection has ended and what was held is to be sent: the domain speaks for itself.
  void end_protection();
  void on_link_up(LogPosition peer_log);
  void on_link_down();
  void on_log_acknowledged(const replay::LogAcknowledged& acknowledged);
  void on_peer_heard(Instant sent_at);
  void set_policies(replay::PortPolicies policies);

  /// Holds requests back from here on, and returns when the guest has answered those that it has
  /// had, or after a while.
  Task<void> quieten();
  /// Lets in what was held back.
  void let_in();
  /// What Domain::input_progress says, now that the domain is `paused` or not.
  void on_input_progress(std::span<const InputProgress> progress, bool paused) {
    delivery_.on_progress(progress, paused);
  }
  /// Whether Domain::takes_inputs would make a difference for seal().
  [[nodiscard]] bool wants_takes_inputs() const;
  /// The barrier, while the domain is paused and right after on_input_progress.
  Result<void> seal(EpochId epoch, bool takes_inputs);
  void release(EpochId epoch);
  /// Gives up what is held.
  void drop_held();

  // --- replay ---

  /// A restored domain is about to run: from here on all its frames go by `replayer`. Its
  /// interfaces are attached; the first inputs are put before them.
  void lead(replay::Replayer replayer, ReplayHooks hooks);
  /// It runs. `activity`: Domain::activity().
  void begin_replay(std::function<bool()> activity);
  [[nodiscard]] bool replaying() const { return replayer_ && replayer_->replaying(); }
  [[nodiscard]] const std::optional<replay::Replayer>& replayer() const { return replayer_; }

  // --- both ---

  /// Takes the rules out of the kernel and ends everything here: the domain does not run any more.
  Result<void> remove();
  /// True once the gate has opened by itself, or was removed: the object is of no use any more.
  [[nodiscard]] bool opened() const { return opened_; }
  /// The device by which the network reaches an interface of the guest now.
  [[nodiscard]] std::string device(std::size_t interface) const {
    return relay_->device(interface);
  }
  [[nodiscard]] TrafficCounters counters() const;
  [[nodiscard]] std::vector<LearnedAddresses> learned_addresses() const {
    return relay_->learned_addresses();
  }
  /// docs/api.md, "replay". Null without a rule and a replayer.
  [[nodiscard]] boost::json::value to_json() const;

 private:
  struct Held {
    std::uint16_t interface = 0;
    std::optional<RelayedFrame> frame;  ///< Nothing once it is gone.
  };

  ReplayGate(const boost::asio::any_io_executor& executor, std::size_t interfaces);
  void on_output(std::uint16_t interface, RelayedFrame frame);
  void on_input(std::uint16_t interface, RelayedFrame frame);
  void admit(std::uint16_t interface, RelayedFrame frame);
  bool hold_back(std::uint16_t interface, RelayedFrame& frame);
  void note_request(const RelayedFrame& frame);
  void note_answer(const RelayedFrame& frame);
  void offer_output(std::uint16_t interface, RelayedFrame frame);
  [[nodiscard]] bool concerns_replayer(const RelayedFrame& frame,
                                       replay::Direction direction) const;
  void carry_out(const replay::ReleaseRule::Actions& actions);
  /// `original`: the frame of the guest that the actions answer, if it is one.
  void carry_out(replay::Replayer::Actions actions, const RelayedFrame* original);
  void send_held(replay::OutputId output);
  void give_to_guest(std::uint16_t interface, const replay::Frame& frame);
  void hand_over(std::uint16_t interface, std::span<const std::uint8_t> header_and_frame);
  void settle();
  /// Until when what is to be sent waits for the acknowledgement of the batch before; none: it may
  /// go.
  [[nodiscard]] std::optional<Instant> wait_for_acknowledgement() const;
  void arm();
  void on_timer();
  void open_if_idle();

  boost::asio::any_io_executor executor_;
  std::unique_ptr<FrameRelay> relay_;
  std::optional<replay::ReleaseRule> rule_;
  ProtectionHooks hooks_;
  std::optional<replay::Replayer> replayer_;
  ReplayHooks replay_hooks_;
  std::function<bool()> activity_;
  bool running_ = false;  ///< The domain that the replayer leads runs.
  bool led_ = false;      ///< The last replayer's end was told.

  std::deque<Held> held_;
  std::uint32_t first_held_ = 0;  ///< Number of the front of held_; they wrap around.
  std::uint64_t held_bytes_ = 0;
  std::uint64_t held_frames_ = 0;
  std::uint64_t released_frames_ = 0;
  std::uint64_t released_bytes_ = 0;
  std::uint64_t dropped_frames_ = 0;
  InputDelivery delivery_;

  struct HeldBack {
    std::uint16_t interface;
    RelayedFrame frame;
  };
  using Requests = std::unordered_map<replay::FlowKey, Instant, replay::FlowKeyHash>;
  Requests unanswered_;  ///< The newest request of each flow that has not been answered.
  Condition answered_;
  Instant swept_at_{};
  bool quietening_ = false;
  std::uint64_t held_back_bytes_ = 0;
  Instant protected_at_{};
  std::deque<HeldBack> held_back_;
  std::unordered_set<replay::FlowKey, replay::FlowKeyHash> flows_held_back_;

  boost::asio::steady_timer timer_;
  Instant refresh_at_{};
  bool log_due_ = false;                 ///< There is something to send …
  bool log_urgent_ = false;              ///< … and output waits for it.
  std::uint64_t log_bytes_waiting_ = 0;  ///< Octets of inputs among it.
  Instant log_due_at_ = Instant::max();  ///< When it is sent at the latest.
  Instant armed_for_ = Instant::max();   ///< When the timer fires.
  bool opened_ = false;
  bool opening_ = false;
};

}  // namespace understudy
