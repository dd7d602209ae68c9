// Numbers that must not be mixed up: each is a type of its own, monotonic where its docstring says
// so.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstddef>
#include <cstdint>

namespace understudy {

/// An ordered number of one kind only. Default is zero, which for every id means 'none yet'.
template <typename Tag>
struct StrongNumber {
  std::uint64_t value = 0;

  constexpr StrongNumber() = default;
  constexpr explicit StrongNumber(std::uint64_t number) : value(number) {}
  constexpr auto operator<=>(const StrongNumber&) const = default;
  /// The number that follows this one.
  [[nodiscard]] constexpr StrongNumber next() const { return StrongNumber(value + 1); }
};

/// An epoch of one protection: the stretch of execution between two checkpoints, numbered from 1.
/// Epoch 0 stands for 'before the first checkpoint'. Monotonic within a protection.
using EpochId = StrongNumber<struct EpochTag>;

/// Raised at every promotion of a domain; whatever carries an older one is refused. Monotonic for
/// ever.
using Generation = StrongNumber<struct GenerationTag>;

/// A guest page frame, counted from the start of the domain's memory as the hypervisor lays it out
/// in one linear range (the RAM file for QEMU, the gfn space for Xen). Not bytes: multiply by
/// kPageBytes.
using PageNumber = StrongNumber<struct PageTag>;

/// A place in a protection's input log, numbered from 1 without gaps: of an input, an output's
/// digest, a mark. Monotonic within a protection.
using LogPosition = StrongNumber<struct LogPositionTag>;

/// Bytes in a guest page, on every hypervisor that we support.
inline constexpr std::size_t kPageBytes = 4096;

}  // namespace understudy

template <typename Tag>
struct fmt::formatter<understudy::StrongNumber<Tag>> : fmt::formatter<std::uint64_t> {
  template <typename Context>
  auto format(understudy::StrongNumber<Tag> number, Context& context) const {
    return fmt::formatter<std::uint64_t>::format(number.value, context);
  }
};
