#include "hypervisor/qemu/qemu_standby.h"

#include <unistd.h>

#include <array>
#include <utility>

#include "hypervisor/qemu/qemu_domain.h"

namespace understudy {

QemuStandby::QemuStandby(std::shared_ptr<QemuInstance> instance) : instance_(std::move(instance)) {}

QemuStandby::~QemuStandby() {
  if (promoted_) return;
  instance_->end_at_once();
}

const DomainConfig& QemuStandby::config() const {
  return instance_->config();
}

std::span<std::byte> QemuStandby::memory() {
  return instance_->memory().bytes();
}

int QemuStandby::memory_file() const {
  return instance_->memory().fd();
}

std::span<const OutputInterface> QemuStandby::outputs() const {
  return instance_->outputs();
}

Task<Result<std::unique_ptr<Domain>>> QemuStandby::promote(
    std::span<const std::byte> device_state) {
  if (spent_) co_return fail(ErrorCode::internal, "promote: already used");
  spent_ = true;
  const Result<void> loaded = co_await load(device_state);
  if (!loaded) {
    const Error error = co_await instance_->explain(loaded.error());
    co_return error.in(fmt::format("promoting domain {}", config().name));
  }
  promoted_ = true;
  instance_->become_domain();
  co_return std::make_unique<QemuDomain>(instance_);
}

Result<void> QemuStandby::attach_outputs() {
  return instance_->attach_taps();
}

Task<Result<void>> QemuStandby::load(std::span<const std::byte> device_state) {
  if (device_state.empty()) co_return fail(ErrorCode::bad_data, "the device state is empty");
  BOOST_OUTCOME_CO_TRY(const UniqueFd file, make_state_file(device_state.size()));
  std::span<const std::byte> rest = device_state;
  while (!rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written <= 0) co_return system_error(errno, "writing the device state");
    rest = rest.subspan(static_cast<std::size_t>(written));
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) co_return system_error(errno, "device state");

  QemuInstance::Told& told = instance_->told();
  told.migration = MigrationStatus::none;
  std::array<QmpCommand, 2> commands;
  commands[0].name = "getfd";
  commands[0].arguments["fdname"] = "state";
  commands[1].name = "migrate-incoming";
  commands[1].arguments["uri"] = "fd:state";
  BOOST_OUTCOME_CO_TRY(co_await instance_->monitor().execute_all(
      commands, file.get(), instance_->options().answer_timeout_ms));
  // QEMU loads while we do this. The guest cannot send before `cont`.
  BOOST_OUTCOME_CO_TRY(instance_->attach_taps());
  const auto over = [&told] {
    return told.migration == MigrationStatus::completed ||
           told.migration == MigrationStatus::failed;
  };
  BOOST_OUTCOME_CO_TRY(co_await instance_->monitor().wait_until(
      over, instance_->options().answer_timeout_ms, "load the device state"));
  if (told.migration == MigrationStatus::failed) {
    // QEMU ends itself now, and says why in its log.
    const auto never = [] { return false; };
    static_cast<void>(
        co_await instance_->monitor().wait_until(never, std::chrono::seconds(1), "end"));
    co_return fail(ErrorCode::bad_data, "QEMU refused the device state");
  }
  BOOST_OUTCOME_CO_TRY(co_await continue_guest(*instance_));
  told.stopped = false;
  co_return ok();
}

Task<void> QemuStandby::discard() {
  if (promoted_) co_return;
  static_cast<void>(co_await instance_->end());
}

bool QemuStandby::alive() const {
  return instance_->alive();
}
Task<DomainExit> QemuStandby::wait_for_exit() {
  return QemuInstance::wait_for_exit(instance_);
}
boost::json::value QemuStandby::runtime_state() const {
  return instance_->runtime_state();
}

}  // namespace understudy
