#include <algorithm>
#include <utility>

#include "tests/sim/inside.h"

namespace understudy::sim {

// --- the network ---

Time World::delay(int from) {
  const Time extra = slow_until_[static_cast<std::size_t>(from)] > now_
                         ? random_.between(0, slow_by_[static_cast<std::size_t>(from)])
                         : 0;
  return base_delay_ + random_.between(0, 300) + extra;
}

void World::send(std::size_t number, const Host& host, const Message& message) {
  Connection& connection = connections_[number];
  if (connection.dead) return;
  auto& waiting = connection.waiting[static_cast<std::size_t>(host.id)];
  if (cut(host.id) || !waiting.empty()) {
    waiting.push_back(message);
    return;
  }
  transmit(number, host.id, message);
}

void World::transmit(std::size_t number, int from, const Message& message) {
  Time& last = connections_[number].last[static_cast<std::size_t>(from)];
  const Time cost = message.kind == Message::Kind::page ? page_cost_ : 20;
  last = std::max(last, now_ + delay(from)) + cost;
  Host& to = hosts_[static_cast<std::size_t>(1 - from)];
  after(to, last - now_, [this, number, &to, message] {
    const Connection& connection = connections_[number];
    if (connection.dead && now_ > connection.cut_at) return;
    receive(to, number, message);
    // An answer that is given twice says nothing new.
    if (message.kind == Message::Kind::acknowledge &&
        twice_until_[static_cast<std::size_t>(1 - to.id)] > now_) {
      receive(to, number, message);
    }
  });
}

void World::flush() {
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

void World::break_connection(std::size_t number, Time noticed_within) {
  if (number == 0 || connections_[number].dead) return;
  Connection& connection = connections_[number];
  connection.dead = true;
  connection.cut_at = now_ + random_.between(0, 3 * kMs);
  for (Host& host : hosts_) {
    const Time late = 3 * kMs + random_.between(0, noticed_within);
    after(host, late, [this, &host, number] { notice_break(host, number); });
  }
}

void World::notice_break(Host& host, std::size_t number) {
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

PeerView World::view(const Host& host) const {
  if (host.backup && host.backup->state() != EpochBackup::State::promoted &&
      host.backup->state() != EpochBackup::State::discarded) {
    return host.backup->view();
  }
  if (!host.domain) return {ProtectionId{}, host.disk.generation, EpochId{}, PeerRole::none};
  const Generation generation = host.primary ? host.primary->generation() : host.disk.generation;
  return {host.disk.protection, generation, EpochId{}, PeerRole::running};
}

void World::heartbeat(Host& host) {
  for (std::size_t path = 0; path < paths_; ++path) {
    const Heartbeat beat{path, clock(host), host.peer_sent_at, view(host)};
    const bool lost = cut(host.id) || deaf_until_[static_cast<std::size_t>(host.id)] > now_ ||
                      (uneasy() && random_.once_in(20));
    if (lost) continue;
    Host& to = other(host);
    after(to, delay(host.id), [this, &to, beat] { receive(to, beat); });
    if (twice_until_[static_cast<std::size_t>(host.id)] > now_) {
      reached(Reached::heard_twice);
      after(to, delay(host.id) + random_.between(0, 400 * kMs),
            [this, &to, beat] { receive(to, beat); });
    }
  }
  after(host, until(host, clock(host) + std::chrono::milliseconds(50)),
        [this, &host] { heartbeat(host); });
}

void World::receive(Host& host, const Heartbeat& beat) {
  host.detector->on_heartbeat(beat.path, clock(host));
  host.peer_gone = beat.view.role == PeerRole::none;
  if (host.promotion && !host.domain) {
    act(host, host.promotion->on_primary_heard(clock(host), beat.view.role));
    count_decision(host);
  }
  host.peer_sent_at = std::max(host.peer_sent_at.value_or(beat.sent_at), beat.sent_at);
  if (host.primary) {
    act(host, host.primary->on_peer_generation(clock(host), beat.view.generation, beat.view.role));
  }
  if (host.primary && beat.echo && beat.view.role == PeerRole::holding &&
      beat.view.protection == host.primary->protection()) {
    act(host, host.primary->on_peer_heard(clock(host), *beat.echo));
  }
  if (host.backup && beat.view.role == PeerRole::running) {
    act(host, host.backup->on_peer_generation(beat.view.generation));
  }
}

void World::keep_connected(Host& host) {
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

void World::receive(Host& host, std::size_t number, const Message& message) {
  if (bulk_is_life_) host.detector->on_heartbeat(0, clock(host));
  if (connections_[number].from == host.id) {
    receive_as_primary(host, number, message);
  } else {
    receive_as_backup(host, number, message);
  }
}

void World::receive_as_primary(Host& host, std::size_t number, const Message& message) {
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
    const EpochId before = host.primary->acknowledged();
    act(host, host.primary->on_acknowledged(clock(host), message.protection, message.generation,
                                            message.epoch));
    if (host.primary && host.primary->acknowledged() > before &&
        host.primary->hand_over() == EpochPrimary::HandOver::none) {
      host.disk.handing_over = false;
    }
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

}  // namespace understudy::sim
