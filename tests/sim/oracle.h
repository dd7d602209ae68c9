// The simulated guest, and the judge who knows everything about it and nothing about the protocol.
//
// The guest's whole state is a counter `n`, a hash chain `h` over everything that ever happened to
// it, and a few memory pages that change along. Whatever happens to it (an input, a tick of its own
// clock) mixes fresh randomness into `h`, so that two copies which run on from the same state part
// at their first step, as two copies of a real machine do. Every output frame carries the (n, h)
// that made it. So a client that keeps what it received holds a witness: two frames with the same
// n and different h come from two histories.
//
// The judge sees only what the world can see: what reached the client, what was resumed from which
// memory, what became whole on a disk or in an image. It is told nothing of states, acknowledgement
// or generations that the machines believe in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/ids.h"
#include "checkpoint/protection.h"

namespace understudy::sim {

/// Mixes two numbers into one; a fixed function, so that a seed means the same everywhere.
std::uint64_t mix(std::uint64_t a, std::uint64_t b);

/// Randomness from a seed, the same on every machine (the standard's distributions are not).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix(seed, 0x9e3779b97f4a7c15U)) {}
  std::uint64_t next();
  /// Uniform in [low, high].
  std::int64_t between(std::int64_t low, std::int64_t high);
  /// True once in `n` times.
  bool once_in(std::int64_t n) { return between(1, n) == 1; }

 private:
  std::uint64_t state_;
};

inline constexpr std::size_t kPages = 6;

struct GuestState {
  std::uint64_t n = 0;
  std::uint64_t h = 1;
  std::array<std::uint64_t, kPages> pages{};

  /// One step of execution; returns the page that it wrote.
  std::size_t step(std::uint64_t entropy);
  [[nodiscard]] std::uint64_t digest() const;
};

struct Frame {
  std::uint64_t n = 0;
  std::uint64_t h = 0;
};

/// Each time the domain starts to run from somewhere is an instance, numbered in order of time.
using Instance = std::size_t;

/// Keeps every instance's history and the client's, and says at the first contradiction what broke.
class Oracle {
 public:
  /// The domain starts for the first time.
  Instance born(const GuestState& state);
  /// A copy taken from instance `origin` starts to run.
  Instance resumed(Instance origin, const GuestState& image);
  void stepped(Instance instance, const GuestState& state);
  /// A copy of `origin` at its step `n` is now safe on the other host, under `protection`.
  void whole(ProtectionId protection, std::uint64_t n);
  /// Something was written to a host's disk.
  void persisted(int host, Generation generation);

  /// `frame` of `instance` reaches the client. `protection` is the one that its operator has asked
  /// for last (0: none), `alone` that somebody who may has allowed it to speak without a backup.
  /// `frozen`: the host has been frozen with its clock, for which no lease can account: a frame
  /// that the newest voice knows as its own past may come late, and is counted.
  void received(Instance instance, ProtectionId protection, bool alone, const Frame& frame,
                bool frozen = false);

  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] std::uint64_t late_echoes() const { return late_echoes_; }
  [[nodiscard]] std::uint64_t received_count() const { return received_count_; }
  /// The newest instance that the client has heard.
  [[nodiscard]] Instance newest_voice() const { return newest_voice_; }
  /// Whether a copy at (instance, n) knows everything that the client was ever told.
  [[nodiscard]] bool knows_all(Instance instance, std::uint64_t n) const;

  void violate(const std::string& what) {
    if (violation_.empty()) violation_ = what;
  }

 private:
  struct Step {
    std::uint64_t h = 0;
    std::uint64_t digest = 0;
  };

  std::vector<std::vector<Step>> histories_;
  std::map<ProtectionId, std::uint64_t> whole_;
  std::map<int, Generation> disks_;
  std::vector<std::uint64_t> client_;  ///< h by n; 0 where nothing was received.
  std::uint64_t received_count_ = 0;
  std::uint64_t late_echoes_ = 0;
  Instance newest_voice_ = 0;
  std::string violation_;
};

}  // namespace understudy::sim
