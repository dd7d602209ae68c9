#include "netbuffer/epoch_gate.h"

namespace understudy {
namespace {

void subtract(Traffic& from, const Traffic& what) {
  from.frames -= what.frames;
  from.bytes -= what.bytes;
}

}  // namespace

void EpochGate::on_frame(std::uint32_t packet_id, std::size_t bytes) {
  const Traffic frame{1, bytes};
  unsealed_.last_packet_id = packet_id;
  unsealed_.traffic += frame;
  counters_.held += frame;
}

EpochGate::SealOutcome EpochGate::seal(EpochId epoch) {
  if (epoch <= last_sealed_) return SealOutcome::out_of_turn;
  last_sealed_ = epoch;
  // An empty epoch needs no barrier: its release has nothing to let out, and so the list stays no
  // longer than the frames that are held.
  if (unsealed_.traffic.frames == 0) return SealOutcome::sealed;
  counters_.sealed += unsealed_.traffic;
  barriers_.push_back({epoch, unsealed_});
  unsealed_.traffic = {};
  return SealOutcome::sealed;
}

EpochGate::Release EpochGate::release(EpochId epoch) {
  if (epoch > last_sealed_) return {ReleaseOutcome::unknown, std::nullopt};
  UpTo released;
  while (!barriers_.empty() && barriers_.front().epoch <= epoch) {
    released.last_packet_id = barriers_.front().up_to.last_packet_id;
    released.traffic += barriers_.front().up_to.traffic;
    barriers_.pop_front();
  }
  if (released.traffic.frames == 0) return {ReleaseOutcome::nothing, std::nullopt};
  subtract(counters_.held, released.traffic);
  subtract(counters_.sealed, released.traffic);
  counters_.released += released.traffic;
  return {ReleaseOutcome::released, released};
}

std::optional<EpochGate::UpTo> EpochGate::release_all() {
  const auto all = take_all();
  if (all) counters_.released += all->traffic;
  return all;
}

std::optional<EpochGate::UpTo> EpochGate::drop_all() {
  const auto all = take_all();
  if (all) counters_.dropped += all->traffic;
  return all;
}

void EpochGate::on_lost(Traffic traffic) {
  subtract(counters_.released, traffic);
  counters_.dropped += traffic;
}

std::optional<EpochGate::UpTo> EpochGate::take_all() {
  if (counters_.held.frames == 0) return std::nullopt;
  // The last number is that of the newest frame, whether it is sealed or not: `unsealed_` keeps it
  // when it is emptied.
  const UpTo all{unsealed_.last_packet_id, counters_.held};
  barriers_.clear();
  unsealed_.traffic = {};
  counters_.held = {};
  counters_.sealed = {};
  return all;
}

}  // namespace understudy
