// A domain that runs on this host's Xen.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/domain.h"
#include "hypervisor/xen/device_model.h"
#include "hypervisor/xen/guest_checks.h"
#include "hypervisor/xen/guest_memory.h"
#include "hypervisor/xen/guest_suspend.h"
#include "hypervisor/xen/xen_guest.h"

namespace understudy::xen {

class XenDomain final : public Domain {
 public:
  /// `life` watches the domain of `identity`, `thread` is idle.
  static Result<std::unique_ptr<XenDomain>> take(std::shared_ptr<XenHost> host,
                                                 GuestIdentity identity, std::shared_ptr<Life> life,
                                                 std::unique_ptr<GuestThread> thread);
  ~XenDomain() override;

  const DomainConfig& config() const override { return identity_.config; }
  std::span<const std::byte> memory() const override { return memory_.bytes(); }
  std::span<const OutputInterface> outputs() const override { return identity_.outputs; }
  std::string accelerator_name() const override { return "xen"; }
  std::string checkpoint_method() const override {
    return std::string(to_string(identity_.description.method));
  }
  std::string checkpoint_method_reason() const override {
    return std::string(reason_for(identity_.description.method));
  }
  TrackingMethod tracking() const override { return TrackingMethod::log_dirty; }
  std::string tracking_reason() const override { return {}; }
  Task<Result<void>> start_tracking() override;
  Result<void> take_dirty(DirtySet& out) override;
  Task<Result<void>> stop_tracking() override;
  Task<Result<void>> pause() override;
  Task<Result<std::vector<std::byte>>> save_device_state() override;
  Task<Result<void>> resume() override;
  Task<Result<void>> destroy() override;
  bool alive() const override { return life_->alive(); }
  Task<DomainExit> wait_for_exit() override { return Life::wait(life_); }
  boost::json::value runtime_state() const override { return identity_.to_json(false); }

  /// Sets a domain going that a dead process may have left standing.
  Task<Result<void>> settle();

 private:
  enum class Phase { running, paused, saved };
  /// What the domain's thread brings while the engine copies pages.
  struct Collection {
    Condition changed;
    std::optional<Result<GuestState>> state;
  };

  XenDomain(std::shared_ptr<XenHost> host, GuestIdentity identity, std::shared_ptr<Life> life,
            std::unique_ptr<GuestThread> thread, std::unique_ptr<Control> control,
            GuestMemory memory);
  [[nodiscard]] Result<void> connect_device_model();
  [[nodiscard]] Result<DomainFacts> stop(const SuspendLimits& limits);
  [[nodiscard]] bool cooperative() const {
    return identity_.description.method == Method::cooperative;
  }
  void collect();
  Task<void> wait_for_collection();
  Task<Result<void>> let_run();
  Task<Error> run_on(Error why);
  [[nodiscard]] Error in(const Error& error) const;

  std::shared_ptr<XenHost> host_;
  GuestIdentity identity_;
  std::shared_ptr<Life> life_;
  std::unique_ptr<Control> control_;  ///< Of the executor's thread.
  std::unique_ptr<DirtyLog> log_;
  GuestMemory memory_;
  std::uint64_t mapped_pages_ = 0;  ///< How many pages the domain had when it was mapped.
  /// How much memory its toolstack wanted it to have then, as xenstore says it.
  std::optional<std::string> mapped_target_;
  DirtySet first_pages_;  ///< To be told by the next take_dirty(), besides the log.
  Phase phase_ = Phase::running;
  bool unsettled_ = false;  ///< A step failed: look at the guest before the next attempt.
  std::chrono::microseconds usual_stop_{0};  ///< A moving mean of successful pauses.
  std::shared_ptr<Collection> collection_;
  std::unique_ptr<DeviceModel> device_model_;  ///< Of the domain's thread; transparent only.
  std::unique_ptr<GuestThread> thread_;        ///< Last: it is done before the others go.
};

}  // namespace understudy::xen
