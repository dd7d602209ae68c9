// Who may hold a domain when the two hosts cannot ask each other: the seam for fences, witnesses
// and cluster managers.
//
// The question is always the same: 'may I hold this domain at generation g?' At most one host may
// ever be granted one (domain, generation), and a grant of g ends all grants below g.
#pragma once

#include <string>
#include <string_view>

#include "base/ids.h"
#include "checkpoint/protection.h"

namespace understudy {

/// Answers claims on domains. An implementation that must ask somebody returns `pending` and gives
/// its answer later to whoever owns the claim (Promotion::on_arbiter). Not owned by its users; must
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
    Claimant claimant;
  };

  Arbiter() = default;
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;
  virtual ~Arbiter() = default;

  /// Never blocks. Asking the same claim again is allowed and has no further effect.
  virtual Answer ask(const Claim& claim) = 0;
  /// For status: "none", later "witness", "pacemaker", …
  [[nodiscard]] virtual std::string_view name() const = 0;
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
