// Which host is to be the next backup of a domain that has none, and when.
//
// Intuition: a domain has a list of hosts on which it may be, its own among them, read as a ring.
// After a promotion, and after the loss of a backup whose place may be filled, the next one is
// looked for from the lost host on, once around: it comes last itself, so that a domain that can go
// elsewhere does not wait for a host that has just failed, and one that cannot does wait for it. A
// host is tried if it is paired and heard. One that refused (too little memory, an older copy that
// is not destroyed yet, a first copy that broke off) is left alone for a while, each time twice as
// long, and the others get their turn; once it has been silent it may have changed, and begins
// anew.
//
// *Whether* the place may be filled is not decided here, and is no question of time: as long as the
// lost backup could still promote (it holds an image and nobody has a proof of its death), a second
// one elsewhere would be a second image that could come to speak. Only who may speak alone may be
// protected anew: after a promotion; by an operator's word or an arbiter's grant (solo); or because
// the backup itself has said that it holds nothing. See docs/failure-model.md, "Renewal".
//
// Not taken: choosing by the most free memory. An operator's order says more about which host is
// next than a figure that is different a minute later; that a host has enough is asked of the host
// itself, by the same checks as any protection.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/protection.h"

namespace understudy {

/// Chooses the next backup of one domain. A value: no thread, socket, clock or file; time comes in
/// as an argument and never goes back.
class Renewal {
 public:
  struct Config {
    /// How long a host that refused is left alone; doubled for each refusal in a row up to `most`.
    std::chrono::milliseconds back_off_first{1'000};
    std::chrono::milliseconds back_off_most{60'000};
  };

  /// What is known of one host of the list at the moment of a choice.
  struct Host {
    std::string name;
    bool paired = false;
    bool heard = false;  ///< Its heartbeats arrive now.
  };

  /// Protect to `host` now; or wait, because none fits.
  struct Choice {
    bool protect = false;
    /// Whom to protect to, or who would be tried first if it could be; empty: the list is.
    std::string host;
    /// Why none fits, in words that stay the same as long as the reason does; empty if one does.
    std::string reason;
    /// When a host's time of being left alone ends, at the earliest; kNever: only events help.
    Instant again = kNever;
  };

  Renewal() = default;
  explicit Renewal(const Config& config) : config_(config) {}

  /// `ring`: the list in its order. `self`: this host. `lost`: who was the backup (or, after a
  /// promotion, the primary) last; empty if nobody was.
  Choice choose(Instant now, const std::vector<Host>& ring, std::string_view self,
                std::string_view lost);
  /// It was tried and did not become the backup.
  void on_refused(Instant now, const std::string& host, std::string reason);
  /// It has become the backup: what it had refused is forgotten.
  void on_protected(const std::string& host) { refusals_.erase(host); }

 private:
  struct Refusal {
    std::string reason;
    unsigned times = 0;
    Instant until;
  };

  Config config_;
  std::map<std::string, Refusal> refusals_;
};

}  // namespace understudy
