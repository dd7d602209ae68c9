// A rehearsal: a copy of an image that is made to run where nobody can hear it.
//
// Intuition: what a drill wants to know is whether the last commit boots on. The answer is got by
// doing it, with a second domain that has its own memory and whose interfaces lie in a network
// namespace without any connection to the outside: not on a bridge that is cut off, and never, not
// even for an instant, in the host's own network. The image itself is only read.
//
// The order of time: Hypervisor::prepare_rehearsal · copy_image · run · questions · end.
//
// Whatever happens to us, a rehearsal does not outlive this process: its hypervisor process is
// killed with us, and its namespace, memory and interfaces go with the last descriptor.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"
#include "base/task.h"

namespace understudy {

/// A domain for a drill. Owns everything it made; letting go of the object ends it.
class Rehearsal {
 public:
  virtual ~Rehearsal() = default;
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  /// Its memory, all hole, and the file behind it: for copy_image(). Valid until end().
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;
  [[nodiscard]] virtual int memory_file() const = 0;

  /// Loads `device_state` and lets it run, cut off. Once, after its memory was filled. Errors:
  /// bad_data if the hypervisor refuses the state.
  virtual Task<Result<void>> run(std::span<const std::byte> device_state) = 0;
  /// Whether its processors run now. Errors: it has died, with its last words.
  virtual Task<Result<bool>> runs() = 0;

  /// The network namespace that its interfaces lie in, by a descriptor that stays ours.
  [[nodiscard]] virtual int network() const = 0;
  /// Gives our end of interface `index` the address `ours` in a network of `prefix` bits, so that
  /// the guest can be talked to from within network(). IPv4 only: unavailable otherwise.
  virtual Result<void> set_address(std::size_t index, const IpAddress& ours, unsigned prefix) = 0;

  /// Ends it at once; when this returns it is gone. May be repeated.
  virtual Task<void> end() = 0;

 protected:
  Rehearsal() = default;
};

/// Copies the image `from` (whose file is `from_file`; -1: it is no file) to `to` (all hole, with
/// the file `to_file`), hole for hole, reserving memory before it is written. Blocks; looks at
/// `given_up` every few milliseconds. Returns the bytes copied. Errors: try_again when given up,
/// no_resources when memory ran out, io.
Result<std::uint64_t> copy_image(std::span<const std::byte> from, int from_file,
                                 std::span<std::byte> to, int to_file,
                                 const std::atomic<bool>& given_up);

}  // namespace understudy
