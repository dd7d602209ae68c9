// A standby under QEMU: `-incoming defer`, and a memory file that checkpoints are written into.
//
// Intuition: QEMU believes that a migration with shared memory is about to arrive. The memory is
// there already, because we fill it; what is missing is the device state, a few hundred kilobytes,
// which promote() hands over in a memory file.
#pragma once

#include <boost/json/value.hpp>
#include <memory>
#include <span>

#include "hypervisor/domain.h"
#include "hypervisor/qemu/qemu_instance.h"

namespace understudy {

class QemuStandby final : public Standby {
 public:
  /// `instance` waits for its incoming migration.
  explicit QemuStandby(std::shared_ptr<QemuInstance> instance);
  ~QemuStandby() override;

  const DomainConfig& config() const override;
  std::span<std::byte> memory() override;
  int memory_file() const override;
  std::span<const OutputInterface> outputs() const override;
  Result<void> attach_outputs() override;
  Task<Result<std::unique_ptr<Domain>>> promote(std::span<const std::byte> device_state) override;
  Task<void> discard() override;
  bool alive() const override;
  Task<DomainExit> wait_for_exit() override;
  boost::json::value runtime_state() const override;

 private:
  Task<Result<void>> load(std::span<const std::byte> device_state);

  std::shared_ptr<QemuInstance> instance_;
  bool spent_ = false;     ///< promote() was called.
  bool promoted_ = false;  ///< The instance belongs to a QemuDomain now.
};

}  // namespace understudy
