#include "hypervisor/qemu/qemu_domain.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/json/object.hpp>
#include <chrono>
#include <utility>

#include "hypervisor/qemu/tap.h"

namespace understudy {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

/// So many pages are looked at before others on the same io_context get their turn.
constexpr std::uint64_t kPagesPerTurn = 32768;

/// A string member of a monitor's answer, or nothing.
std::string member(const json::value& answer, const char* key) {
  const auto* object = answer.if_object();
  const auto* value = object ? object->if_contains(key) : nullptr;
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

Result<UniqueFd> make_state_file(std::size_t bytes_max) {
  UniqueFd fd(::memfd_create("understudy-device-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return system_error(errno, "a memory file for device state");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes_max)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0) {
    return system_error(errno, "the size of the memory file for device state");
  }
  return fd;
}

Task<Result<void>> continue_guest(QemuInstance& instance) {
  const auto deadline = std::chrono::steady_clock::now() + instance.options().answer_timeout_ms;
  while (true) {
    json::object no_arguments;
    const auto answer = co_await instance.monitor().execute("cont", std::move(no_arguments),
                                                            instance.options().answer_timeout_ms);
    if (answer) co_return ok();
    if (answer.error().code() != ErrorCode::failed || std::chrono::steady_clock::now() > deadline) {
      co_return answer.error();
    }
  }
}

QemuDomain::QemuDomain(std::shared_ptr<QemuInstance> instance) : instance_(std::move(instance)) {}

QemuDomain::~QemuDomain() {
  instance_->let_go();
}

// A standby that an earlier run was promoting. Its device state came with the order to load it, so
// once loading has begun nothing of that run is needed any more; before, there is nothing to run.
Task<Result<void>> QemuDomain::settle_promoted(QemuInstance& instance) {
  const auto timeout_ms = instance.options().answer_timeout_ms;
  const auto give_up = std::chrono::steady_clock::now() + timeout_ms;
  for (;;) {
    json::object query;
    BOOST_OUTCOME_CO_TRY(
        const json::value status,
        co_await instance.monitor().execute("query-status", std::move(query), timeout_ms));
    if (member(status, "status") != "inmigrate") break;
    json::object question;
    BOOST_OUTCOME_CO_TRY(
        const json::value loading,
        co_await instance.monitor().execute("query-migrate", std::move(question), timeout_ms));
    const std::string word = member(loading, "status");
    const bool begun = word == "setup" || word == "active" || word == "device";
    if (!begun || std::chrono::steady_clock::now() > give_up) {
      co_return fail(ErrorCode::bad_data, "domain {} is a standby that never ran",
                     instance.config().name);
    }
    asio::steady_timer pause(co_await asio::this_coro::executor, std::chrono::milliseconds(2));
    co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  // Before it is let go on: in silence it would be no voice.
  co_return instance.attach_taps();
}

Task<Result<void>> QemuDomain::settle(QemuInstance& instance) {
  const auto timeout_ms = instance.options().answer_timeout_ms;
  json::object no_arguments;
  if (instance.role() == QemuInstance::Role::standby) {
    BOOST_OUTCOME_CO_TRY(co_await settle_promoted(instance));
  }
  BOOST_OUTCOME_CO_TRY(const json::value migration, co_await instance.monitor().execute(
                                                        "query-migrate", no_arguments, timeout_ms));
  const std::string migrating = member(migration, "status");
  if (migrating == "setup" || migrating == "active" || migrating == "device" ||
      migrating == "cancelling") {
    BOOST_OUTCOME_CO_TRY(
        co_await instance.monitor().execute("migrate_cancel", no_arguments, timeout_ms));
    const auto over = [&instance] {
      return instance.told().migration == MigrationStatus::failed ||
             instance.told().migration == MigrationStatus::completed;
    };
    BOOST_OUTCOME_CO_TRY(
        co_await instance.monitor().wait_until(over, timeout_ms, "cancel an old migration"));
  }
  BOOST_OUTCOME_CO_TRY(const json::value status, co_await instance.monitor().execute(
                                                     "query-status", no_arguments, timeout_ms));
  const std::string state = member(status, "status");
  if (state == "inmigrate") {
    co_return fail(ErrorCode::bad_data, "domain {} is a standby that never ran",
                   instance.config().name);
  }
  if (state != "running") {
    BOOST_OUTCOME_CO_TRY(co_await continue_guest(instance));
  }
  instance.told().stopped = false;
  co_return ok();
}

const DomainConfig& QemuDomain::config() const {
  return instance_->config();
}
std::span<const std::byte> QemuDomain::memory() const {
  return std::as_const(*instance_).memory().bytes();
}
std::span<const OutputInterface> QemuDomain::outputs() const {
  return instance_->outputs();
}
std::string QemuDomain::accelerator_name() const {
  return std::string(to_string(instance_->config().accelerator));
}
TrackingMethod QemuDomain::tracking() const {
  return instance_->tracker() ? TrackingMethod::pagemap_scan : TrackingMethod::full_compare;
}
std::string QemuDomain::tracking_reason() const {
  return instance_->tracking_reason();
}

Task<Result<void>> QemuDomain::start_tracking() {
  if (!instance_->alive()) {
    co_return fail(ErrorCode::unavailable, "domain {} has ended", config().name);
  }
  tracking_on_ = false;
  first_pages_.clear();
  if (instance_->tracker()) {
    // Protect first and look for data afterwards: a page that comes to hold data in between is in
    // both answers, while the other way round it would be in neither.
    Result<void> done = co_await protect_memory();
    if (done) done = co_await list_data();
    if (!done && instance_->options().force_tracking == TrackingMethod::pagemap_scan) {
      instance_->tracker()->disarm();
      co_return done.error();
    }
    if (!done) instance_->give_up_tracking(done.error().message());
  }
  tracking_on_ = true;
  co_return ok();
}

Task<Result<void>> QemuDomain::protect_memory() {
  const std::uint64_t pages = config().memory_bytes / kPageBytes;
  BOOST_OUTCOME_CO_TRY(instance_->tracker()->arm(instance_->memory().fd(), config().memory_bytes));
  for (std::uint64_t first = 0; first < pages; first += kPagesPerTurn) {
    scanned_.clear();
    BOOST_OUTCOME_CO_TRY(
        instance_->tracker()->scan(first, std::min(kPagesPerTurn, pages - first), scanned_));
    co_await asio::post(instance_->executor(), asio::use_awaitable);
  }
  co_return ok();
}

Task<Result<void>> QemuDomain::list_data() {
  const std::uint64_t pages = config().memory_bytes / kPageBytes;
  for (std::uint64_t first = 0; first < pages; first += kPagesPerTurn) {
    BOOST_OUTCOME_CO_TRY(instance_->memory().append_data_ranges(
        first, std::min(kPagesPerTurn, pages - first), first_pages_));
    co_await asio::post(instance_->executor(), asio::use_awaitable);
  }
  co_return ok();
}

Result<void> QemuDomain::take_dirty(DirtySet& out) {
  out.clear();
  if (!tracking_on_) return fail(ErrorCode::internal, "take_dirty without start_tracking");
  const std::uint64_t pages = config().memory_bytes / kPageBytes;
  if (!instance_->tracker()) return instance_->memory().append_data_ranges(0, pages, out);
  if (auto scanned = instance_->tracker()->scan(0, pages, out); !scanned) {
    tracking_on_ = false;
    return scanned.error().in(fmt::format("domain {}", config().name));
  }
  if (!first_pages_.empty()) {
    out = merge(out, first_pages_);
    first_pages_ = DirtySet();
  }
  return ok();
}

Task<Result<void>> QemuDomain::stop_tracking() {
  tracking_on_ = false;
  first_pages_ = DirtySet();
  if (instance_->tracker()) instance_->tracker()->disarm();
  co_return ok();
}

Result<void> QemuDomain::rewind_state_file() {
  if (!state_file_.valid()) {
    BOOST_OUTCOME_TRY(state_file_, make_state_file(instance_->options().device_state_bytes_max));
  }
  if (::lseek(state_file_.get(), 0, SEEK_SET) != 0) return system_error(errno, "device state");
  return ok();
}

Task<Result<void>> QemuDomain::pause() {
  if (phase_ != Phase::running) co_return fail(ErrorCode::internal, "pause: already paused");
  if (unsettled_) {
    const Result<void> settled = co_await settle(*instance_);
    if (!settled) co_return co_await instance_->explain(settled.error());
    unsettled_ = false;
  }
  BOOST_OUTCOME_CO_TRY(rewind_state_file());
  QemuInstance::Told& told = instance_->told();
  told.migration = MigrationStatus::none;
  told.stopped = false;

  std::array<QmpCommand, 2> commands;
  commands[0].name = "getfd";
  commands[0].arguments["fdname"] = "state";
  commands[1].name = "migrate";
  commands[1].arguments["uri"] = "fd:state";
  Result<void> done = co_await instance_->monitor().execute_all(
      commands, state_file_.get(), instance_->options().answer_timeout_ms);
  if (done) {
    const auto stopped = [&told] {
      return told.stopped || told.migration == MigrationStatus::failed;
    };
    done = co_await instance_->monitor().wait_until(stopped, instance_->options().answer_timeout_ms,
                                                    "stop the guest");
    if (done && !told.stopped) {
      done = fail(ErrorCode::failed, "QEMU failed before it stopped the guest");
    }
  }
  if (!done) co_return co_await run_on(done.error());
  phase_ = Phase::paused;
  co_return ok();
}

Task<Result<std::vector<std::byte>>> QemuDomain::save_device_state() {
  if (phase_ != Phase::paused) {
    co_return fail(ErrorCode::internal, "save_device_state: not just paused");
  }
  const QemuInstance::Told& told = instance_->told();
  const auto over = [&told] {
    return told.migration == MigrationStatus::completed ||
           told.migration == MigrationStatus::failed;
  };
  Result<void> done = co_await instance_->monitor().wait_until(
      over, instance_->options().answer_timeout_ms, "save the device state");
  std::vector<std::byte> state;
  if (done && told.migration == MigrationStatus::completed) {
    // QEMU's descriptor and ours share one position, which is where its last byte went.
    const off_t bytes = ::lseek(state_file_.get(), 0, SEEK_CUR);
    state.resize(static_cast<std::size_t>(std::max<off_t>(bytes, 0)));
    if (bytes <= 0 || ::pread(state_file_.get(), state.data(), state.size(), 0) != bytes) {
      done = system_error(errno, "reading the device state");
    }
  } else if (done) {
    done = fail(ErrorCode::failed, "QEMU failed to save the device state");
  }
  if (!done) co_return co_await run_on(done.error());
  phase_ = Phase::saved;
  co_return state;
}

Task<Result<void>> QemuDomain::resume() {
  if (phase_ == Phase::running) co_return fail(ErrorCode::internal, "resume: not paused");
  if (phase_ == Phase::paused) {
    const QemuInstance::Told& told = instance_->told();
    const auto over = [&told] {
      return told.migration == MigrationStatus::completed ||
             told.migration == MigrationStatus::failed;
    };
    static_cast<void>(co_await instance_->monitor().wait_until(
        over, instance_->options().answer_timeout_ms, "save the device state"));
  }
  const Result<void> continued = co_await continue_guest(*instance_);
  if (!continued) co_return co_await instance_->explain(continued.error());
  instance_->told().stopped = false;
  phase_ = Phase::running;
  co_return ok();
}

/// After a failed step: sees to it that the guest runs, and returns the whole story. A write of a
/// migration that was given up may still come, so the next one gets a file of its own.
Task<Error> QemuDomain::run_on(Error why) {
  state_file_.reset();
  phase_ = Phase::running;
  unsettled_ = true;
  if (!instance_->monitor().broken()) {
    const auto timeout_ms = instance_->options().answer_timeout_ms;
    json::object no_arguments;
    const auto answer =
        co_await instance_->monitor().execute("query-migrate", std::move(no_arguments), timeout_ms);
    if (answer) {
      const std::string words = member(answer.value(), "error-desc");
      if (!words.empty()) why = {why.code(), why.message() + ": " + words};
    }
    const Result<void> settled = co_await settle(*instance_);
    unsettled_ = !settled;
    if (!settled && !instance_->monitor().broken()) {
      co_return Error{why.code(),
                      fmt::format("{}; and the domain could not be set running again: {}",
                                  why.message(), settled.error().message())};
    }
  }
  co_return co_await instance_->explain(std::move(why));
}

// A tap is readable as long as a frame waits in it, and counts what was read from it as sent.
Result<std::vector<InputProgress>> QemuDomain::input_progress() {
  if (taps_.empty()) {
    BOOST_OUTCOME_TRY(taps_, instance_->fetch_taps());
  }
  std::vector<InputProgress> progress(taps_.size());
  for (std::size_t nic = 0; nic < taps_.size(); ++nic) {
    pollfd waiting{.fd = taps_[nic].get(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 0) < 0) return system_error(errno, "look into a tap's queue");
    progress[nic].empty = (waiting.revents & POLLIN) == 0;
    BOOST_OUTCOME_TRY(progress[nic].taken, frames_taken_from(instance_->outputs()[nic].device));
  }
  return progress;
}

// A QEMU whose guest is stopped leaves its taps alone; their queues hold a thousand frames each.
Result<std::vector<UnreadInput>> QemuDomain::take_unread_inputs() {
  if (taps_.empty()) {
    BOOST_OUTCOME_TRY(taps_, instance_->fetch_taps());
  }
  std::vector<UnreadInput> unread;
  for (std::size_t nic = 0; nic < taps_.size(); ++nic) {
    const OutputInterface& output = instance_->outputs()[nic];
    BOOST_OUTCOME_TRY(detach_tap(output.device, output.bridge));
    BOOST_OUTCOME_TRY(auto frames, take_frames(taps_[nic]));
    for (auto& octets : frames) unread.push_back({nic, std::move(octets)});
  }
  return unread;
}

std::function<bool()> QemuDomain::activity() const {
  return [process = instance_->identity()] { return has_work(process.pid); };
}

// QEMU remembers how far the guest's list of free buffers went when it last looked (the shadow): as
// long as it has not used up all of these, it has not had to keep a frame back.
Task<Result<bool>> QemuDomain::takes_inputs() {
  for (std::size_t nic = 0; nic < instance_->outputs().size(); ++nic) {
    json::object arguments;
    arguments["path"] = fmt::format("/machine/peripheral/nic{}/virtio-backend", nic);
    arguments["queue"] = 0;
    BOOST_OUTCOME_CO_TRY(const auto status, co_await instance_->monitor().execute(
                                                "x-query-virtio-queue-status", std::move(arguments),
                                                instance_->options().answer_timeout_ms));
    const auto* queue = status.if_object();
    const auto* last = queue == nullptr ? nullptr : queue->if_contains("last-avail-idx");
    const auto* shadow = queue == nullptr ? nullptr : queue->if_contains("shadow-avail-idx");
    if (last == nullptr || shadow == nullptr || *last == *shadow) co_return false;
  }
  co_return true;
}

Task<Result<void>> QemuDomain::destroy() {
  tracking_on_ = false;
  co_return co_await instance_->end();
}

bool QemuDomain::alive() const {
  return instance_->alive();
}
Task<DomainExit> QemuDomain::wait_for_exit() {
  return QemuInstance::wait_for_exit(instance_);
}
json::value QemuDomain::runtime_state() const {
  return instance_->runtime_state();
}

}  // namespace understudy
