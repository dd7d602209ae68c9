#include <algorithm>
#include <utility>
#include <variant>

#include "tests/sim/inside.h"

namespace understudy::sim {

// --- the primary's doing ---

void World::act(Host& host, const EpochPrimary::Actions& actions) {
  for (const auto& action : actions) {
    if (!host.primary || !host.domain) return;
    std::visit([&](const auto& what) { perform(host, what); }, action);
  }
}

void World::perform(Host& host, const EpochPrimary::SealAndCapture& capture) {
  final_pause(host, capture.epoch, capture.base, false, capture.stay_paused);
}

void World::perform(Host& host, const EpochPrimary::Yield& yielded) {
  tell("host {} gives the word for epoch {}", host.id, yielded.epoch);
  reached(Reached::word_given);
  Message word;
  word.kind = Message::Kind::yours;
  word.protection = host.primary->protection();
  word.generation = host.primary->generation();
  word.epoch = yielded.epoch;
  send(host.link, host, word);
  if (options_.canary == Canary::speak_after_the_word) {
    after(host, 60 * kMs, [this, &host] {
      if (!host.domain || !host.primary) return;
      host.domain->paused = false;
      host.gate.open(deliver_from(host));
    });
  }
}

void World::perform(Host& host, const EpochPrimary::ResumeGuest&) {
  host.domain->paused = false;
}

void World::perform(Host& host, const EpochPrimary::Synchronise& copy) {
  const bool incremental = incremental_ && copy.base != EpochId{};
  reached(incremental ? Reached::incremental_copy : Reached::full_copy);
  tell("host {} synchronises epoch {} upon {}", host.id, copy.epoch, copy.base);
  if (incremental) {
    for (const auto& [epoch, mask] : host.masks) {
      if (epoch > copy.base) host.domain->dirty |= mask;
    }
    final_pause(host, copy.epoch, copy.base, true, false);
    return;
  }
  host.domain->dirty = 0;
  send(host.link, host, begin_of(host, copy.epoch, EpochId{}));
  copy_live(host, copy.epoch, host.link, 0);
}

void World::perform(Host& host, const EpochPrimary::Release& release) {
  host.gate.release(release.up_to, deliver_from(host));
}

void World::perform(Host& host, const EpochPrimary::OpenGate&) {
  tell("host {} gate open ({})", host.id, to_string(host.primary->state()));
  // After a failed first capture the protection goes on: its record must stay.
  if (host.primary->state() != EpochPrimary::State::synchronising) host.disk.voice = true;
  host.gate.open(deliver_from(host));
}

void World::perform(Host& host, const EpochPrimary::PersistGeneration& it) {
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

void World::perform(Host& host, const EpochPrimary::AskArbiter& ask) {
  ask_as_primary(host, ask.generation);
}

void World::perform(Host& host, const EpochPrimary::ForgetClaim& claim) {
  forget(host, claim_of_primary(host, claim.generation));
}

Arbiter::Claim World::claim_of_primary(const Host& host, Generation generation) {
  return {"web1", host.primary->protection(), generation, Arbiter::Claimant::primary};
}

void World::ask_as_primary(Host& host, Generation generation) {
  const Arbiter::Claim claim = claim_of_primary(host, generation);
  const Arbiter::Answer answer = ask(host, claim);
  if (answer != Arbiter::Answer::pending)
    act(host,
        host.primary->on_arbiter(clock(host), generation, answer == Arbiter::Answer::granted));
}

void World::perform(Host& host, const EpochPrimary::AskDiscard&) {
  Message message;
  message.kind = Message::Kind::ask_discard;
  message.protection = host.primary->protection();
  message.generation = host.primary->generation();
  send(host.link, host, message);
}

void World::perform(Host& host, const EpochPrimary::DestroyDomain& destroy) {
  tell("host {} destroys its copy", host.id);
  drop_domain(host);
  write(host, std::max(host.disk.generation, destroy.generation));
  look_for_loss();  // The promoted copy may have died after it had told us of itself.
}

void World::note(const Host& host, const EpochPrimary::Report& report) {
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
    case EpochPrimary::Event::hand_over_failed:
      return reached(Reached::hand_over_failed);
    default:
      return;
  }
}

void World::drop_domain(Host& host) {
  host.domain.reset();
  host.gate = Gate{};
  host.masks.clear();
  host.disk.voice = false;
}

Message World::begin_of(const Host& host, EpochId epoch, EpochId base) {
  Message begin;
  begin.kind = Message::Kind::begin;
  begin.protection = host.primary->protection();
  begin.generation = host.primary->generation();
  begin.epoch = epoch;
  begin.base = base;
  begin.origin = host.domain->instance;
  return begin;
}

void World::copy_live(Host& host, EpochId epoch, std::size_t link, std::size_t page) {
  if (!host.domain || !host.primary) return;
  if (host.link != link) {
    act(host, host.primary->on_capture_failed(clock(host)));
    return;
  }
  if (page == kPages) {
    final_pause(host, epoch, EpochId{}, true, false);
    return;
  }
  send_page(host, link, page, host.domain->state);
  after(host, random_.between(200, 3 * kMs),
        [this, &host, epoch, link, page] { copy_live(host, epoch, link, page + 1); });
}

void World::send_page(const Host& host, std::size_t link, std::size_t page,
                      const GuestState& state) {
  Message message;
  message.kind = Message::Kind::page;
  message.page = page;
  message.value = state.pages[page];
  send(link, host, message);
}

void World::final_pause(Host& host, EpochId epoch, EpochId base, bool copy, bool stay) {
  const std::size_t link = host.link;
  const Instance instance = host.domain->instance;
  host.domain->paused = true;
  host.gate.seal(epoch);
  const bool fails = !calm() && options_.random_faults &&
                     (host.fail_captures || (uneasy() && random_.once_in(150)));
  after(host, random_.between(kMs, 4 * kMs),
        [this, &host, epoch, base, copy, stay, link, fails, instance] {
          if (!host.domain || host.domain->instance != instance) return;
          Domain& domain = *host.domain;
          domain.paused = stay && !fails && host.primary;
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

void World::transmit_epoch(Host& host, std::size_t link, EpochId epoch, EpochId base, bool full,
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

}  // namespace understudy::sim
