#include "agent/replay_options.h"

#include <boost/json.hpp>
#include <charconv>
#include <string>

namespace understudy {
namespace {

namespace json = boost::json;
using replay::OnDivergence;
using replay::PortPolicy;

Result<std::uint16_t> port_from(std::string_view text) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port < 1 || port > 65535) {
    return fail(ErrorCode::usage, "port '{}': expected 1 to 65535", text);
  }
  return static_cast<std::uint16_t>(port);
}

Result<PortPolicy> policy_from(std::string_view port, const json::value& value) {
  for (const PortPolicy policy : {PortPolicy::remus, PortPolicy::replay, PortPolicy::open}) {
    if (value.is_string() && value.get_string() == replay::to_string(policy)) return policy;
  }
  return fail(ErrorCode::usage, "port {}: expected remus, replay or open", port);
}

}  // namespace

bool is_mode(std::string_view mode) {
  return mode == "remus" || mode == "replay";
}

json::value to_json(const ReplayOptions& options) {
  json::object ports;
  for (const auto& [port, policy] : options.policies.ports) {
    ports[std::to_string(port)] = replay::to_string(policy);
  }
  return json::object{{"ports", std::move(ports)},
                      {"on_divergence", replay::to_string(options.on_divergence)}};
}

Result<ReplayOptions> replay_options_from(const json::value& value) {
  ReplayOptions options;
  if (value.is_null()) return options;
  const auto* object = value.if_object();
  if (object == nullptr) return fail(ErrorCode::usage, "replay options: expected an object");
  for (const auto& member : *object) {
    if (member.key() == "ports") {
      const auto* ports = member.value().if_object();
      if (ports == nullptr) return fail(ErrorCode::usage, "ports: expected an object");
      for (const auto& entry : *ports) {
        BOOST_OUTCOME_TRY(const auto port, port_from(entry.key()));
        BOOST_OUTCOME_TRY(options.policies.ports[port], policy_from(entry.key(), entry.value()));
      }
    } else if (member.key() == "on_divergence") {
      if (member.value() == "reset") {
        options.on_divergence = OnDivergence::reset;
      } else if (member.value() == "tolerate") {
        options.on_divergence = OnDivergence::tolerate;
      } else {
        return fail(ErrorCode::usage, "on_divergence: expected reset or tolerate");
      }
    } else {
      return fail(ErrorCode::usage, "replay options: unknown field '{}'",
                  std::string(member.key()));
    }
  }
  return options;
}

}  // namespace understudy
