#include "checkpoint/epoch_backup.h"

#include "base/result.h"

namespace understudy {

EpochBackup::EpochBackup(ProtectionId protection, Generation generation)
    : protection_(protection), generation_(generation) {
  UNDERSTUDY_CHECK(protection != ProtectionId{}, "a protection's id is not 0");
}

std::optional<EpochBackup::Refusal> EpochBackup::refusal(ProtectionId protection,
                                                         Generation generation) const {
  if (state_ == State::promoting || state_ == State::promoted) return Refusal::promotion_decided;
  if (state_ == State::discarded) return Refusal::nothing_held;
  if (protection != protection_) return Refusal::other_protection;
  if (generation < generation_) return Refusal::old_generation;
  return std::nullopt;
}

EpochBackup::Actions EpochBackup::on_begin(ProtectionId protection, Generation generation,
                                           EpochId epoch, EpochId base) {
  Actions actions;
  if (auto reason = refusal(protection, generation)) return {Refuse{*reason, epoch}};
  if (generation > generation_) {
    actions = on_peer_generation(generation);
    actions.push_back(Refuse{Refusal::nothing_held, epoch});
    return actions;
  }
  if (epoch <= committed_) return {Refuse{Refusal::old_epoch, epoch}};
  const bool in_place = base == EpochId{};
  if (!in_place && base != committed_) return {Refuse{Refusal::wrong_base, epoch}};
  give_up_receiving(actions);
  if (in_place) {
    for (const EpochId waiting : waiting_to_apply_) actions.push_back(DropStaged{waiting});
    waiting_to_apply_.clear();
    applying_.reset();
    if (state_ == State::ready) actions.push_back(Report{Event::image_void, committed_});
    state_ = State::incomplete;
    committed_ = applied_ = EpochId{};
  }
  receiving_ = Receiving{epoch, in_place};
  actions.push_back(Stage{epoch, in_place});
  return actions;
}

EpochBackup::Actions EpochBackup::on_whole(Instant now, EpochId epoch) {
  Actions actions;
  if (auto reason = refusal(protection_, generation_)) return {Refuse{*reason, epoch}};
  if (!receiving_ || receiving_->epoch != epoch) return {Refuse{Refusal::out_of_order, epoch}};
  receiving_.reset();
  committed_ = epoch;
  last_acknowledged_at_ = now;
  actions.push_back(Acknowledge{protection_, generation_, epoch});
  if (state_ == State::incomplete) {
    state_ = State::ready;
    actions.push_back(Report{Event::image_ready, epoch});
  }
  waiting_to_apply_.push_back(epoch);
  apply_next(actions);
  return actions;
}

EpochBackup::Actions EpochBackup::on_applied(EpochId epoch) {
  Actions actions;
  if (applying_ != epoch) return actions;  // Of an image that was given up meanwhile.
  applying_.reset();
  applied_ = epoch;
  apply_next(actions);
  return actions;
}

EpochBackup::Actions EpochBackup::on_link_down() {
  Actions actions;
  if (state_ == State::incomplete || state_ == State::ready) give_up_receiving(actions);
  return actions;
}

EpochBackup::Actions EpochBackup::on_peer_generation(Generation generation) {
  Actions actions;
  if (generation <= generation_ || state_ == State::promoted || state_ == State::discarded) {
    return actions;
  }
  // Also while promoting: the domain has not spoken here, and it speaks there.
  generation_ = generation;
  actions.push_back(Report{Event::image_outdated, committed_});
  discard(actions);
  return actions;
}

EpochBackup::Actions EpochBackup::on_unprotect(ProtectionId protection, Generation generation) {
  Actions actions;
  if (state_ == State::discarded && protection == protection_) {
    // Our confirmation was lost.
    actions.push_back(DiscardImage{protection_});
    return actions;
  }
  if (auto reason = refusal(protection, generation)) return {Refuse{*reason, EpochId{}}};
  discard(actions);
  return actions;
}

bool EpochBackup::on_promote_decided() {
  if (state_ != State::ready) return false;
  state_ = State::promoting;
  receiving_.reset();
  return true;
}

void EpochBackup::on_promoted(Generation generation) {
  if (state_ == State::promoted && generation == generation_) return;
  UNDERSTUDY_CHECK(state_ == State::promoting, "only a decided promotion can be finished");
  UNDERSTUDY_CHECK(generation > generation_, "a promotion raises the generation");
  state_ = State::promoted;
  generation_ = generation;
}

PeerView EpochBackup::view() const {
  switch (state_) {
    case State::incomplete:
    case State::ready:
      return {protection_, generation_, committed_, PeerRole::holding};
    case State::promoting:
      return {protection_, generation_, committed_, PeerRole::promoting};
    case State::promoted:
      return {protection_, generation_, committed_, PeerRole::running};
    case State::discarded:
      break;
  }
  return {ProtectionId{}, generation_, EpochId{}, PeerRole::none};
}

void EpochBackup::give_up_receiving(Actions& actions) {
  if (!receiving_) return;
  actions.push_back(DropStaged{receiving_->epoch});
  actions.push_back(Report{Event::checkpoint_dropped, receiving_->epoch});
  receiving_.reset();
}

void EpochBackup::apply_next(Actions& actions) {
  if (applying_ || waiting_to_apply_.empty()) return;
  applying_ = waiting_to_apply_.front();
  waiting_to_apply_.erase(waiting_to_apply_.begin());
  actions.push_back(Apply{*applying_});
}

void EpochBackup::discard(Actions& actions) {
  state_ = State::discarded;
  receiving_.reset();
  applying_.reset();
  waiting_to_apply_.clear();
  committed_ = applied_ = EpochId{};
  actions.push_back(DiscardImage{protection_});
}

std::string_view to_string(EpochBackup::State state) {
  switch (state) {
    case EpochBackup::State::incomplete:
      return "incomplete";
    case EpochBackup::State::ready:
      return "ready";
    case EpochBackup::State::promoting:
      return "promoting";
    case EpochBackup::State::promoted:
      return "promoted";
    case EpochBackup::State::discarded:
      return "discarded";
  }
  return "unknown";
}

std::string_view to_string(EpochBackup::Refusal refusal) {
  switch (refusal) {
    case EpochBackup::Refusal::other_protection:
      return "other_protection";
    case EpochBackup::Refusal::old_generation:
      return "old_generation";
    case EpochBackup::Refusal::promotion_decided:
      return "promotion_decided";
    case EpochBackup::Refusal::nothing_held:
      return "nothing_held";
    case EpochBackup::Refusal::old_epoch:
      return "old_epoch";
    case EpochBackup::Refusal::wrong_base:
      return "wrong_base";
    case EpochBackup::Refusal::out_of_order:
      return "out_of_order";
  }
  return "unknown";
}

std::string_view to_string(EpochBackup::Event event) {
  switch (event) {
    case EpochBackup::Event::image_ready:
      return "image_ready";
    case EpochBackup::Event::image_void:
      return "image_void";
    case EpochBackup::Event::image_outdated:
      return "image_outdated";
    case EpochBackup::Event::checkpoint_dropped:
      return "checkpoint_dropped";
  }
  return "unknown";
}

}  // namespace understudy
