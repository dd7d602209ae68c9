// What a checkpoint holds of a Xen guest besides its memory: the engine's opaque device state.
//
// A header of ours, then records. All numbers are little-endian; every record begins at a multiple
// of 8 octets.
//
//     0        8        12       16               24               32
//     | "USXENGS1" | version | records | octets in all | xxh3 of the rest | records …
//
//     record:  | type (4) | octets (4) | content, padded with zeros to a multiple of 8 |
//
// | type | content | how often |
// |---|---|---|
// | 1 method | 4 octets: 1 cooperative, 2 transparent | 1 |
// | 2 hvm_context | what XEN_DOMCTL_gethvmcontext gives | 1 |
// | 3 hvm_params | pairs of 8 octets: number, value | 1 |
// | 4 tsc_info | mode (4), kHz (4), elapsed ns (8), incarnation (4), zero (4) | 1 |
// | 5 holes | pairs of 8 octets: first linear page, count | 0 or 1 |
// | 6 device_model | the device model's state (xen-save-devices-state) | 0 or 1 |
//
// The processor policy is not here: it does not change while a domain runs, so it travels once,
// with the domain's description (guest_description.h). A record of an unknown type is refused: a
// host that does not understand part of a guest cannot promise to run it.
//
// The reader trusts nothing: it is what a peer sent.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hypervisor/domain.h"

namespace understudy::xen {

/// How a guest is brought to a state that can be run elsewhere.
enum class Method : std::uint32_t {
  cooperative = 1,  ///< The guest suspends itself, and reconnects its frontends where it wakes up.
  transparent = 2,  ///< It is paused and notices nothing. Complete without PV drivers only.
};
/// "cooperative" or "transparent".
std::string_view to_string(Method method);

/// One of Xen's HVM parameters.
struct HvmParameter {
  std::uint64_t number = 0;
  std::uint64_t value = 0;
  auto operator<=>(const HvmParameter&) const = default;
};

/// How the guest's time stamp counter works, as libxenctrl tells it.
struct TscInfo {
  std::uint32_t mode = 0;
  std::uint32_t khz = 0;
  std::uint64_t elapsed_ns = 0;
  std::uint32_t incarnation = 0;
  auto operator<=>(const TscInfo&) const = default;
};

/// The state of one checkpoint.
struct GuestState {
  Method method = Method::cooperative;
  std::vector<std::byte> hvm_context;
  std::vector<HvmParameter> parameters;
  TscInfo tsc;
  /// Linear pages without memory on the primary (ballooned out). Sorted, disjoint, none empty.
  DirtySet holes;
  std::vector<std::byte> device_model;

  bool operator==(const GuestState&) const = default;

  /// The octets described above.
  [[nodiscard]] std::vector<std::byte> encode() const;
  /// Errors: bad_data, naming the record and what was expected.
  static Result<GuestState> decode(std::span<const std::byte> octets);
};

}  // namespace understudy::xen
