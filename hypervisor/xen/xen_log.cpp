#include "hypervisor/xen/xen_log.h"

#include <spdlog/spdlog.h>

#include <array>
#include <cstdarg>
#include <cstdio>

namespace understudy::xen {

/// What the libraries hold: their function table, and the way back to us.
struct XenLog::Sink {
  xentoollog_logger table{};
  XenLog* owner = nullptr;
};

namespace {

__attribute__((format(printf, 5, 0))) void take_message(xentoollog_logger* logger,
                                                        xentoollog_level level, int error_number,
                                                        const char* context, const char* format,
                                                        std::va_list arguments);

}  // namespace

XenLog::XenLog() : sink_(std::make_unique<Sink>()) {
  sink_->table.vmessage = take_message;
  sink_->table.progress = [](xentoollog_logger*, const char*, const char*, int, unsigned long,
                             unsigned long) {};
  sink_->table.destroy = [](xentoollog_logger*) {};
  sink_->owner = this;
}

XenLog::~XenLog() = default;

xentoollog_logger* XenLog::logger() {
  return &sink_->table;
}

namespace {

void take_message(xentoollog_logger* logger, xentoollog_level level, int error_number,
                  const char* context, const char* format, std::va_list arguments) {
  if (level < XTL_NOTICE) return;
  std::array<char, 512> text{};
  (void)std::vsnprintf(text.data(), text.size(), format, arguments);
  std::string line =
      fmt::format("{}{}", context != nullptr ? fmt::format("{}: ", context) : "", text.data());
  if (error_number > 0) line += fmt::format(": {}", std::generic_category().message(error_number));
  while (!line.empty() && line.back() == '\n') line.pop_back();
  // The table is the first member of a Sink, whose owner knows what to do.
  struct Front {
    xentoollog_logger table;
    XenLog* owner;
  };
  reinterpret_cast<Front*>(logger)->owner->add(std::move(line));
}

}  // namespace

void XenLog::add(std::string line) {
  spdlog::debug("xen: {}", line);
  const std::lock_guard lock(mutex_);
  lines_.push_back(std::move(line));
  if (lines_.size() > kLinesMax) lines_.pop_front();
}

void XenLog::begin() {
  const std::lock_guard lock(mutex_);
  lines_.clear();
}

std::string XenLog::said() {
  const std::lock_guard lock(mutex_);
  return lines_.empty() ? "" : fmt::format("; Xen says: {}", fmt::join(lines_, " | "));
}

Error XenLog::error(int error_number, std::string_view what) {
  if (error_number == 0) return error(ErrorCode::failed, what);
  const Error plain = system_error(error_number, what);
  return {plain.code(), plain.message() + said()};
}

Error XenLog::error(ErrorCode code, std::string_view what) {
  return {code, std::string(what) + said()};
}

}  // namespace understudy::xen
