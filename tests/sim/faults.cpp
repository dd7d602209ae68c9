#include <algorithm>

#include "tests/sim/inside.h"

namespace understudy::sim {

// --- faults ---

void World::strike(const Blow& blow) {
  now_ = std::max(now_, blow.at);
  outcome_.blows.push_back(blow);
  strike(blow.fault, hosts_[static_cast<std::size_t>(blow.host)], Random(blow.dice));
}

void World::strike(Fault fault, Host& host, Random dice) {
  outcome_.whole_when_struck = hosts_[0].image.whole || hosts_[1].image.whole;
  const auto id = static_cast<std::size_t>(host.id);
  switch (fault) {
    case Fault::crash:
      return crash(host, dice.between(60 * kMs, 900 * kMs));
    case Fault::restart_agent:
      return restart_agent(host);
    case Fault::stall: {
      if (!host.up) return;
      host.stalled_until = std::max(host.stalled_until, now_ + dice.between(50 * kMs, 700 * kMs));
      tell("host {} stalls until {} ms", host.id, host.stalled_until / kMs);
      // The timer fires before the sockets are read: the worst order.
      queue_.push(
          {host.stalled_until, order_++, host.id, host.incarnation, [this, &host] { tick(host); }});
      return;
    }
    case Fault::break_link:
      tell("links break");
      for (const Host& each : hosts_) break_connection(each.link);
      host.fail_captures = dice.once_in(4);
      return;
    case Fault::cut_both_ways:
    case Fault::cut_one_way: {
      const Time length = dice.between(50 * kMs, 800 * kMs);
      tell("host {} cut off{} for {} ms", host.id, fault == Fault::cut_one_way ? " one way" : "",
           length / kMs);
      cut_until_[id] = now_ + length;
      if (fault == Fault::cut_both_ways) cut_until_[1 - id] = now_ + length;
      after(length + 1, [this] { flush(); });
      if (dice.once_in(2)) {
        after(dice.between(0, length), [this] {
          for (const Host& each : hosts_) break_connection(each.link, 300 * kMs);
        });
      }
      return;
    }
    case Fault::slow_link:
      slow_until_[id] = now_ + dice.between(100 * kMs, 600 * kMs);
      slow_by_[id] = dice.between(20 * kMs, 500 * kMs);
      tell("host {} sends slowly, up to {} ms", host.id, slow_by_[id] / kMs);
      return;
    case Fault::lose_heartbeats:
      deaf_until_[id] = now_ + dice.between(100 * kMs, 600 * kMs);
      tell("host {} heartbeats lost until {} ms", host.id, deaf_until_[id] / kMs);
      return;
    case Fault::flap:
      tell("the network flaps");
      return flap(dice.between(3, 9), dice);
    case Fault::freeze: {
      if (!host.up || now_ < host.stalled_until) return;
      const Time length = dice.between(50 * kMs, 700 * kMs);
      host.stalled_until = now_ + length;
      host.clock_origin -= length * host.clock_rate / 1000;
      host.clock_stopped_once = true;
      tell("host {} is frozen until {} ms, clock and all", host.id, host.stalled_until / kMs);
      return;
    }
    case Fault::slow_disk:
      host.disk_slow_until = now_ + dice.between(100 * kMs, 800 * kMs);
      tell("host {} writes slowly until {} ms", host.id, host.disk_slow_until / kMs);
      return;
    case Fault::full_disk:
      host.disk_full_until = now_ + dice.between(100 * kMs, 800 * kMs);
      tell("host {} disk full until {} ms", host.id, host.disk_full_until / kMs);
      return;
    case Fault::arbiter_outage:
      arbiter_down_until_ = now_ + dice.between(100 * kMs, 900 * kMs);
      tell("the arbiter is away until {} ms", arbiter_down_until_ / kMs);
      return;
    case Fault::arbiter_emptied:
      if (arbiter_kind_ != ArbiterKind::etcd) return;
      tell("the arbiter comes back empty");
      if (!book_.empty()) reached(Reached::arbiter_lost_its_data);
      book_.clear();
      return;
    case Fault::duplicate:
      twice_until_[id] = now_ + dice.between(100 * kMs, 600 * kMs);
      tell("host {} is heard twice until {} ms", host.id, twice_until_[id] / kMs);
      return;
    case Fault::clock_jump: {
      if (!host.up) return;
      const Time length = dice.between(50 * kMs, 700 * kMs);
      host.clock_origin += length;
      // No lease can account for it, whoever's clock it was: both may let out what was committed.
      for (Host& each : hosts_) each.clock_stopped_once = true;
      tell("host {}: its clock leaps ahead by {} ms", host.id, length / kMs);
      schedule_tick(host);
      return;
    }
  }
}

void World::flap(std::int64_t turns, Random dice) {
  if (turns == 0 || calm()) return;
  const Time length = dice.between(5 * kMs, 80 * kMs);
  const auto which = dice.between(0, 2);
  for (std::size_t id = 0; id < 2; ++id) {
    if (which == 2 || which == static_cast<std::int64_t>(id))
      cut_until_[id] = std::max(cut_until_[id], now_ + length);
  }
  after(length + 1, [this] { flush(); });
  const Time again = length + dice.between(5 * kMs, 60 * kMs);
  after(again, [this, turns, dice] { flap(turns - 1, dice); });
}

void World::kill_agent(Host& host) {
  ++host.incarnation;
  host.stalled_until = 0;
  for (const std::size_t number : {host.link, host.peer_link, host.attempt}) {
    break_connection(number, random_.once_in(2) ? kMs : 250 * kMs);
  }
  host.link = host.peer_link = host.attempt = 0;
  host.primary.reset();
  host.promotion.reset();
  host.backup.reset();
  host.staging.reset();
  host.whole.clear();
  host.image = Image{};
  host.gate = Gate{};
  host.masks.clear();
  host.fail_captures = false;
  host.asked.reset();
  // What was on its way to the disk has reached it or not.
  if (host.writing) {
    if (random_.once_in(2)) {
      write(host, std::max(host.disk.generation, *host.writing));
    } else {
      reached(Reached::write_lost_in_a_crash);
    }
    host.writing.reset();
  }
}

void World::power_off(Host& host, Time back_after) {
  if (machines_ != nullptr) return machines_->power_off(host.id, back_after);
  crash(host, back_after);
}

void World::crash_side(int side, Time at, Time back_after) {
  now_ = std::max(now_, at);
  crash(hosts_[static_cast<std::size_t>(side)], back_after);
}

void World::crash(Host& host, Time back_after) {
  if (!host.up) return;
  tell("host {} crashes", host.id);
  kill_agent(host);
  host.up = false;
  host.domain.reset();
  host.disk.voice = false;
  // The power fails before the write has reached the platter.
  if (options_.canary == Canary::forget_generation) host.disk.generation = Generation{0};
  look_for_loss();
  after(back_after, [this, &host] { come_back(host); });
}

void World::come_back(Host& host) {
  if (host.up) return;
  tell("host {} comes back", host.id);
  host.up = true;
  boot(host);
}

void World::restart_agent(Host& host) {
  if (!host.up) return;
  tell("host {} agent restarts", host.id);
  const bool spoke = host.disk.voice;
  const bool protected_here = host.primary.has_value();
  kill_agent(host);
  // A promotion that had not spoken yet goes with the agent that made it.
  if (options_.canary == Canary::cut_off_forgets && host.domain && !protected_here &&
      host.disk.voice && host.domain->instance > 0) {
    host.domain.reset();
    host.disk.voice = false;
    host.disk.generation = Generation{1};
  }
  if (host.domain && !spoke && !protected_here) host.domain.reset();
  boot(host);
  look_for_loss();
  if (!host.domain) return;
  host.domain->paused = false;
  host.domain->dirty = 0;
  if (spoke) {
    host.gate.open(deliver_from(host));
    return;
  }
  reached(Reached::taken_up_again);
  EpochPrimary::Config config = primary_config(host);
  config.taken_up_again = true;
  host.primary.emplace(config);
}

void World::look_for_loss() {
  if (lost_) return;
  for (const Host& host : hosts_) {
    if (host.up && host.domain && oracle_.knows_all(host.domain->instance, host.domain->state.n)) {
      return;
    }
    // A copy that still knows everything could be run, were it not deaf for good.
    if (host.up && host.image.whole && oracle_.knows_all(host.image.origin, host.image.whole_n)) {
      return;
    }
  }
  lost_ = outcome_.lost = true;
  tell("the domain is lost: more faults than the budget allows");
  reached(Reached::domain_lost_to_two_faults);
}

void World::heal() {
  tell("everything is repaired");
  for (Host& host : hosts_) {
    come_back(host);
    host.fail_captures = false;
    host.disk_slow_until = host.disk_full_until = 0;
  }
  arbiter_down_until_ = 0;
  cut_until_ = {};
  slow_until_ = {};
  deaf_until_ = {};
  twice_until_ = {};
  page_cost_ = 60;
  flush();
  watch();
}

}  // namespace understudy::sim
