#include "demo/narrator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace understudy::demo {

Narrator::Narrator()
    : terminal_(isatty(STDOUT_FILENO) == 1),
      colour_(terminal_ && std::getenv("NO_COLOR") == nullptr) {}

void Narrator::act(std::string_view title) {
  write(fmt::format("\n{}\n", strong(fmt::format("{}  {}", ++acts_, title))));
}

void Narrator::line(std::string_view text) {
  write(fmt::format("   {}\n", text));
}

void Narrator::live(std::string_view text) {
  if (terminal_) {
    write(fmt::format("\r\033[K   {}", text));
    live_shown_ = true;
  }
}

void Narrator::settle(std::string_view text) {
  if (live_shown_) {
    write("\r\033[K");
    live_shown_ = false;
  }
  line(text);
}

void Narrator::complain(std::string_view text) {
  if (!silent_) {
    std::fflush(stdout);
    std::fputs(fmt::format("{}understudy-demo: {}\n", live_shown_ ? "\n" : "", text).c_str(),
               stderr);
  }
}

std::string Narrator::bar(double share, std::size_t width) {
  const auto filled = static_cast<std::size_t>(
      std::lround(std::clamp(share, 0.0, 1.0) * static_cast<double>(width)));
  return fmt::format("[{:#<{}}{: <{}}]", "", filled, "", width - filled);
}

std::string Narrator::paint(std::string_view text, std::string_view code) const {
  return colour_ ? fmt::format("\033[{}m{}\033[0m", code, text) : std::string(text);
}

void Narrator::write(std::string_view text) {
  if (!silent_) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
}

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t end = digits.size(); end > 3; end -= 3) {
    digits.insert(end - 3, 1, ',');
  }
  return digits;
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) {
    return fmt::format("{:.2f} GB", bytes / 1e9);
  }
  if (bytes >= 1e6) {
    return fmt::format("{:.1f} MB", bytes / 1e6);
  }
  return fmt::format("{:.1f} kB", bytes / 1e3);
}

std::string ms_text(double ms) {
  return ms < 100 ? fmt::format("{:.1f} ms", ms) : fmt::format("{:.0f} ms", ms);
}

}  // namespace understudy::demo
