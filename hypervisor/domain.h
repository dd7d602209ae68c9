// What the engine needs of a domain, whatever hypervisor runs it.
//
// Intuition: three roles. A Hypervisor makes domains and checks what would go wrong. A Domain runs
// here and can be stopped for an instant, looked into, and let go on. A Standby is a domain that
// has never run here: it stands paused, its memory is the image that checkpoints are applied to,
// and it becomes a Domain by one call that takes milliseconds.
//
// One checkpoint, in the order of time (pages are counted in the domain's linear memory):
//
//     pause()               returns at the instant when no vCPU runs any more: the barrier goes
//     here take_dirty(set)       copy these pages out of memory() … save_device_state()   … while
//     the hypervisor finishes the device state take_dirty(late)      usually empty; copy these too
//     resume()              the pause ends when it returns
//
// Why the second take_dirty: a device may complete a request that was under way at the pause (a
// disk read landing in guest memory) and only then save its state. Taking the dirty set once,
// before the state, would pair old memory with a device that says 'done'. After save_device_state()
// returned, memory does not change until resume().
//
// Awkward case: any step may fail. An epoch with a failed step is abandoned by the caller, but what
// take_dirty took is gone from the log: the caller keeps those pages and adds them to the next set.
//
// Everything here is used from one thread, the one that runs the io_context given to the
// hypervisor; memory() alone may be read from any thread. At most one call of each object is in
// progress at a time, except wait_for_exit(), alive() and destroy(), which may come at any moment.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"
#include "hypervisor/domain_config.h"

namespace understudy {

/// A run of pages of the domain's linear memory.
struct PageRange {
  std::uint64_t first = 0;  ///< The first page (in pages of kPageBytes, not bytes).
  std::uint64_t count = 0;  ///< How many pages; at least 1.
  auto operator<=>(const PageRange&) const = default;
};

/// Pages as ranges: sorted, disjoint, none empty, all within the domain's memory.
using DirtySet = std::vector<PageRange>;

/// How many pages the set holds.
std::uint64_t count_pages(const DirtySet& set);
/// The union of two sets; neighbouring ranges are joined.
DirtySet merge(const DirtySet& left, const DirtySet& right);

/// How the domain's writes are found.
enum class TrackingMethod {
  pagemap_scan,  ///< The kernel tells which pages were written: cheap, exact.
  log_dirty,     ///< Xen tells: as cheap, as exact.
  full_compare,  ///< take_dirty() returns all pages that hold data; the caller, who owns the
                 ///< mirror, compares and drops those that are equal.
};
/// "pagemap_scan", "log_dirty" or "full_compare".
std::string_view to_string(TrackingMethod method);

/// Where a domain's frames come out on this host.
struct OutputInterface {
  std::string device;  ///< Name of the tap or vif, a port of the bridge.
  std::string bridge;
  MacAddress mac;  ///< The guest's address, not the tap's.
};

/// How far a domain has come with the frames for one interface.
struct InputProgress {
  /// Frames that the device model has taken out of the host's queue since the interface was made.
  /// All but the newest of them are inside the guest.
  std::uint64_t taken = 0;
  bool empty = false;  ///< No frame was left in that queue.
};

/// A frame that the host had for a domain that did not take it any more.
struct UnreadInput {
  std::size_t interface = 0;         ///< Index into Domain::outputs().
  std::vector<std::uint8_t> octets;  ///< A virtio_net_hdr of 10 octets, then the frame.
};

/// One result of a check made before anything is touched.
struct Finding {
  enum class Severity {
    ok,       ///< Looked at and fine.
    warning,  ///< It will work, but worse than it could, or something deserves a look.
    refusal,  ///< It cannot work.
  };
  Severity severity = Severity::ok;
  std::string subject;  ///< What was looked at, e.g. "memory", "bridge br0".
  std::string message;  ///< What was found and, unless ok, what to do about it.
};
/// "ok", "warning" or "refusal".
std::string_view to_string(Finding::Severity severity);

/// How a domain came to its end.
struct DomainExit {
  enum class Kind {
    guest_shutdown,  ///< The guest powered off.
    guest_reset,     ///< The guest rebooted; a domain does not survive that, start it anew.
    destroyed,       ///< destroy() or discard() was called here.
    crashed,         ///< The hypervisor process died, or was killed by somebody else.
  };
  Kind kind = Kind::crashed;
  std::string description;  ///< One sentence for logs, with the tail of the hypervisor's own words.
};
/// "guest_shutdown", "guest_reset", "destroyed" or "crashed".
std::string_view to_string(DomainExit::Kind kind);

/// A domain that runs on this host.
///
/// Letting go of the object does not end the domain: it goes on running without us, and
/// Hypervisor::adopt() takes it up again from its runtime_state(). To end it, call destroy().
class Domain {
 public:
  virtual ~Domain() = default;
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;

  /// What the domain is made of, with every 'automatic' replaced by what was chosen: this is the
  /// config to send to the backup.
  [[nodiscard]] virtual const DomainConfig& config() const = 0;

  /// The domain's memory, linear, as long as the object lives. It changes under the reader while
  /// the domain runs. Read only pages out of a DirtySet: touching a page that never held data makes
  /// the host allocate it.
  [[nodiscard]] virtual std::span<const std::byte> memory() const = 0;

  /// One for each NIC of the config, in the same order. Constant.
  [[nodiscard]] virtual std::span<const OutputInterface> outputs() const = 0;

  /// What executes the guest: "tcg", "kvm", "xen".
  [[nodiscard]] virtual std::string accelerator_name() const = 0;

  /// "transparent": the guest is stopped and notices nothing; or "cooperative": it takes part in
  /// each checkpoint (on Xen, where PV drivers want it).
  [[nodiscard]] virtual std::string checkpoint_method() const { return "transparent"; }
  /// Why, where there is a choice: one sentence for status. Empty otherwise.
  [[nodiscard]] virtual std::string checkpoint_method_reason() const { return {}; }

  /// How writes are found. Known from the start; may fall from pagemap_scan to full_compare in
  /// start_tracking(), never later.
  [[nodiscard]] virtual TrackingMethod tracking() const = 0;
  /// Why tracking() is full_compare, for status and logs. Empty for the others.
  [[nodiscard]] virtual std::string tracking_reason() const = 0;

  /// Begins to track writes. The first take_dirty() after it returns every page that holds data (a
  /// page that never held any is zero on both sides) and whatever is written from now on. Calling
  /// it while tracking starts over. The domain may run; it slows down a little from now on.
  virtual Task<Result<void>> start_tracking() = 0;

  /// Replaces `out` by the pages written since the last call, and forgets them in the same instant:
  /// a write is in exactly one of two consecutive sets, though a page that was merely read for the
  /// first time may appear as well. May be called at any time between start_tracking() and
  /// stop_tracking(), running or paused; blocks for about half a millisecond for each GiB. Errors
  /// (the domain died): the log is lost, start_tracking() again.
  virtual Result<void> take_dirty(DirtySet& out) = 0;

  /// Ends tracking and its cost. Does nothing if tracking is off.
  virtual Task<Result<void>> stop_tracking() = 0;

  /// Stops the domain and begins to collect its device state. Returns as soon as no vCPU runs and
  /// no frame leaves any more. On an error the domain runs on as if nothing had happened, or is
  /// dead (see alive()).
  virtual Task<Result<void>> pause() = 0;

  /// The state of processor and devices, to be loaded by an equal config's Standby::promote(). Only
  /// between pause() and resume(), once. On an error the domain has been set running again, or is
  /// dead: the epoch is to be abandoned, and resume() must not be called.
  virtual Task<Result<std::vector<std::byte>>> save_device_state() = 0;

  /// Lets the domain run on; when it returns, it runs. Also allowed right after pause(), without
  /// device state. On an error the domain stands still or is dead.
  virtual Task<Result<void>> resume() = 0;

  /// What became of the frames that the host handed to each interface. Replay mode asks this
  /// (replay/input_log.h, "The cut"). unavailable where the hypervisor cannot tell.
  virtual Result<std::vector<InputProgress>> input_progress();
  /// Only while paused: whether the guest has room for frames on every interface, so that no frame
  /// is stuck on its way for want of it. False where that is not certain.
  virtual Task<Result<bool>> takes_inputs();

  /// For a domain that stands still here and runs elsewhere: takes its interfaces off their bridges
  /// and returns the frames that came for it since it was paused, in their order for each
  /// interface, to be sent after it. It must not run here again. Empty where the hypervisor cannot
  /// tell; they are lost then, as frames on a network may be.
  virtual Result<std::vector<UnreadInput>> take_unread_inputs();

  /// A look at whether the guest's processors have work at this moment, or wait for some. Cheap;
  /// keeps nothing of the domain alive, and says false once that has ended. Empty where the
  /// hypervisor cannot tell.
  [[nodiscard]] virtual std::function<bool()> activity() const { return {}; }

  /// Ends the domain at once, without asking the guest, and removes everything of it from this
  /// host. Returns when it is gone. May be repeated. Pending calls end with an error.
  virtual Task<Result<void>> destroy() = 0;

  /// False once the hypervisor process is known to be gone. Constant afterwards.
  [[nodiscard]] virtual bool alive() const = 0;

  /// Waits for the end of the domain, whatever brings it. Any number of waiters. The waiting
  /// coroutine may outlive the object only until the io_context ends.
  virtual Task<DomainExit> wait_for_exit() = 0;

  /// All that adopt() and clean_up() need in a later process: config, process, interfaces, paths.
  /// Constant for the life of the domain; to be written to a state file by whoever keeps one.
  [[nodiscard]] virtual boost::json::value runtime_state() const = 0;

 protected:
  Domain() = default;
};

/// A domain that has never run here, stands paused and silent (its interfaces are attached to
/// nothing), and whose memory is the image. Owns everything it made on the host; letting go of the
/// object discards it.
class Standby {
 public:
  virtual ~Standby() = default;
  Standby(const Standby&) = delete;
  Standby& operator=(const Standby&) = delete;

  /// The config it was prepared from.
  [[nodiscard]] virtual const DomainConfig& config() const = 0;

  /// The image: all zero (and not yet allocated) at first. Only the caller writes to it. Valid
  /// until promote(), discard() or the end of the object.
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;

  /// The file behind memory(), by a descriptor that stays ours: for reserving room for pages before
  /// they are written (fallocate), since a host that has run out of memory would otherwise end the
  /// writing process (SIGBUS), and for giving room back. -1 if memory() is not a file. Valid as
  /// long as memory().
  [[nodiscard]] virtual int memory_file() const = 0;

  /// Where frames will come out once promoted. The devices exist, but carry nothing yet.
  [[nodiscard]] virtual std::span<const OutputInterface> outputs() const = 0;

  /// Attaches the interfaces to their bridges already, for whoever wants frames to lie before them
  /// when the domain begins to run. Whatever the bridge sends them lies there, too.
  virtual Result<void> attach_outputs();

  /// Loads `device_state`, attaches the interfaces to their bridges and lets the domain run: on
  /// success it runs. Used once. On an error nothing has run and nothing was sent; the standby is
  /// spent and should be let go of.
  virtual Task<Result<std::unique_ptr<Domain>>> promote(
      std::span<const std::byte> device_state) = 0;

  /// Gives everything back, the image included: when it returns, nothing can be promoted any more,
  /// though the host may still be taking it apart. May be repeated; does nothing after promote().
  virtual Task<void> discard() = 0;

  /// False once the hypervisor process is known to be gone: the image can no longer be promoted.
  [[nodiscard]] virtual bool alive() const = 0;
  /// Waits until it is gone: discarded or crashed. Must not be waited for across promote(), where
  /// the Domain's own takes over.
  virtual Task<DomainExit> wait_for_exit() = 0;

  /// What clean_up() needs if this process dies.
  [[nodiscard]] virtual boost::json::value runtime_state() const = 0;

 protected:
  Standby() = default;
};

class Rehearsal;  // hypervisor/rehearsal.h

/// Makes domains and standbys on this host.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;
  Hypervisor(const Hypervisor&) = delete;
  Hypervisor& operator=(const Hypervisor&) = delete;

  /// "qemu", "xen", "sim". Written beside runtime_state(), to find the right one again.
  [[nodiscard]] virtual std::string name() const = 0;

  /// Starts a domain; it runs when this returns. On an error nothing is left behind.
  virtual Task<Result<std::unique_ptr<Domain>>> start(DomainConfig config) = 0;

  /// Takes up a running domain that somebody else made, by its name. Errors: no_such if there is
  /// none, or the hypervisor has no domains but those that it started itself; config, unavailable
  /// if it cannot be protected, with the reason.
  virtual Task<Result<std::unique_ptr<Domain>>> find(std::string name);

  /// Takes up a domain that an earlier process started and left. It runs when this returns, even if
  /// that process died in the middle of a pause. Tracking is off. Errors: no_such if the domain is
  /// gone (call clean_up), bad_data if the state is not one of ours.
  virtual Task<Result<std::unique_ptr<Domain>>> adopt(const boost::json::value& runtime_state) = 0;

  /// Makes a paused domain with an empty image. `config` is one that Domain::config() gave on the
  /// primary. On an error nothing is left behind.
  virtual Task<Result<std::unique_ptr<Standby>>> prepare_standby(DomainConfig config) = 0;

  /// Makes a paused domain with empty memory for a drill, in a network of its own that leads
  /// nowhere. Checked as prepare_standby() is, free memory above all. It is gone when this process
  /// is. Errors: unavailable if this hypervisor cannot; otherwise as prepare_standby().
  virtual Task<Result<std::unique_ptr<Rehearsal>>> prepare_rehearsal(DomainConfig config);

  /// Everything that could go wrong with start() (or prepare_standby(), if `as_standby`), found
  /// without touching anything. A config is fine if no finding is a refusal; start() and
  /// prepare_standby() make the same checks and fail with the first refusal.
  virtual Task<std::vector<Finding>> check(const DomainConfig& config, bool as_standby) = 0;

  /// Removes what a dead process left of a domain or standby: its hypervisor process is killed if
  /// it still runs, its files are removed. Safe to repeat, and when nothing is left.
  virtual Task<Result<void>> clean_up(const boost::json::value& runtime_state) = 0;

 protected:
  Hypervisor() = default;
};

}  // namespace understudy
