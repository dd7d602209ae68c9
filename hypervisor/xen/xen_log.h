// What Xen's libraries say, kept so that errors can repeat it.
//
// libxc and libxl return a number and explain themselves in log lines. This logger keeps the last
// lines of weight; an error made here carries them: "create domain d1: …; Xen says: …".
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"
#include "hypervisor/xen/xen_api.h"

namespace understudy::xen {

/// A logger for Xen's libraries. Must outlive the handles that were opened with it. Thread-safe,
/// though meant for one thread: lines of two operations at a time cannot be told apart.
class XenLog {
 public:
  XenLog();
  ~XenLog();
  XenLog(const XenLog&) = delete;
  XenLog& operator=(const XenLog&) = delete;

  /// For the libraries.
  [[nodiscard]] xentoollog_logger* logger();

  /// Forgets what was said: an operation begins.
  void begin();
  /// An error with errno `error_number` (0: none) and everything said since begin().
  [[nodiscard]] Error error(int error_number, std::string_view what);
  /// The same, without an errno.
  [[nodiscard]] Error error(ErrorCode code, std::string_view what);

  /// Takes a line; for the libraries' callback.
  void add(std::string line);

 private:
  struct Sink;
  [[nodiscard]] std::string said();

  static constexpr std::size_t kLinesMax = 6;
  std::unique_ptr<Sink> sink_;
  std::mutex mutex_;
  std::deque<std::string> lines_;
};

}  // namespace understudy::xen
