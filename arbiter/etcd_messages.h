// What is said to etcd, and what its answers mean: text in, decisions out.
//
// Intuition: one key for each protection, PREFIX DOMAIN/PROTECTION. The primary writes it when the
// protection begins, before the backup has anything that it could promote: {generation, holder,
// claimed: false}. A claim turns it into {generation + 1, claimant, claimed: true} by a
// compare-and- swap on the revision that it was read at. Only an unclaimed key can be claimed, so
// at most one claim within a protection is ever granted, whoever asks in whatever order.
//
// Awkward cases:
// - etcd comes back empty (somebody removed its data): there is no key. Nobody writes one after the
//   beginning of a protection, so every claim is refused: mute, until an operator speaks.
// - A swap whose answer was lost: it may have happened. Reading the key tells: a key that names us
//   at our generation is our grant.
// - A swap that hangs in a network for a minute and then happens: by then nobody may want it. Each
//   swap also touches a key under a lease of some seconds, and etcd refuses a transaction whose
//   lease is over: so after these seconds what was read is final.
// - etcd restored from an older copy of its data: the revision that it tells goes back. Whoever has
//   seen a higher one refuses to be granted anything. (A host that has seen no higher one cannot
//   know: after a restore, protect anew.)
//
// The messages are those of etcd's JSON gateway (v3): keys and values in base64, numbers as
// strings.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/protection.h"

namespace understudy::etcd {

/// What is written down about a protection.
struct Holding {
  Generation generation;
  std::string holder;  ///< A host's name.
  bool claimed = false;
  bool operator==(const Holding&) const = default;
};

/// Holding as it was read: `revision` is the key's own, 0 if there is no such key. `cluster` and
/// `header_revision` come with every answer.
struct Read {
  std::optional<Holding> holding;
  std::uint64_t revision = 0;
  std::uint64_t header_revision = 0;
};

std::string key_of(std::string_view prefix, std::string_view domain, ProtectionId protection);

/// Request bodies.
std::string read_request(std::string_view key);
/// Removes what earlier protections of `domain` left.
std::string clear_request(std::string_view prefix, std::string_view domain);
/// Writes the first holding; nothing happens if the key exists.
std::string begin_request(std::string_view key, const Holding& holding);
std::string lease_request(std::chrono::seconds ttl);
/// Swaps to `holding` if the key is still at `revision` and the lease lives.
std::string claim_request(std::string_view key, std::uint64_t revision, const Holding& holding,
                          std::string_view lease);

/// Answers. bad_data if they are not what etcd says.
Result<Read> read_answer(std::string_view body);
Result<std::string> lease_answer(std::string_view body);
/// Whether the transaction's comparison held.
Result<bool> transaction_answer(std::string_view body);

/// What a claim is to do after a read.
enum class Judgement {
  claim,    ///< Unclaimed: swap.
  granted,  ///< It is ours already.
  refused,  ///< For good.
};
struct Judged {
  Judgement judgement = Judgement::refused;
  std::string reason;  ///< Of a refusal, in words.
};
/// Judges a claim of `self` at `generation`. `highest_seen`: the highest header revision that this
/// host has ever had from this cluster.
Judged judge(const Read& read, const std::string& self, Generation generation,
             std::uint64_t highest_seen);

}  // namespace understudy::etcd
