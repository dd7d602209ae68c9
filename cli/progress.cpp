#include "cli/progress.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cli/duration.h"
#include "cli/json_view.h"

namespace understudy::cli {

std::string format_bytes(double bytes) {
  constexpr std::array units = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= (unit == 0 ? 1000 : 999.95) && unit + 1 < units.size()) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

Progress Progress::from_json(const boost::json::object& synchronisation) {
  Progress progress;
  progress.pages_sent = number_at(synchronisation, "pages_sent").value_or(0);
  progress.pages_total = number_at(synchronisation, "pages_total").value_or(0);
  progress.bytes_sent = number_at(synchronisation, "bytes_sent").value_or(0);
  progress.rate_bytes_per_second = number_at(synchronisation, "rate_bytes_per_second").value_or(0);
  progress.round = number_at(synchronisation, "round").value_or(1);
  progress.eta_seconds = number_at(synchronisation, "eta_seconds");
  return progress;
}

double Progress::share() const {
  if (!(pages_total > 0)) {
    return 0;
  }
  return std::clamp(pages_sent / pages_total, 0.0, 1.0);
}

std::string progress_text(const Progress& progress) {
  // Rounded down: 100% is said when it is so.
  std::string text =
      fmt::format("round {:.0f}, {:.0f} of {:.0f} pages ({:.0f}%), {}/s", progress.round,
                  progress.pages_sent, progress.pages_total, std::floor(progress.share() * 100),
                  format_bytes(progress.rate_bytes_per_second));
  if (progress.eta_seconds && *progress.eta_seconds >= 0 && *progress.eta_seconds < 1e7) {
    const double seconds = std::ceil(*progress.eta_seconds);
    text += ", " + format_duration(Microseconds(static_cast<Microseconds::rep>(seconds * 1e6))) +
            " left";
  }
  return text;
}

std::string progress_bar(std::string_view name, const Progress& progress, std::size_t columns) {
  const std::string text = progress_text(progress);
  const std::size_t taken = display_width(name) + display_width(text) + 5;
  std::string bar;
  if (taken + 10 <= columns) {
    const std::size_t length = std::min<std::size_t>(columns - taken, 30);
    const auto full =
        static_cast<std::size_t>(std::floor(progress.share() * static_cast<double>(length)));
    bar = "[" + std::string(full, '#') + std::string(length - full, '.') + "] ";
  }
  return cut_to_width(fmt::format("{} {}{}", name, bar, text), columns);
}

void ProgressReporter::show(const Progress& progress, Clock::time_point now) {
  if (terminal_.nature().talk_is_terminal) {
    // One column is left free: a full line would wrap on some terminals and leave the bar behind.
    terminal_.talk("\r" + progress_bar(name_, progress, terminal_.size().columns - 1) + "\033[K");
    drawn_ = true;
    return;
  }
  if (!last_line_ || now - *last_line_ >= std::chrono::seconds(1)) {
    terminal_.talk(name_ + ": " + progress_text(progress) + "\n");
    last_line_ = now;
  }
}

void ProgressReporter::finish() {
  if (drawn_) {
    terminal_.talk("\r\033[K");
    drawn_ = false;
  }
}

}  // namespace understudy::cli
