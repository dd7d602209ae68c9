#include "replay/replayer.h"

#include <algorithm>

#include "replay/flow_table.h"

namespace understudy::replay {
namespace {

using namespace std::chrono_literals;

/// Octets that a guest whose window, or its scale, is not known may be given at once.
constexpr std::uint32_t kFirstWindow = 14'600;
constexpr auto kWindowPatience = 20ms;
constexpr auto kTickWhileLeading = 5ms;
constexpr auto kTickWithoutBudget = 1ms;
constexpr auto kTickTranslations = 5s;
constexpr std::uint8_t kTcp = 6;
/// A flow whose requests had to be given before their turn so often does not wait for it any more.
constexpr std::uint32_t kTurnsMissed = 2;
/// A reset may be lost, and a client that only listens would never learn: it is said so often.
constexpr std::uint32_t kResetsRepeated = 4;
constexpr auto kResetAgainAfter = 100ms;
/// One part in so many of the time in which the guest has work counts as waiting.
constexpr int kBusyCounts = 5;

}  // namespace

/// One input of the log.
struct Replayer::Input {
  LogPosition position;
  std::uint16_t interface = 0;
  Frame frame;           ///< Checksums complete.
  Packet packet;         ///< Its parse.
  Flow* flow = nullptr;  ///< Nothing for fragments and the like.
  bool stray = false;    ///< Of an older connection on the same ports: given as it is.
  /// Of the output that answers it: the next one of its flow. 0: none was released.
  LogPosition answer;
};

/// What the guest has to say again: octets [offset, offset + length) of its stream, a SYN before
/// them, a FIN behind them, or a datagram.
struct Replayer::Expected {
  enum class Kind : std::uint8_t { opening, octets, end, datagram };
  Kind kind;
  LogPosition position;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  std::uint64_t digest = 0;

  [[nodiscard]] std::pair<std::uint64_t, int> key() const {
    return {position.value, kind == Kind::end ? 1 : 0};
  }
};

/// One conversation, of one incarnation. Sequence numbers are those of the client's side.
struct Replayer::Flow {
  enum class Phase : std::uint8_t {
    led,    ///< It is given its inputs, and compared.
    live,   ///< It speaks for itself.
    over,   ///< It has ended in the log.
    reset,  ///< It diverged: whoever speaks on it is reset.
  };

  FlowKey key;
  Phase phase = Phase::led;
  bool punctual = true;    ///< It is waited for.
  bool impatient = false;  ///< It does not wait for its turn: others depend on what it is given.
  std::uint32_t turns_missed = 0;

  // --- what the log tells ---
  std::deque<Expected> expected;        ///< Not yet said again.
  std::deque<std::size_t> pending;      ///< Inputs not yet given.
  std::size_t requests = 0;             ///< Of these, how many bring something.
  std::optional<std::size_t> front;     ///< What of them stands in `fronts_`.
  bool any_output = false;              ///< The log has one.
  std::vector<std::size_t> unanswered;  ///< Requests since the last output, while the log is read.
  std::optional<std::uint32_t> base;    ///< Sequence number of stream offset 0.
  std::uint64_t released_to = 0;
  bool opening_expected = false;
  bool end_released = false;
  bool reset_released = false;
  bool opened_by_syn = false;  ///< The log has a SYN of this incarnation, from either side.
  bool untrackable = false;
  std::optional<std::uint32_t> client_isn;
  std::optional<std::uint32_t> acknowledgement;  ///< The highest that was released.
  std::optional<std::uint32_t> timestamp;        ///< The newest that was released.
  std::optional<std::uint8_t> window_scale;
  std::uint16_t interface = 0;
  MacAddress guest_mac;
  MacAddress client_mac;
  std::uint32_t client_next = 0;  ///< Behind the client's newest octet.

  // --- what the guest has done since the promotion ---
  std::uint64_t reproduced_to = 0;
  bool end_reproduced = false;
  bool spoke = false;
  std::vector<std::uint8_t> tile;  ///< Octets of the front of `expected` so far.
  std::uint32_t guest_acknowledgement = 0;
  std::uint32_t window_edge = 0;
  std::optional<TcpTimestamps> guest_clock;  ///< What its newest segment says.
  std::deque<std::size_t> unacknowledged;    ///< Given, taking sequence space, not acknowledged.
  std::optional<std::size_t> last_with_ack;  ///< The newest input given that acknowledges.
  std::uint64_t acknowledged_to = 0;         ///< Stream offset that the guest was told of.
  Instant last_fed;
  Instant last_fed_again{};
  Instant last_progress;
  std::uint32_t fed_again = 0;
  std::uint32_t guest_next = 0;  ///< Behind its newest octet, in its own numbers.
  /// The highest acknowledgement of the client in the log.
  std::optional<std::uint32_t> heard_by_client;
  std::optional<TcpHeader> live;  ///< The newest live acknowledgement of the client, waiting.
  bool condemned = false;         ///< It diverged; the guest still gets its inputs.
  std::uint32_t resets_left = 0;
  Instant next_reset{};
  bool has_voice = false;  ///< Its timestamps have been fitted to what the client knows.

  [[nodiscard]] bool tcp() const { return key.protocol == kTcp; }
  /// Whether a segment of the client has nothing to do with the connection that its SYN opened: new
  /// initial numbers lie ahead of old ones (RFC 6528), so that old ones look far away.
  [[nodiscard]] bool is_stray(const Packet& packet) const {
    constexpr std::uint32_t kFarAway = 1U << 30;
    return tcp() && client_isn && !packet.tcp.has(kSyn) &&
           packet.tcp.sequence - *client_isn > kFarAway;
  }
  /// The same of a record, by what it acknowledges.
  [[nodiscard]] bool is_older_word(const OutputRecord& record) const {
    constexpr std::uint32_t kFarAway = 1U << 30;
    return client_isn && (record.flags & OutputRecord::opens) == 0 &&
           (record.flags & OutputRecord::acknowledges) != 0 &&
           record.acknowledgement - *client_isn - 1 > kFarAway;
  }
  [[nodiscard]] bool doomed() const { return condemned || phase == Phase::reset; }
  [[nodiscard]] std::uint64_t sent_to() const { return reproduced_to + (end_reproduced ? 1U : 0U); }
};

Replayer::Replayer(const Config& config, Instant now, std::vector<LogRecord> records,
                   Translator translator)
    : config_(config),
      translator_(std::move(translator)),
      order_progress_(now),
      last_tick_(now),
      budget_at_(now),
      budget_(config.frames_per_ms) {
  for (LogRecord& record : records) {
    if (const auto* output = std::get_if<OutputRecord>(&record.content)) {
      expect(now, record.position, *output);
    } else if (auto* logged = std::get_if<InputRecord>(&record.content)) {
      Input input{record.position, logged->interface, std::move(logged->frame), {}, nullptr};
      input.packet = parse(input.frame);
      if (logged->checksum == ChecksumState::partial) {
        complete_checksums(input.frame, input.packet);
      }
      if (input.packet.in_a_flow()) {
        Flow* flow = flow_for_input(now, flow_of(input.packet, Direction::to_guest), input.packet);
        flow->pending.push_back(inputs_.size());
        flow->interface = input.interface;
        flow->client_mac = source_mac_of(input.frame);
        flow->guest_mac = destination_mac_of(input.frame);
        input.flow = flow;
        input.stray = flow->is_stray(input.packet);
        if (!input.stray) note_client(*flow, input.packet);
      }
      if (input.flow == nullptr) {
        fronts_.insert(inputs_.size());
      } else if (!input.stray && input.packet.brings_something()) {
        input.flow->unanswered.push_back(inputs_.size());
        ++input.flow->requests;
      }
      inputs_.push_back(std::move(input));
    }
  }
  statistics_.inputs_total = inputs_.size();
  for (const auto& flow : flows_) {
    flow->unanswered = {};
    update_front(*flow);
  }
}

Replayer::~Replayer() = default;
Replayer::Replayer(Replayer&&) noexcept = default;

// --- building the story ---

Replayer::Flow& Replayer::make_flow(Instant now, const FlowKey& key) {
  flows_.push_back(std::make_unique<Flow>());
  Flow& flow = *flows_.back();
  flow.key = key;
  flow.last_fed = flow.last_progress = now;
  by_key_[key].push_back(&flow);
  ++leading_;
  return flow;
}

Replayer::Flow* Replayer::flow_for_input(Instant now, const FlowKey& key, const Packet& packet) {
  const auto known = by_key_.find(key);
  Flow* flow = known == by_key_.end() ? nullptr : known->second.back();
  const TcpHeader& tcp = packet.tcp;
  const bool opens =
      flow_of(packet, Direction::to_guest).protocol == kTcp && tcp.has(kSyn) && !tcp.has(kAck);
  if (opens && flow != nullptr && flow->client_isn != tcp.sequence) flow = nullptr;
  if (flow == nullptr) flow = &make_flow(now, key);
  if (opens) {
    flow->client_isn = tcp.sequence;
    flow->opened_by_syn = true;
  }
  return flow;
}

/// What the log's segment says of how far the client is.
void Replayer::note_client(Flow& flow, const Packet& packet) {
  const TcpHeader& tcp = packet.tcp;
  const std::uint32_t end = tcp.sequence + packet.sequence_length();
  if (flow.pending.size() == 1 || before(flow.client_next, end)) flow.client_next = end;
  if (tcp.has(kAck) && !tcp.has(kSyn) && !tcp.has(kRst) &&
      (!flow.heard_by_client || before(*flow.heard_by_client, tcp.acknowledgement))) {
    flow.heard_by_client = tcp.acknowledgement;
  }
}

void Replayer::expect(Instant now, LogPosition position, const OutputRecord& record) {
  auto& incarnations = by_key_[record.flow];
  Flow* flow = incarnations.empty() ? nullptr : incarnations.back();
  const bool opens = (record.flags & OutputRecord::opens) != 0;
  const bool ends = (record.flags & OutputRecord::ends) != 0;
  if (record.flow.protocol != kTcp) {
    if (flow == nullptr) flow = &make_flow(now, record.flow);
    flow->expected.push_back({Expected::Kind::datagram, position, 0, record.length, record.digest});
    expect_in_order(*flow);
    return;
  }
  if (flow != nullptr && flow->is_older_word(record)) {
    // Said on an older connection on these ports, when the newer one was asked for already.
    const auto older = std::ranges::find_if(
        incarnations, [&](const Flow* one) { return one->base == record.sequence_base; });
    if (older == incarnations.end() || *older == flow) return;
    flow = *older;
  }
  if (opens && flow != nullptr && flow->base && *flow->base != record.sequence_base) flow = nullptr;
  if (flow == nullptr) flow = &make_flow(now, record.flow);
  if (!flow->base) {
    flow->base = record.sequence_base;
    flow->reproduced_to = flow->acknowledged_to = flow->released_to = record.offset;
    flow->opening_expected = opens;
    if (opens) {
      flow->opened_by_syn = true;
      flow->expected.push_back({Expected::Kind::opening, position});
      expect_in_order(*flow);
    }
  }
  if (*flow->base != record.sequence_base) {
    // A last word of an older connection on these ports says nothing; contents that cannot be
    // placed leave nothing to compare with.
    if (record.length > 0 || ends) flow->untrackable = true;
    return;
  }
  if (record.length > 0) {
    if (record.offset < flow->released_to) {
      flow->untrackable = true;
      return;
    }
    flow->expected.push_back(
        {Expected::Kind::octets, position, record.offset, record.length, record.digest});
    expect_in_order(*flow);
    flow->released_to = record.offset + record.length;
  }
  // Whatever lies before this place and in no record was sent before the checkpoint.
  flow->released_to = std::max(flow->released_to, record.offset + record.length);
  if (ends && !flow->end_released) {
    flow->end_released = true;
    flow->expected.push_back({Expected::Kind::end, position, flow->released_to});
    expect_in_order(*flow);
  }
  if ((record.flags & OutputRecord::resets) != 0) flow->reset_released = true;
  if ((record.flags & OutputRecord::acknowledges) != 0 &&
      (!flow->acknowledgement || before(*flow->acknowledgement, record.acknowledgement))) {
    flow->acknowledgement = record.acknowledgement;
  }
  if ((record.flags & OutputRecord::has_timestamp) != 0 &&
      (!flow->timestamp || before(*flow->timestamp, record.timestamp))) {
    flow->timestamp = record.timestamp;
  }
  if ((record.flags & OutputRecord::has_window_scale) != 0) {
    flow->window_scale = record.window_scale;
  }
}

/// The newest of what is expected of the flow: others wait for it if it answers something.
void Replayer::expect_in_order(Flow& flow) {
  const Expected& expected = flow.expected.back();
  // What the first one answers may be older than the log.
  if (flow.unanswered.empty() && std::exchange(flow.any_output, true)) return;
  flow.any_output = true;
  outstanding_[expected.key()] = &flow;
  for (const std::size_t index : flow.unanswered) inputs_[index].answer = expected.position;
  flow.unanswered.clear();
}

/// To be called whenever the flow's inputs, or whether it is waited for, may have changed.
void Replayer::update_front(Flow& flow) {
  if (flow.front) fronts_.erase(*flow.front);
  flow.front.reset();
  if (flow.phase != Flow::Phase::led || !flow.punctual || flow.pending.empty()) return;
  flow.front = flow.pending.front();
  fronts_.insert(*flow.front);
}

Replayer::Flow* Replayer::current(const FlowKey& key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() || found->second.empty() ? nullptr : found->second.front();
}

std::uint32_t Replayer::delta_of(const Flow& flow) const {
  const Translation* translation = translator_.find(flow.key);
  return translation == nullptr ? 0 : translation->sequence_delta;
}

// --- giving inputs ---

void Replayer::pump(Instant now, Actions& actions) {
  for (auto next = fronts_.begin(); next != fronts_.end() && budget_ > 0;) {
    const std::size_t index = *next;
    const Input& input = inputs_[index];
    if (!outstanding_.empty() && outstanding_.begin()->first.first < input.position.value) break;
    if (!has_its_turn(input) || (input.flow != nullptr && !may_feed(now, *input.flow, input))) {
      ++next;
      continue;
    }
    order_progress_ = now;
    feed(now, index, actions);
    next = fronts_.upper_bound(index);
  }
  open_order_if_due(now, actions);
}

/// Rule 2, the second half.
bool Replayer::has_its_turn(const Input& input) const {
  if (outstanding_.empty() || input.flow == nullptr || input.flow->impatient) return true;
  if (input.stray || !input.packet.brings_something()) return true;
  return input.answer.value > 0 && outstanding_.begin()->first.first >= input.answer.value;
}

/// Nothing has moved for a while: perhaps what is waited for depends on a request that waits for
/// its turn. False if there is none.
bool Replayer::skip_a_turn(Instant now, Actions& actions) {
  for (const std::size_t index : fronts_) {
    const Input& input = inputs_[index];
    if (outstanding_.empty() || outstanding_.begin()->first.first < input.position.value) break;
    if (has_its_turn(input) || !may_feed(now, *input.flow, input)) continue;
    if (++input.flow->turns_missed >= kTurnsMissed) input.flow->impatient = true;
    order_waited_ += config_.turn_wait;
    order_progress_ = now;
    feed(now, index, actions);
    return true;
  }
  return false;
}

bool Replayer::may_feed(Instant now, const Flow& flow, const Input& input) const {
  // Rule 1, also over incarnations: the one before has had all its inputs.
  if (flow.pending.empty() || &inputs_[flow.pending.front()] != &input) return false;
  const auto& incarnations = by_key_.at(flow.key);
  for (const Flow* earlier : incarnations) {
    if (earlier == &flow) break;
    if (!earlier->pending.empty()) return false;
  }
  if (!flow.tcp() || input.stray) return true;
  const TcpHeader& tcp = input.packet.tcp;
  if (tcp.has(kSyn) && !tcp.has(kAck)) return true;
  if (flow.opened_by_syn && !flow.spoke) return false;
  // Rule 3.
  if (tcp.has(kAck) && flow.base && !flow.condemned &&
      offset_of(tcp.acknowledgement, *flow.base, flow.reproduced_to) >
          static_cast<std::int64_t>(flow.sent_to())) {
    return false;
  }
  // Rule 4.
  if (input.packet.payload_bytes == 0 || now - flow.last_fed >= kWindowPatience) return true;
  const std::uint32_t end = tcp.sequence + input.packet.sequence_length();
  if (flow.spoke) {
    const std::uint32_t edge =
        flow.window_scale ? flow.window_edge : flow.guest_acknowledgement + kFirstWindow;
    return !before(edge, end);
  }
  if (flow.unacknowledged.empty()) return true;
  return end - inputs_[flow.unacknowledged.front()].packet.tcp.sequence <= kFirstWindow;
}

void Replayer::feed(Instant now, std::size_t index, Actions& actions) {
  Input& input = inputs_[index];
  ++statistics_.inputs_fed;
  if (budget_ > 0) --budget_;
  Flow* flow = input.flow;
  if (flow == nullptr) {
    fronts_.erase(index);
    actions.push_back(ToGuest{input.interface, input.frame});
    return;
  }
  // Incarnations before this one are history.
  auto& incarnations = by_key_.at(flow->key);
  while (incarnations.front() != flow) {
    forget_expected(*incarnations.front());
    stop_leading(*incarnations.front());
    incarnations.front()->phase = Flow::Phase::over;
    update_front(*incarnations.front());
    incarnations.pop_front();
    translator_.erase(flow->key);
  }
  flow->pending.pop_front();
  if (!input.stray && input.packet.brings_something()) --flow->requests;
  update_front(*flow);
  flow->last_fed = flow->last_progress = now;
  if (input.stray) {
    actions.push_back(ToGuest{input.interface, input.frame});
    return settle(now, *flow, actions);
  }
  give(now, flow, input.interface, as_given(*flow, input), actions);
  if (!flow->tcp()) return settle(now, *flow, actions);
  const TcpHeader& tcp = input.packet.tcp;
  if (input.packet.sequence_length() > 0) flow->unacknowledged.push_back(index);
  if (tcp.has(kAck)) {
    flow->last_with_ack = index;
    if (flow->base) {
      const auto to = offset_of(tcp.acknowledgement, *flow->base, flow->reproduced_to);
      flow->acknowledged_to = std::max(flow->acknowledged_to,
                                       static_cast<std::uint64_t>(std::max<std::int64_t>(to, 0)));
    }
  }
  if (tcp.has(kRst)) {
    // What the guest had not said again by now it never will.
    forget_expected(*flow);
    flow->unacknowledged.clear();
    stop_leading(*flow);
    flow->phase = Flow::Phase::over;
    flow->pending.clear();
    update_front(*flow);
    return;
  }
  settle(now, *flow, actions);
}

/// The input as the guest can take it now.
Frame Replayer::as_given(const Flow& flow, const Input& input) {
  const TcpHeader& logged = input.packet.tcp;
  if (!flow.tcp() || logged.has(kSyn) || logged.has(kRst) || !logged.has(kAck)) return input.frame;
  bool rebuilt = flow.condemned;
  for (std::size_t i = 0; i < logged.sack_count && flow.base; ++i) {
    rebuilt |= offset_of(logged.sack[i].right, *flow.base, flow.reproduced_to) >
               static_cast<std::int64_t>(flow.sent_to());
  }
  if (!rebuilt) return input.frame;
  TcpSegment segment = from_client(flow);
  segment.header = logged;
  segment.header.sack_count = 0;
  // A condemned flow's client has heard all that the guest has said.
  if (flow.condemned) segment.header.acknowledgement = flow.guest_next;
  segment.payload = payload_of(input.frame, input.packet);
  return build_tcp(segment);
}

/// A segment of the client, addressed.
TcpSegment Replayer::from_client(const Flow& flow) {
  return {.source_mac = flow.client_mac,
          .destination_mac = flow.guest_mac,
          .source = flow.key.client,
          .destination = flow.key.guest,
          .source_port = flow.key.client_port,
          .destination_port = flow.key.guest_port};
}

/// Translates a client's frame into the guest's numbers and hands it over.
void Replayer::give(Instant now, Flow* flow, std::uint16_t interface, Frame frame,
                    Actions& actions) {
  Packet packet = parse(frame);
  translator_.to_guest(now, frame, packet, ChecksumState::complete);
  if (flow != nullptr && flow->phase == Flow::Phase::led && flow->guest_clock &&
      packet.tcp.timestamps && packet.tcp.has(kAck)) {
    // The guest can have heard no echo of a time that it has not reached again. And what it is
    // given again, or in another order than before, must not look old to it (RFC 7323, section 5).
    const TcpTimestamps known = *flow->guest_clock;
    TcpTimestamps given = *packet.tcp.timestamps;
    if (before(known.value, given.echo)) given.echo = known.value;
    if (before(given.value, known.echo)) given.value = known.echo;
    if (given != *packet.tcp.timestamps) {
      TcpEditor(frame, packet, ChecksumState::complete).set_timestamps(given);
    }
  }
  actions.push_back(ToGuest{interface, std::move(frame)});
}

/// What the client would say about its window and clock at this point of the story.
std::optional<TcpHeader> Replayer::manner_of(const Flow& flow) const {
  const auto usable = [](const TcpHeader& tcp) {
    return tcp.has(kAck) && !tcp.has(kSyn) && !tcp.has(kRst);
  };
  // Not a later one's clock: the guest would take those before it for old duplicates.
  if (!flow.pending.empty() && usable(inputs_[flow.pending.front()].packet.tcp)) {
    return inputs_[flow.pending.front()].packet.tcp;
  }
  if (flow.pending.empty() && flow.live && usable(*flow.live)) return flow.live;
  if (flow.last_with_ack) return inputs_[*flow.last_with_ack].packet.tcp;
  return std::nullopt;
}

/// The timestamps of a segment that the client never sent: they move nothing.
std::optional<TcpTimestamps> Replayer::clock_for(const Flow& flow, const TcpHeader& manner) {
  if (!manner.timestamps || !flow.guest_clock) return manner.timestamps;
  return TcpTimestamps{flow.guest_clock->echo, flow.guest_clock->value};
}

/// Gives the highest acknowledgement that the client is known to have given, in the log or live,
/// cut down to what the guest has sent: see 'Rule 3 and congestion control'. With `again`, also one
/// that it has had, because it may have been lost.
void Replayer::acknowledge_what_was_sent(Instant now, Flow& flow, bool again, Actions& actions) {
  if (!flow.base || flow.phase != Flow::Phase::led || !flow.spoke || flow.guest_mac.is_zero())
    return;
  std::int64_t to = -1;
  if (flow.heard_by_client) to = offset_of(*flow.heard_by_client, *flow.base, flow.reproduced_to);
  if (flow.live) {
    to = std::max(to, offset_of(flow.live->acknowledgement, *flow.base, flow.reproduced_to));
  }
  to = std::min(to, static_cast<std::int64_t>(flow.sent_to()));
  const std::optional<TcpHeader> manner = manner_of(flow);
  if (to < 0 || !manner) return;
  const auto told = static_cast<std::uint64_t>(to);
  if (told < flow.acknowledged_to || (told == flow.acknowledged_to && !again)) return;
  flow.acknowledged_to = told;
  TcpSegment segment = from_client(flow);
  segment.header.sequence = flow.guest_acknowledgement;
  segment.header.acknowledgement = sequence_of(told, *flow.base);
  segment.header.flags = kAck;
  segment.header.window = manner->window;
  segment.header.timestamps = clock_for(flow, *manner);
  give(now, &flow, flow.interface, build_tcp(segment), actions);
}

// --- hearing the guest ---

Replayer::Actions Replayer::on_guest_frame(Instant now, std::uint16_t interface, Frame frame,
                                           ChecksumState checksum) {
  Actions actions;
  Packet packet = parse(frame);
  Flow* flow = packet.in_a_flow() ? current(flow_of(packet, Direction::from_guest)) : nullptr;
  if (flow != nullptr && packet.tcp.has(kSyn) && !packet.tcp.has(kAck)) {
    // The guest opens a connection on ports of one that is over in the log.
    auto& incarnations = by_key_.at(flow->key);
    while (incarnations.size() > 1 && flow->pending.empty() && flow->expected.empty()) {
      stop_leading(*flow);
      flow->phase = Flow::Phase::over;
      translator_.erase(flow->key);
      incarnations.pop_front();
      flow = incarnations.front();
    }
  }
  if (flow == nullptr) {
    translator_.to_network(now, frame, packet, checksum);
    actions.push_back(ToNetwork{interface, std::move(frame), checksum});
    return actions;
  }
  if (flow->tcp()) {
    hear_segment(now, *flow, interface, std::move(frame), packet, checksum, actions);
  } else {
    hear_datagram(now, *flow, interface, std::move(frame), packet, checksum, actions);
  }
  pump(now, actions);
  if (!flow->punctual) {
    while (!flow->pending.empty() && budget_ > 0 &&
           may_feed(now, *flow, inputs_[flow->pending.front()])) {
      feed(now, flow->pending.front(), actions);
    }
  }
  if (flush_due_) flush_waiting(now, actions);
  return actions;
}

void Replayer::hear_segment(Instant now, Flow& flow, std::uint16_t interface, Frame frame,
                            Packet packet, ChecksumState checksum, Actions& actions) {
  const TcpHeader tcp = packet.tcp;
  if (flow.phase == Flow::Phase::reset) {
    flow.guest_mac = source_mac_of(frame);
    if (tcp.has(kRst)) return;
    return reset_guest(flow, interface, tcp.has(kAck) ? tcp.acknowledgement : flow.client_next,
                       actions);
  }
  if (flow.phase == Flow::Phase::over && flow.reset_released) {
    ++statistics_.outputs_suppressed;
    return;
  }
  if (flow.phase != Flow::Phase::led) {
    return pass_on(now, flow, interface, std::move(frame), packet, checksum, actions);
  }
  flow.interface = interface;
  const std::uint32_t guest_next = tcp.sequence + packet.sequence_length();
  if (!flow.spoke || before(flow.guest_next, guest_next)) flow.guest_next = guest_next;
  if (flow.condemned) return hear_condemned(now, flow, packet, actions);
  if (tcp.timestamps) flow.guest_clock = tcp.timestamps;
  const bool all_said = flow.expected.empty();
  if (tcp.has(kRst)) {
    if (!all_said && !flow.reset_released) {
      return diverge(now, flow, Event::ended_early, flow.expected.front().position,
                     flow.reproduced_to, actions);
    }
    stop_leading(flow);
    forget_expected(flow);
    flow.pending.clear();
    flow.punctual = false;
    update_front(flow);
    flow.phase = Flow::Phase::over;
    flush_due_ = true;
    if (flow.reset_released) {
      ++statistics_.outputs_suppressed;
    } else {
      pass_on(now, flow, interface, std::move(frame), packet, checksum, actions);
    }
    return;
  }
  if (flow.untrackable) {
    return diverge(now, flow, Event::connection_differs, LogPosition(), 0, actions);
  }
  hear_acknowledgement(now, flow, tcp);
  if (tcp.has(kSyn)) {
    const bool was_expected = flow.opening_expected;
    hear_opening(now, flow, packet, actions);
    if (flow.phase != Flow::Phase::led) return;
    if (was_expected) {
      ++statistics_.outputs_suppressed;
    } else {
      pass_on(now, flow, interface, std::move(frame), packet, checksum, actions);
    }
    return settle(now, flow, actions);
  }
  if (!flow.expected.empty() && flow.expected.front().kind == Expected::Kind::opening) {
    // It speaks on a connection that it should have opened first. A challenge to our SYN says that
    // it knows an older one.
    if (packet.payload_bytes == 0 && !tcp.has(kFin)) return;
    return diverge(now, flow, Event::connection_differs, flow.expected.front().position, 0,
                   actions);
  }
  const std::uint32_t sequence = tcp.sequence + delta_of(flow);
  if (!flow.base) flow.base = sequence;
  const std::int64_t start = offset_of(sequence, *flow.base, flow.reproduced_to);
  const std::int64_t end = start + static_cast<std::int64_t>(packet.payload_bytes);
  const bool repeats =
      packet.payload_bytes > 0 && end <= static_cast<std::int64_t>(flow.reproduced_to);
  // Copied out: passing on translates the frame.
  const auto payload = payload_of(frame, packet);
  if (!compare(now, flow, start, payload, actions)) return;
  const bool whole = end <= static_cast<std::int64_t>(flow.reproduced_to);
  const bool end_is_new = tcp.has(kFin) && whole && !flow.end_reproduced;
  if (end_is_new && end == static_cast<std::int64_t>(flow.reproduced_to) &&
      !compare_end(now, flow, actions)) {
    return;
  }
  const bool beyond =
      end > static_cast<std::int64_t>(flow.released_to) || (tcp.has(kFin) && !flow.end_released);
  // What is said a second time was compared the first time.
  const bool passes = whole && by_key_.at(flow.key).back() == &flow &&
                      (packet.payload_bytes > 0 || tcp.has(kFin)) &&
                      ((flow.expected.empty() && beyond) || (repeats && flow.pending.empty()));
  acknowledge_what_was_sent(now, flow, repeats, actions);
  if (passes) {
    pass_on(now, flow, interface, std::move(frame), packet, checksum, actions);
  } else {
    ++statistics_.outputs_suppressed;
  }
  if (flow.phase == Flow::Phase::led) settle(now, flow, actions);
}

/// What the guest says of the client's stream.
void Replayer::hear_acknowledgement(Instant now, Flow& flow, const TcpHeader& tcp) {
  flow.spoke = true;
  if (tcp.timestamps) flow.guest_clock = tcp.timestamps;
  if (!tcp.has(kAck)) return;
  if (flow.guest_acknowledgement != tcp.acknowledgement) flow.last_progress = now;
  flow.guest_acknowledgement = tcp.acknowledgement;
  const std::uint32_t window = static_cast<std::uint32_t>(tcp.window)
                               << (tcp.has(kSyn) ? 0 : flow.window_scale.value_or(0));
  flow.window_edge = tcp.acknowledgement + window;
  const std::size_t acknowledged = std::erase_if(flow.unacknowledged, [&](std::size_t index) {
    const Packet& given = inputs_[index].packet;
    return !before(tcp.acknowledgement, given.tcp.sequence + given.sequence_length());
  });
  if (acknowledged > 0) {
    flow.fed_again = 0;
    flow.last_progress = now;
  }
}

/// The guest speaks to a client that is not there any more: it is heard out.
void Replayer::hear_condemned(Instant now, Flow& flow, const Packet& packet, Actions& actions) {
  ++statistics_.outputs_suppressed;
  if (packet.tcp.has(kRst)) {
    stop_leading(flow);
    flow.pending.clear();
    flow.punctual = false;
    update_front(flow);
    flow.phase = Flow::Phase::reset;
    return;
  }
  hear_acknowledgement(now, flow, packet.tcp);
  if (packet.sequence_length() > 0) {
    flow.last_progress = now;
    acknowledge_all(now, flow, actions);
  }
}

/// As a client does that has had all of it.
void Replayer::acknowledge_all(Instant now, Flow& flow, Actions& actions) {
  if (flow.guest_mac.is_zero()) return;
  const std::optional<TcpHeader> manner = manner_of(flow);
  TcpSegment segment = from_client(flow);
  segment.header.sequence = flow.guest_acknowledgement;
  segment.header.acknowledgement = flow.guest_next;
  segment.header.flags = kAck;
  segment.header.window = manner ? manner->window : 0xFFFF;
  if (manner) segment.header.timestamps = clock_for(flow, *manner);
  give(now, &flow, flow.interface, build_tcp(segment), actions);
}

/// A SYN of the guest, bare or with ACK.
void Replayer::hear_opening(Instant now, Flow& flow, const Packet& packet, Actions& actions) {
  const std::uint32_t guest_base = packet.tcp.sequence + 1;
  flow.window_scale = packet.tcp.window_scale.value_or(0);
  if (!flow.base) {
    // Nobody was told of this opening: the connection is the guest's new one.
    flow.base = guest_base;
    return;
  }
  if (!flow.expected.empty() && flow.expected.front().kind == Expected::Kind::opening) {
    Translation translation;
    translation.sequence_delta = *flow.base - guest_base;
    translation.guest_base = guest_base;
    if (!translator_.set(flow.key, translation)) {
      return diverge(now, flow, Event::too_many_translations, flow.expected.front().position, 0,
                     actions);
    }
    reproduced(now, flow);
    return;
  }
  if (guest_base + delta_of(flow) != *flow.base) {
    diverge(now, flow, Event::connection_differs, LogPosition(), 0, actions);
  }
}

/// Holds stream octets from offset `start` on against what is expected. False if the flow diverged.
bool Replayer::compare(Instant now, Flow& flow, std::int64_t start,
                       std::span<const std::uint8_t> octets, Actions& actions) {
  const std::int64_t end = start + static_cast<std::int64_t>(octets.size());
  auto place = static_cast<std::int64_t>(flow.reproduced_to);
  if (start > place) {
    // Octets between are missing. Those before the first record are the checkpoint's; others were
    // lost on their way here, and the guest will send them again.
    if (!flow.expected.empty()) {
      place = std::clamp(static_cast<std::int64_t>(flow.expected.front().offset), place, start);
      flow.reproduced_to = static_cast<std::uint64_t>(place);
    }
    if (start > place) return true;
  }
  while (place < end) {
    if (flow.expected.empty()) {
      if (flow.end_released) {
        condemn(now, flow, Event::goes_on, LogPosition(), flow.reproduced_to, actions);
        return false;
      }
      place = end;
      flow.last_progress = now;
      break;
    }
    const Expected& front = flow.expected.front();
    const auto tile_start = static_cast<std::int64_t>(front.offset);
    const auto tile_end = tile_start + front.length;
    if (place < tile_start) {
      place = std::min(tile_start, end);
      continue;
    }
    if (front.kind == Expected::Kind::end) {
      condemn(now, flow, Event::goes_on, front.position, front.offset, actions);
      return false;
    }
    const std::int64_t to = std::min(tile_end, end);
    const auto part = octets.subspan(static_cast<std::size_t>(place - start),
                                     static_cast<std::size_t>(to - place));
    flow.tile.insert(flow.tile.end(), part.begin(), part.end());
    place = to;
    if (to < tile_end) break;
    const bool same = digest_of(flow.tile) == front.digest;
    flow.tile.clear();
    if (!same && config_.on_divergence == OnDivergence::reset) {
      condemn(now, flow, Event::contents_differ, front.position, front.offset, actions);
      return false;
    }
    if (!same) {
      actions.push_back(Report{Event::contents_differ, flow.key, front.position, front.offset});
    }
    flow.reproduced_to = static_cast<std::uint64_t>(place);
    reproduced(now, flow);
  }
  flow.reproduced_to = std::max(flow.reproduced_to, static_cast<std::uint64_t>(place));
  return true;
}

/// A FIN right behind what was reproduced. False if the flow diverged.
bool Replayer::compare_end(Instant now, Flow& flow, Actions& actions) {
  if (!flow.expected.empty()) {
    const Expected& front = flow.expected.front();
    if (front.kind != Expected::Kind::end || front.offset != flow.reproduced_to) {
      condemn(now, flow, Event::ended_early, front.position, flow.reproduced_to, actions);
      return false;
    }
    reproduced(now, flow);
  }
  flow.end_reproduced = true;
  flow.last_progress = now;
  return true;
}

/// The front of what was expected has been said again.
void Replayer::reproduced(Instant now, Flow& flow) {
  outstanding_.erase(flow.expected.front().key());
  flow.expected.pop_front();
  flow.last_progress = now;
  if (flow.punctual) order_progress_ = now;
}

void Replayer::hear_datagram(Instant now, Flow& flow, std::uint16_t interface, Frame frame,
                             const Packet& packet, ChecksumState checksum, Actions& actions) {
  const auto payload = payload_of(frame, packet);
  const std::uint64_t digest = digest_of(payload);
  const auto same = std::ranges::find_if(flow.expected, [&](const Expected& expected) {
    return expected.digest == digest && expected.length == payload.size();
  });
  if (flow.expected.empty()) {
    actions.push_back(ToNetwork{interface, std::move(frame), checksum});
    return;
  }
  if (same != flow.expected.end()) {
    ++statistics_.outputs_suppressed;
    outstanding_.erase(same->key());
    flow.expected.erase(same);
  } else {
    actions.push_back(Report{Event::datagram_differs, flow.key, flow.expected.front().position, 0});
    if (config_.on_divergence == OnDivergence::tolerate) {
      actions.push_back(ToNetwork{interface, std::move(frame), checksum});
    } else {
      ++statistics_.datagrams_dropped;
    }
    outstanding_.erase(flow.expected.front().key());
    flow.expected.pop_front();
  }
  flow.last_progress = now;
  if (flow.punctual) order_progress_ = now;
  settle(now, flow, actions);
}

/// From now on the flow may speak: its clock must not be behind what the client has seen. False if
/// it diverged for want of room.
bool Replayer::give_voice(Instant now, Flow& flow, Actions& actions) {
  if (flow.has_voice || !flow.timestamp || !flow.base) return true;
  flow.has_voice = true;
  const Translation* known = translator_.find(flow.key);
  Translation translation = known == nullptr ? Translation{} : *known;
  translation.guest_base = *flow.base - translation.sequence_delta;
  translation.timestamp_floor = flow.timestamp;
  if (translator_.set(flow.key, translation)) return true;
  diverge(now, flow, Event::too_many_translations, LogPosition(), 0, actions);
  return false;
}

/// To the network, in the numbers that the client knows.
void Replayer::pass_on(Instant now, Flow& flow, std::uint16_t interface, Frame frame, Packet packet,
                       ChecksumState checksum, Actions& actions) {
  if (!give_voice(now, flow, actions)) return;
  translator_.to_network(now, frame, packet, checksum);
  actions.push_back(ToNetwork{interface, std::move(frame), checksum});
}

// --- turning points ---

/// Makes the flow live, or ends it, if the log has nothing more to say about it.
void Replayer::settle(Instant now, Flow& flow, Actions& actions) {
  if (flow.phase != Flow::Phase::led || !flow.pending.empty() || !flow.expected.empty()) return;
  if (flow.condemned) return;                        // Ended by time: see on_tick.
  if (by_key_.at(flow.key).back() != &flow) return;  // Another incarnation follows.
  // What the client had acknowledged it will not send again: the guest must have it.
  if (flow.acknowledgement) {
    for (const std::size_t index : flow.unacknowledged) {
      const Packet& given = inputs_[index].packet;
      if (!before(*flow.acknowledgement, given.tcp.sequence + given.sequence_length())) return;
    }
  }
  if (flow.tcp() && !give_voice(now, flow, actions)) return;
  // A connection that was opened and not answered is the guest's and the client's to go on with.
  stop_leading(flow);
  flow.last_progress = now;
  flow.phase = Flow::Phase::live;
  flush_due_ = true;
  if (flow.reset_released) {
    flow.phase = Flow::Phase::over;
    if (flow.spoke) reset_guest(flow, flow.interface, flow.guest_acknowledgement, actions);
  }
}

void Replayer::stop_leading(Flow& flow) {
  if (flow.phase == Flow::Phase::led) --leading_;
}

void Replayer::forget_expected(Flow& flow) {
  for (const Expected& expected : flow.expected) outstanding_.erase(expected.key());
  flow.expected.clear();
  flow.tile.clear();
}

void Replayer::open_order_if_due(Instant now, Actions& actions) {
  if (order_open_ || !outstanding_.empty()) return;
  // What only has acknowledgements left, of a stream that the guest makes in its own time, is a
  // matter between the guest and that client.
  const bool requests_left = std::ranges::any_of(fronts_, [this](std::size_t index) {
    return inputs_[index].flow == nullptr || inputs_[index].flow->requests > 0;
  });
  if (requests_left) return;
  order_open_ = true;
  flush_due_ = true;
  actions.push_back(Report{Event::order_complete, {}, LogPosition(), 0});
  for (const auto& flow : flows_) {
    if (flow->phase != Flow::Phase::led) continue;
    if (flow->front) detach(now, *flow);
    flow->last_progress = now;
    settle(now, *flow, actions);
  }
}

void Replayer::detach(Instant now, Flow& flow) {
  flow.punctual = false;
  update_front(flow);
  flow.last_progress = now;
  for (const Expected& expected : flow.expected) outstanding_.erase(expected.key());
}

void Replayer::report_divergence(Instant now, Flow& flow, Event event, LogPosition position,
                                 std::uint64_t offset, Actions& actions) {
  actions.push_back(Report{event, flow.key, position, offset});
  ++statistics_.flows_diverged;
  forget_expected(flow);
  order_progress_ = now;
  flow.last_progress = now;
  if (flow.base) {
    reset_where_it_may_be(flow, actions);
    flow.resets_left = kResetsRepeated;
    flow.next_reset = now + kResetAgainAfter;
    resets_to_repeat_.push_back(&flow);
  }
  flush_due_ = true;
}

/// Resets the client, and lets the guest have the rest of its inputs.
void Replayer::condemn(Instant now, Flow& flow, Event event, LogPosition position,
                       std::uint64_t offset, Actions& actions) {
  report_divergence(now, flow, event, position, offset, actions);
  flow.condemned = true;
  translator_.erase(flow.key);
  acknowledge_all(now, flow, actions);
}

/// The guest has had all there was for it.
void Replayer::end_condemned(Flow& flow, Actions& actions) {
  stop_leading(flow);
  flow.phase = Flow::Phase::reset;
  flow.pending.clear();
  flow.unacknowledged.clear();
  flow.punctual = false;
  update_front(flow);
  flush_due_ = true;
  reset_guest(flow, flow.interface, flow.guest_acknowledgement, actions);
}

/// Resets both sides at once.
void Replayer::diverge(Instant now, Flow& flow, Event event, LogPosition position,
                       std::uint64_t offset, Actions& actions) {
  report_divergence(now, flow, event, position, offset, actions);
  stop_leading(flow);
  flow.phase = Flow::Phase::reset;
  flow.punctual = false;
  flow.pending.clear();
  flow.unacknowledged.clear();
  update_front(flow);
  reset_guest(flow, flow.interface, flow.spoke ? flow.guest_acknowledgement : flow.client_next,
              actions);
  translator_.erase(flow.key);
}

/// The client expects next what follows all that was released, or, if that was lost on its way or
/// was more than the log tells, what it acknowledged last.
void Replayer::reset_where_it_may_be(const Flow& flow, Actions& actions) {
  const std::uint64_t told = flow.released_to + (flow.end_released ? 1U : 0U);
  const std::uint32_t released = sequence_of(told, *flow.base);
  reset_client(flow, released, actions);
  std::optional<std::uint32_t> heard = flow.heard_by_client;
  if (flow.live && (!heard || before(*heard, flow.live->acknowledgement))) {
    heard = flow.live->acknowledgement;
  }
  if (heard && *heard != released) reset_client(flow, *heard, actions);
}

void Replayer::repeat_resets(Instant now, Actions& actions) {
  for (Flow* flow : resets_to_repeat_) {
    if (flow->resets_left == 0 || now < flow->next_reset || !flow->base) continue;
    --flow->resets_left;
    flow->next_reset = now + kResetAgainAfter;
    reset_where_it_may_be(*flow, actions);
  }
  std::erase_if(resets_to_repeat_, [](const Flow* flow) { return flow->resets_left == 0; });
}

/// As if the client had reset it. `sequence` must be what the guest expects next.
void Replayer::reset_guest(const Flow& flow, std::uint16_t interface, std::uint32_t sequence,
                           Actions& actions) {
  if (!flow.tcp() || flow.guest_mac.is_zero()) return;
  TcpSegment segment = from_client(flow);
  segment.header.flags = kRst;
  segment.header.sequence = sequence;
  actions.push_back(ToGuest{interface, build_tcp(segment)});
}

/// As if the guest had reset it. RFC 5961 wants `sequence` to be exactly what the client expects;
/// where it is not, the client challenges, and the answer to that (take_client_frame) is exact.
void Replayer::reset_client(const Flow& flow, std::uint32_t sequence, Actions& actions) {
  if (!flow.tcp() || flow.client_mac.is_zero()) return;
  TcpSegment segment{.source_mac = flow.guest_mac,
                     .destination_mac = flow.client_mac,
                     .source = flow.key.guest,
                     .destination = flow.key.client,
                     .source_port = flow.key.guest_port,
                     .destination_port = flow.key.client_port};
  segment.header.flags = kRst | kAck;
  segment.header.sequence = sequence;
  segment.header.acknowledgement = flow.client_next;
  actions.push_back(ToNetwork{flow.interface, build_tcp(segment), ChecksumState::complete});
}

// --- live frames ---

Replayer::Actions Replayer::on_client_frame(Instant now, std::uint16_t interface, Frame frame,
                                            ChecksumState checksum) {
  Actions actions;
  Waiting waiting{interface, std::move(frame), checksum};
  if (flush_due_) flush_waiting(now, actions);
  // While some still wait for the tap only, none overtakes them.
  if (!flush_due_ && take_client_frame(now, waiting, actions)) return actions;
  if (waiting_bytes_ + waiting.frame.size() > config_.waiting_bytes_max) {
    ++statistics_.waiting_dropped;
    return actions;
  }
  waiting_bytes_ += waiting.frame.size();
  waiting_.push_back(std::move(waiting));
  return actions;
}

/// False if it has to wait.
bool Replayer::take_client_frame(Instant now, Waiting& waiting, Actions& actions) {
  Packet packet = parse(waiting.frame);
  if (waiting.checksum == ChecksumState::partial) complete_checksums(waiting.frame, packet);
  waiting.checksum = ChecksumState::complete;
  if (packet.kind == FrameKind::not_ip || packet.kind == FrameKind::control) {
    actions.push_back(ToGuest{waiting.interface, std::move(waiting.frame)});
    return true;
  }
  Flow* flow = packet.in_a_flow() ? current(flow_of(packet, Direction::to_guest)) : nullptr;
  const bool opens = packet.kind == FrameKind::tcp && packet.tcp.has(kSyn) && !packet.tcp.has(kAck);
  if (flow != nullptr && flow->tcp() && flow->doomed()) {
    if (flow->condemned && flow->phase == Flow::Phase::led && opens) return false;
    flow->interface = waiting.interface;
    flow->client_mac = source_mac_of(waiting.frame);
    flow->guest_mac = destination_mac_of(waiting.frame);
    if (opens && flow->client_isn != packet.tcp.sequence) {
      // A new connection: the old one has been told. The log may have another one between.
      if (by_key_.at(flow->key).size() > 1) return false;
      flow->resets_left = 0;
      by_key_.erase(flow->key);
      flow = nullptr;
    } else {
      flow->client_next = packet.tcp.sequence + packet.sequence_length();
      if (packet.tcp.has(kRst)) {
        flow->resets_left = 0;
      } else {
        reset_client(*flow, packet.tcp.has(kAck) ? packet.tcp.acknowledgement : 0, actions);
      }
      return true;
    }
  }
  if (flow != nullptr && flow->phase == Flow::Phase::led && flow->tcp() && !opens) {
    if (packet.tcp.has(kAck) && !packet.tcp.has(kRst)) flow->live = packet.tcp;
    flow->client_mac = source_mac_of(waiting.frame);
    flow->guest_mac = destination_mac_of(waiting.frame);
    flow->interface = waiting.interface;
    acknowledge_what_was_sent(now, *flow, false, actions);
  }
  if (!order_open_ || (flow != nullptr && flow->phase == Flow::Phase::led)) return false;
  if (flow != nullptr && opens && flow->phase == Flow::Phase::over) {
    if (by_key_.at(flow->key).size() > 1) return false;
    by_key_.erase(flow->key);
    flow = nullptr;
  }
  give(now, flow, waiting.interface, std::move(waiting.frame), actions);
  return true;
}

void Replayer::flush_waiting(Instant now, Actions& actions) {
  flush_due_ = false;
  std::deque<Waiting> still;
  for (Waiting& waiting : waiting_) {
    const std::size_t bytes = waiting.frame.size();
    // What waited long comes all at once, and a tap's queue is short: the rest goes with later
    // ticks.
    if (budget_ == 0) {
      flush_due_ = true;
      still.push_back(std::move(waiting));
      continue;
    }
    if (take_client_frame(now, waiting, actions)) {
      waiting_bytes_ -= bytes;
      --budget_;
    } else {
      still.push_back(std::move(waiting));
    }
  }
  waiting_ = std::move(still);
}

// --- time ---

Replayer::Actions Replayer::on_tick(Instant now, bool guest_has_work) {
  Actions actions;
  const auto since_last_tick = now - std::exchange(last_tick_, now);
  if (guest_has_work) {
    order_progress_ =
        std::min(now, order_progress_ + since_last_tick * (kBusyCounts - 1) / kBusyCounts);
  }
  const auto elapsed_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now - budget_at_);
  if (elapsed_ms.count() > 0) {
    budget_ = config_.frames_per_ms *
              static_cast<std::uint32_t>(std::min<std::int64_t>(elapsed_ms.count(), 4));
    budget_at_ = now;
  }
  translator_.on_tick(now);
  if (!replaying()) {
    inputs_ = {};
    if (flush_due_) flush_waiting(now, actions);
    return actions;
  }
  repeat_resets(now, actions);
  pump(now, actions);
  if (!order_open_ && budget_ > 0 && now - order_progress_ >= config_.turn_wait &&
      order_waited_ < config_.order_wait_total && skip_a_turn(now, actions)) {
    pump(now, actions);
  }
  if (!order_open_ && budget_ > 0 && now - order_progress_ >= config_.order_wait) {
    order_waited_ += config_.order_wait;
    order_progress_ = now;
    const bool give_up = order_waited_ >= config_.order_wait_total;
    Flow* in_the_way = nullptr;
    if (!outstanding_.empty()) {
      in_the_way = outstanding_.begin()->second;
    }
    // An input that may go but for its own flow's sake.
    if (in_the_way == nullptr && !fronts_.empty()) in_the_way = inputs_[*fronts_.begin()].flow;
    if (give_up) {
      for (const auto& flow : flows_) detach(now, *flow);
      actions.push_back(Report{Event::order_given_up, {}, LogPosition(), 0});
    } else if (in_the_way != nullptr) {
      detach(now, *in_the_way);
      actions.push_back(Report{Event::not_waited_for, in_the_way->key, LogPosition(), 0});
    }
    pump(now, actions);
  }
  for (std::size_t i = 0; i < flows_.size() && leading_ > 0; ++i) {
    Flow& flow = *flows_[i];
    if (flow.phase != Flow::Phase::led) continue;
    if (!flow.punctual) {
      while (!flow.pending.empty() && budget_ > 0 &&
             may_feed(now, flow, inputs_[flow.pending.front()])) {
        feed(now, flow.pending.front(), actions);
      }
    }
    if (flow.phase != Flow::Phase::led) continue;
    const auto patience = config_.feed_again_after * (1U << std::min(flow.fed_again, 3U));
    if (!flow.unacknowledged.empty() && now - flow.last_fed >= patience &&
        now - flow.last_fed_again >= patience && budget_ > 0) {
      // What stands first in the client's stream is what the guest waits for.
      const std::size_t first = *std::ranges::min_element(
          flow.unacknowledged, before,
          [this](std::size_t index) { return inputs_[index].packet.tcp.sequence; });
      const Input& input = inputs_[first];
      flow.last_fed_again = now;
      ++flow.fed_again;
      ++statistics_.fed_again;
      --budget_;
      // With its acknowledgement as it is: the guest has sent that much, or it had not been given.
      give(now, &flow, input.interface, as_given(flow, input), actions);
    }
    if (flow.condemned) {
      const bool quiet = flow.pending.empty() && now - flow.last_progress >= config_.order_wait;
      if (quiet || now - flow.last_progress >= config_.flow_wait) end_condemned(flow, actions);
      continue;
    }
    if ((!flow.punctual || order_open_) && now - flow.last_progress >= config_.flow_wait) {
      if (flow.tcp()) {
        const LogPosition position =
            flow.expected.empty() ? LogPosition() : flow.expected.front().position;
        diverge(now, flow, Event::no_progress, position, flow.reproduced_to, actions);
      } else {
        // Replies that do not come again: the client has had them.
        forget_expected(flow);
        settle(now, flow, actions);
      }
    }
  }
  open_order_if_due(now, actions);
  if (flush_due_ || (order_open_ && !waiting_.empty())) flush_waiting(now, actions);
  if (leading_ == 0 && order_open_ && !flush_due_) {
    // Nobody is left who could let them in.
    for (Waiting& waiting : std::exchange(waiting_, {})) {
      give(now, nullptr, waiting.interface, std::move(waiting.frame), actions);
    }
    waiting_bytes_ = 0;
  }
  return actions;
}

void Replayer::on_running(Instant now) {
  order_progress_ = now;
  for (const auto& flow : flows_) flow->last_fed = flow->last_progress = now;
}

Instant Replayer::next_deadline() const {
  if (replaying() || flush_due_)
    return budget_at_ + (budget_ == 0 ? kTickWithoutBudget : kTickWhileLeading);
  return translator_.empty() ? kNever : budget_at_ + kTickTranslations;
}

std::string_view to_string(OnDivergence on_divergence) {
  return on_divergence == OnDivergence::reset ? "reset" : "tolerate";
}

std::string_view to_string(Replayer::Event event) {
  switch (event) {
    case Replayer::Event::contents_differ:
      return "contents_differ";
    case Replayer::Event::ended_early:
      return "ended_early";
    case Replayer::Event::goes_on:
      return "goes_on";
    case Replayer::Event::connection_differs:
      return "connection_differs";
    case Replayer::Event::no_progress:
      return "no_progress";
    case Replayer::Event::too_many_translations:
      return "too_many_translations";
    case Replayer::Event::datagram_differs:
      return "datagram_differs";
    case Replayer::Event::not_waited_for:
      return "not_waited_for";
    case Replayer::Event::order_given_up:
      return "order_given_up";
    case Replayer::Event::order_complete:
      return "order_complete";
  }
  return "unknown";
}

}  // namespace understudy::replay
