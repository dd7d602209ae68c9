// A service that never says the same twice: random bytes and the time of day. Port 9004.
//
//   W NONCE BYTES  →  W NONCE TIME RANDOM CHAIN     at most 4096 random bytes, in hexadecimal
//
// Whoever runs it again from an earlier state hears something else. CHAIN is a running hash over
// all that was said on this connection, so that a client which heard the beginning of one run and
// the end of another knows it at the first answer after the seam.
#pragma once

#include <sys/random.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>

#include "tests/guest/ledger.h"
#include "tests/guest/pattern.h"
#include "tests/guest/server.h"

namespace understudy::guest {

constexpr std::size_t whim_bytes_max = 4096;

/// The chain value after `text` (an answer without its last word) was said on a connection.
constexpr std::uint64_t next_whim_chain(std::uint64_t previous, std::string_view text) {
  return mix(previous ^ line_check(text));
}

class Whims final : public Service {
 public:
  bool consume(Connection& connection) override {
    if (!connection.memory) {
      connection.memory = std::make_shared<std::uint64_t>(0);
    }
    auto& chain = *static_cast<std::uint64_t*>(connection.memory.get());
    std::size_t end = 0;
    while ((end = connection.input.find('\n')) != std::string::npos) {
      std::uint64_t nonce = 0;
      std::size_t bytes = 0;
      if (std::sscanf(connection.input.c_str(), "W %" SCNu64 " %zu", &nonce, &bytes) != 2 ||
          bytes > whim_bytes_max) {
        return false;
      }
      connection.input.erase(0, end + 1);
      const std::string text = whim(nonce, bytes);
      chain = next_whim_chain(chain, text);
      std::array<char, 24> last = {};
      std::snprintf(last.data(), last.size(), " %016" PRIx64 "\n", chain);
      connection.output += text + last.data();
    }
    return true;
  }

 private:
  static std::string whim(std::uint64_t nonce, std::size_t bytes) {
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    std::array<unsigned char, whim_bytes_max> random = {};
    for (std::size_t got = 0; got < bytes;) {
      const ssize_t size = getrandom(random.data() + got, bytes - got, 0);
      got += size > 0 ? static_cast<std::size_t>(size) : 0;
    }
    std::array<char, 64> head = {};
    std::snprintf(head.data(), head.size(), "W %" PRIu64 " %lld.%09ld ", nonce,
                  static_cast<long long>(now.tv_sec), now.tv_nsec);
    std::string text = head.data();
    for (std::size_t i = 0; i < bytes; ++i) {
      constexpr std::string_view digits = "0123456789abcdef";
      text += digits[random[i] >> 4U];
      text += digits[random[i] & 15U];
    }
    return text;
  }
};

}  // namespace understudy::guest
