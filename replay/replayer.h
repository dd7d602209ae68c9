// The backup's decisions after a promotion: gives the restored guest its inputs again, holds what
// it says against what the clients have heard, and lets it go on from there.
//
// Intuition: the guest has gone back to its last checkpoint, the clients have not. The log tells
// what the clients have sent since, and by digests what they have been told. So the guest is led
// along the same way: it gets the same inputs, each one only when it has said everything that it
// had said before this input the first time; and while it says again what was said before, nobody
// else hears it. Where it says something else, that connection is reset: its client must not get
// the end of another story.
//
// When may a logged input go to the guest? When these are true:
//  1. It is the next one of its flow.
//  2. *Order.* Every answer that stands before it in the log has been made again, of whatever flow:
//     a request that was sent after another one's answer was seen must be served after it. And it
//     has its *turn*: every answer that stands before its own has been made again, too. Requests
//     that lay in the guest side by side are served in the order of its scheduler, its queues and
//     its luck; the order of the answers tells which one that was, and one request at a time leaves
//     no room for another. An *answer* is the first output of a flow after something was brought to
//     it (or after the log begins); what follows of itself, as the rest of a file or the ticks of a
//     clock, is not waited for by others. A request without an answer in the log comes after all
//     that have one.
//  3. It acknowledges nothing that the guest has not sent again: TCP would drop it. (SACK blocks of
//     such octets are taken out: they are advice.)
//  4. It fits into the window that the guest offers: the guest would drop it, and its client, which
//     had it acknowledged the first time, will never send it again. For the same reason whatever
//     takes sequence space is given again until the guest acknowledges it. (A segment may have been
//     beyond the window the first time, too: after `kWindowPatience` without progress it is given.)
//
// Rule 3 and congestion control: the restored guest may send in smaller steps than the first time,
// and then waits for an acknowledgement of its step, which is not in the log. It gets one: the
// highest acknowledgement in the log, cut down to what the guest has sent. The client did
// acknowledge that.
//
// Limits in time, so that no flow can block another one:
//  · Nothing moves for `turn_wait`: an answer may depend on a request whose own answer came later
//    (a subscriber's on a publisher's). The oldest request that waits for its turn is given.
//  · Nothing moves for `order_wait`: the flow that is waited for is *not waited for any more* (rule
//    2 ignores it, and its own inputs go on by rules 1, 3 and 4 alone). All such waits together
//    last at most `order_wait_total`; then rule 2 is given up altogether.
//  · A guest whose processor has work (on_tick is told) is not waiting for us, it is slow: on a
//  busy
//    host, or under a load that left it no rest the first time either. Impatience would make
//    another story out of that, so such time counts a fifth only (`kBusyCounts`).
//  · Such a flow makes no progress for `flow_wait`: it counts as diverged.
//
// Live frames. A client's frame waits until all logged inputs of flows that are waited for were
// given, and all their outputs made again; and until its own flow is through. Frames wait in the
// order in which they came, at the pace of `frames_per_ms` once they may go, up to
// `waiting_bytes_max`; beyond it they are dropped, as in a full queue of a network. ARP and control
// messages wait for nothing.
//
// The guest's output: what the log covers is compared and suppressed; what goes beyond passes at
// once. A bare acknowledgement is suppressed until its flow is live. Once a flow is live everything
// passes, translated (translator.h), also repetitions of what was released: it is known to be the
// same.
//
// Datagrams (UDP, echo) have no stream: an output that equals one which the log expects of its flow
// is suppressed; another one contradicts what was released and is dropped in place of the oldest
// expected (or passes, with `tolerate`). With nothing expected it passes. A request that was in
// flight at the pause may be answered twice.
//
// Divergence, by flow: another digest, an end too early or too late, a reset, another initial
// sequence number in the middle, no progress. `reset`: the client is reset at once, and again
// whenever it speaks on that connection. The guest is reset too, but not before it has had the rest
// of that flow's logged inputs: what the client asked for later may have been answered, and an
// acknowledged request must survive even where its answer cannot be told again. For that the
// replayer plays the client: it acknowledges whatever the guest says (the flow is *condemned*).
// `tolerate`: other contents are taken as if they were the same as long as positions fit; the
// client may then see a mixture, and has been asked for it.
//
// Acknowledgements may be missing at the end of the log: the client has heard more than its last
// logged segment says. Then those of its live frames count, cut down in the same way, while the
// frames themselves wait; and what the guest repeats, having said it before under comparison,
// passes to the client, who may have lost it on the way.
//
// Awkward cases:
//  · A connection opened after the checkpoint: its SYN is given again, the guest answers with
//  another
//    number, and the difference is translated as long as the connection lives.
//  · The guest opened it: the logged SYN-ACK waits for the guest's SYN on the same ports. A guest
//    that takes other ports makes a new connection, and the old one is reset for want of progress.
//  · A SYN in flight at the pause that the guest has had: it answers with an acknowledgement; that
//    opens as well.
//  · Ports used again within the log: one incarnation after the other.
//  · Echoed timestamps of the future (the guest's clock has gone back) become the guest's newest;
//    what it is given again must not look old to it.
//  · Octets that the guest had sent before the pause: known by the checkpoint, not compared.
//  · Hostile logs: any records are replayed without harm to ourselves; see the fuzz target.
//
// Not taken: giving inputs at the pace of the log's clock (a replay would take as long as the
// original); reassembling the output before comparing (digests of stream octets need no more than
// one frame's octets of memory for each flow).
//
// Actions are to be done in order. Not thread-safe; a value without clock or I/O.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "checkpoint/protection.h"
#include "replay/flow_key.h"
#include "replay/input_log.h"
#include "replay/packet.h"
#include "replay/translator.h"

namespace understudy::replay {

/// What to do with a flow whose replay differs from what its client was told.
enum class OnDivergence : std::uint8_t { reset, tolerate };

/// Leads one restored guest along its log.
class Replayer {
 public:
  struct Config {
    OnDivergence on_divergence = OnDivergence::reset;
    /// Long enough for a guest that runs for the first time on this host and has a busy processor:
    /// a turn that is skipped for impatience may make another story.
    std::chrono::microseconds turn_wait{200'000};
    std::chrono::microseconds order_wait{400'000};
    std::chrono::microseconds order_wait_total{2'000'000};
    std::chrono::microseconds flow_wait{5'000'000};
    /// After so long without an acknowledgement of the guest an input is given again; doubled up
    /// to eight times as long.
    std::chrono::microseconds feed_again_after{200'000};
    std::size_t waiting_bytes_max = std::size_t{16} << 20;
    /// Frames that go to the guest for each millisecond, at most: a tap's queue holds 500.
    std::uint32_t frames_per_ms = 100;
  };

  /// Put this frame into the guest's interface. Checksums are complete. It may be larger than the
  /// interface's MTU (the sender's offload made it so): see split_tcp.
  struct ToGuest {
    std::uint16_t interface = 0;
    Frame frame;
  };
  /// Send this frame to the network, as if the guest had.
  struct ToNetwork {
    std::uint16_t interface = 0;
    Frame frame;
    ChecksumState checksum = ChecksumState::complete;
  };
  /// Worth a line in the journal and the event list.
  enum class Event {
    contents_differ,        ///< Other octets than were released; `offset`: of the differing record.
    ended_early,            ///< FIN or RST before all that was released.
    goes_on,                ///< Octets behind a released FIN.
    connection_differs,     ///< Another initial sequence number, or none where one was expected.
    no_progress,            ///< For `flow_wait`.
    too_many_translations,  ///< No room to translate it.
    datagram_differs,       ///< One that contradicts a released one was dropped.
    not_waited_for,         ///< Others go on without this flow.
    order_given_up,         ///< All flows go on without one another.
    order_complete,         ///< Live frames flow from here on.
  };
  struct Report {
    Event event;
    FlowKey flow;              ///< Of the flow meant, if one is.
    LogPosition position;      ///< The record that it was held against.
    std::uint64_t offset = 0;  ///< First offset in the guest's stream from which on it differs.
  };
  using Action = std::variant<ToGuest, ToNetwork, Report>;
  using Actions = std::vector<Action>;

  /// `records` as BackupLog::take gives them; `translator` from its translations. Call on_tick once
  /// before the guest runs: what lay before its door when it stood still lies there again when it
  /// wakes. Then on_running, and on_tick by next_deadline.
  Replayer(const Config& config, Instant now, std::vector<LogRecord> records,
           Translator translator);
  ~Replayer();
  Replayer(Replayer&&) noexcept;

  /// The guest has sent a frame.
  Actions on_guest_frame(Instant now, std::uint16_t interface, Frame frame, ChecksumState checksum);
  /// A frame for the guest has come from the network.
  Actions on_client_frame(Instant now, std::uint16_t interface, Frame frame,
                          ChecksumState checksum);
  /// `guest_has_work`: its processors were not idle when it was looked at, just now.
  Actions on_tick(Instant now, bool guest_has_work = false);
  /// The guest runs from this moment on: until now it could not have answered anything.
  void on_running(Instant now);
  [[nodiscard]] Instant next_deadline() const;

  /// Whether any flow is still being led. Afterwards the replayer only translates.
  [[nodiscard]] bool replaying() const {
    return leading_ > 0 || !order_open_ || !resets_to_repeat_.empty() || !waiting_.empty();
  }
  /// What is in force: for marks of the next protection.
  [[nodiscard]] const Translator& translator() const { return translator_; }

  struct Statistics {
    std::uint64_t inputs_fed = 0;
    std::uint64_t inputs_total = 0;
    std::uint64_t fed_again = 0;
    std::uint64_t outputs_suppressed = 0;
    std::uint64_t flows_diverged = 0;
    std::uint64_t datagrams_dropped = 0;
    std::uint64_t waiting_dropped = 0;
  };
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }

 private:
  struct Input;
  struct Expected;
  struct Flow;
  struct Waiting {
    std::uint16_t interface;
    Frame frame;
    ChecksumState checksum;
  };

  // Building the story.
  Flow* flow_for_input(Instant now, const FlowKey& key, const Packet& packet);
  static void note_client(Flow& flow, const Packet& packet);
  void expect(Instant now, LogPosition position, const OutputRecord& record);
  void expect_in_order(Flow& flow);
  void update_front(Flow& flow);
  Flow& make_flow(Instant now, const FlowKey& key);

  // Giving inputs.
  void pump(Instant now, Actions& actions);
  [[nodiscard]] bool has_its_turn(const Input& input) const;
  bool skip_a_turn(Instant now, Actions& actions);
  bool may_feed(Instant now, const Flow& flow, const Input& input) const;
  void feed(Instant now, std::size_t index, Actions& actions);
  void give(Instant now, Flow* flow, std::uint16_t interface, Frame frame, Actions& actions);
  void acknowledge_what_was_sent(Instant now, Flow& flow, bool again, Actions& actions);

  // Hearing the guest.
  void hear_segment(Instant now, Flow& flow, std::uint16_t interface, Frame frame, Packet packet,
                    ChecksumState checksum, Actions& actions);
  void hear_opening(Instant now, Flow& flow, const Packet& packet, Actions& actions);
  bool compare(Instant now, Flow& flow, std::int64_t start, std::span<const std::uint8_t> octets,
               Actions& actions);
  bool compare_end(Instant now, Flow& flow, Actions& actions);
  void hear_datagram(Instant now, Flow& flow, std::uint16_t interface, Frame frame,
                     const Packet& packet, ChecksumState checksum, Actions& actions);
  void pass_on(Instant now, Flow& flow, std::uint16_t interface, Frame frame, Packet packet,
               ChecksumState checksum, Actions& actions);
  bool give_voice(Instant now, Flow& flow, Actions& actions);
  void reproduced(Instant now, Flow& flow);

  // Turning points.
  void settle(Instant now, Flow& flow, Actions& actions);
  void open_order_if_due(Instant now, Actions& actions);
  void detach(Instant now, Flow& flow);
  void forget_expected(Flow& flow);
  void diverge(Instant now, Flow& flow, Event event, LogPosition position, std::uint64_t offset,
               Actions& actions);
  void condemn(Instant now, Flow& flow, Event event, LogPosition position, std::uint64_t offset,
               Actions& actions);
  void end_condemned(Flow& flow, Actions& actions);
  void report_divergence(Instant now, Flow& flow, Event event, LogPosition position,
                         std::uint64_t offset, Actions& actions);
  static void reset_where_it_may_be(const Flow& flow, Actions& actions);
  void repeat_resets(Instant now, Actions& actions);
  void hear_condemned(Instant now, Flow& flow, const Packet& packet, Actions& actions);
  void hear_acknowledgement(Instant now, Flow& flow, const TcpHeader& tcp);
  void acknowledge_all(Instant now, Flow& flow, Actions& actions);
  void stop_leading(Flow& flow);
  void reset_guest(const Flow& flow, std::uint16_t interface, std::uint32_t sequence,
                   Actions& actions);
  static void reset_client(const Flow& flow, std::uint32_t sequence, Actions& actions);
  void flush_waiting(Instant now, Actions& actions);
  bool take_client_frame(Instant now, Waiting& waiting, Actions& actions);

  [[nodiscard]] std::optional<TcpHeader> manner_of(const Flow& flow) const;
  static std::optional<TcpTimestamps> clock_for(const Flow& flow, const TcpHeader& manner);
  static TcpSegment from_client(const Flow& flow);
  static Frame as_given(const Flow& flow, const Input& input);
  [[nodiscard]] Flow* current(const FlowKey& key) const;
  [[nodiscard]] std::uint32_t delta_of(const Flow& flow) const;

  Config config_;
  Translator translator_;
  std::vector<Input> inputs_;
  /// Of these, the next one of each flow that is waited for, and those without a flow.
  std::set<std::size_t> fronts_;
  std::vector<std::unique_ptr<Flow>> flows_;
  /// The incarnations of each flow, oldest first; the front is the one being led.
  std::unordered_map<FlowKey, std::deque<Flow*>, FlowKeyHash> by_key_;
  /// What flows that are waited for have yet to say, by position (and 1 for a FIN behind octets).
  std::map<std::pair<std::uint64_t, int>, Flow*> outstanding_;
  /// Flows whose clients may not have had their reset yet.
  std::vector<Flow*> resets_to_repeat_;
  std::deque<Waiting> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::size_t leading_ = 0;
  bool order_open_ = false;
  bool flush_due_ = false;
  Instant order_progress_;
  Instant last_tick_;
  std::chrono::microseconds order_waited_{0};
  Instant budget_at_;
  std::uint32_t budget_;
  Statistics statistics_;
};

std::string_view to_string(OnDivergence on_divergence);
std::string_view to_string(Replayer::Event event);

}  // namespace understudy::replay
