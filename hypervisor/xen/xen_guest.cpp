#include "hypervisor/xen/xen_guest.h"

#include <spdlog/spdlog.h>

#include <boost/json/object.hpp>

namespace understudy::xen {
namespace {

namespace json = boost::json;

constexpr auto kLookEvery = std::chrono::milliseconds(100);
/// A guest that takes longer from a request to its suspension is not going to do it.
constexpr auto kStraysFor = std::chrono::seconds(60);

DomainExit::Kind kind_of(unsigned reason) {
  if (reason == SHUTDOWN_poweroff) return DomainExit::Kind::guest_shutdown;
  if (reason == SHUTDOWN_reboot) return DomainExit::Kind::guest_reset;
  return DomainExit::Kind::crashed;
}

}  // namespace

Result<std::shared_ptr<Life>> Life::watch(std::shared_ptr<XenHost> host, DomainId domid,
                                          std::string uuid, Meaning meaning) {
  std::shared_ptr<Life> life(new Life);
  BOOST_OUTCOME_TRY(life->control_, Control::open());
  life->host_ = std::move(host);
  life->domid_ = domid;
  life->uuid_ = std::move(uuid);
  life->meaning_ = meaning;
  return life;
}

void Life::resume_strays() {
  strays_until_ = Condition::Clock::now() + kStraysFor;
}

void Life::resume_stray() {
  auto resumed = control_->resume_suspended(domid_, meaning_.method);
  if (resumed && store_ == nullptr) {
    auto opened = Store::open();
    if (opened) store_ = std::move(opened.value());
  }
  if (resumed && store_ != nullptr) resumed = store_->resume(domid_);
  spdlog::warn("xen: domain={} was suspended for nobody: {}", domid_,
               resumed ? "resumed" : resumed.error().message());
}

void Life::look() {
  if (exit_) return;
  const auto facts = control_->facts(domid_);
  if (!facts && facts.error().code() != ErrorCode::no_such) return;
  if (!facts || facts.value().uuid != uuid_ || facts.value().dying) {
    if (!meaning_.vanishing_is_death) {
      return end(DomainExit::Kind::guest_shutdown,
                 fmt::format("Xen's domain {} was ended by its toolstack", domid_));
    }
    return end(DomainExit::Kind::crashed,
               fmt::format("Xen's domain {} was destroyed by somebody else", domid_));
  }
  if (meaning_.stands_paused && (!facts.value().paused || facts.value().ever_ran)) {
    return end(
        DomainExit::Kind::crashed,
        fmt::format("somebody has let Xen's domain {} run, which spoils what it holds", domid_));
  }
  if (facts.value().suspended() && Condition::Clock::now() < strays_until_) resume_stray();
  if (!facts.value().shutdown || facts.value().suspended()) return;
  const unsigned reason = *facts.value().shutdown;
  end(kind_of(reason), fmt::format("the guest {}", shutdown_reason(reason)));
  if (!meaning_.remove_rest) return;
  Toolstack* const toolstack = host_->toolstack.get();
  host_->slow.post([toolstack, domid = domid_] {
    if (auto destroyed = toolstack->destroy(domid); !destroyed)
      spdlog::warn("xen: {}", destroyed.error().message());
  });
}

void Life::end(DomainExit::Kind kind, std::string description) {
  if (exit_) return;
  exit_ = DomainExit{kind, std::move(description)};
  changed_.notify_all();
}

void Life::let_go() {
  end(DomainExit::Kind::destroyed, "not watched any more");
}

Task<DomainExit> Life::wait(std::shared_ptr<Life> life) {
  const auto over = [&life] { return life->exit_.has_value(); };
  for (;;) {
    life->look();
    const bool ended =
        co_await life->changed_.wait_until(over, Condition::Clock::now() + kLookEvery);
    if (ended) break;
  }
  co_return *life->exit_;
}

Result<std::unique_ptr<GuestThread>> GuestThread::open() {
  auto thread = std::make_unique<GuestThread>();
  BOOST_OUTCOME_TRY(thread->control, Control::open());
  BOOST_OUTCOME_TRY(thread->store, Store::open());
  thread->thread.go_first();
  return thread;
}

json::value GuestIdentity::to_json(bool standby) const {
  json::object object;
  object["domid"] = domid;
  object["uuid"] = uuid;
  object["standby"] = standby;
  object["made_here"] = made_here;
  object["config"] = config.to_json();
  return object;
}

Result<RecordedGuest> RecordedGuest::from_json(const json::value& value) {
  const auto wrong = [] {
    return fail(ErrorCode::bad_data, "the record of a Xen domain is malformed");
  };
  const auto* object = value.if_object();
  if (object == nullptr) return wrong();
  const auto* domid = object->if_contains("domid");
  const auto* uuid = object->if_contains("uuid");
  const auto* standby = object->if_contains("standby");
  const auto* made_here = object->if_contains("made_here");
  const auto* config = object->if_contains("config");
  if (domid == nullptr || !domid->is_number() || uuid == nullptr || !uuid->is_string() ||
      standby == nullptr || !standby->is_bool() || made_here == nullptr || !made_here->is_bool() ||
      config == nullptr) {
    return wrong();
  }
  RecordedGuest guest;
  boost::system::error_code error;
  guest.domid = domid->to_number<DomainId>(error);
  if (error) return wrong();
  guest.uuid = std::string(uuid->get_string());
  guest.standby = standby->get_bool();
  guest.made_here = made_here->get_bool();
  BOOST_OUTCOME_TRY(guest.config, DomainConfig::from_json(*config));
  return guest;
}

std::vector<OutputInterface> outputs_of(DomainId domid, const DomainSettings& settings) {
  std::vector<OutputInterface> outputs;
  outputs.reserve(settings.nics.size());
  for (const NicFacts& nic : settings.nics) {
    std::string device =
        nic.device.empty() ? fmt::format("vif{}.{}", domid, nic.number) : nic.device;
    // The guest has both; without PV drivers, it speaks through the device model's only.
    if (nic.emulated) device += "-emu";
    outputs.push_back({std::move(device), nic.bridge, nic.mac});
  }
  return outputs;
}

std::filesystem::path device_model_scratch(const XenHost& host, DomainId domid) {
  return host.options.runtime_directory / fmt::format("device-model-{}", domid);
}

std::string standby_name(const std::string& name) {
  return name + "--standby";
}

}  // namespace understudy::xen
