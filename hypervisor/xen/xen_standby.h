// A domain that holds an image: built by libxl, paused, never run.
//
// Its interfaces are in their bridges from the start (libxl's hotplug scripts see to it), but no
// frontend is connected to them, so they carry nothing; and they are up before the guest runs.
#pragma once

#include <memory>
#include <span>

#include "hypervisor/domain.h"
#include "hypervisor/xen/device_model.h"
#include "hypervisor/xen/guest_memory.h"
#include "hypervisor/xen/xen_guest.h"

namespace understudy::xen {

class XenStandby final : public Standby {
 public:
  /// Builds it: domain, processor, memory all zero and mapped. On an error nothing is left behind.
  static Task<Result<std::unique_ptr<XenStandby>>> build(std::shared_ptr<XenHost> host,
                                                         DomainConfig config);
  ~XenStandby() override;

  const DomainConfig& config() const override { return identity_.config; }
  std::span<std::byte> memory() override { return memory_.bytes(); }
  int memory_file() const override { return -1; }
  std::span<const OutputInterface> outputs() const override { return identity_.outputs; }
  Task<Result<std::unique_ptr<Domain>>> promote(std::span<const std::byte> device_state) override;
  Task<void> discard() override;
  bool alive() const override { return life_->alive(); }
  Task<DomainExit> wait_for_exit() override { return Life::wait(life_); }
  boost::json::value runtime_state() const override { return identity_.to_json(true); }

 private:
  XenStandby(std::shared_ptr<XenHost> host, GuestIdentity identity, std::shared_ptr<Life> life,
             std::unique_ptr<GuestThread> thread, GuestMemory memory);
  static Result<GuestIdentity> make_domain(XenHost& host, const DomainConfig& config,
                                           GuestMemory& memory);
  static Result<void> prepare(XenHost& host, GuestIdentity& identity, GuestMemory& memory);
  Result<void> load(std::span<const std::byte> device_state);
  void end();
  static Result<void> add_missing(Control& control, DomainId domid, GuestMemory& memory);
  Result<void> match_holes(const DirtySet& wanted);

  std::shared_ptr<XenHost> host_;
  GuestIdentity identity_;
  std::shared_ptr<Life> life_;
  GuestMemory memory_;
  std::unique_ptr<DeviceModel> device_model_;  ///< Of the domain's thread; HVM only.
  bool spent_ = false;                         ///< promote() was called.
  bool discarded_ = false;
  std::unique_ptr<GuestThread> thread_;  ///< Last: it is done before the others go.
};

}  // namespace understudy::xen
