// The guest's services in one static program, each started as a process of its own:
//
//   guestd echo PORT            sends back what it receives
//   guestd ledger PORT          the ledger (ledger.h)
//   guestd stream PORT          endless checkable bytes: the client sends "SEED [BYTES_PER_S]\n"
//   guestd dirty PORT [ORDER]   dirties memory on order: "PAGES EVERY_MS [REGION_PAGES [BYTES]]\n"
//   guestd bulk PORT            much data in one direction, checked (bulk.h)
//   guestd whims PORT           random bytes and the time of day (whims.h)
//   guestd compute PORT         a fixed computation (computation.h)
//   guestd udp-echo PORT        sends each datagram back
//   guestd names PORT           the register of names, over UDP (names.h)
//   guestd pattern SEED BYTES   writes that many bytes of the pattern to stdout
//   guestd web-file BYTES       the same with the seed that clients expect of a web file this long
//   guestd wait PORT…           ends when all the ports accept connections, uPORT answers datagrams
//
// As a program of the web server (a name below /cgi-bin/), it is
//
//   pattern?BYTES               the bytes of a web file of that length, made while they are sent
//   count                       checks an upload: answers "BYTES WRONG" for the body of a POST,
//                               which is to be a web file of its length
//
// They are plain servers that know nothing of being protected: an unmodified guest.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>

#include "tests/guest/bulk.h"
#include "tests/guest/computation.h"
#include "tests/guest/datagram_server.h"
#include "tests/guest/ledger.h"
#include "tests/guest/names.h"
#include "tests/guest/pattern.h"
#include "tests/guest/server.h"
#include "tests/guest/whims.h"

namespace understudy::guest {
namespace {

constexpr std::size_t page_bytes = 4096;

std::uint64_t now_us() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
}

/// Takes one line off the front of `input`; false if there is no whole line.
bool take_line(std::string& input, std::string& line) {
  const std::size_t end = input.find('\n');
  if (end == std::string::npos) {
    return false;
  }
  line.assign(input, 0, end);
  input.erase(0, end + 1);
  return true;
}

class Echo final : public Service {
 public:
  bool consume(Connection& connection) override {
    connection.output += connection.input;
    connection.input.clear();
    return true;
  }
};

class LedgerService final : public Service {
 public:
  explicit LedgerService(std::string boot) : ledger_(std::move(boot)) {}

  bool consume(Connection& connection) override {
    if (!connection.memory) {
      connection.memory = std::make_shared<LedgerConnection>();
    }
    auto& memory = *static_cast<LedgerConnection*>(connection.memory.get());
    std::string line;
    while (take_line(connection.input, line)) {
      connection.output += ledger_.answer(line, memory);
    }
    return true;
  }

 private:
  Ledger ledger_;
};

/// Sends the pattern, as fast as the client reads or at the rate that it asked for.
class Stream final : public Service {
 public:
  bool consume(Connection& connection) override {
    std::string line;
    if (connection.memory || !take_line(connection.input, line)) {
      return !connection.memory;  // nothing may follow the order
    }
    auto order = std::make_shared<Order>(orders_);
    char* rest = nullptr;
    order->seed = std::strtoull(line.c_str(), &rest, 10);
    order->bytes_per_s = std::strtoull(rest, nullptr, 10);
    order->start_us = now_us();
    connection.memory = order;
    return rest != line.c_str();
  }

  void produce(Connection& connection) override {
    if (!connection.memory) {
      return;
    }
    auto& order = *static_cast<Order*>(connection.memory.get());
    std::uint64_t size = output_bytes_max - connection.output.size();
    if (order.bytes_per_s != 0) {
      const std::uint64_t due = (now_us() - order.start_us) * order.bytes_per_s / 1'000'000;
      size = std::min(size, due - std::min(due, order.position));
    }
    const std::size_t old_size = connection.output.size();
    connection.output.resize(old_size + size);
    fill_pattern(order.seed, order.position, {connection.output.data() + old_size, size});
    order.position += size;
  }

  // An idle guest must be idle: no ticks without a client.
  int tick_ms() override { return orders_ > 0 ? 10 : -1; }

 private:
  struct Order {
    explicit Order(int& count) : orders(count) { ++orders; }
    ~Order() { --orders; }
    Order(const Order&) = delete;
    Order& operator=(const Order&) = delete;

    int& orders;
    std::uint64_t seed = 0;
    std::uint64_t bytes_per_s = 0;
    std::uint64_t start_us = 0;
    std::uint64_t position = 0;
  };

  int orders_ = 0;
};

/// Writes to memory at a given rate, for benchmarks: `pages` pages every `every_ms`, taken at
/// random from a region, `bytes` of new content in each.
class Dirty final : public Service {
 public:
  Dirty()
      : region_(
            static_cast<char*>(mmap(nullptr, region_pages_max * page_bytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}

  /// False, and nothing changed, if the order is malformed or beyond the limits.
  bool order(const std::string& text) {
    unsigned long pages = 0;
    unsigned long every_ms = 0;
    unsigned long region_pages = 8192;
    unsigned long bytes = 64;
    const int fields =
        std::sscanf(text.c_str(), "%lu %lu %lu %lu", &pages, &every_ms, &region_pages, &bytes);
    if (fields < 2 || every_ms == 0 || every_ms > 60'000 || region_pages == 0 ||
        region_pages > region_pages_max || pages > region_pages || bytes == 0 ||
        bytes > page_bytes) {
      return false;
    }
    pages_ = pages;
    every_ms_ = static_cast<int>(every_ms);
    region_pages_ = region_pages;
    bytes_ = bytes;
    return true;
  }

  bool consume(Connection& connection) override {
    std::string line;
    while (take_line(connection.input, line)) {
      connection.output +=
          order(line) ? "ok\n" : "error: expected PAGES EVERY_MS [REGION_PAGES [BYTES]]\n";
    }
    return true;
  }

  void tick() override {
    for (unsigned long i = 0; i < pages_; ++i) {
      state_ = mix(state_);
      char* page = region_ + state_ % region_pages_ * page_bytes;
      const std::size_t offset = (state_ >> 40U) % (page_bytes - bytes_ + 1) / 64 * 64;
      fill_pattern(state_, 0, {page + offset, bytes_});
    }
  }

  int tick_ms() override { return pages_ > 0 ? every_ms_ : -1; }

 private:
  static constexpr std::size_t region_pages_max = 128UL * 256;  // 128 MiB

  char* region_;
  unsigned long pages_ = 0;
  int every_ms_ = 1000;
  unsigned long region_pages_ = 8192;
  unsigned long bytes_ = 64;
  std::uint64_t state_ = 1;
};

int write_pattern(std::uint64_t seed, std::uint64_t size) {
  std::array<char, 65536> block;
  for (std::uint64_t position = 0; position < size; position += block.size()) {
    const std::size_t length = std::min<std::uint64_t>(block.size(), size - position);
    fill_pattern(seed, position, {block.data(), length});
    if (std::fwrite(block.data(), 1, length, stdout) != length) {
      return 1;
    }
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

std::string boot_id() {
  std::array<char, 64> text = {};
  if (std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
    if (std::fgets(text.data(), text.size(), file) == nullptr) {
      text[0] = '\0';
    }
    std::fclose(file);
  }
  text[std::strcspn(text.data(), "\n")] = '\0';
  return text[0] == '\0' ? "unknown" : text.data();
}

int usage() {
  std::fputs(
      "usage: guestd echo|ledger|stream|dirty|bulk|whims|compute|udp-echo|names PORT, pattern SEED "
      "BYTES, web-file BYTES, wait [u]PORT…\n",
      stderr);
  return 64;
}

class DatagramEcho final : public DatagramService {
 public:
  std::string answer(std::string_view request) override { return std::string(request); }
};

class NamesService final : public DatagramService {
 public:
  explicit NamesService(std::string boot) : names_(std::move(boot)) {}
  std::string answer(std::string_view request) override { return names_.answer(request); }

 private:
  Names names_;
};

/// What the web server starts for a path below /cgi-bin/. Without the headers that change with the
/// time of day: the same request gets the same octets.
int answer_web_request(std::string_view path) {
  const auto number_of = [](const char* name) {
    const char* value = std::getenv(name);
    return std::strtoull(value == nullptr ? "" : value, nullptr, 10);
  };
  if (path.ends_with("/pattern")) {
    const std::uint64_t size = number_of("QUERY_STRING");
    std::printf("Content-Type: application/octet-stream\r\nContent-Length: %llu\r\n\r\n",
                static_cast<unsigned long long>(size));
    return write_pattern(web_file_seed(size), size);
  }
  const std::uint64_t size = number_of("CONTENT_LENGTH");
  const std::uint64_t seed = web_file_seed(size);
  std::array<char, 65536> block;
  std::uint64_t position = 0;
  std::uint64_t wrong = 0;
  ssize_t got = 0;
  while (position < size && (got = read(STDIN_FILENO, block.data(), block.size())) > 0) {
    wrong += count_wrong(seed, position, {block.data(), static_cast<std::size_t>(got)});
    position += static_cast<std::uint64_t>(got);
  }
  const std::string answer = std::to_string(position) + " " + std::to_string(wrong) + "\n";
  std::printf("Content-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s", answer.size(),
              answer.c_str());
  return std::fflush(stdout) == 0 ? 0 : 1;
}

int run(int argument_count, char** arguments) {
  if (const char* path = std::getenv("SCRIPT_NAME"); path != nullptr && argument_count == 1) {
    return answer_web_request(path);
  }
  if (argument_count < 3) {
    return usage();
  }
  const std::string_view what = arguments[1];
  const std::uint64_t number = std::strtoull(arguments[2], nullptr, 10);
  const auto port = static_cast<std::uint16_t>(number);
  if (what == "echo") {
    Echo service;
    return serve(port, service);
  }
  if (what == "ledger") {
    LedgerService service(boot_id());
    return serve(port, service);
  }
  if (what == "stream") {
    Stream service;
    return serve(port, service);
  }
  if (what == "dirty") {
    Dirty service;
    if (argument_count > 3 && !service.order(arguments[3])) {
      std::fprintf(stderr, "guestd: cannot follow the order '%s'\n", arguments[3]);
      return 64;
    }
    return serve(port, service);
  }
  if (what == "bulk") {
    Bulk service;
    return serve(port, service);
  }
  if (what == "whims") {
    Whims service;
    return serve(port, service);
  }
  if (what == "compute") {
    Computation service;
    return serve(port, service);
  }
  if (what == "udp-echo") {
    DatagramEcho service;
    return serve_datagrams(port, service);
  }
  if (what == "names") {
    NamesService service(boot_id());
    return serve_datagrams(port, service);
  }
  if (what == "pattern" && argument_count == 4) {
    return write_pattern(number, std::strtoull(arguments[3], nullptr, 10));
  }
  if (what == "web-file") {
    return write_pattern(web_file_seed(number), number);
  }
  if (what == "wait") {
    for (int i = 2; i < argument_count; ++i) {
      const bool datagrams = arguments[i][0] == 'u';
      const auto awaited = static_cast<std::uint16_t>(
          std::strtoul(arguments[i] + static_cast<int>(datagrams), nullptr, 10));
      if (datagrams) {
        wait_for_datagram_port(awaited);
      } else {
        wait_for_port(awaited);
      }
    }
    return 0;
  }
  return usage();
}

}  // namespace
}  // namespace understudy::guest

int main(int argument_count, char** arguments) {
  return understudy::guest::run(argument_count, arguments);
}
