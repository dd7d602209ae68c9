// A domain of Xen as this process knows it: what XenDomain and XenStandby have in common, and what
// passes from the one to the other at promotion.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/json/value.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/condition.h"
#include "hypervisor/domain.h"
#include "hypervisor/xen/blocking_thread.h"
#include "hypervisor/xen/control.h"
#include "hypervisor/xen/guest_description.h"
#include "hypervisor/xen/toolstack.h"
#include "hypervisor/xen/xen_hypervisor.h"

namespace understudy::xen {

/// What all domains of this host share. `slow` is where the toolstack is called, and nowhere else.
struct XenHost {
  boost::asio::any_io_executor executor;
  XenOptions options;
  std::string version;
  std::unique_ptr<Toolstack> toolstack;
  std::unique_ptr<Control> slow_control;  ///< For what accompanies the toolstack's work.
  BlockingThread slow;                    ///< Last: it is done before the others go.
};

/// Whether a domain still is, found by asking Xen a few times a second. Shared with whoever waits,
/// because waiting may outlast the domain's object.
class Life {
 public:
  /// What to make of an end.
  struct Meaning {
    /// If the guest stops, the rest of the domain is ours to remove: we have made it, or have
    /// suspended it, which ends xl's watch over it.
    bool remove_rest = false;
    /// If the domain vanishes, it was killed. Otherwise its toolstack ended it in order.
    bool vanishing_is_death = false;
    /// It only holds an image: if somebody lets it run, the image is spoilt and that is its end.
    bool stands_paused = false;
    /// How it is suspended, and so how a stray is resumed.
    Method method = Method::cooperative;
  };

  static Result<std::shared_ptr<Life>> watch(std::shared_ptr<XenHost> host, DomainId domid,
                                             std::string uuid, Meaning meaning);

  /// May change as long as it lives.
  Meaning& meaning() { return meaning_; }
  [[nodiscard]] bool alive() const { return !exit_.has_value(); }
  /// A request to suspend may be on its way that nobody waits for (a step failed, an earlier agent
  /// died): from now on for a while, a guest that is found suspended is resumed. Until
  /// expect_suspension().
  void resume_strays();
  /// From now on somebody waits for it to suspend.
  void expect_suspension() { strays_until_ = {}; }
  /// Looks now, besides the times when it looks by itself.
  void look();
  /// It is over, for this reason; the first one counts.
  void end(DomainExit::Kind kind, std::string description);
  /// Nobody is interested any more: who waits is told so, and the domain goes on.
  void let_go();

  static Task<DomainExit> wait(std::shared_ptr<Life> life);

 private:
  Life() = default;
  void resume_stray();

  std::shared_ptr<XenHost> host_;
  std::unique_ptr<Control> control_;
  DomainId domid_ = 0;
  std::string uuid_;
  Meaning meaning_;
  Condition::Clock::time_point strays_until_;
  std::unique_ptr<Store> store_;  ///< Opened when there is a stray.
  std::optional<DomainExit> exit_;
  Condition changed_;
};

/// The thread on which a domain is stopped, looked into and set going, with its handles.
struct GuestThread {
  std::unique_ptr<Control> control;
  std::unique_ptr<Store> store;
  BlockingThread thread;  ///< Last: it is done before the others go.

  static Result<std::unique_ptr<GuestThread>> open();
};

/// Everything about a domain that does not change.
struct GuestIdentity {
  DomainConfig config;
  GuestDescription description;
  DomainId domid = 0;
  std::string uuid;
  bool made_here = false;  ///< By us, as a standby.
  std::vector<OutputInterface> outputs;

  /// What Domain::runtime_state() and Standby::runtime_state() are.
  [[nodiscard]] boost::json::value to_json(bool standby) const;
};

/// What to_json() wrote.
struct RecordedGuest {
  DomainConfig config;
  DomainId domid = 0;
  std::string uuid;
  bool standby = false;
  bool made_here = false;

  /// Errors: bad_data.
  static Result<RecordedGuest> from_json(const boost::json::value& json);
};

/// Where the frames of a domain with these NICs come out.
std::vector<OutputInterface> outputs_of(DomainId domid, const DomainSettings& settings);
/// Where states of a domain's device model pass through.
std::filesystem::path device_model_scratch(const XenHost& host, DomainId domid);

/// "d1" to "d1--standby": the name of a domain that only holds an image.
std::string standby_name(const std::string& name);

}  // namespace understudy::xen
