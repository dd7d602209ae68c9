#include "agent/command_run.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "base/unique_fd.h"
#include "hypervisor/qemu/qemu_process.h"

namespace understudy {
namespace {

namespace asio = boost::asio;

// How long the output is read on when the command has ended. What it wrote is in the pipe already;
// what it left behind in the background may hold the other end for ever.
constexpr auto kLastWords = std::chrono::milliseconds(250);

// What has been read so far; shared with the coroutine that reads, which may be the last to go.
struct Reading {
  Reading(const asio::any_io_executor& executor, int fd) : pipe(executor, fd), ended(executor) {
    ended.expires_at(asio::steady_timer::time_point::max());
  }
  asio::posix::stream_descriptor pipe;
  asio::steady_timer ended;  ///< Cancelled when all has been read.
  bool over = false;
  std::string text;
  bool cut = false;
};

Task<void> read_all(std::shared_ptr<Reading> reading, std::size_t bytes_max) {
  std::array<char, 4096> piece{};
  for (;;) {
    boost::system::error_code error;
    const std::size_t count = co_await reading->pipe.async_read_some(
        asio::buffer(piece), asio::redirect_error(asio::use_awaitable, error));
    if (error) break;
    const std::size_t room = bytes_max - std::min(bytes_max, reading->text.size());
    reading->text.append(piece.data(), std::min(room, count));
    reading->cut = reading->cut || count > room;
  }
  reading->over = true;
  reading->ended.cancel();
}

}  // namespace

std::string on_one_line(std::string_view text) {
  std::string line(text);
  for (char& letter : line) {
    const auto octet = static_cast<unsigned char>(letter);
    if (octet < 0x20 || octet == 0x7f) letter = ' ';
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

Task<Result<CommandEnd>> run_command_line(asio::any_io_executor executor, CommandLine line) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) co_return system_error(errno, "a pipe");
  UniqueFd write_end(ends[1]);
  const auto reading = std::make_shared<Reading>(executor, ends[0]);
  Command command;
  command.arguments = std::move(line.words);
  command.environment = std::move(line.environment);
  command.output = fmt::format("/proc/self/fd/{}", write_end.get());
  const auto begun = std::chrono::steady_clock::now();
  auto started = Process::start(executor, command);
  if (!started) co_return started.error();
  const std::unique_ptr<Process> process = std::move(started.value());
  write_end.reset();
  asio::co_spawn(executor, read_all(reading, line.output_bytes_max), asio::detached);

  CommandEnd end;
  const bool ended = co_await process->wait(line.time_max);
  if (!ended) {
    end.timed_out = true;
    // The leader has not been reaped, so its number still names this session and no other.
    ::kill(-process->identity().pid, SIGKILL);
    process->kill();
    co_await process->wait(std::chrono::seconds(5));
  }
  boost::system::error_code ignored;
  if (!reading->over) {
    reading->ended.expires_after(kLastWords);
    co_await reading->ended.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  reading->pipe.close(ignored);
  end.took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begun);
  end.ending = end.timed_out
                   ? fmt::format("still ran after {} ms and was killed", line.time_max.count())
                   : process->ending();
  end.succeeded = !end.timed_out && end.ending == "exit status 0";
  end.output = on_one_line(reading->text) + (reading->cut ? " …" : "");
  co_return end;
}

}  // namespace understudy
