#include "agent/primary_session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/json.hpp>

#include "agent/replay_options.h"
#include "base/fault_point.h"
#include "checkpoint/precopy_policy.h"
#include "checkpoint/records.h"

namespace understudy {
namespace {

using std::chrono::milliseconds;
using transport::FrameType;
using transport::Link;
using transport::LinkPurpose;

Instant now() {
  return std::chrono::steady_clock::now();
}

double microseconds_between(Instant begin, Instant end) {
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

// Pauses between attempts to reach the backup: short, because output is held meanwhile.
/// For a last word to be heard before the link is closed.
constexpr auto kFarewellTime = std::chrono::seconds(2);
constexpr auto kReconnectFirst = milliseconds(50);
constexpr auto kReconnectMost = milliseconds(1000);
// The backup builds a whole domain before it answers, which takes libxl many seconds on a busy
// host.
constexpr auto kReplyLimit = milliseconds(120'000);
constexpr auto kHandOverLimit = std::chrono::seconds(30);
constexpr auto kStalledAfter = std::chrono::seconds(10);

EpochPrimary::Config decisions_config(const HostServices& services, const DomainRecord& record,
                                      bool taken_up_again) {
  EpochPrimary::Config config;
  config.protection = ProtectionId(record.protection);
  config.generation = record.generation;
  config.interval = std::chrono::microseconds(record.interval_us);
  // See "The lease" in checkpoint/epoch_primary.h. Both hosts of a pair are to be configured with
  // the same deadline.
  config.lease = services.config.deadline * 3 / 4;
  config.taken_up_again = taken_up_again;
  config.may_have_yielded = record.handing_over;
  if (services.arbiter.may_grant_solo()) config.ask_solo_after = services.arbiter.solo_after();
  config.grants_last = services.arbiter.grants_last();
  return config;
}

// The policies of ports belong to replay mode; in remus mode all output waits for commits.
replay::PortPolicies policies_of(const DomainRecord& record, const ReplayOptions& options) {
  if (record.mode == "replay") return options.policies;
  return {.standard = replay::PortPolicy::remus, .ports = {}};
}

}  // namespace

PrimarySession::PrimarySession(const HostServices& services, std::shared_ptr<const void> owner,
                               Domain& domain, DomainRecord& record,
                               std::shared_ptr<ReplayGate>& replay_gate, bool taken_up_again)
    : services_(services),
      owner_(std::move(owner)),
      domain_(domain),
      record_(record),
      decisions_(decisions_config(services, record, taken_up_again)),
      wake_(services.executor),
      replay_gate_(replay_gate) {}

PrimarySession::~PrimarySession() = default;

void PrimarySession::start(EndHandler on_end) {
  on_end_ = std::move(on_end);
  driving_ = true;
  if (decisions_.exposed()) {
    // The rules of an earlier run still drop everything; taking them over changes nothing for the
    // guest's peers, but lets us release again once a checkpoint is committed.
    if (auto closed = close_gate(); !closed) last_problem_ = closed.error().message();
  }
  const auto self = shared_from_this();
  const auto rethrow = [](const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  };
  boost::asio::co_spawn(
      services_.executor, [self] { return self->drive(); }, rethrow);
  boost::asio::co_spawn(
      services_.executor, [self] { return self->keep_link(); }, rethrow);
}

// --- the two coroutines ---

Task<void> PrimarySession::drive() {
  const auto self = shared_from_this();
  while (!ended_) {
    if (!pending_.empty()) {
      const auto action = pending_.front();
      pending_.pop_front();
      co_await perform(action);
      continue;
    }
    if (decisions_.state() == EpochPrimary::State::ended) {
      finish(resigned_ ? PrimaryEnd::resigned : PrimaryEnd::unprotected);
      break;
    }
    wake_.clear();
    co_await wake_.wait_until(std::min(decisions_.next_deadline(), now() + std::chrono::hours(1)));
    if (!ended_) carry_out(decisions_.on_tick(now()));
  }
  driving_ = false;
  drive_ended_.notify_all();
  if (on_end_) std::exchange(on_end_, nullptr)(end_);
}

Task<void> PrimarySession::wait_for_drive() {
  const auto ended = [this] { return !driving_; };
  co_await drive_ended_.wait_until(ended, Instant::max());
}

Task<void> PrimarySession::keep_link() {
  const auto self = shared_from_this();
  auto pause = kReconnectFirst;
  bool retired = false;
  while (!ended_ && !retired) {
    auto connected = co_await services_.connector.connect(record_.peer, LinkPurpose::bulk);
    if (ended_) break;
    if (connected) {
      const std::shared_ptr<Link> link = std::move(connected.value());
      const Instant began = now();
      co_await serve_link(link);
      link->close();
      if (link_ == link) link_.reset();
      if (now() - began > kReconnectMost) pause = kReconnectFirst;
    } else {
      last_problem_ = connected.error().message();
    }
    retired = decisions_.state() == EpochPrimary::State::ended ||
              decisions_.state() == EpochPrimary::State::superseded;
    if (!ended_ && !retired) co_await sleep_for(pause);
    pause = std::min(pause * 2, kReconnectMost);
  }
}

Task<void> PrimarySession::serve_link(std::shared_ptr<Link> link) {
  const ProtectionBegin begin{.domain = record_.name,
                              .protection = decisions_.protection(),
                              .generation = decisions_.generation(),
                              .hypervisor = services_.hypervisor.name(),
                              .mode = record_.mode,
                              .interval_us = record_.interval_us,
                              .arbiter = std::string(services_.arbiter.name()),
                              .config = domain_.config().to_json(),
                              .replay = record_.replay,
                              .renewal = record_.renewal};
  if (auto sent = co_await link->send(FrameType::protection_begin, {}, encode(begin)); !sent) {
    last_problem_ = sent.error().message();
    co_return;
  }
  auto frame = co_await link->receive(kReplyLimit);
  if (ended_) co_return;
  if (!frame) {
    last_problem_ = frame.error().message();
    co_return;
  }
  auto reply =
      frame.value().type == FrameType::protection_reply
          ? decode_protection_reply(frame.value().payload)
          : Result<ProtectionReply>(fail(ErrorCode::protocol, "expected protection_reply, got {}",
                                         transport::to_string(frame.value().type)));
  if (!reply) {
    last_problem_ = reply.error().message();
    co_return;
  }
  if (!reply.value().accepted) {
    last_problem_ = reply.value().refusal->message();
    carry_out(decisions_.on_peer_generation(now(), reply.value().view.generation,
                                            reply.value().view.role));
    // Busy there, with what an earlier link asked for, say: it ends, and we try again.
    const bool passing = reply.value().refusal->code() == ErrorCode::try_again;
    if (!decisions_.exposed() && !passing) {
      services_.events.record(Severity::warning, record_.name, "protection_failed",
                              fmt::format("{} refused: {}", record_.peer, last_problem_),
                              {{"peer", record_.peer}});
      finish(PrimaryEnd::unprotected);
    }
    co_return;
  }

  last_problem_.clear();
  link_ = link;
  peer_log_ = reply.value().log;
  fault_point("protect.link_up");
  carry_out(decisions_.on_link_up(now(), reply.value().view));
  if (gate_ != nullptr) gate_->on_link_up(peer_log_);
  while (!ended_) {
    auto received = co_await link->receive();
    if (ended_) co_return;
    if (!received) {
      last_problem_ = received.error().message();
      break;
    }
    const auto& payload = received.value().payload;
    if (received.value().type == FrameType::acknowledgement) {
      auto acknowledged = decode_checkpoint_acknowledged(payload);
      if (!acknowledged) {
        last_problem_ = acknowledged.error().message();
        break;
      }
      const EpochId before = decisions_.acknowledged();
      carry_out(decisions_.on_acknowledged(now(), acknowledged.value().protection,
                                           acknowledged.value().generation,
                                           acknowledged.value().epoch));
      if (decisions_.acknowledged() > before) {
        ++checkpoints_;
        if (record_.handing_over && decisions_.hand_over() == EpochPrimary::HandOver::none)
          forget_hand_over();
      }
      fault_point("checkpoint.released");
    } else if (received.value().type == FrameType::log_acknowledgement) {
      // A gate that keeps no log may have followed one that did.
      if (gate_ == nullptr || !gate_is_for_replay_) continue;
      if (auto taken = gate_->on_log_acknowledged(payload); !taken) {
        last_problem_ = taken.error().message();
        break;
      }
    } else if (received.value().type == FrameType::protection_end) {
      auto end = decode_protection_end(payload);
      if (!end || end.value().kind != ProtectionEnd::Kind::discarded) {
        last_problem_ = end ? "unexpected protection_end" : end.error().message();
        break;
      }
      if (!unprotect_asked_ && decisions_.on_unprotect(now())) {
        // Nobody here asked for it: the backup resigns (its agent is stopped, or its operator gave
        // the image up). It has said that it holds nothing, so it cannot promote, and the domain
        // may speak. What on_unprotect wants to ask is answered already.
        resigned_ = true;
        services_.events.record(
            Severity::warning, record_.name, "backup_resigned",
            fmt::format("{} gave its image up ({}): not protected, output flows", record_.peer,
                        end.value().reason),
            {{"peer", record_.peer}});
      }
      carry_out(decisions_.on_discarded(now(), end.value().protection));
      if (decisions_.state() == EpochPrimary::State::ended) break;
    } else {
      last_problem_ = fmt::format("{} sent an unexpected {}", record_.peer,
                                  transport::to_string(received.value().type));
      break;
    }
  }
  link_.reset();
  if (ended_) co_return;
  if (gate_ != nullptr) gate_->on_link_down();
  carry_out(decisions_.on_link_down(now()));
}

// --- actions ---

void PrimarySession::carry_out(const EpochPrimary::Actions& actions) {
  for (const auto& action : actions) {
    if (const auto* release = std::get_if<EpochPrimary::Release>(&action)) {
      if (gate_ != nullptr) {
        if (auto released = gate_->release(release->up_to); !released) {
          last_problem_ = released.error().message();
          spdlog::error("domain={} releasing epoch {} failed: {}", record_.name, release->up_to,
                        last_problem_);
        } else {
          holds_.on_released(std::chrono::steady_clock::now());
        }
      }
    } else if (std::holds_alternative<EpochPrimary::OpenGate>(action)) {
      if (gate_ != nullptr) {
        if (auto opened = gate_->open(); !opened) {
          last_problem_ = opened.error().message();
          services_.events.record(Severity::critical, record_.name, "gate_fault",
                                  fmt::format("the gate could not be opened: {}", last_problem_));
        }
        gate_.reset();
      }
    } else if (const auto* event = std::get_if<EpochPrimary::Report>(&action)) {
      report(*event);
    } else if (const auto* wanted = std::get_if<EpochPrimary::AskArbiter>(&action)) {
      const Arbiter::Claim claim = claim_on(wanted->generation);
      const Arbiter::Answer answer = services_.arbiter.ask(claim);
      if (answer != Arbiter::Answer::pending) on_arbiter(claim, answer);
    } else if (const auto* unwanted = std::get_if<EpochPrimary::ForgetClaim>(&action)) {
      services_.arbiter.forget(claim_on(unwanted->generation));
    } else {
      pending_.push_back(action);
    }
  }
  using State = EpochPrimary::State;
  const bool committing =
      decisions_.state() == State::protecting && decisions_.acknowledged().value > 0;
  holds_.on_state(std::chrono::steady_clock::now(), gate_ == nullptr,
                  gate_ == nullptr || committing);
  wake_.notify();
  changed_.notify_all();
}

Arbiter::Claim PrimarySession::claim_on(Generation generation) const {
  return {record_.name, decisions_.protection(), generation, Arbiter::Claimant::primary};
}

void PrimarySession::on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer) {
  if (ended_ || answer == Arbiter::Answer::pending || claim.protection != decisions_.protection())
    return;
  carry_out(decisions_.on_arbiter(now(), claim.generation, answer == Arbiter::Answer::granted));
}

void PrimarySession::report(const EpochPrimary::Report& report) {
  const auto tell = [&](Severity severity, std::string_view kind, std::string message) {
    services_.events.record(severity, record_.name, std::string(kind), std::move(message),
                            {{"peer", record_.peer},
                             {"epoch", report.epoch.value},
                             {"generation", decisions_.generation().value}});
  };
  const std::string& peer = record_.peer;
  switch (report.event) {
    case EpochPrimary::Event::first_protected:
      return tell(Severity::info, "protected",
                  fmt::format("protected: epoch {} is committed on {}", report.epoch, peer));
    case EpochPrimary::Event::protected_again:
      return tell(
          Severity::info, "backup_returned",
          fmt::format("protected again: epoch {} is committed on {}, held output is released",
                      report.epoch, peer));
    case EpochPrimary::Event::backup_lost:
      return tell(
          Severity::critical, "backup_lost",
          fmt::format("{} is lost ({}): output is held until it returns; `understudy solo {}` lets "
                      "the domain speak alone",
                      peer, last_problem_.empty() ? "link closed" : last_problem_, record_.name));
    case EpochPrimary::Event::resynchronising:
      return tell(Severity::info, "synchronisation_started",
                  fmt::format("copying all memory to {} again", peer));
    case EpochPrimary::Event::capture_failed:
      return tell(Severity::warning, "capture_failed",
                  fmt::format("a checkpoint failed and is tried again: {}", last_problem_));
    case EpochPrimary::Event::capture_keeps_failing:
      return tell(Severity::critical, "capture_keeps_failing",
                  fmt::format("checkpoints fail again and again: {}", last_problem_));
    case EpochPrimary::Event::peer_promoting:
      return tell(Severity::warning, "peer_promoting",
                  fmt::format("{} takes the domain over; this copy is mute", peer));
    case EpochPrimary::Event::superseded:
      if (decisions_.hand_over() == EpochPrimary::HandOver::yielded)
        return tell(Severity::info, "handed_over", fmt::format("{} runs the domain now", peer));
      return tell(Severity::warning, "superseded",
                  fmt::format("{} runs the domain; the copy here is destroyed", peer));
    case EpochPrimary::Event::newer_copy_lost:
      return tell(Severity::critical, "newer_copy_lost",
                  fmt::format("{} had taken the domain over and does not run it now; the older "
                              "copy here is kept, mute: decide which one lives",
                              peer));
    case EpochPrimary::Event::peer_outdated:
      return tell(Severity::info, "peer_outdated",
                  fmt::format("{} still has an older copy, mute; it will destroy it", peer));
    case EpochPrimary::Event::split_brain:
      return tell(Severity::critical, "split_brain",
                  fmt::format("{} runs the domain, too: stop one of them", peer));
    case EpochPrimary::Event::went_solo:
      return tell(
          Severity::warning, "solo",
          decisions_.solo_by_grant()
              ? fmt::format("runs on without a backup, by a grant of {}", services_.arbiter.name())
              : "runs on without a backup, by an operator's word");
    case EpochPrimary::Event::asking_arbiter:
      return tell(Severity::warning, "asking_arbiter",
                  fmt::format("asking {} for the right to speak without {}",
                              services_.arbiter.name(), peer));
    case EpochPrimary::Event::arbiter_refused:
      return tell(Severity::critical, "arbiter_refused",
                  fmt::format("{} does not let the domain speak here: {}", services_.arbiter.name(),
                              services_.arbiter.explain(claim_on(*decisions_.claim()))));
    case EpochPrimary::Event::unprotected:
      return tell(Severity::info, "unprotected",
                  fmt::format("no longer protected; {} holds no image", peer));
    case EpochPrimary::Event::hand_over_failed:
      // Whoever asked for the move is told, and tells it as an event.
      if (last_problem_.empty()) last_problem_ = "the link broke";
      spdlog::warn("domain={} not handed over to {}: {}", record_.name, peer, last_problem_);
      return;
    case EpochPrimary::Event::acknowledgement_refused:
      return tell(Severity::warning, "acknowledgement_refused",
                  fmt::format("{} acknowledged epoch {}, which this protection did not send", peer,
                              report.epoch));
  }
}

Task<void> PrimarySession::perform(EpochPrimary::Action action) {
  if (const auto* capture_wanted = std::get_if<EpochPrimary::SealAndCapture>(&action)) {
    co_await capture(capture_wanted->epoch, Upon::epoch_before,
                     capture_wanted->stay_paused ? Afterwards::stay_paused : Afterwards::resume);
  } else if (const auto* yielded = std::get_if<EpochPrimary::Yield>(&action)) {
    co_await yield(yielded->epoch);
  } else if (std::holds_alternative<EpochPrimary::ResumeGuest>(action)) {
    co_await resume_guest();
  } else if (const auto* synchronise_wanted = std::get_if<EpochPrimary::Synchronise>(&action)) {
    co_await synchronise(synchronise_wanted->epoch);
  } else if (const auto* persist = std::get_if<EpochPrimary::PersistGeneration>(&action)) {
    DomainRecord decided = record_;
    decided.generation = persist->generation;
    decided.solo = true;
    decided.protect_again = true;
    if (auto saved = services_.store.save(decided); !saved) {
      last_problem_ = saved.error().message();
      services_.events.record(
          Severity::critical, record_.name, "state_not_saved",
          fmt::format("generation {} could not be stored, output stays held: {}",
                      persist->generation, last_problem_));
      decisions_.on_persist_failed();
      co_return;
    }
    record_ = std::move(decided);
    fault_point("solo.stored");
    carry_out(decisions_.on_generation_persisted(now(), persist->generation));
  } else if (std::holds_alternative<EpochPrimary::Reconnect>(action)) {
    if (link_ != nullptr) link_->close();
  } else if (std::holds_alternative<EpochPrimary::AskDiscard>(action)) {
    const ProtectionEnd end{ProtectionEnd::Kind::discard, decisions_.protection(),
                            "unprotected by an operator"};
    if (auto asked = co_await send(FrameType::protection_end, encode(end)); !asked)
      last_problem_ = asked.error().message();
  } else if (const auto* destroy = std::get_if<EpochPrimary::DestroyDomain>(&action)) {
    record_.generation = std::max(record_.generation, destroy->generation);
    if (decisions_.hand_over() == EpochPrimary::HandOver::yielded) send_inputs_after();
    // Order matters: the copy must be gone before its rules are.
    fault_point("renew.before_destroy");
    if (auto destroyed = co_await domain_.destroy(); !destroyed) {
      last_problem_ = destroyed.error().message();
      services_.events.record(
          Severity::critical, record_.name, "destroy_failed",
          fmt::format("the superseded copy could not be destroyed and stays mute: {}",
                      last_problem_));
      co_return;
    }
    finish(PrimaryEnd::superseded);
  }
}

// In remus mode, too, as long as connections are being translated: only there can that be done. And
// after a change of mode, because the backup's log wants its marks.
bool PrimarySession::wants_replay_gate() const {
  return record_.mode == "replay" || gate_is_for_replay_ ||
         (replay_gate_ != nullptr && replay_gate_->replayer());
}

Result<void> PrimarySession::close_gate() {
  if (gate_ != nullptr) return ok();
  gate_is_for_replay_ = wants_replay_gate();
  if (gate_is_for_replay_) {
    BOOST_OUTCOME_TRY(gate_, close_replay_gate());
    if (link_ != nullptr) gate_->on_link_up(peer_log_);
    return ok();
  }
  // The tap can be held by one gate only.
  replay_gate_.reset();
  GateOptions options;
  options.domain = record_.name;
  for (const auto& output : domain_.outputs())
    options.interfaces.push_back({output.device, output.bridge, output.mac});
  BOOST_OUTCOME_TRY(auto gate, OutputGate::close(services_.executor, std::move(options)));
  gate_ = std::make_unique<RemusGatekeeper>(std::move(gate));
  fault_point("protect.gate_closed");
  return ok();
}

Result<std::unique_ptr<Gatekeeper>> PrimarySession::close_replay_gate() {
  BOOST_OUTCOME_TRY(const ReplayOptions options, replay_options_from(record_.replay));
  if (replay_gate_ == nullptr || replay_gate_->opened()) {
    replay_gate_.reset();
    BOOST_OUTCOME_TRY(replay_gate_,
                      ReplayGate::close(services_.executor, record_.name, domain_.outputs()));
  }
  replay::ReleaseRule::Config config;
  config.protection = decisions_.protection();
  config.generation = decisions_.generation();
  config.policies = policies_of(record_, options);
  config.lease = services_.config.deadline * 3 / 4;
  const std::weak_ptr<PrimarySession> weak = weak_from_this();
  replay_gate_->protect(config, {.send_log =
                                     [weak](std::vector<std::byte> batch) {
                                       if (const auto self = weak.lock())
                                         self->send_log(std::move(batch));
                                     },
                                 .capture_early =
                                     [weak] {
                                       const auto self = weak.lock();
                                       if (self == nullptr || self->ended_) return;
                                       self->carry_out(self->decisions_.on_capture_wanted(now()));
                                     },
                                 .ask_progress =
                                     [weak] {
                                       const auto self = weak.lock();
                                       if (self == nullptr || self->ended_) return;
                                       if (const auto progress = self->domain_.input_progress())
                                         self->replay_gate_->on_input_progress(progress.value(),
                                                                               false);
                                     },
                                 .report =
                                     [weak](const replay::ReleaseRule::Report& told) {
                                       if (const auto self = weak.lock()) self->report(told);
                                     }});
  return std::unique_ptr<Gatekeeper>(std::make_unique<ReplayGatekeeper>(replay_gate_, domain_));
}

void PrimarySession::send_log(std::vector<std::byte> batch) {
  if (link_ == nullptr) return;
  log_bytes_ += batch.size();
  wire_bytes_ += batch.size();
  if (auto sent = link_->send_urgent(FrameType::input_log, std::move(batch)); !sent)
    last_problem_ = sent.error().message();
}

void PrimarySession::report(const replay::ReleaseRule::Report& report) {
  const auto tell = [&](Severity severity, std::string message) {
    services_.events.record(severity, record_.name, std::string(replay::to_string(report.event)),
                            std::move(message),
                            {{"peer", record_.peer}, {"position", report.position.value}});
  };
  switch (report.event) {
    case replay::ReleaseRule::Event::replay_mode:
      return tell(Severity::info, "output goes with the input log from here on");
    case replay::ReleaseRule::Event::fell_back:
      return tell(Severity::warning,
                  "the input log reached its bound: output waits for commits (remus mode) for a "
                  "while");
    case replay::ReleaseRule::Event::log_restarted:
      return tell(Severity::info,
                  fmt::format("{} has no log of this protection: it begins anew", record_.peer));
    case replay::ReleaseRule::Event::acknowledgement_refused:
      return tell(Severity::warning,
                  fmt::format("{} acknowledged log position {}, which it was not sent",
                              record_.peer, report.position));
  }
}

Task<Result<void>> PrimarySession::send(FrameType type, std::vector<std::byte> payload) {
  const auto link = link_;
  if (link == nullptr) co_return fail(ErrorCode::unavailable, "link to {} closed", record_.peer);
  wire_bytes_ += payload.size();
  if (progress_) progress_->bytes_sent += payload.size();
  co_return co_await link->send(type, {}, std::move(payload));
}

// --- synchronisation ---

Task<void> PrimarySession::synchronise(EpochId epoch) {
  progress_ = SyncProgress{.started = now(), .last_progress = now()};
  auto copied = co_await precopy(epoch);
  if (copied) {
    co_await capture(epoch, Upon::this_copy);
  } else {
    co_await give_up(epoch, copied.error());
  }
  progress_.reset();
}

// The complete copy is one long checkpoint: rounds of pre-copy while the guest runs, the last round
// in a pause.
Task<Result<void>> PrimarySession::precopy(EpochId epoch) {
  const std::uint64_t memory_pages = domain_.memory().size() / kPageBytes;
  if (capture_ == nullptr) {
    BOOST_OUTCOME_CO_TRY(mirror_, Mirror::create(memory_pages));
    BOOST_OUTCOME_CO_TRY(auto arena, StagingArena::create());
    capture_ = std::make_unique<CheckpointCapture>(
        services_.executor, services_.workers, std::move(arena), mirror_,
        [this](std::vector<std::byte> batch) -> Task<Result<void>> {
          co_return co_await send(FrameType::page_batch, std::move(batch));
        });
  }
  mirror_->reset();
  device_state_encoder_.reset();
  carried_over_.clear();
  BOOST_OUTCOME_CO_TRY(co_await domain_.start_tracking());

  DirtySet dirty;
  BOOST_OUTCOME_CO_TRY(domain_.take_dirty(dirty));
  capture_->begin(epoch);
  BOOST_OUTCOME_CO_TRY(co_await send_begin(epoch, EpochId(0), count_pages(dirty)));
  PrecopyRound round;
  for (;;) {
    round.dirty_pages = count_pages(dirty);
    if (precopy_ends(round)) break;
    progress_->round = ++round.number;
    progress_->pages_sent = 0;
    progress_->pages_total = round.dirty_pages;
    // In slices, so that progress is seen and acknowledgements, heartbeats and requests get their
    // turn.
    constexpr std::uint64_t kSlicePages = 2048;
    DirtyCursor cursor(dirty);
    while (cursor.pages_left() > 0) {
      DirtySet slice;
      std::uint64_t slice_pages = 0;
      while (slice_pages < kSlicePages && cursor.pages_left() > 0) {
        slice.push_back(cursor.take(kSlicePages - slice_pages));
        slice_pages += slice.back().count;
      }
      BOOST_OUTCOME_CO_TRY(co_await capture_->copy(domain_.memory(), slice));
      progress_->pages_sent += slice_pages;
      progress_->last_progress = now();
    }
    BOOST_OUTCOME_CO_TRY(const auto sent_so_far, co_await capture_->send_rest());
    spdlog::debug("domain={} pre-copy round={} pages={}", record_.name, round.number,
                  sent_so_far.pages);
    round.dirty_pages_before = round.dirty_pages;
    // A full compare would report all memory again and again: one live pass is all that it gives.
    if (domain_.tracking() == TrackingMethod::full_compare) break;
    BOOST_OUTCOME_CO_TRY(domain_.take_dirty(dirty));
  }
  if (domain_.tracking() != TrackingMethod::full_compare) carried_over_ = std::move(dirty);
  // From the first consistent checkpoint on the backup may promote: from here on nothing leaves by
  // itself.
  co_return close_gate();
}

Task<Result<void>> PrimarySession::send_begin(EpochId epoch, EpochId base,
                                              std::uint64_t dirty_pages) {
  const std::uint64_t memory_pages = domain_.memory().size() / kPageBytes;
  co_return co_await send(
      FrameType::checkpoint_begin,
      encode(CheckpointBegin{.protection = decisions_.protection(),
                             .generation = decisions_.generation(),
                             .epoch = epoch,
                             .base = base,
                             .memory_pages = memory_pages,
                             .dirty_pages_expected = std::min(dirty_pages, memory_pages)}));
}

// --- one epoch ---

Task<void> PrimarySession::capture(EpochId epoch, Upon upon, Afterwards afterwards) {
  auto captured = co_await capture_steps(epoch, upon, afterwards);
  // Before a guest that is about to leave nothing needs to lie.
  if (gate_ != nullptr && !standing_since_) gate_->let_in();
  if (!captured) co_await give_up(epoch, captured.error());
}

// What was captured did not get away, or was not captured: the mirror is ahead of the backup, and
// only a full copy helps.
Task<void> PrimarySession::give_up(EpochId epoch, Error error) {
  last_problem_ = error.message();
  spdlog::warn("domain={} epoch={} checkpoint failed: {}", record_.name, epoch, last_problem_);
  if (capture_ != nullptr) {
    capture_->abandon();
  }
  if (ended_) co_return;
  // There is nothing to try again. on_domain_exit() has a word for the backup, and needs the link.
  if (!domain_.alive()) co_return;
  if (decisions_.captured() < epoch) {
    carry_out(decisions_.on_capture_failed(now()));
  } else if (link_ != nullptr) {
    link_->close();
  }
}

// Another mode was asked for: the gate is changed where the guest cannot send in between.
Task<Result<void>> PrimarySession::seal(EpochId epoch) {
  if (gate_ == nullptr) co_return fail(ErrorCode::internal, "no gate");
  if (wants_replay_gate() && !gate_is_for_replay_) {
    BOOST_OUTCOME_CO_TRY(gate_->drop_held());
    gate_.reset();
    replay_gate_.reset();
    BOOST_OUTCOME_CO_TRY(close_gate());
  }
  co_return co_await gate_->seal(epoch);
}

Task<Result<void>> PrimarySession::resume() {
  auto resumed = co_await domain_.resume();
  if (gate_ != nullptr) gate_->let_in();
  co_return resumed;
}

Task<Result<void>> PrimarySession::capture_steps(EpochId epoch, Upon upon, Afterwards afterwards) {
  Pause pause;
  const auto part = [&pause](PausePart which) -> double& {
    return pause.parts[static_cast<std::size_t>(which)];
  };

  if (gate_ != nullptr) co_await gate_->quieten();
  const Instant asked = now();
  BOOST_OUTCOME_CO_TRY(co_await domain_.pause());
  const Instant stopped = now();
  part(PausePart::stop) = microseconds_between(asked, stopped);

  // From here on the guest stands still: every way out must let it go on.
  fault_point("checkpoint.paused");
  DirtySet dirty;
  auto sealed = co_await seal(epoch);
  const Instant barred = now();
  part(PausePart::barrier) = microseconds_between(stopped, barred);
  if (sealed) sealed = domain_.take_dirty(dirty);
  const Instant scanned = now();
  part(PausePart::dirty_set) = microseconds_between(barred, scanned);
  carried_over_ = merge(carried_over_, dirty);
  if (!sealed) {
    BOOST_OUTCOME_CO_TRY(co_await resume());
    co_return sealed.error();
  }

  fault_point("checkpoint.sealed");
  // The announcement of the checkpoint and its first batches leave while the rest is copied.
  Result<void> copied = ok();
  if (upon == Upon::epoch_before) {
    capture_->begin(epoch);
    copied = co_await send_begin(epoch, EpochId(epoch.value - 1), count_pages(carried_over_));
  }
  if (copied) copied = co_await capture_->copy(domain_.memory(), carried_over_);
  const Instant copy_done = now();
  part(PausePart::copy) = microseconds_between(scanned, copy_done);
  if (!copied) {
    BOOST_OUTCOME_CO_TRY(co_await resume());
    co_return copied.error();
  }

  BOOST_OUTCOME_CO_TRY(const auto device_state, co_await domain_.save_device_state());
  // A device may have finished a request while its state was saved (hypervisor/domain.h).
  DirtySet late;
  auto rest = domain_.take_dirty(late);
  if (rest && domain_.tracking() != TrackingMethod::full_compare && !late.empty()) {
    carried_over_ = merge(carried_over_, late);
    rest = co_await capture_->copy(domain_.memory(), late);
  }
  const Instant saved = now();
  part(PausePart::device_state) = microseconds_between(copy_done, saved);
  if (afterwards == Afterwards::stay_paused && rest) {
    standing_since_ = stopped;
  } else {
    BOOST_OUTCOME_CO_TRY(co_await resume());
  }
  const Instant resumed = now();
  part(PausePart::resume) = microseconds_between(saved, resumed);
  if (!rest) co_return rest.error();

  fault_point(standing_since_ ? "move.captured" : "checkpoint.captured");
  if (!standing_since_) pauses_.add(pause);
  const std::uint64_t looked_at = count_pages(carried_over_);
  carried_over_.clear();
  carry_out(decisions_.on_captured(resumed, epoch));

  BOOST_OUTCOME_CO_TRY(const auto totals, co_await capture_->send_rest());
  dirty_bytes_ +=
      (domain_.tracking() != TrackingMethod::full_compare ? looked_at : totals.pages) * kPageBytes;
  BOOST_OUTCOME_CO_TRY(auto device_record, device_state_encoder_.encode(epoch, device_state));
  BOOST_OUTCOME_CO_TRY(co_await send(FrameType::device_state, std::move(device_record)));
  // Named, not a temporary of the co_await: GCC 12 destroys such temporaries twice.
  const CheckpointEnd end{.epoch = epoch,
                          .batches = totals.batches,
                          .pages = totals.pages,
                          .chain = totals.chain,
                          .pause_us = static_cast<std::uint32_t>(pause.total_us()),
                          .learnt_addresses = learnt_addresses()};
  BOOST_OUTCOME_CO_TRY(co_await send(FrameType::checkpoint_end, encode(end)));
  decisions_.on_sent(epoch);
  fault_point("checkpoint.sent");
  co_return ok();
}

// The word of a hand-over. Once it is sent this side cannot take it back.
Task<void> PrimarySession::yield(EpochId epoch) {
  const auto stood =
      standing_since_
          ? std::chrono::duration_cast<std::chrono::microseconds>(now() - *standing_since_)
          : std::chrono::microseconds(0);
  const ProtectionEnd word{.kind = ProtectionEnd::Kind::yours,
                           .protection = decisions_.protection(),
                           .reason = "moved by an operator",
                           .epoch = epoch,
                           .generation = decisions_.generation(),
                           .next_backup = next_backup_,
                           .stood_us = static_cast<std::uint64_t>(stood.count())};
  fault_point("move.yielded");
  if (auto said = co_await send(FrameType::protection_end, encode(word)); !said)
    last_problem_ = said.error().message();  // It is said again over the next link.
  fault_point("move.said");
}

// What clients sent while the guest stood still came to the host that they knew. Without it they
// would wait for their own time-outs, which are longer than the whole hand-over.
void PrimarySession::send_inputs_after() {
  if (gate_ == nullptr) return;
  auto unread = domain_.take_unread_inputs();
  if (!unread) {
    spdlog::warn("domain={} what came for it meanwhile is lost: {}", record_.name,
                 unread.error().message());
    return;
  }
  std::size_t lost = 0;
  const std::size_t frames = unread.value().size();
  for (UnreadInput& input : unread.value())
    lost += static_cast<std::size_t>(!gate_->pass_on(std::move(input)));
  spdlog::info("domain={} event=inputs_sent_after frames={} lost={}", record_.name, frames, lost);
}

Task<void> PrimarySession::resume_guest() {
  if (!std::exchange(standing_since_, std::nullopt)) co_return;
  if (auto resumed = co_await resume(); !resumed) {
    last_problem_ = resumed.error().message();
    services_.events.record(Severity::critical, record_.name, "resume_failed",
                            fmt::format("the guest stands still: {}", last_problem_));
  }
}

// What the backup announces after a promotion: each interface's addresses, in the order of the
// interfaces.
std::vector<std::byte> PrimarySession::learnt_addresses() const {
  if (gate_ == nullptr) return {};
  std::vector<std::vector<IpAddress>> addresses;
  for (auto& learned : gate_->learned_addresses())
    addresses.push_back(std::move(learned.addresses));
  return encode_addresses(addresses);
}

// --- the operator, the peer, the domain ---

Task<Result<void>> PrimarySession::solo() {
  const auto self = shared_from_this();
  BOOST_OUTCOME_CO_TRY(auto actions, decisions_.on_operator_solo(now()));
  carry_out(actions);
  const auto settled = [this] { return decisions_.state() == EpochPrimary::State::solo || ended_; };
  co_await changed_.wait_until(settled, now() + std::chrono::seconds(5));
  if (decisions_.state() != EpochPrimary::State::solo) {
    co_return fail(ErrorCode::failed, "the gate stays closed: {}", last_problem_);
  }
  co_return ok();
}

Task<Result<void>> PrimarySession::unprotect() {
  const auto self = shared_from_this();
  BOOST_OUTCOME_CO_TRY(auto actions, decisions_.on_unprotect(now()));
  unprotect_asked_ = true;
  carry_out(actions);
  const auto over = [this] { return ended_; };
  const bool ended = co_await changed_.wait_until(over, now() + std::chrono::seconds(8));
  if (!ended) {
    co_return fail(ErrorCode::timed_out,
                   "{} has not confirmed that its image is gone; output stays held", record_.peer);
  }
  co_return ok();
}

Task<Result<void>> PrimarySession::hand_over(std::string next_backup) {
  const auto self = shared_from_this();
  next_backup_ = std::move(next_backup);
  // Before the word can be given: see EpochPrimary::Config::may_have_yielded.
  record_.handing_over = true;
  if (auto saved = services_.store.save(record_); !saved) {
    record_.handing_over = false;
    co_return saved.error();
  }
  auto actions = decisions_.on_hand_over(now());
  if (!actions) {
    forget_hand_over();
    co_return actions.error();
  }
  carry_out(actions.value());
  const auto settled = [this] {
    return ended_ || decisions_.hand_over() == EpochPrimary::HandOver::none;
  };
  const bool known = co_await changed_.wait_until(settled, now() + kHandOverLimit);
  if (decisions_.state() == EpochPrimary::State::superseded) co_return ok();
  if (known) co_return fail(ErrorCode::failed, "{} goes on here: {}", record_.name, last_problem_);
  co_return fail(ErrorCode::timed_out,
                 "{} was given to {}, which has not said that it runs there: it is mute here until "
                 "that is known",
                 record_.name, record_.peer);
}

void PrimarySession::forget_hand_over() {
  record_.handing_over = false;
  // Where this fails, an agent that is started next does not ask the arbiter as soon as it might.
  if (auto saved = services_.store.save(record_); !saved)
    spdlog::warn("domain={} {}", record_.name, saved.error().message());
}

Task<void> PrimarySession::abandon() {
  const auto self = shared_from_this();
  if (ended_) co_return;
  on_end_ = nullptr;
  // The backup is told in the same breath, so that it does not promote what an operator has
  // stopped.
  const ProtectionEnd end{ProtectionEnd::Kind::discard, decisions_.protection(),
                          "the domain was stopped"};
  if (const auto link = link_; link != nullptr) {
    // A word that does not arrive is made up for by the hello of the next link.
    (void)co_await link->send(FrameType::protection_end, {}, encode(end));
    (void)co_await link->flush();
    farewell_ = true;
  }
  finish(PrimaryEnd::domain_gone);
  co_await wait_for_drive();
}

Task<void> PrimarySession::retire() {
  const auto self = shared_from_this();
  on_end_ = nullptr;
  finish(PrimaryEnd::unprotected);
  co_await wait_for_drive();
}

void PrimarySession::remove_gate() {
  if (gate_ == nullptr) return;
  auto opened = gate_is_for_replay_ ? replay_gate_->remove() : gate_->open();
  if (!opened)
    spdlog::error("domain={} removing the gate failed: {}", record_.name, opened.error().message());
  gate_.reset();
}

Task<Result<void>> PrimarySession::on_options_changed() {
  const auto self = shared_from_this();
  BOOST_OUTCOME_CO_TRY(const ReplayOptions options, replay_options_from(record_.replay));
  decisions_.on_interval_changed(std::chrono::microseconds(record_.interval_us));
  if (replay_gate_ != nullptr) replay_gate_->set_policies(policies_of(record_, options));
  wake_.notify();
  const ProtectionOptions told{record_.mode, record_.interval_us, record_.replay, record_.renewal};
  // Without a link the next one begins with them.
  if (link_ == nullptr) co_return ok();
  co_return co_await send(FrameType::protection_options, encode(told));
}

void PrimarySession::on_peer_news(const HeartbeatDomain& news, Instant echoed) {
  if (ended_) return;
  if (news.protection == decisions_.protection() && news.role == PeerRole::holding) {
    carry_out(decisions_.on_peer_heard(now(), echoed));
    if (gate_ != nullptr) gate_->on_peer_heard(echoed);
  } else if (news.generation > decisions_.generation()) {
    carry_out(decisions_.on_peer_generation(now(), news.generation, news.role));
  }
}

void PrimarySession::on_peer_reachable(std::string_view reason, bool reachable) {
  peer_reason_ = reason;
  peer_reachable_ = reachable;
}

Task<void> PrimarySession::on_domain_exit(const DomainExit& exit) {
  const auto self = shared_from_this();
  if (ended_) co_return;
  const bool take_over = exit.kind == DomainExit::Kind::crashed && decisions_.exposed();
  const ProtectionEnd end{
      take_over ? ProtectionEnd::Kind::domain_died : ProtectionEnd::Kind::discard,
      decisions_.protection(), exit.description};
  if (const auto link = link_; link != nullptr) {
    // A word that does not arrive is made up for by the hello of the next link.
    (void)co_await link->send(FrameType::protection_end, {}, encode(end));
    (void)co_await link->flush();
    farewell_ = true;
  }
  finish(take_over ? PrimaryEnd::superseded : PrimaryEnd::domain_gone);
}

Task<void> PrimarySession::close_later(std::shared_ptr<transport::Link> link) {
  co_await sleep_for(kFarewellTime);
  link->close();
}

void PrimarySession::finish(PrimaryEnd end) {
  if (ended_) return;
  ended_ = true;
  if (decisions_.claim()) services_.arbiter.forget(claim_on(*decisions_.claim()));
  end_ = end;
  if (link_ != nullptr && farewell_) {
    // Closing with unread acknowledgements makes the kernel send a reset, which overtakes our last
    // word. The backup answers it or ends the link; keep_link() closes it then.
    boost::asio::co_spawn(services_.executor, close_later(link_), boost::asio::detached);
  } else if (link_ != nullptr) {
    link_->close();
  }
  if (gate_ != nullptr && end != PrimaryEnd::unprotected && end != PrimaryEnd::resigned) {
    // Nothing of this domain may be heard any more: what is held goes with the rules' last hour.
    if (auto dropped = gate_->drop_held(); !dropped)
      spdlog::error("domain={} {}", record_.name, dropped.error().message());
  }
  // drive() tells the end: until it has come to its own, a capture may be under way.
  wake_.notify();
  changed_.notify_all();
}

// --- status ---

void PrimarySession::add_status(boost::json::object& status, Conditions& conditions) const {
  using State = EpochPrimary::State;
  const State state = decisions_.state();
  std::string_view word = "synchronising";
  if (state == State::protecting)
    word = decisions_.acknowledged().value > 0 ? "protected" : "synchronising";
  if (state == State::backup_lost) word = "backup_lost";
  if (state == State::solo) word = "solo";
  if (state == State::superseded) word = "superseded";
  status["state"] = word;
  status["mode"] = record_.mode;
  status["peer"] = record_.peer;
  status["epoch"] = decisions_.captured().value + 1;
  status["committed_epoch"] = decisions_.acknowledged().value;
  status["checkpoints"] = checkpoints_;
  status["interval_us"] = decisions_.interval().count();
  status["arbiter"] = services_.arbiter.name();
  status["stretched"] = decisions_.stretched();
  if (!pauses_.empty()) {
    status["pause_ms"] = pauses_.summary_ms();
    status["pause_parts_ms"] = pauses_.parts_ms();
  }
  boost::json::object gate = {{"state", gate_ == nullptr ? "open" : "closed"}};
  if (gate_ != nullptr) {
    const TrafficCounters counters = gate_->counters();
    gate["held_frames"] = counters.held.frames;
    gate["held_bytes"] = counters.held.bytes;
    gate["released_frames"] = counters.released.frames;
    gate["dropped_frames"] = counters.dropped.frames;
  }
  status["gate"] = std::move(gate);
  status["bytes"] = {{"dirty", dirty_bytes_}, {"wire", wire_bytes_}, {"log", log_bytes_}};
  if (gate_ != nullptr) {
    if (auto replay = gate_->replay_status(); !replay.is_null())
      status["replay"] = std::move(replay);
  }
  if (record_.mode == "replay" && record_.replay.is_object())
    status["replay_options"] = record_.replay;
  if (progress_) {
    const double seconds =
        std::max(0.001, std::chrono::duration<double>(now() - progress_->started).count());
    const double rate = static_cast<double>(progress_->bytes_sent) / seconds;
    boost::json::object progress = {{"pages_sent", progress_->pages_sent},
                                    {"pages_total", progress_->pages_total},
                                    {"bytes_sent", progress_->bytes_sent},
                                    {"rate_bytes_per_second", static_cast<std::uint64_t>(rate)},
                                    {"round", progress_->round}};
    if (progress_->pages_sent > 0 && progress_->round == 1) {
      progress["eta_seconds"] =
          seconds * static_cast<double>(progress_->pages_total - progress_->pages_sent) /
          static_cast<double>(progress_->pages_sent);
    }
    status["synchronisation"] = std::move(progress);
  }
  update_conditions(conditions);
}

void PrimarySession::update_conditions(Conditions& conditions) const {
  using State = EpochPrimary::State;
  const std::string& peer = record_.peer;
  switch (decisions_.state()) {
    case State::protecting:
      if (decisions_.acknowledged().value > 0) {
        conditions.set(
            "Protected", true, "Committing",
            fmt::format("checkpoint {} is committed on {}", decisions_.acknowledged(), peer));
        conditions.set("OutputFlowing", true, "Committing", "output follows each commit");
        break;
      }
      [[fallthrough]];
    case State::synchronising:
      conditions.set("Protected", false, "Synchronising",
                     fmt::format("memory is being copied to {}{}", peer,
                                 last_problem_.empty() ? "" : "; last problem: " + last_problem_));
      if (gate_ == nullptr) {
        conditions.set("OutputFlowing", true, "GateOpen",
                       "not protected yet, so output flows at once");
      } else {
        conditions.set("OutputFlowing", false, "BackupLost",
                       "output is held until the copy is committed");
      }
      break;
    case State::backup_lost:
      conditions.set("Protected", false, "BackupLost",
                     fmt::format("{} is lost: {}", peer,
                                 last_problem_.empty() ? "link closed" : last_problem_));
      conditions.set("OutputFlowing", false, "BackupLost",
                     fmt::format("OUTPUT IS HELD until {} returns; if it is surely off, "
                                 "`understudy solo {}` lets the domain speak alone",
                                 peer, record_.name));
      break;
    case State::solo:
      conditions.set("Protected", false, "Solo",
                     decisions_.solo_by_grant()
                         ? fmt::format("runs without a backup, by a grant of {}; protected again "
                                       "when {} is back",
                                       services_.arbiter.name(), peer)
                         : "runs without a backup, by an operator's word");
      conditions.set("OutputFlowing", true, "GateOpen", "the gate is open");
      break;
    case State::superseded:
      conditions.set("Protected", false, "Superseded", fmt::format("{} runs this domain", peer));
      conditions.set("OutputFlowing", false, "Superseded", "this copy is mute for ever");
      break;
    case State::ended:
      break;
  }
  if (decisions_.state() == State::backup_lost && services_.arbiter.may_grant_solo()) {
    const std::string why =
        decisions_.claim() ? services_.arbiter.explain(claim_on(*decisions_.claim())) : "";
    const std::string_view word = !decisions_.claim()          ? "NotAskedYet"
                                  : decisions_.claim_refused() ? "ArbiterRefused"
                                                               : "AskingArbiter";
    conditions.set("RightToRun", false, word,
                   fmt::format("{} has not granted this host to speak without {}{}{}",
                               services_.arbiter.name(), peer, why.empty() ? "" : ": ", why));
  } else {
    conditions.remove("RightToRun");
  }
  conditions.set("BackupReachable", peer_reachable_, peer_reason_,
                 fmt::format("heartbeats of {}", peer));
  if (progress_) {
    const bool moving = now() - progress_->last_progress < kStalledAfter;
    conditions.set("Progressing", moving, moving ? "Moving" : "Stalled",
                   fmt::format("round {}, {} of {} pages", progress_->round, progress_->pages_sent,
                               progress_->pages_total));
  } else {
    conditions.remove("Progressing");
  }
  conditions.set("KeepingUp", !decisions_.stretched(),
                 decisions_.stretched() ? "Stretched" : "OnTime",
                 decisions_.stretched()
                     ? "epochs last longer than asked: the link or the backup does not keep up"
                     : "epochs end on time");
  const bool fast = domain_.tracking() != TrackingMethod::full_compare;
  const bool by_xen = domain_.tracking() == TrackingMethod::log_dirty;
  conditions.set("FastTracking", fast, by_xen ? "LogDirty" : (fast ? "PagemapScan" : "FullCompare"),
                 fast ? fmt::format("{} reports written pages", by_xen ? "Xen" : "the kernel")
                      : domain_.tracking_reason());
}

}  // namespace understudy
