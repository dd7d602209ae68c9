#include "agent/api_routes.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "agent/operations_routes.h"
#include "agent/replay_options.h"

namespace understudy {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kDefaultInterval_us = 25'000;
constexpr std::uint64_t kDefaultReplayInterval_us = 1'000'000;

unsigned http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::usage:
      return 400;
    case ErrorCode::permission:
    case ErrorCode::not_authorized:
      return 403;
    case ErrorCode::no_such:
      return 404;
    case ErrorCode::needs_force:
    case ErrorCode::exists:
      return 409;
    case ErrorCode::bad_data:
    case ErrorCode::config:
      return 422;
    case ErrorCode::protocol:
      return 502;
    case ErrorCode::unavailable:
    case ErrorCode::try_again:
      return 503;
    case ErrorCode::timed_out:
      return 504;
    case ErrorCode::no_resources:
      return 507;
    case ErrorCode::failed:
    case ErrorCode::internal:
    case ErrorCode::io:
      return 500;
  }
  return 500;
}

HttpResponse answer(unsigned status, const json::value& body) {
  return {status, "application/json", json::serialize(body)};
}

// A request's body, checked as a whole: an object that has only fields from a known list.
class Body {
 public:
  static Result<Body> parse(const std::string& text,
                            std::initializer_list<std::string_view> known) {
    if (text.empty()) return Body(json::object());
    boost::system::error_code error;
    json::value value = json::parse(text, error);
    if (error || !value.is_object()) return fail(ErrorCode::usage, "the body is no JSON object");
    for (const auto& member : value.get_object()) {
      if (std::ranges::find(known, std::string_view(member.key())) == known.end()) {
        return fail(ErrorCode::usage, "unknown field '{}' in the body", std::string(member.key()));
      }
    }
    return Body(std::move(value.get_object()));
  }

  [[nodiscard]] Result<std::string> text(std::string_view field) const {
    const auto* value = object_.if_contains(field);
    if (value == nullptr || !value->is_string()) {
      return fail(ErrorCode::usage, "field '{}': expected a string", field);
    }
    return std::string(value->get_string());
  }
  [[nodiscard]] Result<std::string> text_or(std::string_view field, std::string fallback) const {
    if (!object_.contains(field)) return fallback;
    return text(field);
  }
  [[nodiscard]] Result<std::uint64_t> number_or(std::string_view field,
                                                std::uint64_t fallback) const {
    const auto* value = object_.if_contains(field);
    if (value == nullptr) return fallback;
    if (value->is_uint64()) return value->get_uint64();
    if (value->is_int64() && value->get_int64() >= 0) {
      return static_cast<std::uint64_t>(value->get_int64());
    }
    return fail(ErrorCode::usage, "field '{}': expected a whole number, not negative", field);
  }
  /// Those fields that are ReplayOptions, checked; null if there are none.
  [[nodiscard]] Result<json::value> replay_options() const {
    json::object options;
    for (const char* const field : {"ports", "on_divergence"}) {
      if (const auto* value = object_.if_contains(field)) options[field] = *value;
    }
    if (options.empty()) return json::value(nullptr);
    json::value value(std::move(options));
    BOOST_OUTCOME_TRY(replay_options_from(value));
    return value;
  }
  [[nodiscard]] Result<bool> flag_or(std::string_view field, bool fallback) const {
    const auto* value = object_.if_contains(field);
    if (value == nullptr) return fallback;
    if (!value->is_bool())
      return fail(ErrorCode::usage, "field '{}': expected true or false", field);
    return value->get_bool();
  }
  /// A string, or a list of at least one.
  [[nodiscard]] Result<std::vector<std::string>> text_or_texts(std::string_view field) const {
    const auto* value = object_.if_contains(field);
    if (value != nullptr && value->is_array() && !value->get_array().empty())
      return texts_or_none(field);
    BOOST_OUTCOME_TRY(auto one, text(field));
    return std::vector{std::move(one)};
  }
  [[nodiscard]] Result<RenewalChange> renewal_change() const {
    RenewalChange change;
    if (object_.contains("to")) {
      BOOST_OUTCOME_TRY(change.to, text_or_texts("to"));
    }
    BOOST_OUTCOME_TRY(change.add_hosts, texts_or_none("add_hosts"));
    BOOST_OUTCOME_TRY(change.remove_hosts, texts_or_none("remove_hosts"));
    BOOST_OUTCOME_TRY(change.failback, text_or("failback", ""));
    BOOST_OUTCOME_TRY(change.failback_delay_s, number_or("failback_delay_s", 0));
    BOOST_OUTCOME_TRY(change.minimum_stay_s, number_or("minimum_stay_s", 0));
    return change;
  }
  [[nodiscard]] Result<std::vector<std::string>> texts_or_none(std::string_view field) const {
    std::vector<std::string> texts;
    const auto* value = object_.if_contains(field);
    if (value == nullptr) return texts;
    if (!value->is_array()) return fail(ErrorCode::usage, "field '{}': expected a list", field);
    for (const auto& element : value->get_array()) {
      if (!element.is_string())
        return fail(ErrorCode::usage, "field '{}': expected strings", field);
      texts.emplace_back(element.get_string());
    }
    return texts;
  }

 private:
  explicit Body(json::object object) : object_(std::move(object)) {}
  json::object object_;
};

std::vector<std::string> segments_of(const std::string& path) {
  std::vector<std::string> segments;
  for (std::size_t begin = 1; begin <= path.size();) {
    const auto end = std::min(path.find('/', begin), path.size());
    segments.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return segments;
}

Result<std::uint64_t> query_number(const HttpRequest& request, const std::string& name,
                                   std::uint64_t fallback) {
  const auto found = request.query.find(name);
  if (found == request.query.end()) return fallback;
  std::uint64_t number = 0;
  const auto& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return fail(ErrorCode::usage, "query {}={}: expected a number", name, text);
  }
  return number;
}

Result<std::uint64_t> interval_from(const Body& body, std::uint64_t fallback) {
  BOOST_OUTCOME_TRY(const auto interval_us, body.number_or("interval_us", fallback));
  if (interval_us < 1'000 || interval_us > 10'000'000) {
    return fail(ErrorCode::usage, "interval_us {}: expected 1000 to 10000000", interval_us);
  }
  return interval_us;
}

// One verb on one domain: POST /v1/domains/NAME/VERB.
Task<Result<HttpResponse>> domain_verb(Agent& agent, std::string name, std::string verb,
                                       const HttpRequest& request) {
  if (verb == "check") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"to", "mode"}));
    BOOST_OUTCOME_CO_TRY(const auto to, body.text("to"));
    BOOST_OUTCOME_CO_TRY(const auto mode, body.text_or("mode", "remus"));
    BOOST_OUTCOME_CO_TRY(const auto checked, co_await agent.check(name, to, mode));
    co_return answer(200, checked);
  }
  if (verb == "protect") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"to", "mode", "interval_us",
                                                                     "ports", "on_divergence"}));
    ProtectRequest wanted;
    BOOST_OUTCOME_CO_TRY(wanted.hosts, body.text_or_texts("to"));
    BOOST_OUTCOME_CO_TRY(wanted.mode, body.text_or("mode", "remus"));
    BOOST_OUTCOME_CO_TRY(wanted.replay, body.replay_options());
    if (wanted.mode != "replay" && !wanted.replay.is_null()) {
      co_return fail(ErrorCode::usage, "ports and on_divergence are of mode replay");
    }
    const auto standard = wanted.mode == "replay" ? kDefaultReplayInterval_us : kDefaultInterval_us;
    BOOST_OUTCOME_CO_TRY(const auto interval_us, interval_from(body, standard));
    wanted.interval = std::chrono::microseconds(interval_us);
    json::array findings;
    auto begun = co_await agent.protect_to_first(name, wanted, findings);
    if (!begun) co_return to_response(begun.error(), std::move(findings));
    co_return answer(202, begun.value());
  }
  if (verb == "unprotect") {
    BOOST_OUTCOME_CO_TRY(Body::parse(request.body, {}));
    BOOST_OUTCOME_CO_TRY(const auto domain, co_await agent.unprotect(name));
    co_return answer(200, domain);
  }
  if (verb == "promote") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"force"}));
    BOOST_OUTCOME_CO_TRY(const auto force, body.flag_or("force", false));
    BOOST_OUTCOME_CO_TRY(const auto domain, co_await agent.promote(name, force));
    co_return answer(202, domain);
  }
  if (verb == "move") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"to"}));
    BOOST_OUTCOME_CO_TRY(auto to, body.text_or("to", ""));
    BOOST_OUTCOME_CO_TRY(const auto moved, co_await agent.move(name, std::move(to)));
    co_return answer(200, moved);
  }
  if (verb == "solo") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"promise"}));
    BOOST_OUTCOME_CO_TRY(const auto promise, body.text_or("promise", ""));
    BOOST_OUTCOME_CO_TRY(const auto domain,
                         co_await agent.solo(name, promise == "backup_will_not_promote"));
    co_return answer(200, domain);
  }
  if (verb == "repair") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"choice"}));
    BOOST_OUTCOME_CO_TRY(auto choice, body.text("choice"));
    BOOST_OUTCOME_CO_TRY(const auto repaired, co_await agent.repair(name, std::move(choice)));
    co_return answer(200, repaired);
  }
  if (verb == "set") {
    BOOST_OUTCOME_CO_TRY(const auto body,
                         Body::parse(request.body, {"mode", "interval_us", "ports", "on_divergence",
                                                    "to", "add_hosts", "remove_hosts", "failback",
                                                    "failback_delay_s", "minimum_stay_s"}));
    SetRequest wanted;
    BOOST_OUTCOME_CO_TRY(wanted.renewal, body.renewal_change());
    BOOST_OUTCOME_CO_TRY(const auto mode, body.text_or("mode", ""));
    if (!mode.empty() && !is_mode(mode)) {
      co_return fail(ErrorCode::usage, "mode '{}': expected remus or replay", mode);
    }
    if (!mode.empty()) wanted.mode = mode;
    BOOST_OUTCOME_CO_TRY(const auto given, body.number_or("interval_us", 0));
    if (given != 0) {
      BOOST_OUTCOME_CO_TRY(const auto interval_us, interval_from(body, 0));
      wanted.interval = std::chrono::microseconds(interval_us);
    }
    BOOST_OUTCOME_CO_TRY(wanted.replay, body.replay_options());
    if (!wanted.mode && !wanted.interval && wanted.replay.is_null() && wanted.renewal.empty()) {
      co_return fail(ErrorCode::usage,
                     "nothing to set: expected mode, interval_us, ports, on_divergence, to, "
                     "add_hosts, remove_hosts, failback, failback_delay_s or minimum_stay_s");
    }
    BOOST_OUTCOME_CO_TRY(const auto domain, co_await agent.set(name, wanted));
    co_return answer(200, domain);
  }
  co_return fail(ErrorCode::no_such, "no such request: POST {}", request.path);
}

Task<Result<HttpResponse>> domains(Agent& agent, const std::vector<std::string>& path,
                                   const HttpRequest& request) {
  if (path.size() == 2 && request.method == "POST") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"config_toml", "file"}));
    BOOST_OUTCOME_CO_TRY(const auto text, body.text("config_toml"));
    BOOST_OUTCOME_CO_TRY(const auto file, body.text_or("file", "domain.toml"));
    BOOST_OUTCOME_CO_TRY(const auto domain, co_await agent.start_domain(text, file));
    co_return answer(201, domain);
  }
  if (path.size() == 3 && request.method == "GET") {
    BOOST_OUTCOME_CO_TRY(const auto domain, agent.domain_status(path[2]));
    co_return answer(200, domain);
  }
  if (path.size() == 3 && request.method == "DELETE") {
    const auto force = request.query.find("force");
    BOOST_OUTCOME_CO_TRY(co_await agent.stop_domain(
        path[2], force != request.query.end() && force->second == "true"));
    co_return answer(200, {{"domain", path[2]}, {"state", "stopped"}});
  }
  if (path.size() == 4 && path[3] == "timeline" && request.method == "GET") {
    BOOST_OUTCOME_CO_TRY(const auto timeline, agent.timeline(path[2]));
    co_return answer(200, timeline);
  }
  if (path.size() == 4 && path[3] == "repair" && request.method == "GET") {
    BOOST_OUTCOME_CO_TRY(const auto choices, agent.repair_choices_of(path[2]));
    co_return answer(200, choices);
  }
  if (path.size() == 4 && request.method == "POST") {
    co_return co_await domain_verb(agent, path[2], path[3], request);
  }
  co_return fail(ErrorCode::usage, "no such request: {} {}", request.method, request.path);
}

Task<Result<HttpResponse>> dispatch(Agent& agent, const HttpRequest& request) {
  const auto path = segments_of(request.path);
  if (path.size() < 2 || path[0] != "v1") {
    co_return fail(ErrorCode::no_such, "no such path: {}; paths begin with /v1", request.path);
  }
  const bool get = request.method == "GET";
  const bool post = request.method == "POST";
  if (is_operations_route(path)) co_return co_await operations_routes(agent, path, request);
  if (path[1] == "domains") co_return co_await domains(agent, path, request);
  if (get && path.size() == 2) {
    if (path[1] == "status") co_return answer(200, agent.status());
    if (path[1] == "version") co_return answer(200, agent.version());
    if (path[1] == "peers") co_return answer(200, agent.peers());
    if (path[1] == "metrics") {
      co_return HttpResponse{200, "text/plain; version=0.0.4", agent.metrics()};
    }
    if (path[1] == "events") {
      const auto domain = request.query.find("domain");
      BOOST_OUTCOME_CO_TRY(const auto after, query_number(request, "after", 0));
      BOOST_OUTCOME_CO_TRY(const auto limit, query_number(request, "limit", 100));
      co_return answer(200, agent.events(domain == request.query.end() ? "" : domain->second, after,
                                         request.query.contains("after"),
                                         std::clamp<std::uint64_t>(limit, 1, 1000)));
    }
  }
  if (post && path.size() == 3 && path[1] == "pair" && path[2] == "token") {
    BOOST_OUTCOME_CO_TRY(const auto body,
                         Body::parse(request.body, {"addresses", "valid_seconds"}));
    BOOST_OUTCOME_CO_TRY(auto addresses, body.texts_or_none("addresses"));
    BOOST_OUTCOME_CO_TRY(const auto seconds, body.number_or("valid_seconds", 600));
    if (seconds < 1 || seconds > 86'400) {
      co_return fail(ErrorCode::usage, "valid_seconds {}: expected 1 to 86400", seconds);
    }
    BOOST_OUTCOME_CO_TRY(const auto token,
                         agent.create_token(std::move(addresses), std::chrono::seconds(seconds)));
    co_return answer(201, token);
  }
  if (post && path.size() == 3 && path[1] == "pair" && path[2] == "join") {
    BOOST_OUTCOME_CO_TRY(const auto body, Body::parse(request.body, {"token"}));
    BOOST_OUTCOME_CO_TRY(const auto token, body.text("token"));
    BOOST_OUTCOME_CO_TRY(const auto peer, co_await agent.join(token));
    co_return answer(201, peer);
  }
  if (request.method == "DELETE" && path.size() == 3 && path[1] == "peers") {
    BOOST_OUTCOME_CO_TRY(agent.remove_peer(path[2]));
    co_return answer(200, {{"peer", path[2]}});
  }
  co_return fail(ErrorCode::usage, "no such request: {} {}", request.method, request.path);
}

}  // namespace

HttpResponse to_response(const Error& error, json::array findings) {
  json::object body = {{"code", to_string(error.code())}, {"message", error.message()}};
  if (!findings.empty()) body["findings"] = std::move(findings);
  return answer(http_status(error.code()), {{"error", std::move(body)}});
}

HttpHandler api_routes(Agent& agent) {
  return [&agent](HttpRequest request) -> Task<HttpResponse> {
    auto response = co_await dispatch(agent, request);
    co_return response ? std::move(response.value()) : to_response(response.error());
  };
}

HttpHandler metrics_routes(Agent& agent) {
  return [&agent](HttpRequest request) -> Task<HttpResponse> {
    if (request.method == "GET" && request.path == "/metrics") {
      co_return HttpResponse{200, "text/plain; version=0.0.4", agent.metrics()};
    }
    co_return to_response(fail(ErrorCode::no_such, "only GET /metrics is served here"));
  };
}

}  // namespace understudy
