#include "agent/protection_messages.h"

#include <array>
#include <boost/json.hpp>

namespace understudy {
namespace {

namespace json = boost::json;

constexpr std::size_t kMessageBytesMax = 1u << 20;
constexpr std::size_t kHeartbeatDomainsMax = 1024;

constexpr std::array kRoles = {PeerRole::none, PeerRole::holding, PeerRole::promoting,
                               PeerRole::running};
constexpr std::array<std::pair<ProtectionEnd::Kind, std::string_view>, 4> kEndKinds = {{
    {ProtectionEnd::Kind::discard, "discard"},
    {ProtectionEnd::Kind::domain_died, "domain_died"},
    {ProtectionEnd::Kind::discarded, "discarded"},
    {ProtectionEnd::Kind::yours, "yours"},
}};

Result<PeerRole> role_from(std::string_view text) {
  for (const PeerRole role : kRoles) {
    if (to_string(role) == text) return role;
  }
  return fail(ErrorCode::bad_data, "unknown role '{}'", text);
}

// Codes travel as their stable names; one that we do not know counts as 'failed'.
ErrorCode code_from(std::string_view text) {
  for (int number = 0; number < 256; ++number) {
    const auto code = static_cast<ErrorCode>(number);
    if (code != ErrorCode::failed && to_string(code) == text) return code;
  }
  return ErrorCode::failed;
}

// Boost.JSON's checked accessors throw; this is the one place where that becomes an error.
template <typename Read>
auto reading(std::string_view what, std::span<const std::byte> payload, Read read)
    -> decltype(read(std::declval<json::object&>())) {
  BOOST_OUTCOME_TRY(json::object object, json_object_from(payload, what));
  try {
    return read(object);
  } catch (const std::exception& error) {
    return fail(ErrorCode::bad_data, "{}: {}", what, error.what());
  }
}

std::uint64_t number_at(const json::object& object, std::string_view field) {
  return object.at(field).to_number<std::uint64_t>();
}

std::string text_at(const json::object& object, std::string_view field) {
  return std::string(object.at(field).as_string());
}

}  // namespace

std::vector<std::byte> json_octets(const json::value& value) {
  const std::string text = json::serialize(value);
  const auto octets = std::as_bytes(std::span(text));
  return {octets.begin(), octets.end()};
}

Result<json::object> json_object_from(std::span<const std::byte> payload, std::string_view what) {
  if (payload.size() > kMessageBytesMax) {
    return fail(ErrorCode::bad_data, "{}: {} bytes, at most {} are allowed", what, payload.size(),
                kMessageBytesMax);
  }
  boost::system::error_code error;
  json::value value =
      json::parse({reinterpret_cast<const char*>(payload.data()), payload.size()}, error);
  if (error || !value.is_object()) return fail(ErrorCode::bad_data, "{}: no JSON object", what);
  return std::move(value.get_object());
}

std::vector<std::byte> encode_addresses(std::span<const std::vector<IpAddress>> interfaces) {
  std::vector<std::byte> octets;
  for (const auto& addresses : interfaces) {
    const auto told = std::span(addresses).first(std::min<std::size_t>(addresses.size(), 255));
    octets.push_back(static_cast<std::byte>(told.size()));
    for (const auto& address : told) {
      octets.push_back(static_cast<std::byte>(address.octets().size()));
      for (const auto octet : address.octets()) octets.push_back(static_cast<std::byte>(octet));
    }
  }
  return octets;
}

std::vector<std::vector<IpAddress>> decode_addresses(std::span<const std::byte> octets) {
  std::vector<std::vector<IpAddress>> interfaces;
  while (!octets.empty()) {
    const auto count = std::to_integer<unsigned>(octets.front());
    octets = octets.subspan(1);
    auto& addresses = interfaces.emplace_back();
    for (unsigned number = 0; number < count; ++number) {
      if (octets.empty()) return interfaces;
      const auto length = std::to_integer<std::size_t>(octets.front());
      if ((length != 4 && length != 16) || octets.size() < 1 + length) return interfaces;
      std::array<std::uint8_t, 16> address{};
      for (std::size_t index = 0; index < length; ++index)
        address[index] = std::to_integer<std::uint8_t>(octets[1 + index]);
      addresses.push_back(length == 16
                              ? IpAddress::v6(address)
                              : IpAddress::v4({address[0], address[1], address[2], address[3]}));
      octets = octets.subspan(1 + length);
    }
  }
  return interfaces;
}

std::vector<std::byte> encode(const ProtectionBegin& message) {
  return json_octets({{"domain", message.domain},
                      {"protection", message.protection.value},
                      {"generation", message.generation.value},
                      {"hypervisor", message.hypervisor},
                      {"mode", message.mode},
                      {"interval_us", message.interval_us},
                      {"arbiter", message.arbiter},
                      {"config", message.config},
                      {"replay", message.replay},
                      {"renewal", message.renewal}});
}

Result<ProtectionBegin> decode_protection_begin(std::span<const std::byte> payload) {
  return reading("protection_begin", payload, [](json::object& object) -> Result<ProtectionBegin> {
    ProtectionBegin message;
    message.domain = text_at(object, "domain");
    message.protection = ProtectionId(number_at(object, "protection"));
    message.generation = Generation(number_at(object, "generation"));
    message.hypervisor = text_at(object, "hypervisor");
    message.mode = text_at(object, "mode");
    message.interval_us = number_at(object, "interval_us");
    if (object.contains("arbiter")) message.arbiter = text_at(object, "arbiter");
    message.config = object.at("config");
    if (const auto* replay = object.if_contains("replay")) message.replay = *replay;
    if (const auto* renewal = object.if_contains("renewal")) message.renewal = *renewal;
    if (message.protection.value == 0 || message.generation.value == 0) {
      return fail(ErrorCode::bad_data, "protection_begin: protection and generation start at 1");
    }
    return message;
  });
}

std::vector<std::byte> encode(const ProtectionReply& message) {
  json::object object = {{"accepted", message.accepted},
                         {"protection", message.view.protection.value},
                         {"generation", message.view.generation.value},
                         {"committed", message.view.committed.value},
                         {"role", to_string(message.view.role)},
                         {"log", message.log.value}};
  if (message.refusal) {
    object["code"] = to_string(message.refusal->code());
    object["message"] = message.refusal->message();
  }
  return json_octets(object);
}

Result<ProtectionReply> decode_protection_reply(std::span<const std::byte> payload) {
  return reading("protection_reply", payload, [](json::object& object) -> Result<ProtectionReply> {
    ProtectionReply message;
    message.accepted = object.at("accepted").as_bool();
    message.view.protection = ProtectionId(number_at(object, "protection"));
    message.view.generation = Generation(number_at(object, "generation"));
    message.view.committed = EpochId(number_at(object, "committed"));
    BOOST_OUTCOME_TRY(message.view.role, role_from(object.at("role").as_string()));
    if (object.contains("log")) message.log = LogPosition(number_at(object, "log"));
    if (!message.accepted) {
      message.refusal = Error(code_from(object.at("code").as_string()), text_at(object, "message"));
    }
    return message;
  });
}

std::vector<std::byte> encode(const ProtectionOptions& message) {
  return json_octets({{"mode", message.mode},
                      {"interval_us", message.interval_us},
                      {"replay", message.replay},
                      {"renewal", message.renewal}});
}

Result<ProtectionOptions> decode_protection_options(std::span<const std::byte> payload) {
  return reading("protection_options", payload,
                 [](json::object& object) -> Result<ProtectionOptions> {
                   ProtectionOptions message;
                   message.mode = text_at(object, "mode");
                   message.interval_us = number_at(object, "interval_us");
                   message.replay = object.at("replay");
                   if (const auto* renewal = object.if_contains("renewal"))
                     message.renewal = *renewal;
                   return message;
                 });
}

std::vector<std::byte> encode(const ProtectionEnd& message) {
  std::string_view kind;
  for (const auto& [value, name] : kEndKinds) {
    if (value == message.kind) kind = name;
  }
  json::object object = {
      {"kind", kind}, {"protection", message.protection.value}, {"reason", message.reason}};
  if (message.kind == ProtectionEnd::Kind::yours) {
    object["epoch"] = message.epoch.value;
    object["generation"] = message.generation.value;
    object["next_backup"] = message.next_backup;
    object["stood_us"] = message.stood_us;
  }
  return json_octets(object);
}

Result<ProtectionEnd> decode_protection_end(std::span<const std::byte> payload) {
  return reading("protection_end", payload, [](json::object& object) -> Result<ProtectionEnd> {
    ProtectionEnd message;
    message.protection = ProtectionId(number_at(object, "protection"));
    message.reason = text_at(object, "reason");
    const std::string kind = text_at(object, "kind");
    for (const auto& [value, name] : kEndKinds) {
      if (name != kind) continue;
      message.kind = value;
      if (value == ProtectionEnd::Kind::yours) {
        message.epoch = EpochId(number_at(object, "epoch"));
        message.generation = Generation(number_at(object, "generation"));
        message.next_backup = text_at(object, "next_backup");
        message.stood_us = number_at(object, "stood_us");
      }
      return message;
    }
    return fail(ErrorCode::bad_data, "protection_end: unknown kind '{}'", kind);
  });
}

std::vector<std::byte> encode(const HeartbeatNews& message) {
  json::array domains;
  for (const auto& domain : message.domains) {
    domains.push_back({{"domain", domain.domain},
                       {"protection", domain.protection.value},
                       {"generation", domain.generation.value},
                       {"role", to_string(domain.role)}});
  }
  return json_octets({{"sent_at_ns", message.sent_at_ns},
                      {"echo_ns", message.echo_ns},
                      {"domains", std::move(domains)}});
}

Result<HeartbeatNews> decode_heartbeat_news(std::span<const std::byte> payload) {
  return reading("heartbeat", payload, [](json::object& object) -> Result<HeartbeatNews> {
    HeartbeatNews message;
    message.sent_at_ns = number_at(object, "sent_at_ns");
    message.echo_ns = number_at(object, "echo_ns");
    const auto& domains = object.at("domains").as_array();
    if (domains.size() > kHeartbeatDomainsMax) {
      return fail(ErrorCode::bad_data, "heartbeat: {} domains, at most {} are allowed",
                  domains.size(), kHeartbeatDomainsMax);
    }
    for (const auto& value : domains) {
      const auto& entry = value.as_object();
      HeartbeatDomain domain;
      domain.domain = text_at(entry, "domain");
      domain.protection = ProtectionId(number_at(entry, "protection"));
      domain.generation = Generation(number_at(entry, "generation"));
      BOOST_OUTCOME_TRY(domain.role, role_from(entry.at("role").as_string()));
      message.domains.push_back(std::move(domain));
    }
    return message;
  });
}

}  // namespace understudy
