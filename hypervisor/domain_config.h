// What a domain is made of: the part that a user writes in a TOML file, that travels to the backup
// as JSON, and that both hosts must agree on to the letter, because device state saved on one is
// loaded on the other.
//
// Intuition: one plain value with two readers (TOML for people, JSON for peers and state files) and
// one set of rules behind both. Whoever holds a DomainConfig that came out of a reader holds a
// valid one; a peer's JSON is trusted no more than a user's typing.
#pragma once

#include <boost/json/fwd.hpp>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/network_address.h"
#include "base/result.h"

namespace understudy {

/// One network interface of a domain.
struct NicConfig {
  std::string bridge;  ///< Name of a bridge that exists on every host that may run the domain.
  MacAddress mac;      ///< Stays with the domain wherever it runs.
  auto operator<=>(const NicConfig&) const = default;
};

/// What executes the guest's instructions. `automatic` is a wish; a running domain's config names
/// the one that was chosen, since device state does not travel between them.
enum class Accelerator { automatic, kvm, tcg };
/// "automatic", "kvm" or "tcg".
std::string_view to_string(Accelerator accelerator);

/// Everything that defines a domain. Both hosts start their QEMU from an equal value.
struct DomainConfig {
  std::string name;                ///< 1..40 of a-z A-Z 0-9 . _ -, not starting with a dot or dash.
  std::uint64_t memory_bytes = 0;  ///< A multiple of 1 MiB, at least 16 MiB.
  unsigned vcpus = 1;              ///< 1..255.
  std::string kernel;              ///< Absolute path; empty if the domain boots from its image.
  std::string initrd;              ///< Absolute path, or empty. Needs a kernel.
  std::string command_line;        ///< Of the kernel. Needs a kernel.
  /// Absolute path of a disk image, or empty. It is attached read-only (virtio-blk; qcow2 if its
  /// name says so, else raw), and every host needs an identical copy.
  std::string image;
  std::string machine = "q35";  ///< QEMU's machine type. A running domain's names the version too.
  std::string cpu = "max";      ///< QEMU's processor model, features included.
  Accelerator accelerator = Accelerator::automatic;
  std::vector<NicConfig> nics;  ///< At most 8, in the order in which the guest sees them.
  std::string console_log;      ///< Absolute path that the serial console is appended to, or empty.

  /// What Xen has to know of a domain that its toolstack made (hypervisor/xen), as text; empty for
  /// all others. Such a domain has no kernel or image here: libxl's configuration, which is part of
  /// the text, says how it is built. Never read from a file.
  std::string xen;

  bool operator==(const DomainConfig&) const = default;

  /// Reads a domain file. `file_name` is for messages only. Every error (code: config) names the
  /// file, the line and the key; an unknown key is refused with the nearest known one.
  static Result<DomainConfig> from_toml(std::string_view text, std::string_view file_name);
  /// Reads what to_json wrote. Errors (code: bad_data) name the key. Unknown keys are refused: a
  /// backup that does not understand part of a config cannot promise to run it.
  static Result<DomainConfig> from_json(const boost::json::value& json);
  /// A JSON object with one member for each field that is not at its default.
  [[nodiscard]] boost::json::value to_json() const;

  /// The rules that hold for every config, wherever it came from. The error's message starts with
  /// the key that is wrong. Errors: config.
  [[nodiscard]] Result<void> validate() const;
};

}  // namespace understudy
