#include "replay/release_rule.h"

#include <algorithm>

namespace understudy::replay {
namespace {

/// Room in the log that only marks and gaps may use.
constexpr std::size_t kReservedRecords = 64;

std::size_t reserved_bytes(const LogLimits& limits) {
  return std::min<std::size_t>(limits.bytes_max / 8, 4U << 20);
}

}  // namespace

PortPolicy PortPolicies::of(const FlowKey& flow) const {
  if (flow.protocol != 6 && flow.protocol != 17) return standard;
  const auto found = ports.find(flow.guest_port);
  return found == ports.end() ? standard : found->second;
}

bool PortPolicies::any_replay() const {
  return standard == PortPolicy::replay || std::ranges::any_of(ports, [](const auto& port) {
           return port.second == PortPolicy::replay;
         });
}

ReleaseRule::ReleaseRule(const Config& config)
    : config_(config), log_(config.limits), flows_(config.flows_max) {
  UNDERSTUDY_CHECK(config.protection.value > 0, "release rule: no protection");
}

// --- the link ---

ReleaseRule::Actions ReleaseRule::on_link_up(Instant now, LogPosition peer_log) {
  Actions actions;
  link_up_ = true;
  unacknowledged_.clear();
  const LogPosition before_first = log_.records().empty()
                                       ? log_.last_position()
                                       : LogPosition(log_.records().front().position.value - 1);
  if (peer_log.value == 0 || peer_log < before_first || peer_log > log_.last_position()) {
    // Nothing of what we have can follow what it has (that is nothing, as a rule).
    if (log_.last_position().value > 0) {
      actions.push_back(Report{Event::log_restarted, log_.last_position()});
    }
    log_.clear();
    // The backup's may be that of an earlier run of this agent: ours goes on where it ends.
    log_.skip_to(peer_log);
    state_ = State::fallen_back;
    rejoin_at_ = now;
    sent_ = log_.last_position();
  } else {
    sent_ = peer_log;
    acknowledged_ = std::max(acknowledged_, peer_log);
    if (sent_ < log_.last_position()) actions.push_back(SendLog{});
  }
  rejoin_if_due(now, actions);
  release_proved(now, actions);
  return actions;
}

void ReleaseRule::on_link_down() {
  link_up_ = false;
  unacknowledged_.clear();
}

std::optional<LogBatch> ReleaseRule::take_unsent(Instant now, std::size_t bytes_max) {
  const auto unsent = next_unsent(now, bytes_max);
  if (unsent.empty()) return std::nullopt;
  LogBatch batch{config_.protection, config_.generation, {}};
  for (const LogRecord* record : unsent) batch.records.push_back(*record);
  return batch;
}

std::vector<std::byte> ReleaseRule::take_unsent_encoded(Instant now, std::size_t bytes_max) {
  const auto unsent = next_unsent(now, bytes_max);
  if (unsent.empty()) return {};
  return encode_log_batch(config_.protection, config_.generation, unsent);
}

/// What is sent next, and counts as sent from here on. Valid until the log changes.
std::vector<const LogRecord*> ReleaseRule::next_unsent(Instant now, std::size_t bytes_max) {
  std::vector<const LogRecord*> unsent;
  if (!link_up_ || sent_ >= log_.last_position() || log_.records().empty()) return unsent;
  bytes_max = std::min(bytes_max, kBatchBytesMax - 64);
  std::size_t bytes = 0;
  auto next = std::upper_bound(
      log_.records().begin(), log_.records().end(), sent_,
      [](LogPosition position, const LogRecord& record) { return position < record.position; });
  for (; next != log_.records().end(); ++next) {
    bytes += encoded_bytes(next->content);
    if (!unsent.empty() && bytes > bytes_max) break;
    unsent.push_back(&*next);
  }
  sent_ = unsent.back()->position;
  unacknowledged_.push_back({sent_, now});
  return unsent;
}

ReleaseRule::Actions ReleaseRule::on_log_acknowledged(Instant now,
                                                      const LogAcknowledged& acknowledged) {
  Actions actions;
  if (!link_up_ || acknowledged.protection != config_.protection ||
      acknowledged.generation != config_.generation || acknowledged.position > sent_) {
    actions.push_back(Report{Event::acknowledgement_refused, acknowledged.position});
    return actions;
  }
  acknowledged_ = std::max(acknowledged_, acknowledged.position);
  while (!unacknowledged_.empty() && unacknowledged_.front().up_to <= acknowledged.position) {
    // The backup had this batch, so it has heard us since it was sent.
    heard_at_ =
        std::max(heard_at_.value_or(unacknowledged_.front().at), unacknowledged_.front().at);
    unacknowledged_.pop_front();
  }
  release_proved(now, actions);
  return actions;
}

ReleaseRule::Actions ReleaseRule::on_peer_heard(Instant now, Instant sent_at) {
  Actions actions;
  heard_at_ = std::max(heard_at_.value_or(sent_at), sent_at);
  release_proved(now, actions);
  return actions;
}

// --- frames ---

ReleaseRule::InputVerdict ReleaseRule::on_input(Instant now, std::uint16_t interface,
                                                std::span<const std::uint8_t> frame,
                                                ChecksumState checksum) {
  InputVerdict verdict;
  if (frame.empty() || frame.size() > kFrameBytesMax) {
    verdict.let_in = false;
    return verdict;
  }
  const Packet packet = parse(frame);
  if (packet.kind == FrameKind::not_ip || packet.kind == FrameKind::control) return verdict;
  if (packet.in_a_flow() &&
      config_.policies.of(flow_of(packet, Direction::to_guest)) == PortPolicy::open) {
    return verdict;
  }
  flows_.on_input(now, packet);
  if (!logs()) return verdict;
  append(now, InputRecord{interface, checksum, Frame(frame.begin(), frame.end())}, verdict.actions);
  check_bounds(now, verdict.actions);
  return verdict;
}

void ReleaseRule::on_delivered(LogPosition position) {
  delivered_ = std::max(delivered_, std::min(position, log_.last_position()));
}

ReleaseRule::Actions ReleaseRule::on_output(Instant now, OutputId output,
                                            std::span<const std::uint8_t> frame) {
  Actions actions;
  const Packet packet = parse(frame);
  if (packet.kind == FrameKind::not_ip || packet.kind == FrameKind::control) {
    hold_for_log(now, output, actions);
    return actions;
  }
  if (!packet.in_a_flow() || frame.size() > kFrameBytesMax) {
    hold_for_commit(output, actions);
    return actions;
  }
  switch (config_.policies.of(flow_of(packet, Direction::from_guest))) {
    case PortPolicy::open:
      if (!gate_closed_) {
        actions.push_back(Release{output});
      } else {
        by_lease_.push_back({outputs_++, output, LogPosition()});
        release_proved(now, actions);
      }
      return actions;
    case PortPolicy::remus:
      hold_for_commit(output, actions);
      return actions;
    case PortPolicy::replay:
      break;
  }
  // Described even while outputs go by commits: the flow's stream is followed without holes.
  auto record = flows_.on_output(now, packet, frame);
  if (record && logs() && append(now, *record, actions)) {
    hold_for_log(now, output, actions);
  } else {
    hold_for_commit(output, actions);
  }
  check_bounds(now, actions);
  return actions;
}

ReleaseRule::Actions ReleaseRule::on_strict_output(OutputId output) {
  Actions actions;
  hold_for_commit(output, actions);
  return actions;
}

/// Holds `output` until the backup has the log as it ends now.
void ReleaseRule::hold_for_log(Instant now, OutputId output, Actions& actions) {
  if (!logs()) return hold_for_commit(output, actions);
  if (!gate_closed_) {
    actions.push_back(Release{output});
    return;
  }
  by_log_.push_back({outputs_++, output, log_.last_position()});
  release_proved(now, actions);
}

void ReleaseRule::hold_for_commit(OutputId output, Actions& actions) {
  if (!gate_closed_) {
    actions.push_back(Release{output});
    return;
  }
  by_commit_.push_back({outputs_++, output, LogPosition()});
}

void ReleaseRule::release_proved(Instant now, Actions& actions) {
  if (!heard_at_ || now - *heard_at_ >= config_.lease) return;
  for (; !by_lease_.empty(); by_lease_.pop_front()) {
    actions.push_back(Release{by_lease_.front().output});
  }
  if (state_ != State::logging) return;
  while (!by_log_.empty() && by_log_.front().position <= acknowledged_) {
    actions.push_back(Release{by_log_.front().output});
    by_log_.pop_front();
  }
}

/// In the order in which the guest sent them, over all queues.
void ReleaseRule::release_numbered_below(std::uint64_t number, Actions& actions) {
  while (true) {
    std::deque<Held>* oldest = nullptr;
    for (auto* queue : {&by_log_, &by_commit_, &by_lease_}) {
      if (queue->empty()) continue;
      if (oldest == nullptr || queue->front().number < oldest->front().number) oldest = queue;
    }
    if (oldest == nullptr || oldest->front().number >= number) return;
    actions.push_back(Release{oldest->front().output});
    oldest->pop_front();
  }
}

// --- the log and its bounds ---

/// Adds an input or a digest. False if there was no room: remus mode from here.
bool ReleaseRule::append(Instant now, LogContent content, Actions& actions) {
  const LogLimits& limits = log_.limits();
  const std::size_t bytes = encoded_bytes(content) + kRecordOverheadBytes;
  const bool room = log_.bytes() + bytes + reserved_bytes(limits) <= limits.bytes_max &&
                    log_.records().size() + kReservedRecords < limits.records_max;
  if (!room || !log_.append(std::move(content)).has_value()) {
    fall_back(now, actions);
    return false;
  }
  if (link_up_) actions.push_back(SendLog{});
  return true;
}

void ReleaseRule::check_bounds(Instant now, Actions& actions) {
  if (!logs()) return;
  const LogLimits& limits = log_.limits();
  const auto age = replay_estimate(now);
  if (log_.inputs() > 0 && age > config_.replay_time_max) return fall_back(now, actions);
  const bool half = log_.bytes() > limits.bytes_max / 2 ||
                    log_.records().size() > limits.records_max / 2 ||
                    (log_.inputs() > 0 && age > config_.replay_time_max / 2);
  if (half && !early_asked_) {
    early_asked_ = true;
    actions.push_back(CheckpointEarly{});
  }
}

/// Inputs go unlogged from here, and outputs wait for commits, also those that waited for the log:
/// the bounds were reached because commits or acknowledgements are late.
void ReleaseRule::fall_back(Instant now, Actions& actions) {
  if (state_ == State::logging) actions.push_back(Report{Event::fell_back, log_.last_position()});
  state_ = State::fallen_back;
  rejoin_at_ = now + config_.fall_back_for;
  actions.push_back(CheckpointEarly{});
}

void ReleaseRule::rejoin_if_due(Instant now, Actions& actions) {
  if (logs() || !link_up_ || now < rejoin_at_ || !has_room_to_rejoin()) return;
  if (!config_.policies.any_replay()) return;
  const auto gap = log_.append(GapRecord{});
  if (!gap) return;
  gap_ = gap.value();
  state_ = State::rejoining;
  replay_from_ = now;
  early_asked_ = false;
  actions.push_back(SendLog{});
}

bool ReleaseRule::has_room_to_rejoin() const {
  return log_.bytes() <= log_.limits().bytes_max / 4 &&
         log_.records().size() <= log_.limits().records_max / 4;
}

// --- checkpoints ---

Result<ReleaseRule::Actions> ReleaseRule::on_paused(Instant now, EpochId epoch,
                                                    std::vector<std::byte> translations) {
  Actions actions;
  gate_closed_ = true;
  BOOST_OUTCOME_TRY(log_.append(MarkRecord{epoch, delivered_, std::move(translations)}));
  seals_.push_back({epoch, outputs_, now});
  early_asked_ = false;
  if (link_up_) actions.push_back(SendLog{});
  return actions;
}

ReleaseRule::Actions ReleaseRule::on_epoch_released(Instant now, EpochId epoch) {
  Actions actions;
  std::optional<Seal> last;
  while (!seals_.empty() && seals_.front().epoch <= epoch) {
    last = seals_.front();
    seals_.pop_front();
  }
  if (!last) return actions;
  release_numbered_below(last->outputs, actions);
  // A mark that is gone went with a log that was given up; the gap behind it is still open.
  if (const auto mark = log_.cut(last->epoch)) {
    replay_from_ = last->paused_at;
    if (state_ == State::rejoining && mark.value().delivered >= gap_) {
      state_ = State::logging;
      actions.push_back(Report{Event::replay_mode, log_.last_position()});
    }
  }
  rejoin_if_due(now, actions);
  release_proved(now, actions);
  return actions;
}

ReleaseRule::Actions ReleaseRule::on_gate_opened() {
  Actions actions;
  gate_closed_ = false;
  release_numbered_below(outputs_, actions);
  return actions;
}

void ReleaseRule::on_dropped() {
  by_log_.clear();
  by_commit_.clear();
  by_lease_.clear();
}

// --- time ---

ReleaseRule::Actions ReleaseRule::on_tick(Instant now) {
  Actions actions;
  check_bounds(now, actions);
  rejoin_if_due(now, actions);
  release_proved(now, actions);
  return actions;
}

Instant ReleaseRule::next_deadline() const {
  // Where only a commit can make room, only a commit brings us on.
  if (!logs()) {
    return link_up_ && has_room_to_rejoin() && config_.policies.any_replay() ? rejoin_at_ : kNever;
  }
  if (log_.inputs() == 0) return kNever;
  return replay_from_ + (early_asked_ ? config_.replay_time_max : config_.replay_time_max / 2) +
         std::chrono::microseconds(1);
}

std::chrono::microseconds ReleaseRule::replay_estimate(Instant now) const {
  return std::chrono::duration_cast<std::chrono::microseconds>(now - replay_from_);
}

ReleaseRule::Actions ReleaseRule::on_policies_changed(Instant now, PortPolicies policies) {
  Actions actions;
  config_.policies = std::move(policies);
  if (config_.policies.any_replay()) {
    rejoin_at_ = std::min(rejoin_at_, now);
    rejoin_if_due(now, actions);
  } else {
    // Asked for, so nothing to report. Output that waits for the log goes with the next commit.
    state_ = State::fallen_back;
    actions.push_back(CheckpointEarly{});
  }
  return actions;
}

std::string_view to_string(PortPolicy policy) {
  switch (policy) {
    case PortPolicy::remus:
      return "remus";
    case PortPolicy::replay:
      return "replay";
    case PortPolicy::open:
      return "open";
  }
  return "unknown";
}

std::string_view to_string(ReleaseRule::State state) {
  switch (state) {
    case ReleaseRule::State::fallen_back:
      return "remus";
    case ReleaseRule::State::rejoining:
      return "rejoining";
    case ReleaseRule::State::logging:
      return "replay";
  }
  return "unknown";
}

std::string_view to_string(ReleaseRule::Event event) {
  switch (event) {
    case ReleaseRule::Event::replay_mode:
      return "replay_mode";
    case ReleaseRule::Event::fell_back:
      return "fell_back";
    case ReleaseRule::Event::log_restarted:
      return "log_restarted";
    case ReleaseRule::Event::acknowledgement_refused:
      return "acknowledgement_refused";
  }
  return "unknown";
}

}  // namespace understudy::replay
