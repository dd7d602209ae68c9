#include <algorithm>
#include <utility>

#include "arbiter/etcd_messages.h"
#include "tests/sim/inside.h"

namespace understudy::sim {

// --- the arbiter ---

Arbiter::Answer World::ask(Host& host, const Arbiter::Claim& claim) {
  if (arbiter_kind_ == ArbiterKind::none) return no_arbiter_.ask(claim);
  if (host.asked && host.asked->claim == claim) {
    host.asked->wanted = true;
    return Arbiter::Answer::pending;
  }
  tell("host {} asks the arbiter for generation {}", host.id, claim.generation);
  host.asked = Asked{claim};
  pursue(host, claim);
  return Arbiter::Answer::pending;
}

void World::forget(Host& host, const Arbiter::Claim& claim) {
  if (!host.asked || !(host.asked->claim == claim)) return;
  host.asked->wanted = false;
  host.asked->stale = true;
}

void World::pursue(Host& host, const Arbiter::Claim& claim) {
  if (!host.asked || !(host.asked->claim == claim)) return;
  if (!host.asked->wanted) {
    host.asked.reset();
    return;
  }
  if (arbiter_kind_ == ArbiterKind::fence) {
    host.asked->stale = false;
    after(host, random_.between(20 * kMs, 200 * kMs), [this, &host, claim] { shoot(host, claim); });
    return;
  }
  const Time late =
      !options_.no_small_troubles && random_.once_in(6) ? random_.between(0, 700 * kMs) : 0;
  after(random_.between(kMs, 15 * kMs) + late,
        [this, &host, claim, sent = now_, incarnation = host.incarnation] {
          serve(host, claim, sent, incarnation);
        });
  after(host, 300 * kMs, [this, &host, claim] { pursue(host, claim); });
}

void World::serve(Host& host, const Arbiter::Claim& claim, Time sent, std::uint32_t incarnation) {
  if (now_ < arbiter_down_until_ || now_ > sent + 500 * kMs) return;
  etcd::Read read;
  if (const auto found = book_.find(claim.protection); found != book_.end()) {
    read.holding = etcd::Holding{found->second.generation, name_of_host(found->second.holder),
                                 found->second.claimed};
  } else if (options_.canary == Canary::trust_empty_arbiter) {
    read.holding = etcd::Holding{Generation{0}, "nobody", false};
  }
  const etcd::Judged judged = etcd::judge(read, name_of_host(host.id), claim.generation, 0);
  if (judged.judgement == etcd::Judgement::claim)
    book_[claim.protection] = {claim.generation, host.id, true};
  const bool granted = judged.judgement != etcd::Judgement::refused;
  tell("the arbiter {} generation {} to host {} {}", granted ? "grants" : "refuses",
       claim.generation, host.id, judged.reason);
  if (host.incarnation != incarnation || (uneasy() && random_.once_in(6))) return;
  after(host, random_.between(kMs, 15 * kMs),
        [this, &host, claim, granted] { answered(host, claim, granted); });
}

void World::shoot(Host& host, const Arbiter::Claim& claim) {
  if (!host.asked || !(host.asked->claim == claim)) return;
  const bool works = !uneasy() || !random_.once_in(4);
  if (works) {
    tell("host {} fences host {}", host.id, 1 - host.id);
    reached(Reached::fenced);
    power_off(other(host), random_.between(60 * kMs, 900 * kMs));
  }
  // The fence agent takes its time to say so; the other host may be back by then.
  const Time late = random_.once_in(3) ? random_.between(0, 800 * kMs) : 5 * kMs;
  after(host, late, [this, &host, claim, works] {
    if (!host.asked || !(host.asked->claim == claim)) return;
    const bool stale = host.asked->stale;
    if (works && !stale) return answered(host, claim, true);
    pursue(host, claim);
  });
}

void World::answered(Host& host, const Arbiter::Claim& claim, bool granted) {
  if (!host.asked || !(host.asked->claim == claim)) return;
  host.asked.reset();
  if (!granted) reached(Reached::claim_refused);
  const auto answer = granted ? Arbiter::Answer::granted : Arbiter::Answer::refused;
  if (claim.claimant == Arbiter::Claimant::primary) {
    if (!host.primary || host.primary->protection() != claim.protection) return;
    // The truth for the oracle: somebody who may has allowed it.
    if (granted) host.solo_said = true;
    act(host, host.primary->on_arbiter(clock(host), claim.generation, granted));
    if (granted && host.primary && host.primary->solo_by_grant()) reached(Reached::solo_by_grant);
  } else if (host.promotion && !host.domain) {
    const bool waited = host.promotion->phase() == Promotion::Phase::asking;
    if (granted && !waited) reached(Reached::grant_unused);
    act(host, host.promotion->on_arbiter(clock(host), answer, host.detector->last_sign_of_life()));
    if (granted && waited && count_decision(host)) reached(Reached::promotion_by_grant);
  }
}

// --- disks ---

void World::write(Host& host, Generation generation) {
  host.disk.generation = generation;
  oracle_.persisted(host.id, generation);
}

void World::persist(Host& host, Generation generation, std::function<void(bool)> done) {
  const bool fails = !calm() && (now_ < host.disk_full_until || (uneasy() && random_.once_in(12)));
  const Time takes = now_ < host.disk_slow_until ? random_.between(20 * kMs, 400 * kMs)
                                                 : random_.between(300, 5 * kMs);
  if (options_.canary == Canary::speak_before_stored) {
    // Not even on its way yet when it is acted upon: a crash in the next half second loses it.
    after(host, 500 * kMs,
          [this, &host, generation] { write(host, std::max(host.disk.generation, generation)); });
    done(true);
    return;
  }
  if (!fails) host.writing = generation;
  after(host, takes, [this, &host, generation, fails, done = std::move(done)] {
    host.writing.reset();
    if (!fails) write(host, std::max(host.disk.generation, generation));
    done(!fails);
  });
}

}  // namespace understudy::sim
