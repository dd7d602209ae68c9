// understudyd: the agent of one host.
//
// The program reads its configuration, takes up what an earlier run left, serves the API and keeps
// domains protected. It has one thread for all decisions and waits (Boost.Asio) and a small pool
// for the work that takes processor time (encoding, applying). It may be stopped at any moment, in
// any way: guests are processes of their own, and every gate stays closed without it.

#include <sched.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <csignal>
#include <cstdio>
#include <system_error>

#include "agent/agent.h"
#include "agent/api_routes.h"
#include "agent/config.h"
#include "agent/http_server.h"

namespace {

namespace asio = boost::asio;
using understudy::Agent;
using understudy::AgentConfig;
using understudy::Result;

// The start in its order: what fails here ends the program with a message and an exit status.
Result<void> start(Agent& agent, understudy::HttpServer& server, const AgentConfig& config) {
  BOOST_OUTCOME_TRY(server.listen_unix(config.control_socket, config.control_group,
                                       understudy::api_routes(agent)));
  if (!config.metrics_listen.empty()) {
    BOOST_OUTCOME_TRY(server.listen_tcp(config.metrics_listen, understudy::metrics_routes(agent)));
  }
  return understudy::ok();
}

// Tells systemd's watchdog that the loop still turns.
asio::awaitable<void> feed_watchdog() {
  std::uint64_t watchdog_us = 0;
  if (::sd_watchdog_enabled(0, &watchdog_us) <= 0) co_return;
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    ::sd_notify(0, "WATCHDOG=1");
    timer.expires_after(std::chrono::microseconds(watchdog_us / 3));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

// Heartbeats and acknowledgements must keep their rhythm on a host that is busy with guests: this
// thread goes first. By weight, not by real-time priority: a real-time thread takes the processor
// on which it last ran even where another one is idle, so that a guest that talks much stood still
// for a quarter of the time while half a processor had nothing to do. Children (QEMU) and the
// workers run at ordinary priority. A host that does not allow it gets a line in the log and no
// more.
void go_first() {
  constexpr int kFirst = -20;
  const sched_param parameter{};
  if (::sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &parameter) != 0 ||
      ::setpriority(PRIO_PROCESS, 0, kFirst) != 0) {
    spdlog::warn("a higher priority is not to be had ({}): on a busy host heartbeats may be late",
                 std::generic_category().message(errno));
  }
}

int run(const AgentConfig& config) {
  asio::io_context context(1);
  asio::thread_pool workers(2);
  int exit_status = 0;

  auto made = Agent::create(context, workers, config);
  if (!made) {
    std::fprintf(stderr, "understudyd: %s\n", made.error().message().c_str());
    return static_cast<int>(made.error().code());
  }
  const std::unique_ptr<Agent> agent = std::move(made.value());
  understudy::HttpServer server(context);

  asio::signal_set signals(context, SIGINT, SIGTERM);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("event=agent_stopping signal={}", signal);
    ::sd_notify(0, "STOPPING=1");
    server.stop();
    asio::co_spawn(context, agent->shut_down(), [&](const std::exception_ptr&) { context.stop(); });
  });

  asio::co_spawn(
      context,
      [&]() -> asio::awaitable<void> {
        auto ready = co_await agent->take_up();
        if (ready) ready = start(*agent, server, config);
        if (!ready) {
          std::fprintf(stderr, "understudyd: %s\n", ready.error().message().c_str());
          exit_status = static_cast<int>(ready.error().code());
          context.stop();
          co_return;
        }
        ::sd_notify(0, "READY=1");
        spdlog::info("event=agent_ready host={} socket={}", config.name,
                     config.control_socket.string());
      },
      [](const std::exception_ptr& failure) {
        if (failure) std::rethrow_exception(failure);
      });
  asio::co_spawn(context, feed_watchdog(), [](const std::exception_ptr&) {});

  go_first();
  context.run();
  server.stop();
  workers.join();
  return exit_status;
}

}  // namespace

int main(int argument_count, char** arguments) {
  CLI::App app("understudyd: the agent of one host, keeps its domains replicated");
  std::string config_path = "/etc/understudy/understudy.toml";
  bool check_only = false;
  app.add_option("-c,--config", config_path, "Configuration file (understudy.toml(5))")
      ->capture_default_str();
  app.add_flag("--check-config", check_only,
               "Read the configuration, say what is wrong with it, and end");
  app.set_version_flag("--version", UNDERSTUDY_VERSION);
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : static_cast<int>(understudy::ErrorCode::usage);
  }

  auto config = AgentConfig::from_file(config_path);
  if (!config) {
    std::fprintf(stderr, "understudyd: %s\n", config.error().message().c_str());
    return static_cast<int>(understudy::ErrorCode::config);
  }
  if (check_only) {
    std::printf("%s: ok\n", config_path.c_str());
    return 0;
  }
  // Log lines go to stderr, where journald or a shell picks them up. A full pipe there must not
  // stop us, nor a closed one.
  std::signal(SIGPIPE, SIG_IGN);
  auto logger = spdlog::stderr_logger_st("understudyd");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  logger->set_level(spdlog::level::from_str(config.value().log_level));
  spdlog::set_default_logger(logger);
  try {
    return run(config.value());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "understudyd: internal error: %s\n", error.what());
    return static_cast<int>(understudy::ErrorCode::internal);
  }
}
