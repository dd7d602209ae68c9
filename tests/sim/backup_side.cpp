#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "tests/sim/inside.h"

namespace understudy::sim {

// --- the backup's doing ---

void World::make_backup(Host& host, ProtectionId protection, Generation generation) {
  host.promotion.reset();
  host.staging.reset();
  host.whole.clear();
  host.image = Image{};
  write(host, std::max(host.disk.generation, generation));
  host.disk.protection = protection;
  host.disk.handing_over = false;
  host.backup = std::make_unique<EpochBackup>(protection, host.disk.generation);
  host.decided = host.peer_gone = false;
  Promotion::Config config;
  config.domain = "web1";
  host.promotion = std::make_unique<Promotion>(config, *host.backup, *host.arbiter);
}

void World::receive_as_backup(Host& host, std::size_t number, const Message& message) {
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
    case Message::Kind::yours:
      // Of another epoch it would be a mixture of words: the connection ends, the next hello tells.
      if (!host.promotion || host.backup->protection() != message.protection ||
          host.backup->generation() != message.generation ||
          host.backup->committed() != message.epoch) {
        return break_connection(number);
      }
      return want_promotion(host, Promotion::Cause::handed_over);
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

void World::acknowledge(Host& host, const Message& message) {
  Message answer;
  answer.kind = Message::Kind::acknowledge;
  answer.protection = message.protection;
  answer.generation = message.generation;
  answer.epoch = message.epoch;
  send(host.peer_link, host, answer);
}

void World::receive_end(Host& host, const Message& message) {
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

void World::apply(Host& host, EpochId epoch) {
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

void World::finish_applies(Host& host) {
  while (!host.whole.empty()) apply(host, host.whole.begin()->first);
}

void World::act(Host& host, const EpochBackup::Actions& actions) {
  for (const auto& action : actions) {
    std::visit([&](const auto& what) { perform(host, what); }, action);
  }
}

void World::perform(Host& host, const EpochBackup::Stage& stage) {
  host.staging = Staged{stage.epoch, stage.in_place, {}, 0, 0, 0};
  if (!stage.in_place) return;
  host.whole.clear();
  host.image = Image{};
  look_for_loss();  // The same.
}

void World::perform(Host& host, const EpochBackup::Acknowledge& whole) {
  Message answer;
  answer.protection = whole.protection;
  answer.generation = whole.generation;
  answer.epoch = whole.epoch;
  acknowledge(host, answer);
}

void World::perform(Host& host, const EpochBackup::Apply& it) {
  after(host, random_.between(200, 4 * kMs),
        [this, &host, epoch = it.epoch] { apply(host, epoch); });
}

void World::perform(Host& host, const EpochBackup::DropStaged& drop) {
  host.whole.erase(drop.epoch);
  if (!host.staging || host.staging->epoch != drop.epoch) return;
  if (options_.canary == Canary::apply_half) {
    for (const auto& [page, value] : host.staging->pages) host.image.memory.pages[page] = value;
  }
  host.staging.reset();
}

void World::perform(Host& host, const EpochBackup::DiscardImage& discard) {
  host.staging.reset();
  host.whole.clear();
  host.image = Image{};
  Message discarded;
  discarded.kind = Message::Kind::discarded;
  discarded.protection = discard.protection;
  send(host.peer_link, host, discarded);
  look_for_loss();  // The primary may have died after it had asked for this.
}

void World::perform(Host& host, const EpochBackup::Refuse& refuse) {
  tell("host {} backup refuses epoch {}: {}", host.id, refuse.epoch, to_string(refuse.reason));
  reached(Reached::backup_refused);
  break_connection(host.peer_link);
}

void World::perform(Host& host, const EpochBackup::Report& report) {
  tell("host {} backup: {} (epoch {})", host.id, to_string(report.event), report.epoch);
  if (report.event != EpochBackup::Event::checkpoint_dropped) return;
  reached(Reached::checkpoint_dropped);
  // Of a copy in place nothing is left to finish.
  if (host.staging && host.staging->in_place) host.staging.reset();
}

// --- promotion ---

void World::wish_promotion(Host& host) {
  if (!host.promotion || !host.backup || host.domain || now_ < host.next_wish) return;
  const bool dead = host.detector->verdict() == FailureDetector::Verdict::dead;
  if (!dead && !host.peer_gone) return;
  if (host.backup->state() == EpochBackup::State::discarded) return;
  host.next_wish = now_ + 100 * kMs;
  want_promotion(host, dead ? Promotion::Cause::primary_dead : Promotion::Cause::primary_gone);
}

void World::want_promotion(Host& host, Promotion::Cause cause) {
  act(host, host.promotion->on_wanted(clock(host), cause, host.detector->last_sign_of_life()));
  if (!count_decision(host)) return;
  if (cause == Promotion::Cause::operator_word) reached(Reached::promotion_by_hand);
  if (cause == Promotion::Cause::handed_over) reached(Reached::handed_over);
}

bool World::count_decision(Host& host) {
  if (host.decided || host.backup->state() != EpochBackup::State::promoting) return false;
  host.decided = true;
  tell("host {} decides to promote epoch {}", host.id, host.backup->committed());
  reached(Reached::promotion);
  if (other(host).up && other(host).domain) reached(Reached::promotion_of_living_primary);
  return true;
}

void World::act(Host& host, const Promotion::Actions& actions) {
  for (const auto& action : actions) {
    if (!host.promotion) return;
    std::visit([&](const auto& what) { perform(host, what); }, action);
  }
}

void World::perform(Host& host, const Promotion::PersistGeneration& it) {
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

void World::perform(Host& host, const Promotion::ResumeDomain&) {
  after(host, random_.between(kMs, 8 * kMs), [this, &host] { resume(host); });
}

void World::perform(Host& host, const Promotion::OpenGate&) {
  tell("host {} speaks as instance {}", host.id, host.domain->instance);
  host.disk.voice = true;
  host.disk.protection = ProtectionId{};
  host.gate.open(deliver_from(host));
}

void World::perform(Host& host, const Promotion::Announce&) {
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

void World::perform(const Host& host, const Promotion::Refused& refused) {
  tell("host {} promotion refused: {}", host.id, to_string(refused.refusal));
  if (refused.refusal == Promotion::Refusal::image_incomplete) reached(Reached::image_incomplete);
}

void World::resume(Host& host) {
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

}  // namespace understudy::sim
