#include <algorithm>
#include <chrono>
#include <memory>

#include "tests/sim/inside.h"

namespace understudy::sim {

Outcome World::run() {
  begin();
  while (next_at()) step();
  return verdict();
}

std::optional<Time> World::next_at() const {
  if (queue_.empty() || !oracle_.violation().empty() || finished_) return std::nullopt;
  const Time at = std::max(now_, queue_.top().at);
  if (at > kEnd) return std::nullopt;
  return at;
}

void World::step() {
  Event event = queue_.top();
  queue_.pop();
  now_ = std::max(now_, event.at);
  handle(event);
}

Outcome World::verdict() {
  if (oracle_.violation().empty()) judge_liveness();
  outcome_.violation = oracle_.violation();
  outcome_.released = oracle_.received_count();
  if (oracle_.late_echoes() > 0) reached(Reached::late_echo_after_a_freeze);
  outcome_.steps = {hosts_[0].steps, hosts_[1].steps};
  return outcome_;
}

// --- time ---

void World::after(Time delay, std::function<void()> what) {
  queue_.push({now_ + delay, order_++, -1, 0, std::move(what)});
}

void World::after(Host& host, Time delay, std::function<void()> what) {
  queue_.push({now_ + delay, order_++, host.id, host.incarnation, std::move(what)});
}

void World::handle(Event& event) {
  if (event.host < 0) {
    event.what();
    return;
  }
  Host& host = hosts_[static_cast<std::size_t>(event.host)];
  if (!host.up || host.incarnation != event.incarnation) return;
  if (now_ < host.stalled_until) {
    event.at = host.stalled_until;
    queue_.push(std::move(event));
    return;
  }
  outcome_.trace_digest = mix(outcome_.trace_digest, static_cast<std::uint64_t>(now_) * 2 +
                                                         static_cast<std::uint64_t>(host.id));
  if (options_.planned && options_.planned->host == host.id &&
      options_.planned->step == host.steps++) {
    strike(options_.planned->fault, host, Random(options_.planned->step));
    if (!host.up || host.incarnation != event.incarnation) return;
    if (now_ < host.stalled_until) {
      event.at = host.stalled_until;
      queue_.push(std::move(event));
      return;
    }
  }
  event.what();
  schedule_tick(host);
}

Instant World::clock(const Host& host, Time now) {
  return Instant{} + std::chrono::microseconds(host.clock_origin + now * host.clock_rate / 1000);
}

Time World::until(const Host& host, Instant deadline) const {
  if (deadline < clock(host)) return 0;  // Also Instant::min(), from which nothing can be taken.
  const auto left =
      std::chrono::duration_cast<std::chrono::microseconds>(deadline - clock(host)).count();
  return left * 1000 / host.clock_rate + 1;
}

void World::schedule_tick(Host& host) {
  if (!host.up) return;
  Instant deadline = host.detector->next_deadline();
  if (host.primary) deadline = std::min(deadline, host.primary->next_deadline());
  if (host.promotion) deadline = std::min(deadline, host.promotion->next_deadline());
  const Time at = now_ + until(host, deadline);
  if (host.tick_at > now_ && host.tick_at <= at) return;
  host.tick_at = at;
  after(host, at - now_, [this, &host, at] {
    if (host.tick_at == at || host.tick_at <= now_) tick(host);
  });
}

void World::tick(Host& host) {
  host.tick_at = 0;
  const auto stalls = host.detector->stalls();
  host.detector->on_tick(clock(host));
  if (host.detector->stalls() != stalls) reached(Reached::own_stall_noticed);
  if (host.primary) {
    const bool was_stretched = host.primary->stretched();
    act(host, host.primary->on_tick(clock(host)));
    if (host.primary && host.primary->stretched() && !was_stretched) {
      reached(Reached::stretched);
    }
  }
  wish_promotion(host);
  if (host.promotion) act(host, host.promotion->on_tick(clock(host)));
}

// --- the beginning ---

void World::set_up() {
  connections_.emplace_back();  // Number 0 means 'none'.
  connections_.back().dead = true;
  Random dice(options_.seed);  // The beginning and the faults; what comes of them is random_'s.
  if (options_.random_faults) {
    incremental_ = dice.once_in(2);
    bulk_is_life_ = dice.once_in(2);
    deterministic_guest_ = dice.once_in(3);
    paths_ = static_cast<std::size_t>(dice.between(1, 2));
    base_delay_ = dice.between(50, 2500);
    page_cost_ = dice.once_in(4) ? dice.between(2 * kMs, 12 * kMs) : 60;
    arbiter_kind_ = static_cast<ArbiterKind>(dice.between(0, 2));
  }
  arbiter_kind_ = options_.arbiter.value_or(arbiter_kind_);
  tell("the arbiter: {}", static_cast<int>(arbiter_kind_));
  for (int id = 0; id < 2; ++id) {
    Host& host = hosts_[static_cast<std::size_t>(id)];
    host.id = id;
    if (machines_ != nullptr) {
      host.clock_origin = machines_->clock_of(id).origin;
      host.clock_rate = machines_->clock_of(id).rate;
    } else if (options_.random_faults) {
      host.clock_origin = dice.between(0, 1'000'000'000);
      host.clock_rate = dice.between(900, 1100);
    }
    host.arbiter = std::make_unique<HostArbiter>(*this, host);
    boot(host);
  }
  Host& first = hosts_[0];
  first.domain.emplace();
  first.domain->instance = oracle_.born(first.domain->state);
  first.disk.voice = true;
  first.gate.open(deliver_from(first));
  protect(first);
  after(5 * kMs, [this] { run_guests(); });
  after(50 * kMs, [this] { operate(); });
  if (options_.random_faults && machines_ == nullptr) {
    std::vector<Blow> blows;
    const auto faults = dice.between(0, 6);
    for (std::int64_t i = 0; i < faults; ++i) {
      const Time at = dice.between(30 * kMs, kHealAt - 10 * kMs);
      const auto fault = static_cast<Fault>(dice.between(0, kFaults - 1));
      blows.push_back({at, fault, static_cast<int>(dice.between(0, 1)), dice.next()});
    }
    for (const Blow& blow : options_.given ? options_.blows : blows) {
      after(blow.at, [this, blow] { strike(blow); });
    }
  }
  after(kHealAt, [this] { heal(); });
}

void World::boot(Host& host) {
  FailureDetector::Config config;
  config.paths = paths_;
  host.detector.emplace(config, clock(host));
  host.peer_sent_at.reset();
  host.tick_at = 0;
  host.attempt = host.link = host.peer_link = 0;
  after(host, random_.between(0, 20 * kMs), [this, &host] { heartbeat(host); });
  after(host, random_.between(0, 10 * kMs), [this, &host] { keep_connected(host); });
  schedule_tick(host);
}

// --- the guests and their client ---

std::function<void(const Frame&)> World::deliver_from(Host& host) {
  return [this, &host](const Frame& frame) {
    const Host& peer = other(host);
    // Unprotect allows to speak alone once the other host really holds nothing any more.
    if (host.unprotect_said && !peer.image.whole) host.solo_said = true;
    oracle_.received(host.domain->instance, host.asked_protection, host.solo_said, frame,
                     host.clock_stopped_once);
    spoken_at_ = now_;
    if (!oracle_.violation().empty()) tell("host {} VIOLATION {}", host.id, oracle_.violation());
  };
}

void World::run_guests() {
  for (Host& host : hosts_) {
    if (!host.up || !host.domain || host.domain->paused || random_.once_in(4)) continue;
    Domain& domain = *host.domain;
    domain.dirty |= 1U << domain.state.step(deterministic_guest_ ? 0 : random_.next());
    oracle_.stepped(domain.instance, domain.state);
    host.gate.emit({domain.state.n, domain.state.h}, deliver_from(host));
  }
  after(random_.between(3 * kMs, 14 * kMs), [this] { run_guests(); });
}

// --- the end ---

bool World::whole_again() {
  const Host* host = rightful();
  return host != nullptr && host->primary &&
         host->primary->state() == EpochPrimary::State::protecting &&
         now_ - spoken_at_ < 150 * kMs && host->primary->acknowledged() > EpochId{3};
}

void World::watch() {
  // Stays so for a while: not a flash between two troubles.
  steady_ = whole_again() ? steady_ + 1 : 0;
  if (steady_ >= 4 || (lost_ && now_ > kHealAt + 800 * kMs)) finished_ = true;
  after(50 * kMs, [this] { watch(); });
}

void World::judge_liveness() {
  if (lost_ || finished_) return;
  const Host* host = rightful();
  oracle_.violate(fmt::format("no progress after everything was repaired: {}, last output at {} ms",
                              host == nullptr
                                  ? std::string("nobody runs the domain")
                                  : fmt::format("host {} is {}", host->id,
                                                host->primary ? to_string(host->primary->state())
                                                              : std::string("unprotected")),
                              spoken_at_ / kMs));
}

std::string_view name_of(Fault fault) {
  static constexpr std::array<std::string_view, kFaults> kNames{
      "crash",          "restart_agent",   "stall",     "break_link",
      "cut_one_way",    "cut_both_ways",   "slow_link", "lose_heartbeats",
      "flap",           "freeze",          "slow_disk", "full_disk",
      "arbiter_outage", "arbiter_emptied", "duplicate", "clock_jump"};
  return kNames[static_cast<std::size_t>(fault)];
}

std::string_view name_of(Reached what) {
  static constexpr std::array<std::string_view, kReached> kNames{"promotion",
                                                                 "promotion_of_living_primary",
                                                                 "promotion_by_hand",
                                                                 "promotion_failed",
                                                                 "second_promotion",
                                                                 "image_incomplete",
                                                                 "superseded",
                                                                 "newer_copy_lost",
                                                                 "peer_promoting",
                                                                 "stretched",
                                                                 "lease_withheld_output",
                                                                 "commit_learnt_at_hello",
                                                                 "continued_without_copy",
                                                                 "incremental_copy",
                                                                 "full_copy",
                                                                 "capture_failed",
                                                                 "capture_keeps_failing",
                                                                 "captured_for_dead_link",
                                                                 "checkpoint_dropped",
                                                                 "backup_refused",
                                                                 "went_solo",
                                                                 "solo_not_written",
                                                                 "unprotected",
                                                                 "unprotect_confirmed_by_hello",
                                                                 "taken_up_again",
                                                                 "own_stall_noticed",
                                                                 "domain_lost_to_two_faults",
                                                                 "promotion_by_grant",
                                                                 "solo_by_grant",
                                                                 "claim_refused",
                                                                 "grant_unused",
                                                                 "fenced",
                                                                 "arbiter_lost_its_data",
                                                                 "late_echo_after_a_freeze",
                                                                 "write_lost_in_a_crash",
                                                                 "heard_twice",
                                                                 "word_given",
                                                                 "handed_over",
                                                                 "hand_over_failed"};
  return kNames[static_cast<std::size_t>(what)];
}

Outcome run(const Options& options) {
  return World(options).run();
}

}  // namespace understudy::sim
