#include "failover/promotion.h"

#include <algorithm>
#include <utility>

namespace understudy {

Promotion::Promotion(Config config, EpochBackup& backup, Arbiter& arbiter)
    : config_(std::move(config)), backup_(backup), arbiter_(arbiter) {}

std::optional<Promotion::Refusal> Promotion::refusal(Cause cause) const {
  switch (backup_.state()) {
    case EpochBackup::State::incomplete:
      return Refusal::image_incomplete;
    case EpochBackup::State::discarded:
      return Refusal::nothing_held;
    case EpochBackup::State::promoted:
      return Refusal::already_promoted;
    case EpochBackup::State::promoting:
      if (phase_ != Phase::failed) return Refusal::already_promoted;
      break;
    case EpochBackup::State::ready:
      break;
  }
  const bool by_itself = cause == Cause::primary_dead || cause == Cause::primary_gone;
  if (by_itself && !config_.automatic) return Refusal::forbidden;
  return std::nullopt;
}

Promotion::Actions Promotion::on_wanted(Instant now, Cause cause, Instant last_sign_of_life) {
  if (auto why_not = refusal(cause)) return {Refused{*why_not}};
  const bool by_word = cause == Cause::operator_word || cause == Cause::handed_over;
  if (phase_ == Phase::asking) {
    if (!by_word) return {};
    arbiter_.forget(*claim_);
  }
  handed_over_ |= cause == Cause::handed_over;
  timeline_ = {};
  timeline_.last_sign_of_life = last_sign_of_life;
  timeline_.asked = now;
  phase_ = Phase::asking;
  claim_ = Arbiter::Claim{config_.domain, backup_.protection(), backup_.generation().next(),
                          Arbiter::Claimant::backup};
  // An operator's word is a promise of what an arbiter would find out (docs/failure-model.md). And
  // who has been granted it once and failed since (a full disk) does not ask again: the arbiter may
  // have forgotten, and nobody else can have got the right.
  const bool has_right = by_word || backup_.state() == EpochBackup::State::promoting;
  return on_arbiter(now, has_right ? Arbiter::Answer::granted : arbiter_.ask(*claim_),
                    last_sign_of_life);
}

Promotion::Actions Promotion::on_arbiter(Instant now, Arbiter::Answer answer,
                                         Instant last_sign_of_life) {
  if (phase_ != Phase::asking || answer == Arbiter::Answer::pending) return {};
  if (answer == Arbiter::Answer::refused) {
    phase_ = backup_.state() == EpochBackup::State::promoting ? Phase::failed : Phase::idle;
    retry_at_ = kNever;
    return {Refused{Refusal::not_authorised}};
  }
  return decide(now, last_sign_of_life);
}

Promotion::Actions Promotion::on_primary_heard(Instant now, PeerRole role) {
  const bool was_gone = std::exchange(gone_, role == PeerRole::none);
  if (gone_) {
    if (was_gone || phase_ != Phase::idle) return {};
    return on_wanted(now, Cause::primary_gone, now);
  }
  const bool undecided = backup_.state() == EpochBackup::State::ready;
  if (phase_ == Phase::asking && undecided && role == PeerRole::running) {
    phase_ = Phase::idle;
    arbiter_.forget(*claim_);
  }
  return {};
}

Promotion::Actions Promotion::decide(Instant now, Instant last_sign_of_life) {
  // While the arbiter thought, the image may have been outdated, or voided by a complete copy. A
  // backup that is promoting already has failed before and stays decided.
  if (backup_.state() != EpochBackup::State::promoting && !backup_.on_promote_decided()) {
    phase_ = Phase::idle;
    return {Refused{*refusal(Cause::operator_word)}};
  }
  phase_ = Phase::preparing;
  persisted_ = false;
  retry_at_ = kNever;
  generation_ = backup_.generation().next();
  timeline_.last_sign_of_life = last_sign_of_life;
  timeline_.decided = now;
  if (backup_.all_applied()) timeline_.last_epoch_applied = now;
  // Our last acknowledgement proves to the primary that we heard it, whatever the detector knows.
  const Instant heard =
      std::max(last_sign_of_life, backup_.last_acknowledged_at().value_or(Instant::min()));
  not_before_ = handed_over_ ? now : heard + config_.silence;
  return {PersistGeneration{generation_}};
}

Promotion::Actions Promotion::on_generation_persisted(Instant now) {
  if (phase_ != Phase::preparing || persisted_) return {};
  persisted_ = true;
  timeline_.generation_persisted = now;
  return resume_if_ready(now);
}

Promotion::Actions Promotion::on_applied(Instant now) {
  if (phase_ != Phase::preparing || !backup_.all_applied()) return {};
  if (!timeline_.last_epoch_applied) timeline_.last_epoch_applied = now;
  return resume_if_ready(now);
}

Promotion::Actions Promotion::on_tick(Instant now) {
  if (phase_ == Phase::failed && now >= retry_at_ &&
      backup_.state() == EpochBackup::State::promoting) {
    return decide(now, timeline_.last_sign_of_life.value_or(now));
  }
  return resume_if_ready(now);
}

Promotion::Actions Promotion::resume_if_ready(Instant now) {
  if (phase_ != Phase::preparing) return {};
  if (backup_.state() != EpochBackup::State::promoting) {
    // The primary was heard to run solo: the image is gone, and rightly.
    phase_ = Phase::failed;
    return {Refused{Refusal::nothing_held}};
  }
  if (!persisted_ || !backup_.all_applied() || now < not_before_) return {};
  phase_ = Phase::resuming;
  return {ResumeDomain{backup_.committed()}};
}

Promotion::Actions Promotion::on_resumed(Instant now) {
  if (phase_ != Phase::resuming) return {};
  if (backup_.state() == EpochBackup::State::discarded) {
    // Resumed while the image was being declared outdated: it has not spoken, and never will.
    phase_ = Phase::failed;
    return {Refused{Refusal::nothing_held}};
  }
  timeline_.domain_resumed = now;
  backup_.on_promoted(generation_);
  phase_ = Phase::announcing;
  return {OpenGate{}, Announce{}};
}

void Promotion::on_announced(Instant now) {
  if (phase_ == Phase::announcing && !timeline_.announced) timeline_.announced = now;
}

void Promotion::on_done(Instant now) {
  if (phase_ != Phase::announcing) return;
  if (!timeline_.announced) timeline_.announced = now;
  timeline_.done = now;
  phase_ = Phase::done;
}

void Promotion::on_failed(Instant now) {
  if (phase_ != Phase::preparing && phase_ != Phase::resuming) return;
  phase_ = Phase::failed;
  retry_at_ = now + config_.retry;
}

Instant Promotion::next_deadline() const {
  if (phase_ == Phase::failed) {
    return backup_.state() == EpochBackup::State::promoting ? retry_at_ : kNever;
  }
  return phase_ == Phase::preparing && persisted_ && backup_.all_applied() ? not_before_ : kNever;
}

std::string_view to_string(Promotion::Phase phase) {
  switch (phase) {
    case Promotion::Phase::idle:
      return "idle";
    case Promotion::Phase::asking:
      return "asking";
    case Promotion::Phase::preparing:
      return "preparing";
    case Promotion::Phase::resuming:
      return "resuming";
    case Promotion::Phase::announcing:
      return "announcing";
    case Promotion::Phase::done:
      return "done";
    case Promotion::Phase::failed:
      return "failed";
  }
  return "unknown";
}

std::string_view to_string(Promotion::Refusal refusal) {
  switch (refusal) {
    case Promotion::Refusal::image_incomplete:
      return "image_incomplete";
    case Promotion::Refusal::already_promoted:
      return "already_promoted";
    case Promotion::Refusal::nothing_held:
      return "nothing_held";
    case Promotion::Refusal::forbidden:
      return "forbidden";
    case Promotion::Refusal::not_authorised:
      return "not_authorised";
  }
  return "unknown";
}

}  // namespace understudy
