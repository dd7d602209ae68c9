// The first frames of a link: who we are, what the link is for, which versions we speak; and the
// frames that end it with a reason. Pure. The octets are drawn in docs/protocol-frames.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "transport/identity.h"
#include "transport/link.h"

namespace understudy::transport {

/// The versions of what travels inside the frames that this software speaks, both inclusive.
inline constexpr std::uint16_t kProtocolVersionLowest = 1;
inline constexpr std::uint16_t kProtocolVersionHighest = 1;

/// What the connecting side says first.
struct Hello {
  std::uint16_t version_lowest = kProtocolVersionLowest;
  std::uint16_t version_highest = kProtocolVersionHighest;
  LinkPurpose purpose = LinkPurpose::control;
  BootId boot_id;
  std::string name;
  std::string software;
};

/// What the accepting side answers.
struct HelloReply {
  std::uint16_t version = 0;
  BootId boot_id;
  std::string name;
  std::string software;
};

std::vector<std::byte> encode(const Hello& hello);
std::vector<std::byte> encode(const HelloReply& reply);
/// Errors: bad_data (too short, not a host name), protocol (unknown purpose). Octets after the last
/// field are ignored: later versions may add some.
Result<Hello> decode_hello(std::span<const std::byte> payload);
Result<HelloReply> decode_hello_reply(std::span<const std::byte> payload);

/// The highest version that both speak. Error protocol that names both ranges.
Result<std::uint16_t> agree_on_version(const Hello& hello);

/// A refusal carries an error code and a text; so does a goodbye (code 0).
std::vector<std::byte> encode_refusal(const Error& error);
std::vector<std::byte> encode_goodbye(std::string_view reason);
/// The error that a refusal or a goodbye stands for at its receiver. Never fails: garbage gives a
/// vague text.
Error decode_refusal(std::span<const std::byte> payload);
Error decode_goodbye(std::span<const std::byte> payload);

}  // namespace understudy::transport
