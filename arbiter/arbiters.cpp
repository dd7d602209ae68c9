#include "arbiter/arbiter_service.h"
#include "arbiter/etcd_arbiter.h"
#include "arbiter/fence_arbiter.h"

namespace understudy {
namespace {

class NoArbiterService final : public ArbiterService {
 public:
  NoArbiterService() : ArbiterService({}) {}
  Answer ask(const Claim& claim) override { return rule_.ask(claim); }
  [[nodiscard]] std::string_view name() const override { return rule_.name(); }
  [[nodiscard]] bool may_grant_solo() const override { return false; }
  Task<Result<void>> begin(std::string, ProtectionId, Generation) override { co_return ok(); }
  Task<Result<std::string>> probe() override {
    co_return std::string("none: a primary that loses its backup waits for an operator");
  }

 private:
  NoArbiter rule_;
};

class MissingArbiter final : public ArbiterService {
 public:
  MissingArbiter(const ArbiterConfig& config, Error error)
      : ArbiterService(config.solo_after), kind_(config.kind), error_(std::move(error)) {}
  Answer ask(const Claim&) override { return Answer::pending; }
  [[nodiscard]] std::string_view name() const override { return kind_; }
  [[nodiscard]] std::string explain(const Claim&) const override { return error_.message(); }
  [[nodiscard]] bool may_grant_solo() const override { return false; }
  Task<Result<void>> begin(std::string, ProtectionId, Generation) override { co_return error_; }
  Task<Result<std::string>> probe() override { co_return error_; }

 private:
  std::string kind_;
  Error error_;
};

}  // namespace

std::unique_ptr<ArbiterService> make_missing_arbiter(const ArbiterConfig& config, Error error) {
  return std::make_unique<MissingArbiter>(config, std::move(error));
}

Result<std::unique_ptr<ArbiterService>> make_arbiter(boost::asio::any_io_executor executor,
                                                     const ArbiterConfig& config,
                                                     const std::string& self,
                                                     const std::string& peer,
                                                     ArbiterService::Answered answered) {
  if (config.kind == "etcd")
    return make_etcd_arbiter(std::move(executor), config, self, std::move(answered));
  if (config.kind == "fence")
    return make_fence_arbiter(std::move(executor), config, peer, std::move(answered));
  std::unique_ptr<ArbiterService> none = std::make_unique<NoArbiterService>();
  return none;
}

}  // namespace understudy
