// Durations as people write them: a number with a unit, "25ms", "2s", "100us", "1.5h".
//
// A bare number is refused, because half of its readers would take it for seconds and the other
// half for milliseconds; so is anything finer than a microsecond, which would silently become zero.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::cli {

using Microseconds = std::chrono::microseconds;

/// Reads a duration: digits, perhaps a decimal fraction, one of us, µs, ms, s, m, min, h. No sign,
/// no blanks. Errors (usage) repeat the text and show how to write it.
Result<Microseconds> parse_duration(std::string_view text);

/// Like parse_duration, and refuses (usage) what lies outside [`least`, `most`]; `what` names the
/// option in the message.
Result<Microseconds> parse_duration_between(std::string_view what, std::string_view text,
                                            Microseconds least, Microseconds most);

/// Writes a duration with at most one decimal in the largest unit that keeps it at or above one:
/// "25 ms", "1.5 s", "3 min", "2 h".
std::string format_duration(Microseconds duration);

}  // namespace understudy::cli
