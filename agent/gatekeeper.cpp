#include "agent/gatekeeper.h"

namespace understudy {

Result<void> Gatekeeper::on_log_acknowledged(std::span<const std::byte> /*payload*/) {
  return fail(ErrorCode::protocol, "no log is kept that could be acknowledged");
}

Task<void> ReplayGatekeeper::quieten() {
  // This may be gone when the wait ends.
  const auto gate = gate_;
  co_await gate->quieten();
}

Task<Result<void>> ReplayGatekeeper::seal(EpochId epoch) {
  // This may be gone when the wait ends; the domain is its session's.
  const auto gate = gate_;
  Domain& domain = domain_;
  bool takes_inputs = false;
  if (gate->wants_takes_inputs()) {
    const auto asked = co_await domain.takes_inputs();
    takes_inputs = asked && asked.value();
  }
  // From here to the seal nothing may be let in, so nothing is waited for.
  BOOST_OUTCOME_CO_TRY(const auto progress, domain.input_progress());
  gate->on_input_progress(progress, true);
  co_return gate->seal(epoch, takes_inputs);
}

Result<void> ReplayGatekeeper::release(EpochId epoch) {
  gate_->release(epoch);
  return ok();
}

Result<void> ReplayGatekeeper::drop_held() {
  gate_->drop_held();
  return ok();
}

Result<void> ReplayGatekeeper::open() {
  gate_->end_protection();
  return ok();
}

Result<void> ReplayGatekeeper::on_log_acknowledged(std::span<const std::byte> payload) {
  BOOST_OUTCOME_TRY(const auto acknowledged, replay::decode_log_acknowledged(payload));
  gate_->on_log_acknowledged(acknowledged);
  return ok();
}

}  // namespace understudy
