#include "agent/replay_gate.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/json.hpp>
#include <cstring>
#include <utility>

namespace understudy {
namespace {

using namespace std::chrono_literals;
using replay::ChecksumState;
using replay::Direction;
using replay::Frame;
using replay::Packet;
using replay::ReleaseRule;
using replay::Replayer;

// As GateLimits: what may be held for all interfaces together.
constexpr std::uint64_t kHeldBytesMax = 256ULL << 20;
constexpr std::uint64_t kHeldFramesMax = 65'536;
constexpr std::uint64_t kHeldBackBytesMax = 16ULL << 20;
// Octets of a batch; more go in the next one.
constexpr std::size_t kBatchBytes = 256 * 1024;
// Inputs wait for company so long, or until they are so many octets.
constexpr auto kLogPatience = 2ms;
constexpr std::uint64_t kLogBytesWaiting = 16 * 1024;
// So long outputs wait for the acknowledgement of the batch before theirs.
constexpr auto kAcknowledgementPatience = 2ms;
// How long a pause waits for answers, and how old a request may be that is waited for.
constexpr auto kQuietPatience = 20ms;
constexpr auto kFirstQuietPatience = 60ms;
constexpr auto kAnswerPatience = 100ms;
constexpr std::size_t kRequestsMax = 4096;
// After so many frames it is time to look where they are.
constexpr std::size_t kFollowedFrames = 1024;
constexpr auto kRefreshForwarding = 60s;
constexpr std::size_t kEthernetHeader = 14;

Instant now() {
  return std::chrono::steady_clock::now();
}

ChecksumState checksum_of(const RelayedFrame& frame) {
  return frame.checksum_is_partial() ? ChecksumState::partial : ChecksumState::complete;
}

Frame octets_of(const RelayedFrame& frame) {
  return {frame.frame().begin(), frame.frame().end()};
}

// A frame with complete checksums that fits its interface needs no offload.
RelayedFrame plain(std::span<const std::uint8_t> frame) {
  RelayedFrame relayed;
  relayed.octets.resize(RelayedFrame::kHeaderBytes + frame.size());
  std::ranges::copy(frame, relayed.octets.begin() + RelayedFrame::kHeaderBytes);
  return relayed;
}

// The frame, cut up where it is larger than the interface takes.
std::vector<Frame> cut_to(std::size_t mtu, const Frame& frame) {
  if (frame.size() <= mtu + kEthernetHeader) return {frame};
  const Packet packet = replay::parse(frame);
  const std::size_t headers = packet.payload_at - packet.network_at;
  if (packet.kind != replay::FrameKind::tcp || mtu <= headers) return {frame};
  return replay::split_tcp(frame, mtu - headers);
}

}  // namespace

ReplayGate::ReplayGate(const boost::asio::any_io_executor& executor, std::size_t interfaces)
    : executor_(executor), delivery_(interfaces), timer_(executor) {}

ReplayGate::~ReplayGate() = default;

Result<std::shared_ptr<ReplayGate>> ReplayGate::close(const boost::asio::any_io_executor& executor,
                                                      const std::string& domain,
                                                      std::span<const OutputInterface> interfaces) {
  GateOptions options;
  options.domain = domain;
  for (const auto& interface : interfaces) {
    options.interfaces.push_back({interface.device, interface.bridge, interface.mac});
  }
  std::shared_ptr<ReplayGate> gate(new ReplayGate(executor, interfaces.size()));
  // The relay is the gate's own, and calls nobody after its end.
  FrameRelay::Handlers handlers{
      .on_output = [self = gate.get()](
                       std::uint16_t interface,
                       RelayedFrame frame) { self->on_output(interface, std::move(frame)); },
      .on_input = [self = gate.get()](
                      std::uint16_t interface,
                      RelayedFrame frame) { self->on_input(interface, std::move(frame)); },
      .on_idle = [self = gate.get()] { self->settle(); }};
  BOOST_OUTCOME_TRY(gate->relay_,
                    FrameRelay::close(executor, std::move(options), std::move(handlers)));
  gate->refresh_at_ = now() + kRefreshForwarding;
  return gate;
}

// --- frames ---

// Once the story is told, only connections that have to be translated concern the replayer.
bool ReplayGate::concerns_replayer(const RelayedFrame& frame, Direction direction) const {
  if (!replayer_) return false;
  if (replayer_->replaying()) return true;
  const Packet packet = replay::parse(frame.frame());
  return packet.kind == replay::FrameKind::tcp &&
         replayer_->translator().find(replay::flow_of(packet, direction)) != nullptr;
}

void ReplayGate::on_output(std::uint16_t interface, RelayedFrame frame) {
  if (opened_) return;
  if (!concerns_replayer(frame, Direction::from_guest)) {
    return offer_output(interface, std::move(frame));
  }
  auto actions = replayer_->on_guest_frame(now(), interface, octets_of(frame), checksum_of(frame));
  carry_out(std::move(actions), &frame);
}

void ReplayGate::on_input(std::uint16_t interface, RelayedFrame frame) {
  if (opened_) return;
  if (quietening_ && hold_back(interface, frame)) return;
  admit(interface, std::move(frame));
}

void ReplayGate::admit(std::uint16_t interface, RelayedFrame frame) {
  if (rule_) {
    note_request(frame);
    const bool urgent = log_urgent_;
    const auto verdict = rule_->on_input(now(), interface, frame.frame(), checksum_of(frame));
    carry_out(verdict.actions);
    log_urgent_ = urgent;
    log_bytes_waiting_ += frame.bytes();
    if (!verdict.let_in) return;
  }
  if (!concerns_replayer(frame, Direction::to_guest)) {
    return hand_over(interface, frame.octets);
  }
  auto actions = replayer_->on_client_frame(now(), interface, octets_of(frame), checksum_of(frame));
  carry_out(std::move(actions), nullptr);
}

// A frame as the client is to see it.
void ReplayGate::offer_output(std::uint16_t interface, RelayedFrame frame) {
  if (!rule_) return relay_->to_network(interface, frame.octets);
  note_answer(frame);
  // Gone ones keep their place until those before them are gone.
  if (held_frames_ >= kHeldFramesMax || held_.size() >= 4 * kHeldFramesMax ||
      held_bytes_ + frame.bytes() > kHeldBytesMax) {
    ++dropped_frames_;
    return;
  }
  const replay::OutputId id{interface, first_held_ + static_cast<std::uint32_t>(held_.size())};
  held_bytes_ += frame.bytes();
  ++held_frames_;
  // Where the frame lies must not move while the rule looks at it: it may release others.
  held_.push_back({interface, std::move(frame)});
  const std::span<const std::uint8_t> octets = held_.back().frame->frame();
  carry_out(rule_->on_output(now(), id, octets));
}

// --- the quiet moment ---

void ReplayGate::note_request(const RelayedFrame& frame) {
  const Packet packet = replay::parse(frame.frame());
  if (!packet.in_a_flow() || packet.payload_bytes == 0) return;
  const Instant at = now();
  if (unanswered_.size() >= kRequestsMax) {
    // A flood of requests that nobody answers: looked through now and then, not for each of them.
    if (at - swept_at_ < kAnswerPatience) return;
    swept_at_ = at;
    std::erase_if(unanswered_,
                  [at](const auto& request) { return request.second + kAnswerPatience < at; });
  }
  unanswered_[replay::flow_of(packet, Direction::to_guest)] = at;
}

void ReplayGate::note_answer(const RelayedFrame& frame) {
  const Packet packet = replay::parse(frame.frame());
  if (!packet.in_a_flow() || packet.payload_bytes == 0) return;
  if (unanswered_.erase(replay::flow_of(packet, Direction::from_guest)) > 0 && quietening_) {
    answered_.notify_all();
  }
}

// Requests wait, and what follows one on its flow; acknowledgements pass, for answers may need
// them.
bool ReplayGate::hold_back(std::uint16_t interface, RelayedFrame& frame) {
  const Packet packet = replay::parse(frame.frame());
  if (!packet.in_a_flow()) return false;
  const auto flow = replay::flow_of(packet, Direction::to_guest);
  if (!packet.brings_something() && !flows_held_back_.contains(flow)) return false;
  // At the limit it is lost, as in a full queue.
  if (held_back_bytes_ + frame.bytes() > kHeldBackBytesMax) return true;
  held_back_bytes_ += frame.bytes();
  flows_held_back_.insert(flow);
  held_back_.push_back({interface, std::move(frame)});
  return true;
}

Task<void> ReplayGate::quieten() {
  const auto self = shared_from_this();
  if (!rule_ || rule_->state() == ReleaseRule::State::fallen_back) co_return;
  quietening_ = true;
  const Instant begun = now();
  // Of what the guest was asked before we looked nothing is known: it gets the time to answer it.
  const bool stranger = begun - protected_at_ < kAnswerPatience;
  const auto quiet = [this, begun, stranger] {
    if (!quietening_) return true;
    if (stranger) return false;
    // What has waited for long may wait for ever: not every message wants an answer.
    std::erase_if(unanswered_, [begun](const auto& request) {
      return request.second + kAnswerPatience < begun;
    });
    return unanswered_.empty();
  };
  const Instant end = begun + (stranger ? kFirstQuietPatience : kQuietPatience);
  co_await answered_.wait_until(quiet, end);
}

void ReplayGate::let_in() {
  if (!std::exchange(quietening_, false)) return;
  flows_held_back_.clear();
  held_back_bytes_ = 0;
  for (HeldBack& held : std::exchange(held_back_, {})) {
    admit(held.interface, std::move(held.frame));
  }
  settle();
}

void ReplayGate::send_held(replay::OutputId output) {
  const std::uint32_t index = output.packet_id - first_held_;
  if (index >= held_.size() || !held_[index].frame) return;
  Held& held = held_[index];
  relay_->to_network(held.interface, held.frame->octets);
  ++released_frames_;
  released_bytes_ += held.frame->bytes();
  --held_frames_;
  held_bytes_ -= held.frame->bytes();
  held.frame.reset();
  while (!held_.empty() && !held_.front().frame) {
    held_.pop_front();
    ++first_held_;
  }
}

void ReplayGate::carry_out(const ReleaseRule::Actions& actions) {
  for (const auto& action : actions) {
    if (const auto* release = std::get_if<ReleaseRule::Release>(&action)) {
      send_held(release->output);
    } else if (std::holds_alternative<ReleaseRule::SendLog>(action)) {
      log_due_ = log_urgent_ = true;
    } else if (std::holds_alternative<ReleaseRule::CheckpointEarly>(action)) {
      if (hooks_.capture_early) hooks_.capture_early();
    } else if (const auto* report = std::get_if<ReleaseRule::Report>(&action)) {
      if (hooks_.report) hooks_.report(*report);
    }
  }
}

void ReplayGate::carry_out(Replayer::Actions actions, const RelayedFrame* original) {
  for (auto& action : actions) {
    if (const auto* to_guest = std::get_if<Replayer::ToGuest>(&action)) {
      give_to_guest(to_guest->interface, to_guest->frame);
    } else if (auto* to_network = std::get_if<Replayer::ToNetwork>(&action)) {
      Frame& frame = to_network->frame;
      if (original != nullptr && frame.size() == original->bytes() &&
          (to_network->checksum == ChecksumState::partial) == original->checksum_is_partial()) {
        // Only numbers have changed: the offloads are still right.
        RelayedFrame same = *original;
        std::ranges::copy(frame, same.octets.begin() + RelayedFrame::kHeaderBytes);
        offer_output(to_network->interface, std::move(same));
        continue;
      }
      if (to_network->checksum == ChecksumState::partial) {
        const Packet packet = replay::parse(frame);
        replay::complete_checksums(frame, packet);
      }
      for (const Frame& piece : cut_to(relay_->mtu(to_network->interface), frame)) {
        offer_output(to_network->interface, plain(piece));
      }
    } else if (const auto* report = std::get_if<Replayer::Report>(&action)) {
      if (replay_hooks_.report) replay_hooks_.report(*report);
    }
  }
}

void ReplayGate::give_to_guest(std::uint16_t interface, const Frame& frame) {
  for (const Frame& piece : cut_to(relay_->mtu(interface), frame)) {
    hand_over(interface, plain(piece).octets);
  }
}

void ReplayGate::hand_over(std::uint16_t interface, std::span<const std::uint8_t> frame) {
  if (!relay_->to_guest(interface, frame) || !rule_) return;
  delivery_.on_given(now(), interface, rule_->log().last_position());
  if (delivery_.followed() % kFollowedFrames == 0 && hooks_.ask_progress) hooks_.ask_progress();
}

// --- what follows from what happened ---

// One batch at a time, as Nagle has it for TCP: what the guest says meanwhile goes together in the
// next one. A talkative guest then costs a few wake-ups of both hosts for each round trip instead
// of a few for each frame, and a quiet one waits for nobody.
std::optional<Instant> ReplayGate::wait_for_acknowledgement() const {
  if (!rule_ || quietening_) return std::nullopt;
  const auto since = rule_->awaits_since();
  if (!since || now() >= *since + kAcknowledgementPatience) return std::nullopt;
  return *since + kAcknowledgementPatience;
}

void ReplayGate::settle() {
  if (opened_) return;
  if (log_due_ && log_due_at_ == Instant::max()) log_due_at_ = now() + kLogPatience;
  if (log_due_ && rule_ &&
      ((log_urgent_ && !wait_for_acknowledgement()) || log_bytes_waiting_ >= kLogBytesWaiting ||
       now() >= log_due_at_)) {
    log_due_ = log_urgent_ = false;
    log_bytes_waiting_ = 0;
    log_due_at_ = Instant::max();
    for (;;) {
      auto batch = rule_->take_unsent_encoded(now(), kBatchBytes);
      if (batch.empty()) break;
      if (hooks_.send_log) hooks_.send_log(std::move(batch));
    }
  }
  if (replayer_ && running_ && !replayer_->replaying()) {
    if (!led_) {
      led_ = true;
      if (replay_hooks_.replayed) replay_hooks_.replayed();
    }
    if (replayer_->translator().empty()) replayer_.reset();
  }
  open_if_idle();
  if (opened_) return;
  if (wait_for_acknowledgement()) {
    relay_->defer_outputs();
  } else {
    relay_->resume_outputs();
  }
  arm();
}

void ReplayGate::arm() {
  if (opened_) return;
  Instant next = std::min(refresh_at_, log_due_at_);
  if (rule_) next = std::min(next, rule_->next_deadline());
  if (const auto until = wait_for_acknowledgement()) next = std::min(next, *until);
  if (replayer_ && running_ && !led_) next = std::min(next, replayer_->next_deadline());
  if (replayer_ && led_) next = std::min(next, std::max(replayer_->next_deadline(), now() + 1s));
  // A timer that fires early costs less than one that is moved with every frame.
  if (armed_for_ <= next) return;
  armed_for_ = next;
  timer_.expires_at(next);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (self && !error) self->on_timer();
  });
}

void ReplayGate::on_timer() {
  armed_for_ = Instant::max();
  if (opened_) return;
  const Instant at = now();
  if (at >= refresh_at_) {
    relay_->refresh_forwarding();
    refresh_at_ = at + kRefreshForwarding;
  }
  if (rule_) carry_out(rule_->on_tick(at));
  if (replayer_ && running_) {
    const bool guest_has_work = !led_ && activity_ && activity_();
    carry_out(replayer_->on_tick(at, guest_has_work), nullptr);
  }
  settle();
}

// Not at once: this may be a call of the relay's own.
void ReplayGate::open_if_idle() {
  if (rule_ || replayer_ || opening_) return;
  opening_ = true;
  boost::asio::post(executor_, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->opening_ = false;
    if (self->opened_ || self->rule_ || self->replayer_) return;
    if (auto opened = self->relay_->open(); !opened) {
      spdlog::error("gate: {}", opened.error().message());
      return;
    }
    self->opened_ = true;
    self->timer_.cancel();
  });
}

Result<void> ReplayGate::remove() {
  hooks_ = {};
  replay_hooks_ = {};
  quietening_ = false;
  held_back_.clear();
  flows_held_back_.clear();
  unanswered_.clear();
  drop_held();
  rule_.reset();
  replayer_.reset();
  timer_.cancel();
  if (std::exchange(opened_, true)) return ok();
  return relay_->open();
}

// --- protection ---

void ReplayGate::protect(const ReleaseRule::Config& config, ProtectionHooks hooks) {
  hooks_ = std::move(hooks);
  rule_.emplace(config);
  protected_at_ = now();
  delivery_ = InputDelivery(delivery_.interfaces());
  arm();
}

void ReplayGate::end_protection() {
  if (!rule_) return;
  let_in();
  unanswered_.clear();
  carry_out(rule_->on_gate_opened());
  hooks_ = {};
  rule_.reset();
  log_due_ = log_urgent_ = false;
  log_bytes_waiting_ = 0;
  log_due_at_ = Instant::max();
  settle();
}

void ReplayGate::on_link_up(LogPosition peer_log) {
  if (!rule_) return;
  carry_out(rule_->on_link_up(now(), peer_log));
  settle();
}

void ReplayGate::on_link_down() {
  if (rule_) rule_->on_link_down();
}

void ReplayGate::on_log_acknowledged(const replay::LogAcknowledged& acknowledged) {
  if (!rule_) return;
  carry_out(rule_->on_log_acknowledged(now(), acknowledged));
  settle();
}

void ReplayGate::on_peer_heard(Instant sent_at) {
  if (!rule_) return;
  carry_out(rule_->on_peer_heard(now(), sent_at));
  settle();
}

void ReplayGate::set_policies(replay::PortPolicies policies) {
  if (!rule_) return;
  carry_out(rule_->on_policies_changed(now(), std::move(policies)));
  settle();
}

bool ReplayGate::wants_takes_inputs() const {
  return delivery_.silent(now());
}

Result<void> ReplayGate::seal(EpochId epoch, bool takes_inputs) {
  if (!rule_) return fail(ErrorCode::internal, "seal without a protection");
  BOOST_OUTCOME_TRY(relay_->take_in_outputs());
  rule_->on_delivered(delivery_.certain(now(), rule_->log().last_position(), takes_inputs));
  auto translations = replayer_ ? replayer_->translator().encode() : std::vector<std::byte>();
  BOOST_OUTCOME_TRY(const auto actions, rule_->on_paused(now(), epoch, std::move(translations)));
  carry_out(actions);
  settle();
  return ok();
}

void ReplayGate::release(EpochId epoch) {
  if (!rule_) return;
  carry_out(rule_->on_epoch_released(now(), epoch));
  settle();
}

void ReplayGate::drop_held() {
  if (rule_) rule_->on_dropped();
  dropped_frames_ += held_frames_;
  first_held_ += static_cast<std::uint32_t>(held_.size());
  held_.clear();
  held_frames_ = held_bytes_ = 0;
}

// --- replay ---

void ReplayGate::lead(Replayer replayer, ReplayHooks hooks) {
  replayer_.emplace(std::move(replayer));
  replay_hooks_ = std::move(hooks);
  led_ = running_ = false;
  carry_out(replayer_->on_tick(now()), nullptr);
}

void ReplayGate::begin_replay(std::function<bool()> activity) {
  if (!replayer_) return;
  activity_ = std::move(activity);
  running_ = true;
  replayer_->on_running(now());
  carry_out(replayer_->on_tick(now()), nullptr);
  settle();
}

// --- status ---

TrafficCounters ReplayGate::counters() const {
  TrafficCounters counters;
  counters.held = {held_frames_, held_bytes_};
  counters.released = {released_frames_, released_bytes_};
  counters.dropped.frames = dropped_frames_ + relay_->counters().outputs_lost;
  return counters;
}

boost::json::value ReplayGate::to_json() const {
  boost::json::object object;
  if (rule_) {
    const auto& log = rule_->log();
    const Instant at = now();
    object["state"] = replay::to_string(rule_->state());
    object["log_bytes"] = log.bytes();
    object["log_records"] = log.records().size();
    object["log_position"] = log.last_position().value;
    object["log_lag_records"] =
        log.last_position().value - std::min(rule_->acknowledged(), log.last_position()).value;
    object["inputs_since_commit"] = log.inputs();
    object["replay_estimate_ms"] =
        log.inputs() == 0 ? 0.0 : static_cast<double>(rule_->replay_estimate(at).count()) / 1000.0;
    object["flows"] = rule_->flows().size();
  }
  if (replayer_) {
    const auto& told = replayer_->statistics();
    object["replaying"] = replayer_->replaying();
    object["translated_connections"] = replayer_->translator().size();
    object["inputs_replayed"] = told.inputs_fed;
    object["inputs_to_replay"] = told.inputs_total;
    object["flows_diverged"] = told.flows_diverged;
  }
  const auto relayed = relay_->counters();
  object["inputs"] = relayed.inputs;
  object["outputs"] = relayed.outputs;
  object["inputs_dropped"] = relayed.inputs_lost;
  return object;
}

}  // namespace understudy
