#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace understudy::cli {
namespace {

bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return false;
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// Length of the well-formed UTF-8 sequence at the start of `text`, 0 if there is none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  std::size_t length = 0;
  if (first < 0x80) {
    return 1;
  }
  if (first >= 0xC2 && first < 0xE0) {
    length = 2;
  } else if (first >= 0xE0 && first < 0xF0) {
    length = 3;
  } else if (first >= 0xF0 && first < 0xF5) {
    length = 4;
  }
  if (length == 0 || text.size() < length) {
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) {
      return 0;
    }
  }
  // The narrower first continuation bytes: overlong forms, surrogates, beyond U+10FFFF.
  if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) ||
      (first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return length;
}

/// Length of the colour sequence (ESC [ digits m) at the start of `text`, 0 if there is none.
std::size_t colour_length(std::string_view text) {
  if (!text.starts_with("\033[")) {
    return 0;
  }
  const std::size_t end = text.find_first_not_of("0123456789;", 2);
  return end != std::string_view::npos && text[end] == 'm' ? end + 1 : 0;
}

/// Calls `visit(piece, is_colour)` for each code point and colour sequence of `text`.
template <typename Visit>
void for_each_piece(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::size_t colour = colour_length(text);
    const std::size_t length =
        colour != 0 ? colour : std::max<std::size_t>(sequence_length(text), 1);
    if (!visit(text.substr(0, length), colour != 0)) {
      return;
    }
    text.remove_prefix(length);
  }
}

/// Turns echo off for its lifetime, if `descriptor` is a terminal.
class EchoOff {
 public:
  explicit EchoOff(int descriptor) : descriptor_(descriptor) {
    active_ = ::tcgetattr(descriptor, &before_) == 0;
    if (active_) {
      termios silent = before_;
      silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
      ::tcsetattr(descriptor, TCSAFLUSH, &silent);
    }
  }
  ~EchoOff() {
    if (active_) {
      ::tcsetattr(descriptor_, TCSAFLUSH, &before_);
    }
  }
  EchoOff(const EchoOff&) = delete;
  EchoOff& operator=(const EchoOff&) = delete;

 private:
  int descriptor_;
  termios before_{};
  bool active_ = false;
};

constexpr std::size_t line_bytes_max = 65536;

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    // U+0080 to U+009F are control characters as well; U+009B starts a sequence.
    const bool control =
        (length == 1 && (first < 0x20 || first == 0x7F)) ||
        (length == 2 && first == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0);
    if (first == '\n' || first == '\r' || first == '\t') {
      result += ' ';
    } else if (length == 0 || control) {
      result += '?';
    } else {
      result += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result;
}

std::size_t display_width(std::string_view text) {
  std::size_t columns = 0;
  for_each_piece(text, [&](std::string_view, bool is_colour) {
    columns += is_colour ? 0 : 1;
    return true;
  });
  return columns;
}

std::string cut_to_width(std::string_view line, std::size_t columns) {
  if (display_width(line) <= columns) {
    return std::string(line);
  }
  std::string result;
  std::size_t used = 0;
  bool coloured = false;
  for_each_piece(line, [&](std::string_view piece, bool is_colour) {
    if (!is_colour && used++ == columns) {
      return false;
    }
    coloured = coloured || is_colour;
    result += piece;
    return true;
  });
  return coloured ? result + "\033[0m" : result;
}

Terminal Terminal::of_process() {
  const char* const no_color = std::getenv("NO_COLOR");
  const char* const term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  Nature nature;
  nature.in_is_terminal = ::isatty(STDIN_FILENO) == 1;
  nature.out_is_terminal = ::isatty(STDOUT_FILENO) == 1;
  nature.talk_is_terminal = ::isatty(STDERR_FILENO) == 1;
  nature.colour = nature.out_is_terminal && !dumb && (no_color == nullptr || *no_color == '\0');
  return {Streams{}, nature};
}

void Terminal::out(std::string_view text) {
  if (!write_failed_ && !write_all(streams_.out, text)) {
    write_failed_ = true;
  }
}

void Terminal::talk(std::string_view text) const {
  write_all(streams_.talk, text);
}

Terminal::Size Terminal::size() const {
  for (const int descriptor : {streams_.out, streams_.talk}) {
    winsize window{};
    if (::ioctl(descriptor, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 && window.ws_row > 0) {
      return {window.ws_col, window.ws_row};
    }
  }
  return {};
}

std::string Terminal::paint(std::string_view text, Colour colour) const {
  if (!nature_.colour || colour == Colour::none) {
    return std::string(text);
  }
  const char* code = "0";
  switch (colour) {
    case Colour::none:
      break;
    case Colour::good:
      code = "32";
      break;
    case Colour::warning:
      code = "33";
      break;
    case Colour::bad:
      code = "1;31";
      break;
    case Colour::dim:
      code = "2";
      break;
    case Colour::strong:
      code = "1";
      break;
  }
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

Result<std::string> Terminal::read_line(bool secret) const {
  std::string line;
  bool ended = false;
  {
    const EchoOff silence(secret ? streams_.in : -1);
    // Byte by byte, so that nothing behind the line is taken from whoever reads stdin next.
    while (!ended) {
      char next = 0;
      const ssize_t count = ::read(streams_.in, &next, 1);
      if (count < 0 && errno == EINTR) {
        return fail(ErrorCode::failed, "interrupted");
      }
      if (count < 0) {
        return system_error(errno, "reading stdin");
      }
      if (count == 0) {
        if (line.empty()) {
          return fail(ErrorCode::usage, "stdin ended before a line came");
        }
        break;
      }
      ended = next == '\n';
      if (!ended) {
        line += next;
      }
      if (line.size() > line_bytes_max) {
        return fail(ErrorCode::usage, "the line on stdin is longer than {} bytes", line_bytes_max);
      }
    }
  }
  if (secret && nature_.in_is_terminal) {
    talk("\n");
  }
  if (line.ends_with('\r')) {
    line.pop_back();
  }
  return line;
}

Result<std::string> Terminal::read_all(std::size_t bytes_max) const {
  std::string text;
  std::array<char, 65536> chunk{};
  while (true) {
    const ssize_t count = ::read(streams_.in, chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return system_error(errno, "reading stdin");
    }
    if (count == 0) {
      return text;
    }
    text.append(chunk.data(), static_cast<std::size_t>(count));
    if (text.size() > bytes_max) {
      return fail(ErrorCode::usage, "stdin is longer than {} bytes", bytes_max);
    }
  }
}

}  // namespace understudy::cli
