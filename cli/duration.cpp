#include "cli/duration.h"

#include <array>
#include <charconv>
#include <cmath>

namespace understudy::cli {
namespace {

struct Unit {
  std::string_view name;
  double microseconds;
};

constexpr std::array units = {
    Unit{"us", 1},  Unit{"\u00b5s", 1}, Unit{"ms", 1e3},  Unit{"s", 1e6},
    Unit{"m", 6e7}, Unit{"min", 6e7},   Unit{"h", 3.6e9},
};

/// Far more than any option allows, and far from where a double could not count microseconds
/// exactly.
constexpr double longest_us = 3.6e9 * 24 * 365;

std::string one_decimal(double value) {
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) {
    text.resize(text.size() - 2);
  }
  return text;
}

}  // namespace

Result<Microseconds> parse_duration(std::string_view text) {
  const std::size_t digits_end = text.find_first_not_of("0123456789.");
  const std::string_view number = text.substr(0, digits_end);
  if (number.empty()) {
    return fail(ErrorCode::usage,
                "'{}' is not a duration: write a number and a unit, like 25ms or 2s", text);
  }
  if (digits_end == std::string_view::npos) {
    return fail(ErrorCode::usage, "'{}' has no unit: write {}ms, {}s or {}us", text, text, text,
                text);
  }
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (error != std::errc{} || end != number.data() + number.size()) {
    return fail(ErrorCode::usage, "'{}' is not a duration: '{}' is not a number", text, number);
  }
  const std::string_view unit_name = text.substr(digits_end);
  for (const Unit& unit : units) {
    if (unit.name != unit_name) {
      continue;
    }
    const double microseconds = value * unit.microseconds;
    if (microseconds > longest_us) {
      return fail(ErrorCode::usage, "'{}' is too long: at most a year", text);
    }
    const double whole = std::round(microseconds);
    if (std::abs(microseconds - whole) > 1e-3) {
      return fail(ErrorCode::usage, "'{}' is finer than a microsecond", text);
    }
    return Microseconds(static_cast<Microseconds::rep>(whole));
  }
  return fail(ErrorCode::usage, "'{}' has an unknown unit '{}': use us, ms, s, min or h", text,
              unit_name);
}

Result<Microseconds> parse_duration_between(std::string_view what, std::string_view text,
                                            Microseconds least, Microseconds most) {
  Result<Microseconds> duration = parse_duration(text);
  if (!duration) {
    return duration.error().in(what);
  }
  if (duration.value() < least || duration.value() > most) {
    return fail(ErrorCode::usage, "{}: {} is out of range: from {} to {}", what, text,
                format_duration(least), format_duration(most));
  }
  return duration;
}

std::string format_duration(Microseconds duration) {
  const auto us = static_cast<double>(duration.count());
  // The limits lie where one decimal would round up into the next unit.
  if (us < 1e3) {
    return fmt::format("{} us", duration.count());
  }
  if (us < 999.95e3) {
    return one_decimal(us / 1e3) + " ms";
  }
  if (us < 59.95e6) {
    return one_decimal(us / 1e6) + " s";
  }
  if (us < 59.95 * 6e7) {
    return one_decimal(us / 6e7) + " min";
  }
  return one_decimal(us / 3.6e9) + " h";
}

}  // namespace understudy::cli
