// libxenctrl and libxenforeignmemory, as far as a replication engine needs them.
//
// Intuition: one set of handles for one thread, owned; each call is one hypercall (or two) and
// returns a result with errno and the library's own words. Domains are named by their number, which
// Xen gives out again after a domain is gone: whoever keeps one keeps the domain's UUID, too, and
// compares.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hypervisor/xen/guest_description.h"
#include "hypervisor/xen/guest_state.h"
#include "hypervisor/xen/xen_api.h"
#include "hypervisor/xen/xen_log.h"

namespace understudy::xen {

using DomainId = std::uint32_t;

/// How a domain stands, at one instant.
struct DomainFacts {
  DomainId domid = 0;
  std::string uuid;         ///< As Xen knows it: 32 hexadecimal digits.
  bool translated = false;  ///< PVH or HVM, as opposed to PV.
  bool hap = false;
  bool paused = false;
  bool dying = false;
  bool ever_ran = false;
  std::optional<unsigned> shutdown;  ///< SHUTDOWN_… if all its vCPUs have stopped for that reason.
  std::uint64_t pages = 0;
  unsigned vcpus = 0;

  /// The guest stands in the suspend hypercall.
  [[nodiscard]] bool suspended() const { return shutdown == SHUTDOWN_suspend; }
};

/// Handles for one thread at a time.
class Control {
 public:
  /// Errors: unavailable, when this is no dom0 (or lacks /dev/xen/privcmd).
  static Result<std::unique_ptr<Control>> open();
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  [[nodiscard]] xc_interface* xc() { return xc_; }
  [[nodiscard]] xenforeignmemory_handle* memory() { return memory_; }
  [[nodiscard]] XenLog& log() { return log_; }

  /// "4.17".
  Result<std::string> xen_version();
  /// Memory that no domain has, in bytes.
  Result<std::uint64_t> free_memory();

  /// Errors: no_such.
  Result<DomainFacts> facts(DomainId domid);

  Result<void> unpause(DomainId domid);
  /// Brings a guest that knows nothing of it to a standstill, as if it had suspended itself. Each
  /// vCPU stops where no request of its is under way at the device model, so this may take a
  /// moment after the call: ask facts().
  Result<void> suspend_from_outside(DomainId domid);
  /// Lets a suspended guest go on where it was: a cooperative one is told that its suspend was
  /// cancelled; the other one knows of none.
  Result<void> resume_suspended(DomainId domid, Method method);

  Result<std::vector<std::byte>> hvm_context(DomainId domid);
  Result<void> set_hvm_context(DomainId domid, std::span<const std::byte> context);
  Result<std::uint64_t> parameter(DomainId domid, std::uint64_t number);
  Result<void> set_parameter(DomainId domid, const HvmParameter& parameter);
  Result<TscInfo> tsc(DomainId domid);
  Result<void> set_tsc(DomainId domid, const TscInfo& tsc);

  /// The processor as the guest sees it, into `guest`.
  Result<void> read_processor(DomainId domid, GuestDescription& guest);
  /// Whether this host's processor can be that one. Errors: failed, with Xen's words.
  Result<void> check_processor(const GuestDescription& guest);
  /// Gives a domain that never ran the processor of `guest`.
  Result<void> set_processor(DomainId domid, const GuestDescription& guest);

  Result<void> populate(DomainId domid, std::span<const std::uint64_t> gfns);
  Result<void> depopulate(DomainId domid, std::span<const std::uint64_t> gfns);
  /// How many frames from `first` on have memory, at most `most`.
  Result<std::uint64_t> count_populated(DomainId domid, std::uint64_t first, std::uint64_t most);
  /// Which of `count` frames from `first` on have memory, as runs.
  Result<std::vector<Area>> find_populated(DomainId domid, std::uint64_t first,
                                           std::uint64_t count);
  /// The highest frame that the domain ever had.
  Result<std::uint64_t> highest_frame(DomainId domid);

 private:
  Control() = default;
  [[nodiscard]] Error failed(std::string_view what, DomainId domid);

  XenLog log_;
  xc_interface* xc_ = nullptr;
  xenforeignmemory_handle* memory_ = nullptr;
};

/// What a domain ends its life for: words for SHUTDOWN_….
std::string_view shutdown_reason(unsigned reason);

/// The parameters that have to be the same on both hosts before anything is copied.
std::span<const std::uint64_t> fixed_parameters();
/// Those that may differ until promotion, and are set then.
std::span<const std::uint64_t> carried_parameters();

/// Memory written by a domain, by frame.
class DirtyLog {
 public:
  /// For the frames below `frames`. `control` must outlive it.
  static Result<std::unique_ptr<DirtyLog>> open(Control& control, DomainId domid,
                                                std::uint64_t frames);
  /// Ends the log, if it is on.
  ~DirtyLog();
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;

  /// Begins; if a log is on (left by a dead process), it is begun anew.
  Result<void> enable();
  void disable();
  [[nodiscard]] bool enabled() const { return enabled_; }
  /// Which frames were written since the last call, as a bitmap that stays valid until the next;
  /// forgets them in the same instant.
  Result<std::span<const std::uint64_t>> clean();

 private:
  DirtyLog(Control& control, DomainId domid, std::uint64_t frames)
      : control_(control), domid_(domid), frames_(frames) {}

  Control& control_;
  DomainId domid_;
  std::uint64_t frames_;
  bool enabled_ = false;
  xc_hypercall_buffer_t buffer_{};
  int buffer_pages_ = 0;
};

/// xenstore, as far as it is needed. One connection, one thread at a time.
class Store {
 public:
  static Result<std::unique_ptr<Store>> open();
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Nothing if there is no such node.
  std::optional<std::string> read(const std::string& path);
  /// The names of the nodes below it.
  std::vector<std::string> list(const std::string& path);
  /// Whether it was written.
  bool write(const std::string& path, std::string_view value);
  /// Replaces `expected` by `value`, whatever others do meanwhile; false if something else is
  /// there.
  Result<bool> replace(const std::string& path, std::string_view expected, std::string_view value);
  /// Tells xenstored that a suspended domain goes on: without it, it would not tell of the next
  /// suspension.
  Result<void> resume(DomainId domid);

 private:
  explicit Store(xs_handle* handle) : handle_(handle) {}
  xs_handle* handle_;
};

}  // namespace understudy::xen
