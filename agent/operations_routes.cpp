#include "agent/operations_routes.h"

#include <algorithm>
#include <boost/json.hpp>

namespace understudy {
namespace {

namespace json = boost::json;

HttpResponse answer(unsigned status, const json::value& body) {
  return {status, "application/json", json::serialize(body)};
}

// The body's fields, each a string, none but `known`.
Result<json::object> texts_of(const std::string& body, std::vector<std::string_view> known) {
  if (body.empty()) return json::object();
  boost::system::error_code error;
  json::value value = json::parse(body, error);
  if (error || !value.is_object()) return fail(ErrorCode::usage, "the body is no JSON object");
  for (const auto& member : value.get_object()) {
    if (std::ranges::find(known, std::string_view(member.key())) == known.end())
      return fail(ErrorCode::usage, "unknown field '{}' in the body", std::string(member.key()));
    if (!member.value().is_string())
      return fail(ErrorCode::usage, "field '{}': expected a string", std::string(member.key()));
  }
  return std::move(value.get_object());
}

std::string text_in(const json::object& body, std::string_view field) {
  const auto* value = body.if_contains(field);
  return value == nullptr ? std::string() : std::string(value->get_string());
}

}  // namespace

bool is_operations_route(const std::vector<std::string>& path) {
  if (path[1] == "hooks" || path[1] == "drills") return true;
  return path[1] == "domains" && path.size() == 4 && path[3] == "drill";
}

Task<Result<HttpResponse>> operations_routes(Agent& agent, std::vector<std::string> path,
                                             const HttpRequest& request) {
  const bool get = request.method == "GET";
  const bool post = request.method == "POST";
  if (path[1] == "hooks") {
    if (get && path.size() == 2) co_return answer(200, agent.hooks());
    if (post && path.size() == 4 && path[3] == "test") {
      BOOST_OUTCOME_CO_TRY(const auto body, texts_of(request.body, {"event", "domain"}));
      std::string name = path[2];
      std::string kind = text_in(body, "event");
      std::string domain = text_in(body, "domain");
      BOOST_OUTCOME_CO_TRY(
          const auto tested,
          co_await agent.test_hook(std::move(name), std::move(kind), std::move(domain)));
      co_return answer(200, tested);
    }
  }
  if (path[1] == "drills" && get) {
    if (path.size() == 2) {
      const auto domain = request.query.find("domain");
      co_return answer(200, agent.drills(domain == request.query.end() ? "" : domain->second));
    }
    if (path.size() == 3) {
      BOOST_OUTCOME_CO_TRY(const auto report, agent.drill_report(path[2]));
      co_return answer(200, report);
    }
  }
  if (path[1] == "drills" && post && path.size() == 4 && path[3] == "cancel") {
    std::string id = path[2];
    BOOST_OUTCOME_CO_TRY(const auto report, co_await agent.cancel_drill(std::move(id)));
    co_return answer(202, report);
  }
  if (path[1] == "domains" && post) {
    BOOST_OUTCOME_CO_TRY(const auto body, texts_of(request.body, {"kind"}));
    std::string name = path[2];
    std::string kind = text_in(body, "kind");
    if (kind.empty()) kind = "dry";
    std::string by = "operator";
    BOOST_OUTCOME_CO_TRY(const auto begun,
                         co_await agent.drill(std::move(name), std::move(kind), std::move(by)));
    co_return answer(202, begun);
  }
  co_return fail(ErrorCode::usage, "no such request: {} {}", request.method, request.path);
}

}  // namespace understudy
