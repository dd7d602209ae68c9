// Random log records for property tests.
#pragma once

#include <rapidcheck.h>

#include "replay/input_log.h"
#include "tests/replay/frames.h"

namespace understudy::replay::test {

inline LogContent any_content(LogPosition position) {
  switch (*rc::gen::inRange(0, 4)) {
    case 0:
      return InputRecord{
          *rc::gen::arbitrary<std::uint16_t>(),
          *rc::gen::arbitrary<bool>() ? ChecksumState::partial : ChecksumState::complete,
          *rc::gen::nonEmpty(rc::gen::arbitrary<Frame>())};
    case 1: {
      OutputRecord output;
      const bool six = *rc::gen::arbitrary<bool>();
      const auto last = *rc::gen::arbitrary<std::uint8_t>();
      output.flow = {six ? v6(last) : v4(last), six ? v6(9) : v4(9),
                     *rc::gen::arbitrary<std::uint16_t>(), *rc::gen::arbitrary<std::uint16_t>(), 6};
      output.flags = *rc::gen::inRange<std::uint16_t>(0, 64);
      output.window_scale = *rc::gen::inRange<std::uint8_t>(0, 15);
      output.sequence_base = *rc::gen::arbitrary<std::uint32_t>();
      output.offset = *rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << 62);
      output.length = *rc::gen::inRange<std::uint32_t>(0, 65'000);
      output.digest = *rc::gen::arbitrary<std::uint64_t>();
      output.acknowledgement = *rc::gen::arbitrary<std::uint32_t>();
      output.timestamp = *rc::gen::arbitrary<std::uint32_t>();
      return output;
    }
    case 2: {
      const auto state = *rc::gen::arbitrary<std::vector<std::uint8_t>>();
      const auto state_octets = std::as_bytes(std::span(state));
      return MarkRecord{EpochId(*rc::gen::inRange<std::uint64_t>(1, 1000)),
                        LogPosition(*rc::gen::inRange<std::uint64_t>(0, position.value)),
                        {state_octets.begin(), state_octets.end()}};
    }
    default:
      return GapRecord{};
  }
}

}  // namespace understudy::replay::test
