// What the agent needs of an arbiter beyond the question itself: to open the books when a
// protection begins, and to look at it before anything depends on it.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string>

#include "arbiter/arbiter_config.h"
#include "base/result.h"
#include "base/task.h"
#include "failover/arbiter.h"

namespace understudy {

/// An arbiter with its connection to the world. Everything runs on one executor; nothing blocks it.
class ArbiterService : public Arbiter {
 public:
  /// A pending claim was answered. Called on the executor, never from within ask().
  using Answered = std::function<void(const Claim&, Answer)>;

  /// Called by the primary before a new protection begins: whoever claims within it is judged by
  /// what is written down now. An error (in time) means that the protection must not begin.
  virtual Task<Result<void>> begin(std::string domain, ProtectionId protection,
                                   Generation generation) = 0;
  /// Looks whether it would answer, without touching anything: a sentence, or what is wrong.
  virtual Task<Result<std::string>> probe() = 0;
  /// Whether a primary may hope for a grant at all.
  [[nodiscard]] virtual bool may_grant_solo() const = 0;
  /// Whether a grant holds for the whole protection, or only while the other host is not heard.
  [[nodiscard]] virtual bool grants_last() const { return true; }
  /// ArbiterConfig::solo_after.
  [[nodiscard]] std::chrono::microseconds solo_after() const { return solo_after_; }

 protected:
  explicit ArbiterService(std::chrono::microseconds solo_after) : solo_after_(solo_after) {}

 private:
  std::chrono::microseconds solo_after_;
};

/// The arbiter that `config` describes, for the host `self` in a pair with `peer`. Errors: config,
/// where a file cannot be read.
Result<std::unique_ptr<ArbiterService>> make_arbiter(boost::asio::any_io_executor executor,
                                                     const ArbiterConfig& config,
                                                     const std::string& self,
                                                     const std::string& peer,
                                                     ArbiterService::Answered answered);

/// An arbiter that cannot be had, for the reason `error`: it grants nothing and says why.
std::unique_ptr<ArbiterService> make_missing_arbiter(const ArbiterConfig& config, Error error);

}  // namespace understudy
