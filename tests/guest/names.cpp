#include "tests/guest/names.h"

#include <cinttypes>
#include <cstdio>

namespace understudy::guest {
namespace {

std::string with_check(std::string text) {
  std::array<char, 24> check = {};
  std::snprintf(check.data(), check.size(), " %016" PRIx64, line_check(text));
  return text += check.data();
}

}  // namespace

Names::Names(std::string boot)
    : boot_(std::move(boot)), clients_(std::make_unique<std::array<Client, names_clients_max>>()) {}

std::string Names::answer(std::string_view request) {
  const std::string text(request);
  if (text == "S") {
    return with_check("S " + std::to_string(serial_) + " " + std::to_string(repeated_) + " " +
                      boot_);
  }
  std::uint32_t client = 0;
  std::uint64_t sequence = 0;
  std::uint64_t nonce = 0;
  int length = 0;
  if (std::sscanf(text.c_str(), "N %" SCNu32 " %" SCNu64 " %" SCNu64 "%n", &client, &sequence,
                  &nonce, &length) != 3 ||
      static_cast<std::size_t>(length) != text.size() || sequence == 0 ||
      client >= names_clients_max) {
    return with_check("E malformed");
  }
  Entry& entry = (*clients_)[client][sequence % names_remembered];
  if (sequence < entry.sequence) {
    return with_check("E forgotten");
  }
  if (sequence == entry.sequence) {
    ++repeated_;
  } else {
    entry = {sequence, nonce, ++serial_};
  }
  // The nonce of the first request: a repetition with another one is somebody else's.
  return with_check("N " + std::to_string(client) + " " + std::to_string(sequence) + " " +
                    std::to_string(entry.nonce) + " " + std::to_string(entry.serial) + " " + boot_);
}

}  // namespace understudy::guest
