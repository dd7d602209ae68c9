#include "hypervisor/xen/xen_domain.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>

#include "hypervisor/xen/save_guard.h"

namespace understudy::xen {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

/// Pages of a domain that are not ordinary memory: rings, ACPI, firmware. More of them unaccounted
/// for means that the layout is not what we think.
constexpr std::uint64_t kSpecialPagesMax = 512;

constexpr std::chrono::microseconds kUsualStopMax = std::chrono::seconds(1);

std::string target_node(DomainId domid) {
  return fmt::format("/local/domain/{}/memory/target", domid);
}

double ms_since(Clock::time_point then) {
  return std::chrono::duration<double, std::milli>(Clock::now() - then).count();
}

// `device_model` stands still; there is none where the guest has none.
Result<GuestState> read_state(Control& control, DomainId domid, Method method,
                              DeviceModel* device_model) {
  GuestState state;
  state.method = method;
  const auto began = Clock::now();
  if (device_model != nullptr) {
    BOOST_OUTCOME_TRY(state.device_model, device_model->save_state());
  }
  const double device_model_ms = ms_since(began);
  BOOST_OUTCOME_TRY(state.hvm_context, control.hvm_context(domid));
  const double context_ms = ms_since(began);
  for (const auto numbers : {fixed_parameters(), carried_parameters()}) {
    for (const std::uint64_t number : numbers) {
      BOOST_OUTCOME_TRY(const auto value, control.parameter(domid, number));
      state.parameters.push_back({number, value});
    }
  }
  BOOST_OUTCOME_TRY(state.tsc, control.tsc(domid));
  spdlog::trace("xen: domain={} device_model_ms={:.2f} context_ms={:.2f} state_ms={:.2f}", domid,
                device_model_ms, context_ms - device_model_ms, ms_since(began));
  return state;
}

}  // namespace

Result<std::unique_ptr<XenDomain>> XenDomain::take(std::shared_ptr<XenHost> host,
                                                   GuestIdentity identity,
                                                   std::shared_ptr<Life> life,
                                                   std::unique_ptr<GuestThread> thread) {
  BOOST_OUTCOME_TRY(auto memory, GuestMemory::reserve(identity.description.layout));
  BOOST_OUTCOME_TRY(auto control, Control::open());
  return std::unique_ptr<XenDomain>(new XenDomain(std::move(host), std::move(identity),
                                                  std::move(life), std::move(thread),
                                                  std::move(control), std::move(memory)));
}

XenDomain::XenDomain(std::shared_ptr<XenHost> host, GuestIdentity identity,
                     std::shared_ptr<Life> life, std::unique_ptr<GuestThread> thread,
                     std::unique_ptr<Control> control, GuestMemory memory)
    : host_(std::move(host)),
      identity_(std::move(identity)),
      life_(std::move(life)),
      control_(std::move(control)),
      memory_(std::move(memory)),
      thread_(std::move(thread)) {}

XenDomain::~XenDomain() {
  life_->let_go();
}

Error XenDomain::in(const Error& error) const {
  return error.in(fmt::format("domain {}", identity_.config.name));
}

Task<Result<void>> XenDomain::settle() {
  const auto work = [this]() -> Result<void> {
    // A device model that an earlier agent stopped goes on first: the guest needs it.
    if (!cooperative()) {
      BOOST_OUTCOME_TRY(connect_device_model());
      BOOST_OUTCOME_TRY(device_model_->log_writes(false));
      BOOST_OUTCOME_TRY(device_model_->go_on());
    }
    return settle_guest(*thread_->control, *thread_->store, identity_.domid,
                        identity_.description.method);
  };
  const auto settled = co_await thread_->thread.run(work);
  unsettled_ = true;
  life_->resume_strays();
  co_return settled;
}

Result<void> XenDomain::connect_device_model() {
  device_model_.reset();
  BOOST_OUTCOME_TRY(device_model_,
                    DeviceModel::connect(DeviceModel::monitor_of(identity_.domid),
                                         device_model_scratch(*host_, identity_.domid)));
  return ok();
}

Task<Result<void>> XenDomain::start_tracking() {
  first_pages_.clear();
  life_->meaning().vanishing_is_death = true;
  if (log_ == nullptr) {
    auto opened =
        DirtyLog::open(*control_, identity_.domid, identity_.description.layout.end_gfn());
    if (!opened) co_return in(opened.error());
    log_ = std::move(opened.value());
  }
  log_->disable();
  const auto guard = [this]() -> Result<void> {
    BOOST_OUTCOME_TRY(forbid_saving(*thread_->store, identity_.domid, identity_.config.name));
    const auto saver = saver_of(identity_.domid);
    if (!saver) return ok();
    return fail(ErrorCode::unavailable, "another toolstack saves or migrates it (process {})",
                *saver);
  };
  if (auto guarded = co_await thread_->thread.run(guard); !guarded) co_return in(guarded.error());
  if (auto enabled = log_->enable(); !enabled) co_return in(enabled.error());
  // Mapped after the log is on: what is written from now on is either seen by the first copy or
  // told by the log.
  const auto map = [this]() -> Result<std::uint64_t> {
    if (!cooperative()) {
      BOOST_OUTCOME_TRY(connect_device_model());
      BOOST_OUTCOME_TRY(device_model_->log_writes(true));
    }
    // Pages that the guest has given up go when nobody maps them any more.
    memory_.unmap();
    mapped_target_ = thread_->store->read(target_node(identity_.domid));
    BOOST_OUTCOME_TRY(const auto facts, thread_->control->facts(identity_.domid));
    BOOST_OUTCOME_TRY(
        memory_.map(*thread_->control, identity_.domid, GuestMemory::Access::read_only));
    return facts.pages;
  };
  auto mapped = co_await thread_->thread.run(map);
  if (mapped) {
    mapped_pages_ = mapped.value();
    first_pages_ = memory_.populated();
    const std::uint64_t found = count_pages(first_pages_);
    spdlog::debug("xen: domain={} pages={} mapped={} holes={}", identity_.domid, mapped_pages_,
                  found, count_pages(memory_.holes()));
    if (mapped_pages_ > found + kSpecialPagesMax) {
      mapped = fail(ErrorCode::failed,
                    "{} of its {} pages lie where no memory is expected: its layout is not known",
                    mapped_pages_ - found, mapped_pages_);
    }
  }
  if (!mapped) {
    log_->disable();
    memory_.unmap();
    first_pages_.clear();
    co_return in(mapped.error());
  }
  co_return ok();
}

Result<void> XenDomain::take_dirty(DirtySet& out) {
  out.clear();
  if (log_ == nullptr || !log_->enabled()) {
    return fail(ErrorCode::internal, "take_dirty: tracking is off");
  }
  // A suspended guest's devices are frozen, too: nothing writes to its memory any more.
  if (phase_ == Phase::saved && cooperative()) return ok();
  const auto bitmap = log_->clean();
  if (!bitmap) {
    life_->look();
    return in(bitmap.error());
  }
  out = identity_.description.layout.dirty_pages(bitmap.value());
  if (!first_pages_.empty()) {
    out = merge(out, first_pages_);
    first_pages_.clear();
  }
  return ok();
}

Task<Result<void>> XenDomain::stop_tracking() {
  if (log_ != nullptr) log_->disable();
  first_pages_.clear();
  life_->meaning().vanishing_is_death = false;
  const auto unmap = [this]() -> Result<void> {
    allow_saving(*thread_->store, identity_.domid);
    memory_.unmap();
    if (device_model_ == nullptr) return ok();
    auto told = device_model_->log_writes(false);
    device_model_.reset();
    return told;
  };
  co_return co_await thread_->thread.run(unmap);
}

// On the domain's thread.
Result<DomainFacts> XenDomain::stop(const SuspendLimits& limits) {
  Control& control = *thread_->control;
  const DomainId domid = identity_.domid;
  if (unsettled_) {
    if (!cooperative()) {
      BOOST_OUTCOME_TRY(connect_device_model());
      BOOST_OUTCOME_TRY(device_model_->go_on());
      BOOST_OUTCOME_TRY(device_model_->log_writes(memory_.mapped()));
    }
    BOOST_OUTCOME_TRY(settle_guest(control, *thread_->store, domid, identity_.description.method));
  }
  // What the guest gives up stays in our mapping, and counts as its own until that goes: Xen's
  // count of pages tells only of what a guest gets. (It is looked at in pause().)
  if (memory_.mapped()) {
    const auto target = thread_->store->read(target_node(domid));
    if (target != mapped_target_) {
      return fail(ErrorCode::try_again,
                  "its memory is ballooned from {} to {} KiB: all of it is copied again",
                  mapped_target_.value_or("?"), target.value_or("?"));
    }
  }
  if (cooperative()) return suspend_guest(control, *thread_->store, domid, limits);
  if (device_model_ == nullptr) {
    BOOST_OUTCOME_TRY(connect_device_model());
  }
  BOOST_OUTCOME_TRY(const auto facts, stop_guest(control, domid));
  // No vCPU waits for it any more, so it has no request under way; from here on no frame comes in
  // or goes out.
  if (auto stopped = device_model_->stop(); !stopped) {
    const auto gone = control.resume_suspended(domid, identity_.description.method);
    if (gone) (void)thread_->store->resume(domid);
    return stopped.error();
  }
  return facts;
}

Task<Result<void>> XenDomain::pause() {
  if (phase_ != Phase::running) co_return fail(ErrorCode::internal, "pause: already paused");
  // From the first suspension on, xl's process that watches this domain is gone.
  life_->meaning().remove_rest = true;
  life_->expect_suspension();
  SuspendLimits limits;
  limits.answer = host_->options.suspend_timeout;
  limits.usual = usual_stop_;
  const auto work = [this, &limits] { return stop(limits); };
  const auto asked = Clock::now();
  const auto stopped = co_await thread_->thread.run(work);
  if (!stopped) {
    unsettled_ = stopped.error().code() != ErrorCode::try_again;
    if (unsettled_) life_->resume_strays();
    life_->look();
    co_return in(stopped.error());
  }
  unsettled_ = false;
  phase_ = Phase::paused;
  // One that took very long says nothing about the next one.
  const auto took = std::min(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - asked), kUsualStopMax);
  usual_stop_ = usual_stop_.count() == 0 ? took : (usual_stop_ * 3 + took) / 4;
  spdlog::trace("xen: domain={} stop_ms={:.2f}", identity_.domid, ms_since(asked));
  if (memory_.mapped() && stopped.value().pages != mapped_pages_) {
    co_return co_await run_on(fail(ErrorCode::try_again,
                                   "its memory is ballooned from {} to {} pages: all of it is "
                                   "copied again",
                                   mapped_pages_, stopped.value().pages));
  }
  collect();
  co_return ok();
}

// Begins to read the state on the domain's thread, while the engine copies pages.
void XenDomain::collect() {
  collection_ = std::make_shared<Collection>();
  thread_->thread.post([this, collection = collection_, executor = host_->executor] {
    auto state = std::make_shared<Result<GuestState>>(read_state(
        *thread_->control, identity_.domid, identity_.description.method, device_model_.get()));
    asio::post(executor, [collection, state] {
      collection->state.emplace(std::move(*state));
      collection->changed.notify_all();
    });
  });
}

Task<void> XenDomain::wait_for_collection() {
  if (collection_ == nullptr) co_return;
  const auto collection = collection_;
  const auto there = [&collection] { return collection->state.has_value(); };
  co_await collection->changed.wait_until(there, Condition::Clock::time_point::max());
}

Task<Result<std::vector<std::byte>>> XenDomain::save_device_state() {
  if (phase_ != Phase::paused) {
    co_return fail(ErrorCode::internal, "save_device_state: not just paused");
  }
  co_await wait_for_collection();
  Result<GuestState> state = std::move(*collection_->state);
  if (!state) {
    const Error why = state.error();
    co_return co_await run_on(why);
  }
  state.value().holes = memory_.holes();
  phase_ = Phase::saved;
  co_return state.value().encode();
}

Task<Result<void>> XenDomain::let_run() {
  co_await wait_for_collection();
  collection_.reset();
  const auto go = [this]() -> Result<void> {
    // xl sets a domain going that it could not save. What was copied of a guest that ran is no
    // checkpoint; the error is what keeps it from being committed.
    BOOST_OUTCOME_TRY(const auto facts, thread_->control->facts(identity_.domid));
    if (!facts.suspended() && !facts.shutdown && !facts.dying) {
      if (!cooperative()) (void)device_model_->go_on();
      (void)thread_->store->resume(identity_.domid);
      return fail(ErrorCode::try_again,
                  "another toolstack has set the guest going in the middle of a checkpoint, which "
                  "is dropped");
    }
    if (!cooperative()) {
      BOOST_OUTCOME_TRY(device_model_->go_on());
    }
    return thread_->control->resume_suspended(identity_.domid, identity_.description.method);
  };
  const auto asked = Clock::now();
  const auto gone = co_await thread_->thread.run(go);
  if (gone) {
    // The guest runs; xenstored may hear of it a moment later, but before the next suspension.
    thread_->thread.post([thread = thread_.get(), domid = identity_.domid] {
      if (auto told = thread->store->resume(domid); !told)
        spdlog::warn("xen: {}", told.error().message());
    });
  }
  spdlog::trace("xen: domain={} resume_ms={:.2f}", identity_.domid, ms_since(asked));
  phase_ = Phase::running;
  unsettled_ = !gone;
  if (unsettled_) life_->resume_strays();
  co_return gone;
}

Task<Result<void>> XenDomain::resume() {
  if (phase_ == Phase::running) co_return fail(ErrorCode::internal, "resume: not paused");
  const auto gone = co_await let_run();
  if (!gone) co_return in(gone.error());
  co_return ok();
}

// After a failed step: sees to it that the guest runs, and returns the whole story.
Task<Error> XenDomain::run_on(Error why) {
  const auto gone = co_await let_run();
  life_->look();
  if (!gone) {
    co_return in({why.code(), fmt::format("{}; and it could not be set running again: {}",
                                          why.message(), gone.error().message())});
  }
  co_return in(why);
}

Task<Result<void>> XenDomain::destroy() {
  if (log_ != nullptr) log_->disable();
  life_->end(DomainExit::Kind::destroyed, "destroyed here");
  const auto unmap = [this]() -> Result<void> {
    memory_.unmap();
    return ok();
  };
  static_cast<void>(co_await thread_->thread.run(unmap));
  const std::shared_ptr<XenHost> host = host_;
  const auto end = [&host, domid = identity_.domid, uuid = identity_.uuid]() -> Result<void> {
    // Its number may be another's by now.
    const auto facts = host->slow_control->facts(domid);
    if (!facts || facts.value().uuid != uuid) return ok();
    return host->toolstack->destroy(domid);
  };
  co_return co_await host->slow.run(end);
}

}  // namespace understudy::xen
