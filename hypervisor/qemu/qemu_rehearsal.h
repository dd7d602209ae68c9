// A rehearsal under QEMU: a standby of its own, whose taps lie in an isolated network.
#pragma once

#include <memory>

#include "hypervisor/qemu/qemu_instance.h"
#include "hypervisor/qemu/qemu_standby.h"
#include "hypervisor/rehearsal.h"

namespace understudy {

class QemuRehearsal final : public Rehearsal {
 public:
  /// `instance` was started as a standby in an isolated network.
  explicit QemuRehearsal(std::shared_ptr<QemuInstance> instance);
  ~QemuRehearsal() override;

  std::span<std::byte> memory() override;
  int memory_file() const override;
  Task<Result<void>> run(std::span<const std::byte> device_state) override;
  Task<Result<bool>> runs() override;
  int network() const override;
  Result<void> set_address(std::size_t index, const IpAddress& ours, unsigned prefix) override;
  Task<void> end() override;

 private:
  std::shared_ptr<QemuInstance> instance_;
  QemuStandby standby_;
  std::unique_ptr<Domain> domain_;
};

}  // namespace understudy
