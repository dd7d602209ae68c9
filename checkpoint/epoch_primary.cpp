#include "checkpoint/epoch_primary.h"

#include <algorithm>
#include <string>

namespace understudy {

std::string_view to_string(PeerRole role) {
  switch (role) {
    case PeerRole::none:
      return "none";
    case PeerRole::holding:
      return "holding";
    case PeerRole::promoting:
      return "promoting";
    case PeerRole::running:
      return "running";
  }
  return "unknown";
}

EpochPrimary::EpochPrimary(const Config& config)
    : config_(config),
      state_(config.taken_up_again ? State::backup_lost : State::synchronising),
      exposed_(config.taken_up_again),
      highest_seen_(config.generation) {
  UNDERSTUDY_CHECK(config.protection != ProtectionId{}, "a protection's id is not 0");
  UNDERSTUDY_CHECK(config.in_flight_max > 0, "at least one epoch must be allowed in flight");
}

EpochPrimary::Actions EpochPrimary::on_link_up(Instant now, const PeerView& peer) {
  // A new connection without news of the old one's end: the old one is gone all the same.
  Actions actions = on_link_down(now);
  if (over()) return actions;
  link_up_ = true;
  trouble_.reset();
  unacknowledged_.clear();
  stretched_ = false;
  retry_at_.reset();
  capture_failures_ = 0;
  peer_committed_ = EpochId{};
  mute_since_.reset();
  if (claim_state_ == ClaimState::asked) actions.push_back(ForgetClaim{*claim_});
  // A refusal may be for ever, but asking again costs nothing.
  if (claim_state_ != ClaimState::granted) claim_state_ = ClaimState::none;
  if (!config_.grants_last && !going_solo_) {
    claim_state_ = ClaimState::none;
    claim_.reset();
  }

  meet_generation(peer.generation, peer.role, actions);
  if (peer.role == PeerRole::running && !trouble_) trouble_ = Event::peer_outdated;
  if (over() || state_ == State::solo || trouble_) return actions;

  const bool holds_ours = peer.role == PeerRole::holding && peer.protection == config_.protection;
  if (hand_over_ == HandOver::yielded) {
    if (holds_ours && peer.generation == config_.generation && peer.committed == captured_) {
      // It has not heard the word, or not acted upon it yet.
      actions.push_back(Yield{captured_});
      return actions;
    }
    // Whoever runs a domain has raised its generation on disk before: this one never ran it, and
    // holds nothing any more that it could run.
    cancel_hand_over(actions);
  }
  if (unprotecting_) {
    // The confirmation may have been lost with the old connection; 'I hold nothing of yours' is
    // the same word.
    if (!holds_ours) {
      end(actions);
    } else {
      actions.push_back(AskDiscard{});
    }
    return actions;
  }
  if (holds_ours && peer.generation == config_.generation) {
    // An agent that was restarted has forgotten how far its epochs went; it counts on from there.
    if (config_.taken_up_again && captured_ == EpochId{}) {
      issued_ = std::max(issued_, peer.committed);
      captured_ = peer.committed;
    }
    if (peer.committed > captured_) {
      // It claims an epoch that never was: nothing that it holds can be trusted to be ours.
      actions.push_back(Report{Event::acknowledgement_refused, peer.committed});
    } else if (peer.committed >= acknowledged_) {
      // What was whole when the connection broke is committed although its acknowledgement is
      // lost. It is released by the next proof that the backup still hears us, not by this hello,
      // which no detector counts.
      peer_committed_ = peer.committed;
      acknowledged_ = peer.committed;
      release_if_allowed(now, actions);
    }
  }
  if (!capturing_ && !going_solo_) take_up(now, actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_link_down(Instant) {
  Actions actions;
  if (!link_up_) return actions;
  link_up_ = false;
  unacknowledged_.clear();
  stretched_ = false;
  retry_at_.reset();
  if (over() || state_ == State::solo) return actions;
  if (capturing_) orphaned_ = true;
  if (hand_over_ == HandOver::wanted || hand_over_ == HandOver::captured) cancel_hand_over(actions);
  lose_backup(actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_tick(Instant now) {
  Actions actions;
  if (retry_at_ && now >= *retry_at_ && can_capture()) take_up(now, actions);
  capture_if_due(now, actions);
  claim_if_due(now, actions);
  if (claim_state_ == ClaimState::granted && now >= grant_retry_at_) use_grant(now, actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_captured(Instant now, EpochId epoch) {
  Actions actions;
  if (!capturing_ || epoch != issued_) return actions;
  capturing_ = false;
  const bool orphaned = orphaned_;
  orphaned_ = false;
  if (state_ == State::superseded) return actions;
  if (state_ == State::solo || state_ == State::ended) {
    if (hand_over_ != HandOver::none) cancel_hand_over(actions);
    // The pause of this capture closed the gate after it had been opened for good.
    actions.push_back(OpenGate{});
    return actions;
  }
  captured_ = epoch;
  dirty_lost_ = false;
  if (hand_over_ == HandOver::capturing) {
    hand_over_ = HandOver::captured;
    // The link broke, or the peer became none, while it was being captured.
    if (orphaned || trouble_) cancel_hand_over(actions);
  }
  if (orphaned) {
    // Its end was never sent, so a first checkpoint exposes nothing.
    if (!exposed_) actions.push_back(OpenGate{});
    if (can_capture()) take_up(now, actions);
    return actions;
  }
  capture_failures_ = 0;
  exposed_ = true;
  unacknowledged_.push_back({epoch, now});
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_capture_failed(Instant now) {
  Actions actions;
  if (!capturing_) return actions;
  capturing_ = false;
  const bool orphaned = orphaned_;
  orphaned_ = false;
  if (state_ == State::superseded) return actions;
  if (hand_over_ != HandOver::none) cancel_hand_over(actions);
  if (state_ == State::solo || state_ == State::ended) {
    actions.push_back(OpenGate{});
    return actions;
  }
  dirty_lost_ = true;
  if (!exposed_) actions.push_back(OpenGate{});
  if (orphaned) {
    // The link failed, not the capture: nothing to count against it.
    if (can_capture()) take_up(now, actions);
    return actions;
  }
  actions.push_back(Report{Event::capture_failed, issued_});
  if (trouble_) return actions;  // The backup is lost already; the next hello begins anew.
  ++capture_failures_;
  state_ = State::synchronising;
  if (capture_failures_ < config_.capture_failures_max) {
    retry_at_ = now + config_.capture_retry;
    return actions;
  }
  if (capture_failures_ == config_.capture_failures_max) {
    actions.push_back(Report{Event::capture_keeps_failing, issued_});
  }
  if (!exposed_) {
    // It never was protected; the request has failed and the guest is as it was.
    state_ = State::ended;
    return actions;
  }
  lose_backup(actions);
  retry_at_ = now + 10 * config_.capture_retry;
  return actions;
}

void EpochPrimary::on_sent(EpochId epoch) {
  if (epoch <= captured_) sent_ = std::max(sent_, epoch);
}

EpochPrimary::Actions EpochPrimary::on_acknowledged(Instant now, ProtectionId protection,
                                                    Generation generation, EpochId epoch) {
  Actions actions;
  if (over() || state_ == State::solo) return actions;
  const bool ours = protection == config_.protection && generation == config_.generation;
  if (ours && epoch <= acknowledged_) return actions;  // Said before.
  const auto acknowledged = std::find_if(unacknowledged_.begin(), unacknowledged_.end(),
                                         [&](const InFlight& one) { return one.epoch == epoch; });
  if (!ours || acknowledged == unacknowledged_.end()) {
    actions.push_back(Report{Event::acknowledgement_refused, epoch});
    return actions;
  }
  const Instant captured_at = acknowledged->captured_at;
  unacknowledged_.erase(unacknowledged_.begin(), acknowledged + 1);
  acknowledged_ = epoch;
  config_.may_have_yielded = false;  // A word for an older epoch is void from here on.
  // It has read the end of the epoch, which we sent after the capture.
  heard_at_ = std::max(heard_at_.value_or(captured_at), captured_at);
  release_if_allowed(now, actions);
  if (state_ == State::synchronising && epoch == synchronising_epoch_) {
    state_ = State::protecting;
    next_capture_ = captured_at + config_.interval;
    actions.push_back(
        Report{ever_protected_ ? Event::protected_again : Event::first_protected, epoch});
    ever_protected_ = true;
  }
  capture_if_due(now, actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_peer_heard(Instant now, Instant sent_at) {
  Actions actions;
  if (over() || state_ == State::solo || trouble_ || sent_at > now) return actions;
  heard_at_ = std::max(heard_at_.value_or(sent_at), sent_at);
  release_if_allowed(now, actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_peer_generation(Instant, Generation generation,
                                                       PeerRole role) {
  Actions actions;
  if (over()) return actions;
  const bool serves =
      generation <= config_.generation && (role == PeerRole::none || role == PeerRole::holding);
  const bool passing = trouble_ == Event::peer_promoting || trouble_ == Event::peer_outdated;
  if (serves && passing && link_up_) {
    actions.push_back(Reconnect{});
    return actions;
  }
  meet_generation(generation, role, actions);
  return actions;
}

Result<EpochPrimary::Actions> EpochPrimary::on_operator_solo(Instant) {
  switch (state_) {
    case State::solo:
      return fail(ErrorCode::exists, "solo: the domain runs solo already (generation {})",
                  config_.generation);
    case State::superseded:
    case State::ended:
      return fail(ErrorCode::no_such, "solo: this protection is over ({})", to_string(state_));
    case State::synchronising:
    case State::protecting:
      return fail(ErrorCode::not_authorized,
                  "solo: the backup is not lost (state {}); 'unprotect' ends a protection whose "
                  "backup can be reached",
                  to_string(state_));
    case State::backup_lost:
      break;
  }
  if (link_up_ && trouble_ == Event::peer_promoting) {
    return fail(ErrorCode::not_authorized, "solo: the backup is taking the domain over right now");
  }
  if (!going_solo_) going_solo_ = std::max(config_.generation, highest_seen_).next();
  return Actions{PersistGeneration{*going_solo_}};
}

EpochPrimary::Actions EpochPrimary::on_arbiter(Instant now, Generation generation, bool granted) {
  Actions actions;
  if (over() || claim_state_ == ClaimState::granted || claim_ != generation) return actions;
  claim_state_ = granted ? ClaimState::granted : ClaimState::refused;
  if (!granted) {
    actions.push_back(Report{Event::arbiter_refused, captured_});
    return actions;
  }
  use_grant(now, actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_generation_persisted(Instant, Generation generation) {
  Actions actions;
  if (over() || !going_solo_ || generation != *going_solo_) return actions;
  going_solo_.reset();
  config_.generation = generation;
  highest_seen_ = std::max(highest_seen_, generation);
  state_ = State::solo;
  retry_at_.reset();
  if (hand_over_ != HandOver::none && hand_over_ != HandOver::capturing) cancel_hand_over(actions);
  actions.push_back(OpenGate{});
  actions.push_back(Report{Event::went_solo, captured_});
  return actions;
}

void EpochPrimary::on_persist_failed() {
  going_solo_.reset();
  if (claim_state_ == ClaimState::granted) return;
  // The link may have come up meanwhile and been left alone for the operator's sake.
  if (state_ == State::backup_lost && !retry_at_) retry_at_ = Instant::min();
}

Result<EpochPrimary::Actions> EpochPrimary::on_unprotect(Instant) {
  Actions actions;
  if (over()) {
    return fail(ErrorCode::no_such, "unprotect: this protection is over ({})", to_string(state_));
  }
  if (speaks_alone()) {
    if (link_up_) actions.push_back(AskDiscard{});
    end(actions);
    return actions;
  }
  if (hand_over_ != HandOver::none)
    return fail(ErrorCode::try_again, "unprotect: the domain is being handed over");
  if (!link_up_ || trouble_) {
    return fail(ErrorCode::unavailable,
                "unprotect: the backup cannot be asked to discard its image; if it is certain that "
                "it never runs it, say 'solo'");
  }
  unprotecting_ = true;
  actions.push_back(AskDiscard{});
  return actions;
}

Result<EpochPrimary::Actions> EpochPrimary::on_hand_over(Instant now) {
  if (over())
    return fail(ErrorCode::no_such, "hand-over: this protection is over ({})", to_string(state_));
  if (hand_over_ != HandOver::none)
    return fail(ErrorCode::exists, "hand-over: the domain is being handed over already");
  if (state_ != State::protecting || !link_up_ || trouble_ || unprotecting_ || going_solo_)
    return fail(ErrorCode::unavailable,
                "hand-over: the backup is not warm (state {}): nothing is moved",
                unprotecting_ ? "unprotecting" : to_string(state_));
  hand_over_ = HandOver::wanted;
  return on_capture_wanted(now);
}

EpochPrimary::Actions EpochPrimary::on_discarded(Instant, ProtectionId protection) {
  Actions actions;
  if (over() || state_ == State::solo || protection != config_.protection) return actions;
  if (unprotecting_) {
    end(actions);
    return actions;
  }
  // The backup's own decision (its operator's): it is no backup any more.
  if (hand_over_ != HandOver::none && hand_over_ != HandOver::capturing) cancel_hand_over(actions);
  peer_committed_ = EpochId{};
  lose_backup(actions);
  return actions;
}

EpochPrimary::Actions EpochPrimary::on_capture_wanted(Instant now) {
  Actions actions;
  next_capture_ = std::min(next_capture_, now);
  capture_if_due(now, actions);
  return actions;
}

void EpochPrimary::on_interval_changed(std::chrono::microseconds interval) {
  if (next_capture_ != Instant::min()) next_capture_ += interval - config_.interval;
  config_.interval = interval;
}

Instant EpochPrimary::next_deadline() const {
  if (claim_state_ == ClaimState::granted && can_use_grant()) return grant_retry_at_;
  if (wants_right() && claim_state_ == ClaimState::none)
    return mute_since_ ? *mute_since_ + *config_.ask_solo_after : Instant::min();
  if (!can_capture()) return kNever;
  if (retry_at_) return *retry_at_;
  if (state_ != State::protecting || stretched_) return kNever;
  return next_capture_;
}

void EpochPrimary::claim_if_due(Instant now, Actions& actions) {
  if (!wants_right()) return;
  if (!mute_since_) mute_since_ = now;
  if (now < *mute_since_ + *config_.ask_solo_after) return;
  if (claim_state_ != ClaimState::none) return;
  claim_state_ = ClaimState::asked;
  if (!claim_) claim_ = std::max(config_.generation, highest_seen_).next();
  actions.push_back(Report{Event::asking_arbiter, captured_});
  actions.push_back(AskArbiter{*claim_});
}

/// The right is ours, and nobody else's: raise the generation, then speak. What contradicts it (the
/// peer runs the domain, or is about to) means that somebody has not kept to the arbiter: mute.
void EpochPrimary::use_grant(Instant now, Actions& actions) {
  if (!can_use_grant()) return;
  grant_retry_at_ = now + config_.grant_retry;
  going_solo_ = *claim_ > highest_seen_ ? *claim_ : highest_seen_.next();
  actions.push_back(PersistGeneration{*going_solo_});
}

/// What another copy's generation means for ours. Decided in this order, first that fits:
///
///   theirs    their role   we             so
///   higher    running      speak alone    split brain: a person must choose
///   higher    running      are mute       superseded: destroy ours
///   any       promoting    any            wait, mute
///   equal     running      any            split brain
///   higher    none/holding any            the newer copy is lost: keep ours, mute
///   lower     running      any            an outdated copy that will learn of us: wait for it to
///   go otherwise                             nothing
void EpochPrimary::meet_generation(Generation generation, PeerRole role, Actions& actions) {
  highest_seen_ = std::max(highest_seen_, generation);
  const bool higher = generation > config_.generation;
  if (higher && role == PeerRole::running && !speaks_alone()) {
    state_ = State::superseded;
    unacknowledged_.clear();
    going_solo_.reset();
    actions.push_back(Report{Event::superseded, captured_});
    actions.push_back(DestroyDomain{generation});
    return;
  }
  if (role == PeerRole::promoting) return bar(Event::peer_promoting, actions);
  if (role == PeerRole::running && generation >= config_.generation) {
    return bar(Event::split_brain, actions);
  }
  if (higher) return bar(Event::newer_copy_lost, actions);
}

/// The peer is no backup for us: stay as mute as we are, take back a word that it contradicts.
void EpochPrimary::bar(Event event, Actions& actions) {
  heard_at_.reset();
  // 'The newer copy is lost' is exactly what an operator may answer by solo; the others are not.
  if (event != Event::newer_copy_lost) going_solo_.reset();
  if (trouble_ == event) return;
  trouble_ = event;
  // As it was asked to: no trouble worth telling.
  if (hand_over_ == HandOver::yielded && event == Event::peer_promoting) return;
  if (hand_over_ == HandOver::wanted || hand_over_ == HandOver::captured) cancel_hand_over(actions);
  actions.push_back(Report{event, captured_});
  if (state_ != State::solo) lose_backup(actions);
}

/// The link stands and nothing hinders: go on where the peer is, or copy anew.
void EpochPrimary::take_up(Instant now, Actions& actions) {
  retry_at_.reset();
  if (peer_committed_ != EpochId{} && peer_committed_ == captured_ && !dirty_lost_) {
    // The peer's image is what our mirror says it is; only the pages since are missing.
    state_ = State::protecting;
    actions.push_back(Report{Event::protected_again, captured_});
    ever_protected_ = true;
    next_capture_ = now;
    capture_if_due(now, actions);
    return;
  }
  start_synchronise(dirty_lost_ ? EpochId{} : peer_committed_, actions);
}

void EpochPrimary::start_synchronise(EpochId base, Actions& actions) {
  state_ = State::synchronising;
  capturing_ = true;
  issued_ = issued_.next();
  synchronising_epoch_ = issued_;
  if (exposed_) actions.push_back(Report{Event::resynchronising, issued_});
  actions.push_back(Synchronise{issued_, base});
}

void EpochPrimary::capture_if_due(Instant now, Actions& actions) {
  if (state_ != State::protecting || !can_capture() || now < next_capture_) return;
  stretched_ = unacknowledged_.size() >= config_.in_flight_max;
  if (stretched_) return;
  capturing_ = true;
  issued_ = issued_.next();
  // On the beat: a timer that wakes late does not slow it down. After more than a whole interval a
  // new beat begins, because epochs are not made up for.
  const Instant on_beat = next_capture_ + config_.interval;
  next_capture_ = on_beat > now ? on_beat : now + config_.interval;
  const bool last = hand_over_ == HandOver::wanted;
  if (last) hand_over_ = HandOver::capturing;
  actions.push_back(SealAndCapture{issued_, captured_, last});
}

void EpochPrimary::release_if_allowed(Instant now, Actions& actions) {
  if (trouble_ || hand_over_ == HandOver::yielded || acknowledged_ <= released_) return;
  if (!heard_at_ || now >= *heard_at_ + config_.lease) return;
  released_ = acknowledged_;
  actions.push_back(Release{released_});
  if (hand_over_ != HandOver::captured || released_ != captured_ || !link_up_) return;
  hand_over_ = HandOver::yielded;
  actions.push_back(Yield{captured_});
}

void EpochPrimary::cancel_hand_over(Actions& actions) {
  hand_over_ = HandOver::none;
  actions.push_back(ResumeGuest{});
  actions.push_back(Report{Event::hand_over_failed, captured_});
}

void EpochPrimary::lose_backup(Actions& actions) {
  if (!exposed_) {
    // Nothing to lose yet, and the gate is as open as it was.
    state_ = State::synchronising;
    return;
  }
  if (state_ == State::backup_lost) return;
  state_ = State::backup_lost;
  // After the word the link ends because the backup takes over: no loss worth telling.
  if (hand_over_ == HandOver::yielded) return;
  actions.push_back(Report{Event::backup_lost, captured_});
}

void EpochPrimary::end(Actions& actions) {
  state_ = State::ended;
  retry_at_.reset();
  unacknowledged_.clear();
  actions.push_back(OpenGate{});
  actions.push_back(Report{Event::unprotected, captured_});
}

std::string_view to_string(EpochPrimary::State state) {
  switch (state) {
    case EpochPrimary::State::synchronising:
      return "synchronising";
    case EpochPrimary::State::protecting:
      return "protecting";
    case EpochPrimary::State::backup_lost:
      return "backup_lost";
    case EpochPrimary::State::solo:
      return "solo";
    case EpochPrimary::State::superseded:
      return "superseded";
    case EpochPrimary::State::ended:
      return "ended";
  }
  return "unknown";
}

std::string_view to_string(EpochPrimary::Event event) {
  switch (event) {
    case EpochPrimary::Event::first_protected:
      return "first_protected";
    case EpochPrimary::Event::protected_again:
      return "protected_again";
    case EpochPrimary::Event::backup_lost:
      return "backup_lost";
    case EpochPrimary::Event::resynchronising:
      return "resynchronising";
    case EpochPrimary::Event::capture_failed:
      return "capture_failed";
    case EpochPrimary::Event::capture_keeps_failing:
      return "capture_keeps_failing";
    case EpochPrimary::Event::peer_promoting:
      return "peer_promoting";
    case EpochPrimary::Event::peer_outdated:
      return "peer_outdated";
    case EpochPrimary::Event::superseded:
      return "superseded";
    case EpochPrimary::Event::newer_copy_lost:
      return "newer_copy_lost";
    case EpochPrimary::Event::split_brain:
      return "split_brain";
    case EpochPrimary::Event::asking_arbiter:
      return "asking_arbiter";
    case EpochPrimary::Event::arbiter_refused:
      return "arbiter_refused";
    case EpochPrimary::Event::went_solo:
      return "went_solo";
    case EpochPrimary::Event::unprotected:
      return "unprotected";
    case EpochPrimary::Event::hand_over_failed:
      return "hand_over_failed";
    case EpochPrimary::Event::acknowledgement_refused:
      return "acknowledgement_refused";
  }
  return "unknown";
}

}  // namespace understudy
