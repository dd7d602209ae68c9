// Where the command reads and writes: data on stdout, talk on stderr, questions only to a person.
//
// Every other file here speaks through a Terminal and never to stdio, so that tests can hand in
// files and say "this is a terminal" or "this is a pipe". Two borders are kept here once for all:
// colour appears only on a terminal without NO_COLOR, and text that other machines wrote (messages
// of an agent, names of a peer) is made printable, because an escape sequence in an event must not
// steer the operator's screen.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::cli {

enum class Colour { none, good, warning, bad, dim, strong };

/// `text` with control characters and bytes that are not UTF-8 replaced by '?'; line breaks and
/// tabs become blanks.
std::string printable(std::string_view text);

/// The number of columns that printable UTF-8 text takes: one for each code point. Colour sequences
/// count as nothing.
std::size_t display_width(std::string_view text);

/// The first `columns` columns of one line; colour sequences are kept whole and closed.
std::string cut_to_width(std::string_view line, std::size_t columns);

/// The three streams of a process and what they are connected to. Does not own the descriptors.
class Terminal {
 public:
  struct Streams {
    int in = 0;
    int out = 1;
    int talk = 2;
  };
  struct Nature {
    bool in_is_terminal = false;
    bool out_is_terminal = false;
    bool talk_is_terminal = false;
    bool colour = false;  ///< Colour on `out`.
  };
  struct Size {
    std::size_t columns = 80;
    std::size_t rows = 24;
  };

  Terminal(Streams streams, Nature nature) : streams_(streams), nature_(nature) {}

  /// The streams of this process; colour follows isatty, NO_COLOR and TERM.
  static Terminal of_process();

  /// Writes data to stdout. A failure is remembered, see write_failed.
  void out(std::string_view text);

  /// Writes to stderr; failures are ignored, there is nobody left to tell.
  void talk(std::string_view text) const;

  /// True once a write to stdout failed (a full disk): the program then may not report success.
  [[nodiscard]] bool write_failed() const { return write_failed_; }

  [[nodiscard]] const Nature& nature() const { return nature_; }

  /// True where a question can be asked and a person can answer.
  [[nodiscard]] bool can_ask() const { return nature_.in_is_terminal && nature_.talk_is_terminal; }

  /// The present size of the terminal behind stdout or stderr; 80 by 24 where there is none.
  [[nodiscard]] Size size() const;

  /// `text` in `colour` if stdout shows colours, else unchanged.
  [[nodiscard]] std::string paint(std::string_view text, Colour colour) const;

  /// One line from stdin without its end. `secret` turns the terminal's echo off meanwhile. Errors:
  /// usage at end of input or beyond 64 KiB, io, and failed when an Interrupt caught Ctrl-C.
  Result<std::string> read_line(bool secret = false) const;

  /// All of stdin, at most `bytes_max` (usage beyond).
  Result<std::string> read_all(std::size_t bytes_max) const;

 private:
  Streams streams_;
  Nature nature_;
  bool write_failed_ = false;
};

}  // namespace understudy::cli
