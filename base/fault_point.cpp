#include "base/fault_point.h"

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string>

namespace understudy::fault_points {
namespace {

struct Armed {
  std::string name;
  int signal = 0;
  unsigned passes = 1;
};

// "NAME=kill", "NAME=stop@3"; anything else arms nothing.
Armed from_environment() {
  const char* text = std::getenv("UNDERSTUDY_FAULT_POINT");
  if (text == nullptr) return {};
  const std::string_view whole(text);
  const auto equals = whole.find('=');
  if (equals == std::string_view::npos) return {};
  Armed armed;
  armed.name = whole.substr(0, equals);
  std::string_view action = whole.substr(equals + 1);
  if (const auto at = action.find('@'); at != std::string_view::npos) {
    const std::string_view count = action.substr(at + 1);
    std::from_chars(count.data(), count.data() + count.size(), armed.passes);
    action = action.substr(0, at);
  }
  if (action == "kill") armed.signal = SIGKILL;
  if (action == "stop") armed.signal = SIGSTOP;
  return armed;
}

Armed& the_one() {
  static Armed one = from_environment();
  return one;
}

}  // namespace

const bool armed = the_one().signal != 0;

void reached(std::string_view name) {
  Armed& one = the_one();
  if (name != one.name || one.passes == 0) return;
  if (--one.passes == 0) std::raise(one.signal);
}

}  // namespace understudy::fault_points
