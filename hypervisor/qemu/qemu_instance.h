// One QEMU process with everything that belongs to it: what a QemuDomain and a QemuStandby have in
// common, and what passes from the one to the other at promotion.
//
// What a crash of ours leaves behind: the process (adopted or killed later by its identity), its
// monitor socket and its log, both named after the domain and the process that made them. Memory
// and taps go with the process.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/fwd.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "hypervisor/domain.h"
#include "hypervisor/qemu/isolated_network.h"
#include "hypervisor/qemu/memory_file.h"
#include "hypervisor/qemu/qemu_hypervisor.h"
#include "hypervisor/qemu/qemu_process.h"
#include "hypervisor/qemu/qmp_client.h"
#include "hypervisor/qemu/tap.h"
#include "hypervisor/qemu/write_tracking.h"

namespace understudy {

/// How a migration, outgoing or incoming, stands: the last word of QEMU's MIGRATION events.
enum class MigrationStatus { none, active, completed, failed };

/// A running QEMU.
class QemuInstance {
 public:
  enum class Role { domain, standby };

  /// What QEMU's events have told so far.
  struct Told {
    bool stopped = false;  ///< Between STOP and RESUME.
    MigrationStatus migration = MigrationStatus::none;
    std::optional<DomainExit::Kind> shutdown;  ///< The guest asked for it.
  };

  /// Starts QEMU for `config` and prepares its monitor. A domain's taps are attached to their
  /// bridges; its guest starts at once. On an error nothing is left behind. `tracking_obstacle` is
  /// why writes cannot be tracked on this host, if that is known. With `isolation` its taps are
  /// made in there and stay there, and the process is killed when we end, however we do.
  static Task<Result<std::shared_ptr<QemuInstance>>> start(
      boost::asio::any_io_executor executor, const QemuOptions& options,
      std::filesystem::path preload_library, std::optional<std::string> tracking_obstacle,
      DomainConfig config, Role role, std::optional<IsolatedNetwork> isolation = std::nullopt);

  /// Takes up the process that `state` (a runtime_state) names.
  static Task<Result<std::shared_ptr<QemuInstance>>> adopt(boost::asio::any_io_executor executor,
                                                           const QemuOptions& options,
                                                           const boost::json::value& state);

  /// Kills what `state` names, if it is still there, and removes its files.
  static Task<Result<void>> clean_up(boost::asio::any_io_executor executor,
                                     const boost::json::value& state);

  ~QemuInstance();
  QemuInstance(const QemuInstance&) = delete;
  QemuInstance& operator=(const QemuInstance&) = delete;

  const QemuOptions& options() const { return options_; }
  const DomainConfig& config() const { return config_; }
  Role role() const { return role_; }
  void become_domain() { role_ = Role::domain; }
  MemoryFile& memory() { return *memory_; }
  const MemoryFile& memory() const { return *memory_; }
  const std::vector<OutputInterface>& outputs() const { return outputs_; }
  /// Only after start() or adopt() succeeded, until end().
  QmpClient& monitor() { return *monitor_; }
  Told& told() { return told_; }
  boost::asio::any_io_executor executor() const { return executor_; }
  /// Where its taps lie, if that is not the host's network.
  const std::optional<IsolatedNetwork>& isolation() const { return isolation_; }

  /// The tracker, or nothing; then tracking_reason() says why.
  std::optional<WriteTracker>& tracker() { return tracker_; }
  const std::optional<WriteTracker>& tracker() const { return tracker_; }
  const std::string& tracking_reason() const { return tracking_reason_; }
  /// From now on there is no tracker.
  void give_up_tracking(std::string reason);

  /// Attaches every tap to its bridge.
  Result<void> attach_taps();
  /// Descriptors of its own for the taps that QEMU holds, one for each NIC.
  Result<std::vector<UniqueFd>> fetch_taps();
  /// Kills the process, waits until it is gone and removes its files. May be repeated.
  Task<Result<void>> end();
  /// Kills and removes without waiting, for destructors.
  void end_at_once();
  bool alive() const { return process_->alive(); }
  [[nodiscard]] const ProcessIdentity& identity() const { return process_->identity(); }
  /// Waits for the end of the process and explains it.
  static Task<DomainExit> wait_for_exit(std::shared_ptr<QemuInstance> instance);
  boost::json::value runtime_state() const;

  /// If QEMU has died, an error that says so with its last words; otherwise `error` itself.
  Task<Error> explain(Error error);
  /// Stops watching the process, which goes on; whoever waits for its end is told so.
  void let_go();

 private:
  QemuInstance(boost::asio::any_io_executor executor, QemuOptions options, DomainConfig config,
               Role role);
  Task<Result<void>> launch(const std::filesystem::path& preload_library);
  Task<Result<void>> connect();
  Task<Result<void>> prepare_monitor();
  Result<std::vector<Tap>> make_taps();
  Result<void> open_tracker();
  void on_event(const QmpEvent& event);
  void remove_files() const;

  boost::asio::any_io_executor executor_;
  QemuOptions options_;
  DomainConfig config_;
  Role role_;
  std::optional<IsolatedNetwork> isolation_;
  std::optional<MemoryFile> memory_;
  std::vector<OutputInterface> outputs_;
  std::filesystem::path monitor_path_;
  std::filesystem::path log_path_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<QmpClient> monitor_;
  std::optional<WriteTracker> tracker_;
  std::string tracking_reason_;
  Told told_;
  bool ended_by_us_ = false;
};

}  // namespace understudy
