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
#include <memory>

#include "base/unique_fd.h"
#include "hypervisor/qemu/qemu_process.h"

namespace understudy {
namespace {

namespace asio = boost::asio;

// What has been read so far; shared with the coroutine that reads, which may be the last to go.
struct Reading {
  Reading(const asio::any_io_executor& executor, int fd) : pipe(executor, fd) {}
  asio::posix::stream_descriptor pipe;
  std::string text;
  bool cut = false;
};

Task<void> read_all(std::shared_ptr<Reading> reading, std::size_t bytes_max) {
  std::array<char, 4096> piece{};
  for (;;) {
    boost::system::error_code error;
    const std::size_t count = co_await reading->pipe.async_read_some(
        asio::buffer(piece), asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    const std::size_t room = bytes_max - std::min(bytes_max, reading->text.size());
    reading->text.append(piece.data(), std::min(room, count));
    reading->cut = reading->cut || count > room;
  }
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
  // What it wrote last is in the pipe already. Whatever it left behind in the background may hold
  // the other end for ever: not waited for.
  std::array<char, 4096> piece{};
  boost::system::error_code ignored;
  reading->pipe.non_blocking(true, ignored);
  for (int rounds = 0; rounds < 32; ++rounds) {
    const ssize_t count = ::read(reading->pipe.native_handle(), piece.data(), piece.size());
    if (count <= 0) break;
    const std::size_t room =
        line.output_bytes_max - std::min(line.output_bytes_max, reading->text.size());
    reading->text.append(piece.data(), std::min(room, static_cast<std::size_t>(count)));
    reading->cut = reading->cut || static_cast<std::size_t>(count) > room;
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
