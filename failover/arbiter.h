// Who may hold a domain when the two hosts cannot ask each other: the seam for fences, witnesses
// and cluster managers.
//
// The question is always the same: 'may I hold this domain at generation g?' At most one host is
// ever granted a right within one protection: a backup's to promote or a primary's to go solo. A
// grant is never taken back; it ends with the protection, because whoever got it raises the
// generation and begins a new one.
//
// What an arbiter may do to us without harm: be slow, be unreachable, refuse everybody, forget
// everything. Each costs availability: who has no grant stays mute. What it may not do is to grant
// twice; how each keeps from that is at the head of its file (arbiter/).
//
// A cluster manager fits here: Pacemaker's answer to 'may I?' is 'you have quorum, and the other
// host was fenced'.
#pragma once

#include <string>
#include <string_view>

#include "base/ids.h"
#include "checkpoint/protection.h"

namespace understudy {

/// Answers claims on domains. An implementation that must ask somebody returns `pending` and gives
/// its answer later to whoever owns it, by way of the handler that it was made with; the owner
/// hands it to Promotion::on_arbiter or EpochPrimary::on_arbiter. Not owned by its users; must
/// outlive them.
class Arbiter {
 public:
  enum class Claimant {
    backup,   ///< Wants to promote its image: the primary is silent.
    primary,  ///< Wants to go solo: the backup is silent.
  };
  enum class Answer { granted, refused, pending };

  /// One claim: `claimant` wants `domain` at `generation`, which is above all it has heard of.
  struct Claim {
    std::string domain;
    ProtectionId protection;
    Generation generation;
    Claimant claimant = Claimant::backup;
    bool operator==(const Claim&) const = default;
  };

  Arbiter() = default;
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;
  virtual ~Arbiter() = default;

  /// Never blocks. Asking the same claim again is allowed and has no further effect.
  virtual Answer ask(const Claim& claim) = 0;
  /// A pending claim is not wanted any more: nothing new is tried for it. What was tried already
  /// may still be granted, and is told: somebody has to know who holds the right.
  virtual void forget(const Claim&) {}
  /// For status: "none", "etcd", "fence", "pacemaker", …
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// For status: why `claim` is not granted (yet), in words; empty if there is nothing to say.
  [[nodiscard]] virtual std::string explain(const Claim&) const { return {}; }
};

/// No arbiter. A backup may promote, because a primary that does not hear it is mute; a primary
/// never goes solo by itself, because nothing makes a silent backup mute. What is left is the
/// operator's word, which does not come through here.
class NoArbiter final : public Arbiter {
 public:
  Answer ask(const Claim& claim) override {
    return claim.claimant == Claimant::backup ? Answer::granted : Answer::refused;
  }
  [[nodiscard]] std::string_view name() const override { return "none"; }
};

}  // namespace understudy
