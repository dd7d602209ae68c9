// What the agents of a primary and a backup say to each other besides checkpoints: the opening of a
// protection, its end, and what heartbeats carry. JSON, because each is rare or small; every field
// is checked, because a peer may be newer, older or out of its mind.
#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/network_address.h"
#include "base/result.h"
#include "checkpoint/protection.h"

namespace understudy {

/// First message on a bulk link, primary to backup: 'be, or go on being, the backup of this
/// domain'.
struct ProtectionBegin {
  std::string domain;
  ProtectionId protection;
  Generation generation;
  std::string hypervisor;
  std::string mode;
  std::uint64_t interval_us = 0;
  std::string arbiter = "none";  ///< Arbiter::name() of the pair, on the primary's side.
  boost::json::value config;     ///< DomainConfig::to_json of the running domain.
  boost::json::value replay;  ///< ReplayOptions (agent/replay_options.h); null in an older primary.
  boost::json::value renewal = nullptr;  ///< RenewalPolicy (agent/renewal_policy.h), or null.
};

/// Primary to backup, at any time: how the protection goes on.
struct ProtectionOptions {
  std::string mode;
  std::uint64_t interval_us = 0;
  boost::json::value replay;
  boost::json::value renewal = nullptr;  ///< null: as before.
};

/// The backup's answer. A refusal still carries what the backup is to the domain, because that may
/// be the very reason ('it runs here, at generation 2').
struct ProtectionReply {
  bool accepted = false;
  std::optional<Error> refusal;  ///< Set unless accepted.
  PeerView view;
  LogPosition log;  ///< How far its input log of this protection goes; 0 if it has none.
};

/// Ends a protection. Primary to backup: 'drop the image' (`discard`), or 'the domain died under
/// me, take over' (`domain_died`), or 'it stands still here since `epoch`, and is yours' (`yours`,
/// the word of a hand-over). Backup to primary: 'the image is gone' (`discarded`), as an answer or
/// on its own when the backup resigns.
struct ProtectionEnd {
  enum class Kind { discard, domain_died, discarded, yours };
  Kind kind = Kind::discard;
  ProtectionId protection;
  std::string reason;          ///< For people.
  EpochId epoch = {};          ///< Only of `yours`, as what follows.
  Generation generation = {};  ///< The primary's.
  std::string next_backup;     ///< Who is to be its backup there; empty: nobody.
  std::uint64_t stood_us = 0;  ///< For how long the guest had stood still when this was sent.
};

/// What a host says of one domain in its heartbeats.
struct HeartbeatDomain {
  std::string domain;
  ProtectionId protection;
  Generation generation;
  PeerRole role = PeerRole::none;
};

/// The payload of a heartbeat.
struct HeartbeatNews {
  std::uint64_t sent_at_ns = 0;  ///< The sender's monotonic clock.
  std::uint64_t echo_ns =
      0;  ///< The newest sent_at_ns that the sender had from its receiver; 0: none.
  std::vector<HeartbeatDomain> domains;
};

std::vector<std::byte> encode(const ProtectionBegin& message);
std::vector<std::byte> encode(const ProtectionReply& message);
std::vector<std::byte> encode(const ProtectionOptions& message);
std::vector<std::byte> encode(const ProtectionEnd& message);
std::vector<std::byte> encode(const HeartbeatNews& message);

/// Each reads what encode wrote. Errors: bad_data, naming the message.
Result<ProtectionBegin> decode_protection_begin(std::span<const std::byte> payload);
Result<ProtectionReply> decode_protection_reply(std::span<const std::byte> payload);
Result<ProtectionOptions> decode_protection_options(std::span<const std::byte> payload);
Result<ProtectionEnd> decode_protection_end(std::span<const std::byte> payload);
Result<HeartbeatNews> decode_heartbeat_news(std::span<const std::byte> payload);

/// The addresses learnt behind each interface, as checkpoint_end carries them: for each interface
/// one octet with the number of its addresses (at most 255 are told), then for each one octet of
/// length and 4 or 16 octets. Decoding stops at the first thing that is no address: they serve
/// announcements, nothing else.
std::vector<std::byte> encode_addresses(std::span<const std::vector<IpAddress>> interfaces);
std::vector<std::vector<IpAddress>> decode_addresses(std::span<const std::byte> octets);

/// JSON as octets, and back (objects only, at most 1 MiB). Errors: bad_data.
std::vector<std::byte> json_octets(const boost::json::value& value);
Result<boost::json::object> json_object_from(std::span<const std::byte> payload,
                                             std::string_view what);

}  // namespace understudy
