#include <chrono>
#include <utility>

#include "tests/sim/inside.h"

namespace understudy::sim {

// --- the operator, who keeps promises ---

EpochPrimary::Config World::primary_config(const Host& host) const {
  EpochPrimary::Config config;
  config.protection = host.disk.protection;
  config.generation = host.disk.generation;
  if (options_.canary == Canary::trust_old_acknowledgements) {
    config.lease = std::chrono::hours(1);
  }
  if (arbiter_kind_ != ArbiterKind::none) config.ask_solo_after = std::chrono::milliseconds(300);
  config.may_have_yielded = host.disk.handing_over;
  config.grants_last = arbiter_kind_ != ArbiterKind::fence;
  return config;
}

void World::protect(Host& host) {
  // The books are opened first; where that fails nothing begins.
  if (now_ < arbiter_down_until_ && arbiter_kind_ == ArbiterKind::etcd) return;
  host.disk.protection = ProtectionId{++protections_};
  host.disk.handing_over = false;
  book_.clear();
  book_[host.disk.protection] = {host.disk.generation, host.id, false};
  host.disk.voice = false;
  host.asked_protection = host.disk.protection;
  host.solo_said = host.unprotect_said = false;
  host.backup.reset();
  host.promotion.reset();
  if (host.link != 0) break_connection(std::exchange(host.link, 0));
  tell("host {} is asked to protect (protection {}, generation {})", host.id, protections_,
       host.disk.generation);
  host.primary.emplace(primary_config(host));
}

Host* World::rightful() {
  Host* best = nullptr;
  for (Host& host : hosts_) {
    if (!host.up || !host.domain) continue;
    if (!oracle_.knows_all(host.domain->instance, host.domain->state.n)) continue;
    if (best == nullptr || host.disk.voice ||
        (!best->disk.voice && host.domain->instance > best->domain->instance)) {
      best = &host;
    }
  }
  return best;
}

bool World::harmless(const Host& peer, const Host& host) const {
  if (peer.domain || now_ < peer.stalled_until) return false;
  if (!peer.up) return true;
  const bool empty = !peer.backup || peer.backup->state() == EpochBackup::State::discarded;
  return empty && host.link != 0 && peer.peer_link == host.link;
}

bool World::may_promote_by_hand(const Host& backup) {
  if (arbiter_kind_ == ArbiterKind::none) return true;
  const Host& primary = other(backup);
  return !primary.up || !primary.domain;
}

void World::speak_up() {
  for (Host& host : hosts_) {
    if (!host.up || !host.promotion || host.domain || now_ < host.stalled_until) continue;
    if (host.backup->state() != EpochBackup::State::ready || !may_promote_by_hand(host)) continue;
    tell("the operator promotes host {}, which nobody else lets", host.id);
    want_promotion(host, Promotion::Cause::operator_word);
    schedule_tick(host);
    return;
  }
}

void World::operate() {
  after(random_.between(40 * kMs, 80 * kMs), [this] { operate(); });
  if (lost_) return;
  Host* host = rightful();
  if (options_.random_faults && !calm() && !random_.once_in(3)) return;
  if (host == nullptr && calm() && now_ > kHealAt + 700 * kMs) speak_up();
  Host* backup = &hosts_[host != nullptr ? static_cast<std::size_t>(1 - host->id) : 0];
  if (uneasy() && backup->promotion && backup->up && !backup->domain &&
      backup->backup->state() == EpochBackup::State::ready && now_ >= backup->stalled_until &&
      may_promote_by_hand(*backup) && random_.once_in(25)) {
    tell("host {} is asked to promote by hand", backup->id);
    want_promotion(*backup, Promotion::Cause::operator_word);
    schedule_tick(*backup);
    return;
  }
  if (host == nullptr || now_ < host->stalled_until) return;
  Host& peer = other(*host);
  const bool unprotected = !host->primary || host->primary->state() == EpochPrimary::State::ended ||
                           host->primary->state() == EpochPrimary::State::solo;
  if (unprotected) {
    if (peer.up && !peer.domain && host->disk.voice && !(host->backup && host->promotion)) {
      protect(*host);
    } else if (calm() && peer.up && peer.domain && now_ > kHealAt + 1500 * kMs) {
      // A mute leftover that nobody could prove to be one: a person can.
      tell("the operator removes the old copy on host {}", peer.id);
      peer.primary.reset();
      drop_domain(peer);
    }
  } else if (host->primary->state() == EpochPrimary::State::backup_lost) {
    if (harmless(peer, *host) && (!calm() || now_ > kHealAt + 500 * kMs)) {
      auto actions = host->primary->on_operator_solo(clock(*host));
      if (actions) {
        tell("the operator says solo at host {}", host->id);
        host->solo_said = true;
        act(*host, actions.value());
      }
    }
  } else if (options_.hand_over ? !std::exchange(asked_to_move_, true)
                                : uneasy() && random_.once_in(5)) {
    if (auto actions = host->primary->on_hand_over(clock(*host))) {
      tell("the operator moves the domain away from host {}", host->id);
      host->disk.handing_over = true;
      act(*host, actions.value());
    } else {
      asked_to_move_ = false;
    }
  } else if (uneasy() && random_.once_in(8)) {
    auto actions = host->primary->on_unprotect(clock(*host));
    if (actions) {
      tell("the operator says unprotect at host {}", host->id);
      host->unprotect_said = true;
      act(*host, actions.value());
      if (options_.canary == Canary::unprotect_unconfirmed) host->gate.open(deliver_from(*host));
    }
  }
  if (options_.canary == Canary::open_by_timeout) {
    for (Host& each : hosts_) {
      if (each.up && each.domain && each.primary &&
          each.primary->state() == EpochPrimary::State::backup_lost && random_.once_in(4)) {
        each.gate.open(deliver_from(each));
      }
    }
  }
  schedule_tick(*host);
}

}  // namespace understudy::sim
