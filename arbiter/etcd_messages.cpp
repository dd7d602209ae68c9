#include "arbiter/etcd_messages.h"

#include <openssl/evp.h>

#include <boost/json.hpp>
#include <charconv>

namespace understudy::etcd {
namespace {

namespace json = boost::json;

std::string base64(std::string_view octets) {
  std::string text(4 * ((octets.size() + 2) / 3) + 1, '\0');
  const int length = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                       reinterpret_cast<const unsigned char*>(octets.data()),
                                       static_cast<int>(octets.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

Result<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return fail(ErrorCode::bad_data, "etcd: malformed base64");
  std::string octets(3 * (text.size() / 4), '\0');
  const int length = ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(octets.data()),
                                       reinterpret_cast<const unsigned char*>(text.data()),
                                       static_cast<int>(text.size()));
  if (length < 0) return fail(ErrorCode::bad_data, "etcd: malformed base64");
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  octets.resize(static_cast<std::size_t>(length) - padding);
  return octets;
}

std::string value_of(const Holding& holding) {
  return json::serialize(json::value{{"generation", holding.generation.value},
                                     {"holder", holding.holder},
                                     {"claimed", holding.claimed}});
}

Result<json::object> object_from(std::string_view body) {
  boost::system::error_code error;
  json::value value = json::parse(body, error);
  if (error || !value.is_object()) return fail(ErrorCode::bad_data, "etcd: no JSON object");
  return std::move(value.get_object());
}

// A number, which the gateway writes as a string; absent means 0, as everywhere in protobuf.
std::uint64_t number_at(const json::object& object, std::string_view field) {
  const auto* value = object.if_contains(field);
  if (value == nullptr || !value->is_string()) return 0;
  const auto& text = value->get_string();
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

Result<Holding> holding_from(std::string_view value) {
  BOOST_OUTCOME_TRY(const std::string text, from_base64(value));
  try {
    const json::value parsed = json::parse(text);
    return Holding{Generation(parsed.at("generation").to_number<std::uint64_t>()),
                   std::string(parsed.at("holder").as_string()), parsed.at("claimed").as_bool()};
  } catch (const std::exception& error) {
    return fail(ErrorCode::bad_data, "etcd: the key's value is not ours: {}", error.what());
  }
}

/// The first key above all that begin with `prefix`: how etcd names a range.
std::string end_of_range(std::string prefix) {
  ++prefix.back();
  return prefix;
}

}  // namespace

std::string key_of(std::string_view prefix, std::string_view domain, ProtectionId protection) {
  return fmt::format("{}{}/{:016x}", prefix, domain, protection.value);
}

std::string read_request(std::string_view key) {
  return json::serialize(json::value{{"key", base64(key)}});
}

std::string clear_request(std::string_view prefix, std::string_view domain) {
  const std::string begin = fmt::format("{}{}/", prefix, domain);
  return json::serialize(
      json::value{{"key", base64(begin)}, {"range_end", base64(end_of_range(begin))}});
}

std::string begin_request(std::string_view key, const Holding& holding) {
  const json::value request = {
      {"compare",
       {{{"key", base64(key)},
         {"target", "CREATE"},
         {"create_revision", "0"},
         {"result", "EQUAL"}}}},
      {"success",
       {{{"request_put", {{"key", base64(key)}, {"value", base64(value_of(holding))}}}}}},
  };
  return json::serialize(request);
}

std::string lease_request(std::chrono::seconds ttl) {
  return json::serialize(json::value{{"TTL", std::to_string(ttl.count())}});
}

std::string claim_request(std::string_view key, std::uint64_t revision, const Holding& holding,
                          std::string_view lease) {
  const std::string value = base64(value_of(holding));
  const json::value request = {
      {"compare",
       {{{"key", base64(key)},
         {"target", "MOD"},
         {"mod_revision", std::to_string(revision)},
         {"result", "EQUAL"}}}},
      {"success",
       {{{"request_put", {{"key", base64(key)}, {"value", value}}}},
        {{"request_put",
          {{"key", base64(std::string(key) + "/lease")}, {"value", value}, {"lease", lease}}}}}},
  };
  return json::serialize(request);
}

Result<Read> read_answer(std::string_view body) {
  BOOST_OUTCOME_TRY(const json::object answer, object_from(body));
  const auto* header = answer.if_contains("header");
  if (header == nullptr || !header->is_object())
    return fail(ErrorCode::bad_data, "etcd: an answer without header");
  Read read;
  read.header_revision = number_at(header->get_object(), "revision");
  const auto* pairs = answer.if_contains("kvs");
  if (pairs == nullptr) return read;
  if (!pairs->is_array() || pairs->get_array().size() != 1 || !pairs->get_array()[0].is_object())
    return fail(ErrorCode::bad_data, "etcd: expected one key");
  const auto& pair = pairs->get_array()[0].get_object();
  const auto* value = pair.if_contains("value");
  if (value == nullptr || !value->is_string())
    return fail(ErrorCode::bad_data, "etcd: the key has no value");
  read.revision = number_at(pair, "mod_revision");
  BOOST_OUTCOME_TRY(read.holding, holding_from(value->get_string()));
  return read;
}

Result<std::string> lease_answer(std::string_view body) {
  BOOST_OUTCOME_TRY(const json::object answer, object_from(body));
  const auto* id = answer.if_contains("ID");
  if (id == nullptr || !id->is_string()) return fail(ErrorCode::bad_data, "etcd: no lease");
  return std::string(id->get_string());
}

Result<bool> transaction_answer(std::string_view body) {
  BOOST_OUTCOME_TRY(const json::object answer, object_from(body));
  if (!answer.contains("header"))
    return fail(ErrorCode::bad_data, "etcd: an answer without header");
  const auto* succeeded = answer.if_contains("succeeded");
  return succeeded != nullptr && succeeded->is_bool() && succeeded->get_bool();
}

Judged judge(const Read& read, const std::string& self, Generation generation,
             std::uint64_t highest_seen) {
  if (read.header_revision < highest_seen) {
    return {
        Judgement::refused,
        fmt::format("etcd has gone back in time (revision {}, {} was seen): it was restored from "
                    "an older copy",
                    read.header_revision, highest_seen)};
  }
  if (!read.holding)
    return {Judgement::refused, "etcd knows nothing of this protection: it has lost its data"};
  if (read.holding->claimed) {
    if (read.holding->holder == self && read.holding->generation == generation)
      return {Judgement::granted, {}};
    return {Judgement::refused, fmt::format("generation {} was granted to {}",
                                            read.holding->generation, read.holding->holder)};
  }
  if (generation <= read.holding->generation)
    return {Judgement::refused,
            fmt::format("generation {} is not above {}", generation, read.holding->generation)};
  return {Judgement::claim, {}};
}

}  // namespace understudy::etcd
