#include "arbiter/fence_arbiter.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fstream>
#include <iterator>
#include <list>

#include "base/unique_fd.h"
#include "hypervisor/qemu/qemu_process.h"

namespace understudy {
namespace {

namespace asio = boost::asio;

constexpr auto kRetry = std::chrono::seconds(2);
/// What the agents' convention says of `status`: 0 on, 2 off.
constexpr std::string_view kSuccess = "exit status 0";
constexpr std::string_view kIsOff = "exit status 2";

Result<std::string> secrets_of(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return system_error(errno, path.string());
  if ((status.st_mode & 077U) != 0)
    return fail(ErrorCode::config, "{}: others may read it; make it mode 0600", path.string());
  std::ifstream file(path);
  if (!file) return fail(ErrorCode::config, "{} cannot be read", path.string());
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

class FenceArbiter final : public ArbiterService {
 public:
  FenceArbiter(asio::any_io_executor executor, ArbiterConfig config, std::string peer,
               Answered answered)
      : ArbiterService(config.solo_after),
        executor_(std::move(executor)),
        config_(std::move(config)),
        peer_(std::move(peer)),
        answered_(std::move(answered)),
        alive_(std::make_shared<bool>(true)) {}
  ~FenceArbiter() override { *alive_ = false; }

  [[nodiscard]] std::string_view name() const override { return "fence"; }
  [[nodiscard]] bool may_grant_solo() const override { return true; }
  [[nodiscard]] bool grants_last() const override { return false; }

  Answer ask(const Claim& claim) override {
    if (const auto known = std::ranges::find(pending_, claim, &Pending::claim);
        known != pending_.end()) {
      known->wanted = true;
      return Answer::pending;
    }
    pending_.push_back({claim, true, false, fmt::format("{} is being switched off", peer_)});
    asio::co_spawn(executor_, pursue(claim), asio::detached);
    return Answer::pending;
  }
  void forget(const Claim& claim) override {
    if (const auto known = std::ranges::find(pending_, claim, &Pending::claim);
        known != pending_.end()) {
      // The host has been heard: that it was switched off before tells nothing any more.
      known->wanted = false;
      known->stale = true;
    }
  }
  [[nodiscard]] std::string explain(const Claim& claim) const override {
    const auto known = std::ranges::find(pending_, claim, &Pending::claim);
    return known == pending_.end() ? "" : known->note;
  }

  Task<Result<void>> begin(std::string, ProtectionId, Generation) override { co_return ok(); }

  Task<Result<std::string>> probe() override {
    const std::string action = "status";
    BOOST_OUTCOME_CO_TRY(const std::string ending, co_await run(action));
    if (ending != kSuccess && ending != kIsOff)
      co_return fail(ErrorCode::unavailable, "{} cannot tell whether {} is on: {}",
                     config_.command.front(), peer_, ending);
    co_return fmt::format("{} sees {} ({})", config_.command.front(), peer_,
                          ending == kIsOff ? "off" : "on");
  }

 private:
  struct Pending {
    Claim claim;
    bool wanted = true;
    bool stale = false;  ///< The run under way began before the claim was forgotten.
    std::string note;
  };

  Task<void> pursue(Claim claim) {
    const auto alive = alive_;
    for (;;) {
      auto off = co_await switch_off();
      if (!*alive) co_return;
      const auto pending = std::ranges::find(pending_, claim, &Pending::claim);
      if (pending == pending_.end()) co_return;
      if (std::exchange(pending->stale, false) && pending->wanted) continue;
      if (off || !pending->wanted) {
        const bool wanted = pending->wanted;
        pending_.erase(pending);
        spdlog::info("domain={} arbiter=fence peer={} {}", claim.domain, peer_,
                     off ? "is off: granted" : "given up");
        if (wanted && answered_) answered_(claim, Answer::granted);
        co_return;
      }
      pending->note = off.error().message();
      spdlog::warn("domain={} arbiter=fence {}", claim.domain, pending->note);
      asio::steady_timer timer(executor_, kRetry);
      co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
      if (!*alive) co_return;
    }
  }

  Task<Result<void>> switch_off() {
    const std::string off = "off";
    const std::string status = "status";
    BOOST_OUTCOME_CO_TRY(const std::string did, co_await run(off));
    if (did != kSuccess)
      co_return fail(ErrorCode::unavailable, "fencing {} failed: {} {}", peer_,
                     config_.command.front(), did);
    BOOST_OUTCOME_CO_TRY(const std::string is, co_await run(status));
    if (is != kIsOff)
      co_return fail(ErrorCode::unavailable,
                     "{} says that it switched {} off, and does not see it off ({})",
                     config_.command.front(), peer_, is);
    co_return ok();
  }

  // How the agent ended, in words. Killed after the time limit.
  Task<Result<std::string>> run(std::string action) {
    Command command;
    command.output = "/dev/null";
    UniqueFd input;
    if (config_.options_file.empty()) {
      command.arguments = config_.command;
      command.arguments.push_back("--action=" + action);
    } else {
      BOOST_OUTCOME_CO_TRY(std::string text, secrets_of(config_.options_file));
      if (!text.empty() && text.back() != '\n') text += '\n';
      text += "action=" + action + "\n";
      input.reset(::memfd_create("fence-options", MFD_CLOEXEC));
      if (!input.valid() ||
          ::pwrite(input.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        co_return system_error(errno, "options for the fence agent");
      command.arguments = {"sh", "-c", "exec \"$@\" <&3 3<&-", "fence"};
      command.arguments.insert(command.arguments.end(), config_.command.begin(),
                               config_.command.end());
      command.descriptors = {{3, input.get()}};
    }
    BOOST_OUTCOME_CO_TRY(auto process, Process::start(executor_, command));
    const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(config_.timeout);
    const bool ended = co_await process->wait(limit);
    if (!ended) {
      process->kill();
      co_await process->wait(std::chrono::seconds(5));
      co_return fail(ErrorCode::timed_out, "{} --action={} did not end within {} ms",
                     config_.command.front(), action, limit.count());
    }
    co_return process->ending();
  }

  asio::any_io_executor executor_;
  ArbiterConfig config_;
  std::string peer_;
  Answered answered_;
  std::list<Pending> pending_;
  std::shared_ptr<bool> alive_;
};

}  // namespace

Result<std::unique_ptr<ArbiterService>> make_fence_arbiter(asio::any_io_executor executor,
                                                           const ArbiterConfig& config,
                                                           const std::string& peer,
                                                           ArbiterService::Answered answered) {
  if (config.command.empty())
    return fail(ErrorCode::config, "arbiter fence: the command is missing");
  if (!config.options_file.empty()) {
    BOOST_OUTCOME_TRY(secrets_of(config.options_file));
  }
  std::unique_ptr<ArbiterService> made =
      std::make_unique<FenceArbiter>(std::move(executor), config, peer, std::move(answered));
  return made;
}

}  // namespace understudy
