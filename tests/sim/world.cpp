#include "tests/sim/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <utility>
#include <variant>
#include <vector>

#include "arbiter/etcd_messages.h"
#include "checkpoint/epoch_backup.h"
#include "checkpoint/epoch_primary.h"
#include "failover/failure_detector.h"
#include "failover/promotion.h"
#include "tests/sim/oracle.h"
#include "tests/sim/parts.h"

namespace understudy::sim {
namespace {

constexpr Time kHealAt = 1500 * kMs;
constexpr Time kEnd = 6500 * kMs;

class World {
 public:
  explicit World(const Options& options) : options_(options), random_(options.seed) {}

  Outcome run() {
    set_up();
    while (!queue_.empty() && oracle_.violation().empty() && !finished_) {
      Event event = queue_.top();
      queue_.pop();
      now_ = std::max(now_, event.at);
      if (now_ > kEnd) break;
      handle(event);
    }
    if (oracle_.violation().empty()) judge_liveness();
    outcome_.violation = oracle_.violation();
    outcome_.released = oracle_.received_count();
    if (oracle_.late_echoes() > 0) reached(Reached::late_echo_after_a_freeze);
    outcome_.steps = {hosts_[0].steps, hosts_[1].steps};
    return outcome_;
  }

 private:
  struct Event {
    Time at;
    std::uint64_t order;
    int host;  ///< -1: of the world.
    std::uint32_t incarnation;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  // --- time ---

  void after(Time delay, std::function<void()> what) {
    queue_.push({now_ + delay, order_++, -1, 0, std::move(what)});
  }
  /// On a host: not if its agent has gone meanwhile; later if it is stopped.
  void after(Host& host, Time delay, std::function<void()> what) {
    queue_.push({now_ + delay, order_++, host.id, host.incarnation, std::move(what)});
  }
  void handle(Event& event) {
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
      strike(options_.planned->fault, host);
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
  static Instant clock(const Host& host, Time now) {
    return Instant{} + std::chrono::microseconds(host.clock_origin + now * host.clock_rate / 1000);
  }
  [[nodiscard]] Instant clock(const Host& host) const { return clock(host, now_); }
  Time until(const Host& host, Instant deadline) const {
    if (deadline < clock(host)) return 0;  // Also Instant::min(), from which nothing can be taken.
    const auto left =
        std::chrono::duration_cast<std::chrono::microseconds>(deadline - clock(host)).count();
    return left * 1000 / host.clock_rate + 1;
  }
  /// The one timer that stands for every machine's next_deadline.
  void schedule_tick(Host& host) {
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
  void tick(Host& host) {
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

  template <typename... Args>
  void tell(fmt::format_string<Args...> format, Args&&... args) {
    if (options_.trace) {
      outcome_.story.push_back(fmt::format("{:>9.3f} ms  {}", static_cast<double>(now_) / kMs,
                                           fmt::format(format, std::forward<Args>(args)...)));
    }
  }
  void reached(Reached what) { ++outcome_.reached[static_cast<std::size_t>(what)]; }
  Host& other(const Host& host) { return hosts_[static_cast<std::size_t>(1 - host.id)]; }
  bool calm() const { return now_ >= kHealAt; }

  // --- the beginning ---

  void set_up() {
    connections_.emplace_back();  // Number 0 means 'none'.
    connections_.back().dead = true;
    if (options_.random_faults) {
      incremental_ = random_.once_in(2);
      bulk_is_life_ = random_.once_in(2);
      paths_ = static_cast<std::size_t>(random_.between(1, 2));
      base_delay_ = random_.between(50, 2500);
      page_cost_ = random_.once_in(4) ? random_.between(2 * kMs, 12 * kMs) : 60;
      arbiter_kind_ = static_cast<ArbiterKind>(random_.between(0, 2));
    }
    arbiter_kind_ = options_.arbiter.value_or(arbiter_kind_);
    tell("the arbiter: {}", static_cast<int>(arbiter_kind_));
    for (int id = 0; id < 2; ++id) {
      Host& host = hosts_[static_cast<std::size_t>(id)];
      host.id = id;
      if (options_.random_faults) {
        host.clock_origin = random_.between(0, 1'000'000'000);
        host.clock_rate = random_.between(900, 1100);
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
    if (options_.random_faults) {
      const auto faults = random_.between(0, 6);
      for (std::int64_t i = 0; i < faults; ++i) {
        after(random_.between(30 * kMs, kHealAt - 10 * kMs), [this] {
          strike(static_cast<Fault>(random_.between(0, kFaults - 1)),
                 hosts_[static_cast<std::size_t>(random_.between(0, 1))]);
        });
      }
    }
    after(kHealAt, [this] { heal(); });
  }

  /// The agent of `host` starts, with nothing but its disk.
  void boot(Host& host) {
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

  std::function<void(const Frame&)> deliver_from(Host& host) {
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
  void run_guests() {
    for (Host& host : hosts_) {
      if (!host.up || !host.domain || host.domain->paused || random_.once_in(4)) continue;
      Domain& domain = *host.domain;
      domain.dirty |= 1U << domain.state.step(random_.next());
      oracle_.stepped(domain.instance, domain.state);
      host.gate.emit({domain.state.n, domain.state.h}, deliver_from(host));
    }
    after(random_.between(3 * kMs, 14 * kMs), [this] { run_guests(); });
  }

  // --- the network ---

  bool cut(int from) const { return cut_until_[static_cast<std::size_t>(from)] > now_; }
  Time delay(int from) {
    const Time extra = slow_until_[static_cast<std::size_t>(from)] > now_
                           ? random_.between(0, slow_by_[static_cast<std::size_t>(from)])
                           : 0;
    return base_delay_ + random_.between(0, 300) + extra;
  }

  void send(std::size_t number, const Host& host, const Message& message) {
    Connection& connection = connections_[number];
    if (connection.dead) return;
    auto& waiting = connection.waiting[static_cast<std::size_t>(host.id)];
    if (cut(host.id) || !waiting.empty()) {
      waiting.push_back(message);
      return;
    }
    transmit(number, host.id, message);
  }
  void transmit(std::size_t number, int from, const Message& message) {
    Time& last = connections_[number].last[static_cast<std::size_t>(from)];
    const Time cost = message.kind == Message::Kind::page ? page_cost_ : 20;
    last = std::max(last, now_ + delay(from)) + cost;
    Host& to = hosts_[static_cast<std::size_t>(1 - from)];
    after(to, last - now_, [this, number, &to, message] {
      const Connection& connection = connections_[number];
      if (connection.dead && now_ > connection.cut_at) return;
      receive(to, number, message);
    });
  }
  /// What waited while a direction was cut goes out now.
  void flush() {
    for (std::size_t number = 1; number < connections_.size(); ++number) {
      for (int from = 0; from < 2; ++from) {
        auto& waiting = connections_[number].waiting[static_cast<std::size_t>(from)];
        if (waiting.empty() || cut(from)) continue;
        for (const Message& message : std::exchange(waiting, {})) {
          if (!connections_[number].dead) transmit(number, from, message);
        }
      }
    }
  }
  void break_connection(std::size_t number, Time noticed_within = 60 * kMs) {
    if (number == 0 || connections_[number].dead) return;
    Connection& connection = connections_[number];
    connection.dead = true;
    connection.cut_at = now_ + random_.between(0, 3 * kMs);
    for (Host& host : hosts_) {
      const Time late = 3 * kMs + random_.between(0, noticed_within);
      after(host, late, [this, &host, number] { notice_break(host, number); });
    }
  }
  void notice_break(Host& host, std::size_t number) {
    if (host.attempt == number) host.attempt = 0;
    if (host.link == number) {
      host.link = 0;
      tell("host {} primary: link down", host.id);
      if (host.primary) act(host, host.primary->on_link_down(clock(host)));
    }
    if (host.peer_link == number) {
      host.peer_link = 0;
      if (host.backup) act(host, host.backup->on_link_down());
    }
  }

  /// What `host` says of itself.
  PeerView view(const Host& host) const {
    if (host.backup && host.backup->state() != EpochBackup::State::promoted &&
        host.backup->state() != EpochBackup::State::discarded) {
      return host.backup->view();
    }
    if (!host.domain) return {ProtectionId{}, host.disk.generation, EpochId{}, PeerRole::none};
    const Generation generation = host.primary ? host.primary->generation() : host.disk.generation;
    return {host.disk.protection, generation, EpochId{}, PeerRole::running};
  }

  void heartbeat(Host& host) {
    for (std::size_t path = 0; path < paths_; ++path) {
      const Heartbeat beat{path, clock(host), host.peer_sent_at, view(host)};
      const bool lost = cut(host.id) || deaf_until_[static_cast<std::size_t>(host.id)] > now_ ||
                        (options_.random_faults && !calm() && random_.once_in(20));
      if (lost) continue;
      Host& to = other(host);
      after(to, delay(host.id), [this, &to, beat] { receive(to, beat); });
    }
    after(host, until(host, clock(host) + std::chrono::milliseconds(50)),
          [this, &host] { heartbeat(host); });
  }
  void receive(Host& host, const Heartbeat& beat) {
    host.detector->on_heartbeat(beat.path, clock(host));
    host.peer_gone = beat.view.role == PeerRole::none;
    if (host.promotion && !host.domain) {
      act(host, host.promotion->on_primary_heard(clock(host), beat.view.role));
      count_decision(host);
    }
    host.peer_sent_at = std::max(host.peer_sent_at.value_or(beat.sent_at), beat.sent_at);
    if (host.primary) {
      act(host,
          host.primary->on_peer_generation(clock(host), beat.view.generation, beat.view.role));
    }
    if (host.primary && beat.echo && beat.view.role == PeerRole::holding &&
        beat.view.protection == host.primary->protection()) {
      act(host, host.primary->on_peer_heard(clock(host), *beat.echo));
    }
    if (host.backup && beat.view.role == PeerRole::running) {
      act(host, host.backup->on_peer_generation(beat.view.generation));
    }
  }

  void keep_connected(Host& host) {
    if (host.primary && host.primary->state() != EpochPrimary::State::ended &&
        host.primary->state() != EpochPrimary::State::superseded && host.link == 0) {
      if (host.attempt != 0 && now_ - host.attempt_at > 300 * kMs) {
        break_connection(std::exchange(host.attempt, 0));
      }
      if (host.attempt == 0) {
        host.attempt = connections_.size();
        host.attempt_at = now_;
        connections_.emplace_back();
        connections_.back().from = host.id;
        Message hello;
        hello.protection = host.primary->protection();
        hello.generation = host.primary->generation();
        send(host.attempt, host, hello);
      }
    }
    after(host, random_.between(15 * kMs, 40 * kMs), [this, &host] { keep_connected(host); });
  }

  void receive(Host& host, std::size_t number, const Message& message) {
    if (bulk_is_life_) host.detector->on_heartbeat(0, clock(host));
    if (connections_[number].from == host.id) {
      receive_as_primary(host, number, message);
    } else {
      receive_as_backup(host, number, message);
    }
  }

  void receive_as_primary(Host& host, std::size_t number, const Message& message) {
    if (!host.primary) return;
    if (message.kind == Message::Kind::welcome) {
      if (host.attempt != number) return;
      host.attempt = 0;
      host.link = number;
      tell("host {} primary: link up, peer {} generation {} committed {}", host.id,
           to_string(message.view.role), message.view.generation, message.view.committed);
      const auto known = host.primary->acknowledged();
      const bool ended = host.primary->state() == EpochPrimary::State::ended;
      act(host, host.primary->on_link_up(clock(host), message.view));
      if (!host.primary) return;
      if (host.primary->acknowledged() > known) reached(Reached::commit_learnt_at_hello);
      if (!ended && host.primary->state() == EpochPrimary::State::ended) {
        reached(Reached::unprotect_confirmed_by_hello);
      }
      if (host.primary->state() == EpochPrimary::State::protecting) {
        reached(Reached::continued_without_copy);
      }
      return;
    }
    if (host.link != number) return;
    if (message.kind == Message::Kind::acknowledge) {
      act(host, host.primary->on_acknowledged(clock(host), message.protection, message.generation,
                                              message.epoch));
      if (host.primary && host.primary->released() < host.primary->acknowledged() &&
          host.primary->state() == EpochPrimary::State::protecting) {
        reached(Reached::lease_withheld_output);
        if (options_.canary == Canary::trust_old_acknowledgements) {
          host.gate.release(host.primary->acknowledged(), deliver_from(host));
        }
      }
    } else if (message.kind == Message::Kind::discarded) {
      act(host, host.primary->on_discarded(clock(host), message.protection));
    }
  }

  // --- the primary's doing ---

  void act(Host& host, const EpochPrimary::Actions& actions) {
    for (const auto& action : actions) {
      if (!host.primary || !host.domain) return;
      std::visit([&](const auto& what) { perform(host, what); }, action);
    }
  }
  void perform(Host& host, const EpochPrimary::SealAndCapture& capture) {
    final_pause(host, capture.epoch, capture.base, false);
  }
  /// Full copy while the guest runs, or the pages since `base` where this world remembers them.
  void perform(Host& host, const EpochPrimary::Synchronise& copy) {
    const bool incremental = incremental_ && copy.base != EpochId{};
    reached(incremental ? Reached::incremental_copy : Reached::full_copy);
    tell("host {} synchronises epoch {} upon {}", host.id, copy.epoch, copy.base);
    if (incremental) {
      for (const auto& [epoch, mask] : host.masks) {
        if (epoch > copy.base) host.domain->dirty |= mask;
      }
      final_pause(host, copy.epoch, copy.base, true);
      return;
    }
    host.domain->dirty = 0;
    send(host.link, host, begin_of(host, copy.epoch, EpochId{}));
    copy_live(host, copy.epoch, host.link, 0);
  }
  void perform(Host& host, const EpochPrimary::Release& release) {
    host.gate.release(release.up_to, deliver_from(host));
  }
  void perform(Host& host, const EpochPrimary::OpenGate&) {
    tell("host {} gate open ({})", host.id, to_string(host.primary->state()));
    // After a failed first capture the protection goes on: its record must stay.
    if (host.primary->state() != EpochPrimary::State::synchronising) host.disk.voice = true;
    host.gate.open(deliver_from(host));
  }
  void perform(Host& host, const EpochPrimary::PersistGeneration& it) {
    persist(host, it.generation, [this, &host, generation = it.generation](bool written) {
      if (!host.primary) return;
      if (!written) {
        reached(Reached::solo_not_written);
        host.primary->on_persist_failed();
        return;
      }
      act(host, host.primary->on_generation_persisted(clock(host), generation));
    });
  }
  void perform(Host& host, const EpochPrimary::AskArbiter& ask) {
    ask_as_primary(host, ask.generation);
  }
  void perform(Host& host, const EpochPrimary::ForgetClaim& claim) {
    forget(host, claim_of_primary(host, claim.generation));
  }
  static Arbiter::Claim claim_of_primary(const Host& host, Generation generation) {
    return {"web1", host.primary->protection(), generation, Arbiter::Claimant::primary};
  }
  void ask_as_primary(Host& host, Generation generation) {
    const Arbiter::Claim claim = claim_of_primary(host, generation);
    const Arbiter::Answer answer = ask(host, claim);
    if (answer != Arbiter::Answer::pending)
      act(host,
          host.primary->on_arbiter(clock(host), generation, answer == Arbiter::Answer::granted));
  }
  void perform(Host& host, const EpochPrimary::AskDiscard&) {
    Message message;
    message.kind = Message::Kind::ask_discard;
    message.protection = host.primary->protection();
    message.generation = host.primary->generation();
    send(host.link, host, message);
  }
  void perform(Host& host, const EpochPrimary::DestroyDomain& destroy) {
    tell("host {} destroys its copy", host.id);
    drop_domain(host);
    write(host, std::max(host.disk.generation, destroy.generation));
    look_for_loss();  // The promoted copy may have died after it had told us of itself.
  }
  void perform(Host& host, const EpochPrimary::Reconnect&) { break_connection(host.link); }
  void perform(Host& host, const EpochPrimary::Report& report) { note(host, report); }
  void note(const Host& host, const EpochPrimary::Report& report) {
    tell("host {} primary: {} (epoch {})", host.id, to_string(report.event), report.epoch);
    switch (report.event) {
      case EpochPrimary::Event::superseded:
        return reached(Reached::superseded);
      case EpochPrimary::Event::newer_copy_lost:
        return reached(Reached::newer_copy_lost);
      case EpochPrimary::Event::peer_promoting:
        return reached(Reached::peer_promoting);
      case EpochPrimary::Event::capture_failed:
        return reached(Reached::capture_failed);
      case EpochPrimary::Event::capture_keeps_failing:
        return reached(Reached::capture_keeps_failing);
      case EpochPrimary::Event::went_solo:
        return reached(Reached::went_solo);
      case EpochPrimary::Event::unprotected:
        return reached(Reached::unprotected);
      default:
        return;
    }
  }

  void drop_domain(Host& host) {
    host.domain.reset();
    host.gate = Gate{};
    host.masks.clear();
    host.disk.voice = false;
  }

  Message begin_of(const Host& host, EpochId epoch, EpochId base) {
    Message begin;
    begin.kind = Message::Kind::begin;
    begin.protection = host.primary->protection();
    begin.generation = host.primary->generation();
    begin.epoch = epoch;
    begin.base = base;
    begin.origin = host.domain->instance;
    return begin;
  }
  void copy_live(Host& host, EpochId epoch, std::size_t link, std::size_t page) {
    if (!host.domain || !host.primary) return;
    if (host.link != link) {
      act(host, host.primary->on_capture_failed(clock(host)));
      return;
    }
    if (page == kPages) {
      final_pause(host, epoch, EpochId{}, true);
      return;
    }
    send_page(host, link, page, host.domain->state);
    after(host, random_.between(200, 3 * kMs),
          [this, &host, epoch, link, page] { copy_live(host, epoch, link, page + 1); });
  }
  void send_page(const Host& host, std::size_t link, std::size_t page, const GuestState& state) {
    Message message;
    message.kind = Message::Kind::page;
    message.page = page;
    message.value = state.pages[page];
    send(link, host, message);
  }

  void final_pause(Host& host, EpochId epoch, EpochId base, bool copy) {
    const std::size_t link = host.link;
    const Instance instance = host.domain->instance;
    host.domain->paused = true;
    host.gate.seal(epoch);
    const bool fails =
        options_.random_faults && !calm() && (host.fail_captures || random_.once_in(150));
    after(host, random_.between(kMs, 4 * kMs),
          [this, &host, epoch, base, copy, link, fails, instance] {
            if (!host.domain || host.domain->instance != instance) return;
            Domain& domain = *host.domain;
            domain.paused = false;
            const GuestState state = domain.state;
            const std::uint32_t mask = std::exchange(domain.dirty, 0);
            if (!host.primary) return;
            if (fails) {
              act(host, host.primary->on_capture_failed(clock(host)));
              return;
            }
            const bool full = copy && base == EpochId{};
            host.masks[epoch] = full ? (1U << kPages) - 1 : mask;
            while (host.masks.size() > 8) host.masks.erase(host.masks.begin());
            if (host.link != link) reached(Reached::captured_for_dead_link);
            act(host, host.primary->on_captured(clock(host), epoch));
            if (host.primary && host.domain)
              transmit_epoch(host, link, epoch, base, full, mask, state);
          });
  }
  void transmit_epoch(Host& host, std::size_t link, EpochId epoch, EpochId base, bool full,
                      std::uint32_t mask, const GuestState& state) {
    if (host.link != link || link == 0) return;
    if (!full) send(link, host, begin_of(host, epoch, base));
    std::uint64_t count = full ? kPages : 0;
    for (std::size_t page = 0; page < kPages; ++page) {
      if ((mask & (1U << page)) == 0) continue;
      send_page(host, link, page, state);
      ++count;
    }
    Message end = begin_of(host, epoch, base);
    end.kind = Message::Kind::end;
    end.value = count;
    end.n = state.n;
    end.h = state.h;
    send(link, host, end);
    host.primary->on_sent(epoch);
    if (options_.canary == Canary::release_when_sent) host.gate.release(epoch, deliver_from(host));
  }

  // --- the backup's doing ---

  void make_backup(Host& host, ProtectionId protection, Generation generation) {
    host.promotion.reset();
    host.staging.reset();
    host.whole.clear();
    host.image = Image{};
    write(host, std::max(host.disk.generation, generation));
    host.disk.protection = protection;
    host.backup = std::make_unique<EpochBackup>(protection, host.disk.generation);
    host.decided = host.peer_gone = false;
    Promotion::Config config;
    config.domain = "web1";
    host.promotion = std::make_unique<Promotion>(config, *host.backup, *host.arbiter);
  }

  void receive_as_backup(Host& host, std::size_t number, const Message& message) {
    if (message.kind == Message::Kind::hello) {
      if (number < host.peer_link) return;  // Overtaken by a newer connection.
      if (host.peer_link != 0) notice_break(host, host.peer_link);
      host.peer_link = number;
      if (host.primary) {
        act(host,
            host.primary->on_peer_generation(clock(host), message.generation, PeerRole::running));
      }
      if (host.backup) act(host, host.backup->on_peer_generation(message.generation));
      Message welcome;
      welcome.kind = Message::Kind::welcome;
      welcome.view = view(host);
      send(number, host, welcome);
      return;
    }
    if (host.peer_link != number || host.domain) return;
    switch (message.kind) {
      case Message::Kind::begin: {
        // On a connection that the primary has confirmed by going on: its new protection replaces
        // what an older one has left here, unless that one is being promoted.
        const bool busy = host.backup && host.backup->state() == EpochBackup::State::promoting;
        const bool fresh = !host.backup || host.backup->protection() != message.protection ||
                           host.backup->state() == EpochBackup::State::discarded ||
                           host.backup->state() == EpochBackup::State::promoted;
        if (!busy && fresh && message.generation >= host.disk.generation) {
          make_backup(host, message.protection, message.generation);
        }
        if (!host.backup) break_connection(number);
        if (host.backup && !host.backup->all_applied() && message.base == EpochId{}) {
          finish_applies(host);
        }
        if (!host.backup) return;
        act(host, host.backup->on_begin(message.protection, message.generation, message.epoch,
                                        message.base));
        if (host.staging) host.image.origin = message.origin;
        const bool decided = host.backup->state() == EpochBackup::State::promoting ||
                             host.backup->state() == EpochBackup::State::promoted;
        if (options_.canary == Canary::acknowledge_before_whole && !decided) {
          acknowledge(host, message);
        }
        return;
      }
      case Message::Kind::page:
        if (!host.staging) return;
        ++host.staging->count;
        if (host.staging->in_place) {
          host.image.memory.pages[message.page] = message.value;
        } else {
          host.staging->pages[message.page] = message.value;
        }
        return;
      case Message::Kind::end:
        receive_end(host, message);
        return;
      case Message::Kind::ask_discard:
        if (host.backup) {
          act(host, host.backup->on_unprotect(message.protection, message.generation));
        } else {
          Message discarded;
          discarded.kind = Message::Kind::discarded;
          discarded.protection = message.protection;
          send(number, host, discarded);
        }
        return;
      default:
        return;
    }
  }
  void acknowledge(Host& host, const Message& message) {
    Message answer;
    answer.kind = Message::Kind::acknowledge;
    answer.protection = message.protection;
    answer.generation = message.generation;
    answer.epoch = message.epoch;
    send(host.peer_link, host, answer);
  }
  void receive_end(Host& host, const Message& message) {
    if (!host.backup) return;
    if (options_.canary == Canary::acknowledge_after_decision &&
        host.backup->state() == EpochBackup::State::promoting) {
      acknowledge(host, message);
      return;
    }
    if (!host.staging || host.staging->epoch != message.epoch ||
        host.staging->count != message.value) {
      return;
    }
    host.staging->n = message.n;
    host.staging->h = message.h;
    host.whole[message.epoch] = std::move(*host.staging);
    host.staging.reset();
    host.image.whole = true;
    host.image.whole_n = message.n;
    oracle_.whole(message.protection, message.n);
    act(host, host.backup->on_whole(clock(host), message.epoch));
  }
  void apply(Host& host, EpochId epoch) {
    const auto found = host.whole.find(epoch);
    if (found == host.whole.end()) return;
    for (const auto& [page, value] : found->second.pages) host.image.memory.pages[page] = value;
    host.image.memory.n = found->second.n;
    host.image.memory.h = found->second.h;
    host.whole.erase(found);
    if (!host.backup) return;
    act(host, host.backup->on_applied(epoch));
    if (host.promotion) act(host, host.promotion->on_applied(clock(host)));
  }
  void finish_applies(Host& host) {
    while (!host.whole.empty()) apply(host, host.whole.begin()->first);
  }

  void act(Host& host, const EpochBackup::Actions& actions) {
    for (const auto& action : actions) {
      std::visit([&](const auto& what) { perform(host, what); }, action);
    }
  }
  void perform(Host& host, const EpochBackup::Stage& stage) {
    host.staging = Staged{stage.epoch, stage.in_place, {}, 0, 0, 0};
    if (!stage.in_place) return;
    host.whole.clear();
    host.image = Image{};
    look_for_loss();  // The same.
  }
  void perform(Host& host, const EpochBackup::Acknowledge& whole) {
    Message answer;
    answer.protection = whole.protection;
    answer.generation = whole.generation;
    answer.epoch = whole.epoch;
    acknowledge(host, answer);
  }
  void perform(Host& host, const EpochBackup::Apply& it) {
    after(host, random_.between(200, 4 * kMs),
          [this, &host, epoch = it.epoch] { apply(host, epoch); });
  }
  void perform(Host& host, const EpochBackup::DropStaged& drop) {
    host.whole.erase(drop.epoch);
    if (!host.staging || host.staging->epoch != drop.epoch) return;
    if (options_.canary == Canary::apply_half) {
      for (const auto& [page, value] : host.staging->pages) host.image.memory.pages[page] = value;
    }
    host.staging.reset();
  }
  void perform(Host& host, const EpochBackup::DiscardImage& discard) {
    host.staging.reset();
    host.whole.clear();
    host.image = Image{};
    Message discarded;
    discarded.kind = Message::Kind::discarded;
    discarded.protection = discard.protection;
    send(host.peer_link, host, discarded);
    look_for_loss();  // The primary may have died after it had asked for this.
  }
  void perform(Host& host, const EpochBackup::Refuse& refuse) {
    tell("host {} backup refuses epoch {}: {}", host.id, refuse.epoch, to_string(refuse.reason));
    reached(Reached::backup_refused);
    break_connection(host.peer_link);
  }
  void perform(Host& host, const EpochBackup::Report& report) {
    tell("host {} backup: {} (epoch {})", host.id, to_string(report.event), report.epoch);
    if (report.event != EpochBackup::Event::checkpoint_dropped) return;
    reached(Reached::checkpoint_dropped);
    // Of a copy in place nothing is left to finish.
    if (host.staging && host.staging->in_place) host.staging.reset();
  }

  // --- promotion ---

  void wish_promotion(Host& host) {
    if (!host.promotion || !host.backup || host.domain || now_ < host.next_wish) return;
    const bool dead = host.detector->verdict() == FailureDetector::Verdict::dead;
    if (!dead && !host.peer_gone) return;
    if (host.backup->state() == EpochBackup::State::discarded) return;
    host.next_wish = now_ + 100 * kMs;
    want_promotion(host, dead ? Promotion::Cause::primary_dead : Promotion::Cause::primary_gone);
  }
  void want_promotion(Host& host, Promotion::Cause cause) {
    act(host, host.promotion->on_wanted(clock(host), cause, host.detector->last_sign_of_life()));
    if (count_decision(host) && cause == Promotion::Cause::operator_word) {
      reached(Reached::promotion_by_hand);
    }
  }
  bool count_decision(Host& host) {
    if (host.decided || host.backup->state() != EpochBackup::State::promoting) return false;
    host.decided = true;
    tell("host {} decides to promote epoch {}", host.id, host.backup->committed());
    reached(Reached::promotion);
    if (other(host).up && other(host).domain) reached(Reached::promotion_of_living_primary);
    return true;
  }
  void act(Host& host, const Promotion::Actions& actions) {
    for (const auto& action : actions) {
      if (!host.promotion) return;
      std::visit([&](const auto& what) { perform(host, what); }, action);
    }
  }
  void perform(Host& host, const Promotion::PersistGeneration& it) {
    persist(host, it.generation, [this, &host](bool written) {
      if (!host.promotion) return;
      if (written) {
        act(host, host.promotion->on_generation_persisted(clock(host)));
        return;
      }
      reached(Reached::promotion_failed);
      host.promotion->on_failed(clock(host));
    });
  }
  void perform(Host& host, const Promotion::ResumeDomain&) {
    after(host, random_.between(kMs, 8 * kMs), [this, &host] { resume(host); });
  }
  void perform(Host& host, const Promotion::OpenGate&) {
    tell("host {} speaks as instance {}", host.id, host.domain->instance);
    host.disk.voice = true;
    host.disk.protection = ProtectionId{};
    host.gate.open(deliver_from(host));
  }
  void perform(Host& host, const Promotion::Announce&) {
    after(host, kMs, [this, &host] {
      if (host.promotion) host.promotion->on_announced(clock(host));
    });
    after(host, 10 * kMs, [this, &host] {
      if (!host.promotion) return;
      host.promotion->on_done(clock(host));
      host.promotion.reset();
      host.backup.reset();
    });
  }
  void perform(const Host& host, const Promotion::Refused& refused) {
    tell("host {} promotion refused: {}", host.id, to_string(refused.refusal));
    if (refused.refusal == Promotion::Refusal::image_incomplete) reached(Reached::image_incomplete);
  }
  void resume(Host& host) {
    if (!host.promotion || host.domain) return;
    if (host.backup->state() != EpochBackup::State::promoting) {
      act(host, host.promotion->on_resumed(clock(host)));
      return;
    }
    Domain domain;
    domain.state = host.image.memory;
    domain.instance = oracle_.resumed(host.image.origin, domain.state);
    if (!oracle_.knows_all(domain.instance, domain.state.n)) {
      oracle_.violate(
          fmt::format("host {} resumes n={}, and the client has been told of later states", host.id,
                      domain.state.n));
    }
    if (domain.instance > 1) reached(Reached::second_promotion);
    host.domain = domain;
    host.gate = Gate{};
    host.image = Image{};
    host.masks.clear();
    host.primary.reset();
    host.asked_protection = ProtectionId{};
    host.solo_said = host.unprotect_said = false;
    act(host, host.promotion->on_resumed(clock(host)));
  }

  // --- the arbiter ---

  /// A host's way to the arbiter: what EtcdArbiter and FenceArbiter do, on simulated time.
  class HostArbiter final : public Arbiter {
   public:
    HostArbiter(World& world, Host& host) : world_(world), host_(host) {}
    Answer ask(const Claim& claim) override { return world_.ask(host_, claim); }
    void forget(const Claim& claim) override { world_.forget(host_, claim); }
    [[nodiscard]] std::string_view name() const override { return "simulated"; }

   private:
    World& world_;
    Host& host_;
  };

  Arbiter::Answer ask(Host& host, const Arbiter::Claim& claim) {
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
  void forget(Host& host, const Arbiter::Claim& claim) {
    if (!host.asked || !(host.asked->claim == claim)) return;
    host.asked->wanted = false;
    host.asked->stale = true;
  }
  void pursue(Host& host, const Arbiter::Claim& claim) {
    if (!host.asked || !(host.asked->claim == claim)) return;
    if (!host.asked->wanted) {
      host.asked.reset();
      return;
    }
    if (arbiter_kind_ == ArbiterKind::fence) {
      host.asked->stale = false;
      after(host, random_.between(20 * kMs, 200 * kMs),
            [this, &host, claim] { shoot(host, claim); });
      return;
    }
    const Time late = random_.once_in(6) ? random_.between(0, 700 * kMs) : 0;
    after(random_.between(kMs, 15 * kMs) + late,
          [this, &host, claim, sent = now_, incarnation = host.incarnation] {
            serve(host, claim, sent, incarnation);
          });
    after(host, 300 * kMs, [this, &host, claim] { pursue(host, claim); });
  }
  /// etcd gets a claim, which may have been long on its way; the host may be another by now.
  void serve(Host& host, const Arbiter::Claim& claim, Time sent, std::uint32_t incarnation) {
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
    if (host.incarnation != incarnation || (!calm() && random_.once_in(6))) return;
    after(host, random_.between(kMs, 15 * kMs),
          [this, &host, claim, granted] { answered(host, claim, granted); });
  }
  void shoot(Host& host, const Arbiter::Claim& claim) {
    if (!host.asked || !(host.asked->claim == claim)) return;
    const bool works = calm() || !random_.once_in(4);
    if (works) {
      tell("host {} fences host {}", host.id, 1 - host.id);
      reached(Reached::fenced);
      crash(other(host));
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
  void answered(Host& host, const Arbiter::Claim& claim, bool granted) {
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
      act(host,
          host.promotion->on_arbiter(clock(host), answer, host.detector->last_sign_of_life()));
      if (granted && waited && count_decision(host)) reached(Reached::promotion_by_grant);
    }
  }
  static std::string name_of_host(int id) { return id == 0 ? "hostA" : "hostB"; }

  // --- disks ---

  void write(Host& host, Generation generation) {
    host.disk.generation = generation;
    oracle_.persisted(host.id, generation);
  }
  void persist(Host& host, Generation generation, std::function<void(bool)> done) {
    const bool fails =
        !calm() && (now_ < host.disk_full_until || (options_.random_faults && random_.once_in(12)));
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

  // --- faults ---

  void strike(Fault fault, Host& host) {
    outcome_.whole_when_struck = hosts_[0].image.whole || hosts_[1].image.whole;
    const auto id = static_cast<std::size_t>(host.id);
    switch (fault) {
      case Fault::crash:
        return crash(host);
      case Fault::restart_agent:
        return restart_agent(host);
      case Fault::stall: {
        if (!host.up) return;
        host.stalled_until =
            std::max(host.stalled_until, now_ + random_.between(50 * kMs, 700 * kMs));
        tell("host {} stalls until {} ms", host.id, host.stalled_until / kMs);
        // The timer fires before the sockets are read: the worst order.
        queue_.push({host.stalled_until, order_++, host.id, host.incarnation,
                     [this, &host] { tick(host); }});
        return;
      }
      case Fault::break_link:
        tell("links break");
        for (const Host& each : hosts_) break_connection(each.link);
        host.fail_captures = random_.once_in(4);
        return;
      case Fault::cut_both_ways:
      case Fault::cut_one_way: {
        const Time length = random_.between(50 * kMs, 800 * kMs);
        tell("host {} cut off{} for {} ms", host.id, fault == Fault::cut_one_way ? " one way" : "",
             length / kMs);
        cut_until_[id] = now_ + length;
        if (fault == Fault::cut_both_ways) cut_until_[1 - id] = now_ + length;
        after(length + 1, [this] { flush(); });
        if (random_.once_in(2)) {
          after(random_.between(0, length), [this] {
            for (const Host& each : hosts_) break_connection(each.link, 300 * kMs);
          });
        }
        return;
      }
      case Fault::slow_link:
        slow_until_[id] = now_ + random_.between(100 * kMs, 600 * kMs);
        slow_by_[id] = random_.between(20 * kMs, 500 * kMs);
        tell("host {} sends slowly, up to {} ms", host.id, slow_by_[id] / kMs);
        return;
      case Fault::lose_heartbeats:
        deaf_until_[id] = now_ + random_.between(100 * kMs, 600 * kMs);
        tell("host {} heartbeats lost until {} ms", host.id, deaf_until_[id] / kMs);
        return;
      case Fault::flap:
        tell("the network flaps");
        return flap(random_.between(3, 9));
      case Fault::freeze: {
        if (!host.up || now_ < host.stalled_until) return;
        const Time length = random_.between(50 * kMs, 700 * kMs);
        host.stalled_until = now_ + length;
        host.clock_origin -= length * host.clock_rate / 1000;
        host.clock_stopped_once = true;
        tell("host {} is frozen until {} ms, clock and all", host.id, host.stalled_until / kMs);
        return;
      }
      case Fault::slow_disk:
        host.disk_slow_until = now_ + random_.between(100 * kMs, 800 * kMs);
        tell("host {} writes slowly until {} ms", host.id, host.disk_slow_until / kMs);
        return;
      case Fault::full_disk:
        host.disk_full_until = now_ + random_.between(100 * kMs, 800 * kMs);
        tell("host {} disk full until {} ms", host.id, host.disk_full_until / kMs);
        return;
      case Fault::arbiter_outage:
        arbiter_down_until_ = now_ + random_.between(100 * kMs, 900 * kMs);
        tell("the arbiter is away until {} ms", arbiter_down_until_ / kMs);
        return;
      case Fault::arbiter_emptied:
        if (arbiter_kind_ != ArbiterKind::etcd) return;
        tell("the arbiter comes back empty");
        if (!book_.empty()) reached(Reached::arbiter_lost_its_data);
        book_.clear();
        return;
    }
  }

  void flap(std::int64_t turns) {
    if (turns == 0 || calm()) return;
    const Time length = random_.between(5 * kMs, 80 * kMs);
    const auto which = random_.between(0, 2);
    for (std::size_t id = 0; id < 2; ++id) {
      if (which == 2 || which == static_cast<std::int64_t>(id))
        cut_until_[id] = std::max(cut_until_[id], now_ + length);
    }
    after(length + 1, [this] { flush(); });
    after(length + random_.between(5 * kMs, 60 * kMs), [this, turns] { flap(turns - 1); });
  }

  /// The agent and all that it holds are gone; its connections are reset.
  void kill_agent(Host& host) {
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
  void crash(Host& host) {
    if (!host.up) return;
    tell("host {} crashes", host.id);
    kill_agent(host);
    host.up = false;
    host.domain.reset();
    host.disk.voice = false;
    // The power fails before the write has reached the platter.
    if (options_.canary == Canary::forget_generation) host.disk.generation = Generation{0};
    look_for_loss();
    after(random_.between(60 * kMs, 900 * kMs), [this, &host] { come_back(host); });
  }
  void come_back(Host& host) {
    if (host.up) return;
    tell("host {} comes back", host.id);
    host.up = true;
    boot(host);
  }
  void restart_agent(Host& host) {
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

  /// Beyond the fault budget: no copy is left that knows all that the client was told.
  void look_for_loss() {
    if (lost_) return;
    for (const Host& host : hosts_) {
      if (host.up && host.domain &&
          oracle_.knows_all(host.domain->instance, host.domain->state.n)) {
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

  void heal() {
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
    page_cost_ = 60;
    flush();
    watch();
  }

  // --- the operator, who keeps promises ---

  EpochPrimary::Config primary_config(const Host& host) const {
    EpochPrimary::Config config;
    config.protection = host.disk.protection;
    config.generation = host.disk.generation;
    if (options_.canary == Canary::trust_old_acknowledgements) {
      config.lease = std::chrono::hours(1);
    }
    if (arbiter_kind_ != ArbiterKind::none) config.ask_solo_after = std::chrono::milliseconds(300);
    config.grants_last = arbiter_kind_ != ArbiterKind::fence;
    return config;
  }
  void protect(Host& host) {
    // The books are opened first; where that fails nothing begins.
    if (now_ < arbiter_down_until_ && arbiter_kind_ == ArbiterKind::etcd) return;
    host.disk.protection = ProtectionId{++protections_};
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
  /// The host whose copy is the domain.
  Host* rightful() {
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
  /// Whether it is true that `peer` holds no image and cannot get one any more from what is on its
  /// way to it: the operator has looked.
  bool harmless(const Host& peer, const Host& host) const {
    if (peer.domain || now_ < peer.stalled_until) return false;
    if (!peer.up) return true;
    const bool empty = !peer.backup || peer.backup->state() == EpochBackup::State::discarded;
    return empty && host.link != 0 && peer.peer_link == host.link;
  }
  /// With an arbiter the operator promises that the primary does not speak alone, and will not.
  bool may_promote_by_hand(const Host& backup) {
    if (arbiter_kind_ == ArbiterKind::none) return true;
    const Host& primary = other(backup);
    return !primary.up || !primary.domain;
  }
  /// Nobody runs the domain, and the arbiter (which has lost its data, say) lets nobody: a person
  /// looks whether a copy is left.
  void speak_up() {
    for (Host& host : hosts_) {
      if (!host.up || !host.promotion || host.domain || now_ < host.stalled_until) continue;
      if (host.backup->state() != EpochBackup::State::ready || !may_promote_by_hand(host)) continue;
      tell("the operator promotes host {}, which nobody else lets", host.id);
      want_promotion(host, Promotion::Cause::operator_word);
      schedule_tick(host);
      return;
    }
  }
  void operate() {
    after(random_.between(40 * kMs, 80 * kMs), [this] { operate(); });
    if (lost_) return;
    Host* host = rightful();
    if (options_.random_faults && !calm() && !random_.once_in(3)) return;
    if (host == nullptr && calm() && now_ > kHealAt + 700 * kMs) speak_up();
    Host* backup = &hosts_[host != nullptr ? static_cast<std::size_t>(1 - host->id) : 0];
    if (!calm() && options_.random_faults && backup->promotion && backup->up && !backup->domain &&
        backup->backup->state() == EpochBackup::State::ready && now_ >= backup->stalled_until &&
        may_promote_by_hand(*backup) && random_.once_in(25)) {
      tell("host {} is asked to promote by hand", backup->id);
      want_promotion(*backup, Promotion::Cause::operator_word);
      schedule_tick(*backup);
      return;
    }
    if (host == nullptr || now_ < host->stalled_until) return;
    Host& peer = other(*host);
    const bool unprotected = !host->primary ||
                             host->primary->state() == EpochPrimary::State::ended ||
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
    } else if (!calm() && options_.random_faults && random_.once_in(8)) {
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

  // --- the end ---

  [[nodiscard]] bool whole_again() {
    const Host* host = rightful();
    return host != nullptr && host->primary &&
           host->primary->state() == EpochPrimary::State::protecting &&
           now_ - spoken_at_ < 150 * kMs && host->primary->acknowledged() > EpochId{3};
  }
  void watch() {
    // Stays so for a while: not a flash between two troubles.
    steady_ = whole_again() ? steady_ + 1 : 0;
    if (steady_ >= 4 || (lost_ && now_ > kHealAt + 800 * kMs)) finished_ = true;
    after(50 * kMs, [this] { watch(); });
  }
  void judge_liveness() {
    if (lost_ || finished_) return;
    const Host* host = rightful();
    oracle_.violate(
        fmt::format("no progress after everything was repaired: {}, last output at {} ms",
                    host == nullptr ? std::string("nobody runs the domain")
                                    : fmt::format("host {} is {}", host->id,
                                                  host->primary ? to_string(host->primary->state())
                                                                : std::string("unprotected")),
                    spoken_at_ / kMs));
  }

  Options options_;
  Random random_;
  Outcome outcome_;
  Oracle oracle_;
  NoArbiter no_arbiter_;
  ArbiterKind arbiter_kind_ = ArbiterKind::none;
  std::map<ProtectionId, Holding> book_;
  Time arbiter_down_until_ = 0;
  std::array<Host, 2> hosts_;
  std::deque<Connection> connections_;
  std::priority_queue<Event> queue_;
  std::uint64_t order_ = 0;
  Time now_ = 0;
  std::uint64_t protections_ = 0;
  Time spoken_at_ = 0;
  int steady_ = 0;
  bool lost_ = false;
  bool finished_ = false;

  bool incremental_ = false;
  bool bulk_is_life_ = true;
  std::size_t paths_ = 1;
  Time base_delay_ = 200;
  Time page_cost_ = 60;
  std::array<Time, 2> cut_until_{};
  std::array<Time, 2> slow_until_{};
  std::array<Time, 2> slow_by_{};
  std::array<Time, 2> deaf_until_{};
};

}  // namespace

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
                                                                 "write_lost_in_a_crash"};
  return kNames[static_cast<std::size_t>(what)];
}

Outcome run(const Options& options) {
  return World(options).run();
}

}  // namespace understudy::sim
