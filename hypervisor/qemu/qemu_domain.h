// A domain under QEMU: the steps of a checkpoint, spoken to a monitor.
//
// Intuition: one checkpoint is one migration to nowhere. `migrate` is sent while the guest runs:
// QEMU writes the ROMs at once, stops the guest by itself (event STOP: our pause() returns), and
// adds the device state (event MIGRATION completed: save_device_state() has it). `cont` lets it go
// on. Sending `stop` first would put the ROMs and the set-up of the migration into the pause, which
// about doubles it.
//
// The state goes to a memory file rather than a pipe: QEMU never waits for us, nothing has to be
// read while the guest stands still, the file's own position tells how much there is, and its
// sealed size is the limit.
//
// Awkward case: 'completed' is announced a moment before QEMU has put the migration away, and
// `cont` is refused in that moment; resume() asks again.
#pragma once

#include <boost/json/value.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "hypervisor/domain.h"
#include "hypervisor/qemu/qemu_instance.h"

namespace understudy {

class QemuDomain final : public Domain {
 public:
  /// `instance` runs its guest.
  explicit QemuDomain(std::shared_ptr<QemuInstance> instance);
  ~QemuDomain() override;

  /// Brings an adopted instance back to 'running', whatever its last agent was doing.
  /// A standby whose promotion was under way is brought to the end of it; bad_data if that had not
  /// come so far that the device state was loaded.
  static Task<Result<void>> settle(QemuInstance& instance);

  const DomainConfig& config() const override;
  std::span<const std::byte> memory() const override;
  std::span<const OutputInterface> outputs() const override;
  std::string accelerator_name() const override;
  TrackingMethod tracking() const override;
  std::string tracking_reason() const override;
  Task<Result<void>> start_tracking() override;
  Result<void> take_dirty(DirtySet& out) override;
  Task<Result<void>> stop_tracking() override;
  Task<Result<void>> pause() override;
  Task<Result<std::vector<std::byte>>> save_device_state() override;
  Task<Result<void>> resume() override;
  Result<std::vector<InputProgress>> input_progress() override;
  Result<std::vector<UnreadInput>> take_unread_inputs() override;
  Task<Result<bool>> takes_inputs() override;
  std::function<bool()> activity() const override;
  Task<Result<void>> destroy() override;
  bool alive() const override;
  Task<DomainExit> wait_for_exit() override;
  boost::json::value runtime_state() const override;

 private:
  static Task<Result<void>> settle_promoted(QemuInstance& instance);
  enum class Phase { running, paused, saved };

  Task<Result<void>> protect_memory();
  Task<Result<void>> list_data();
  Result<void> rewind_state_file();
  Task<Error> run_on(Error why);

  std::shared_ptr<QemuInstance> instance_;
  Phase phase_ = Phase::running;
  bool unsettled_ = false;  ///< A step failed, and whether the guest runs is not known.
  UniqueFd state_file_;
  std::vector<UniqueFd> taps_;  ///< QEMU's own, to look into their queues. Fetched when asked for.
  bool tracking_on_ = false;
  DirtySet first_pages_;  ///< What held data when tracking began, until it was taken.
  DirtySet scanned_;      ///< Scratch, kept for its room.
};

/// Sends `cont`, again if QEMU is just putting a migration away.
Task<Result<void>> continue_guest(QemuInstance& instance);

/// A memory file for device state: at most `bytes_max`, position 0.
Result<UniqueFd> make_state_file(std::size_t bytes_max);

}  // namespace understudy
