// What the demo says, and how: plain sentences; colour and moving lines only on a terminal.
#pragma once

#include <atomic>
#include <string>
#include <string_view>

namespace understudy::demo {

/// Tells the story on stdout. One thread speaks; `silence` may be called from another.
class Narrator {
 public:
  /// Colour if stdout is a terminal and NO_COLOR is not set.
  Narrator();

  /// A heading: "1  The stage".
  void act(std::string_view title);
  /// One indented line.
  void line(std::string_view text);
  /// A line that is still changing: redrawn in place on a terminal, dropped elsewhere.
  void live(std::string_view text);
  /// Turns the live line into a lasting one with this text.
  void settle(std::string_view text);
  /// A failure, on stderr.
  void complain(std::string_view text);
  /// Says nothing more.
  void silence() { silent_ = true; }

  [[nodiscard]] std::string strong(std::string_view text) const { return paint(text, "1"); }
  [[nodiscard]] std::string good(std::string_view text) const { return paint(text, "32"); }
  [[nodiscard]] std::string bad(std::string_view text) const { return paint(text, "1;31"); }
  [[nodiscard]] std::string faint(std::string_view text) const { return paint(text, "2"); }
  /// "[#######             ]" for 0 … 1.
  [[nodiscard]] static std::string bar(double share, std::size_t width = 28);

 private:
  [[nodiscard]] std::string paint(std::string_view text, std::string_view code) const;
  void write(std::string_view text);

  bool terminal_;
  bool colour_;
  bool live_shown_ = false;
  int acts_ = 0;
  std::atomic<bool> silent_ = false;
};

/// 1234567 as "1,234,567".
std::string grouped(std::uint64_t number);
/// 12345678 as "12.3 MB".
std::string bytes_text(double bytes);
/// 312.4 as "312 ms", 2.31 as "2.3 ms".
std::string ms_text(double ms);

}  // namespace understudy::demo
