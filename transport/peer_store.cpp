// The file of paired peers. See PeerStore in identity.h.
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "transport/identity.h"
#include "transport/private_file.h"

namespace understudy::transport {
namespace {

namespace json = boost::json;

constexpr std::int64_t kStoreVersion = 1;
constexpr std::size_t kAddressesMax = 16;

Result<void> check_peer(const Peer& peer) {
  BOOST_OUTCOME_TRY(check_host_name(peer.name));
  if (peer.addresses.size() > kAddressesMax) {
    return fail(ErrorCode::usage, "peer {} has {} addresses, at most {} are possible", peer.name,
                peer.addresses.size(), kAddressesMax);
  }
  for (const PeerAddress& address : peer.addresses) {
    BOOST_OUTCOME_TRY(Endpoint::parse(address.remote.text()));
    if (!address.local_address.empty()) {
      BOOST_OUTCOME_TRY(Endpoint::parse(Endpoint{address.local_address, 0}.text()));
    }
  }
  return ok();
}

json::object to_json(const Peer& peer) {
  json::array addresses;
  for (const PeerAddress& address : peer.addresses) {
    json::object entry{{"remote", address.remote.text()}};
    if (!address.local_address.empty()) entry["local"] = address.local_address;
    addresses.push_back(std::move(entry));
  }
  return {{"name", peer.name},
          {"fingerprint", peer.fingerprint.hex()},
          {"addresses", std::move(addresses)}};
}

// The text under `key`, or an error that names the key.
Result<std::string> text_of(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_string()) {
    return fail(ErrorCode::bad_data, "\"{}\" is missing or no text", key);
  }
  return std::string(value->get_string());
}

Result<Peer> peer_from_json(const json::value& value) {
  if (!value.is_object()) return fail(ErrorCode::bad_data, "expected an object");
  const json::object& object = value.get_object();
  Peer peer;
  BOOST_OUTCOME_TRY(peer.name, text_of(object, "name"));
  BOOST_OUTCOME_TRY(const std::string fingerprint, text_of(object, "fingerprint"));
  BOOST_OUTCOME_TRY(peer.fingerprint, Fingerprint::parse(fingerprint));
  const json::value* const addresses = object.if_contains("addresses");
  if (addresses == nullptr || !addresses->is_array()) {
    return fail(ErrorCode::bad_data, "\"addresses\" is missing or no array");
  }
  for (const json::value& entry : addresses->get_array()) {
    if (!entry.is_object()) return fail(ErrorCode::bad_data, "\"addresses\": expected objects");
    PeerAddress address;
    BOOST_OUTCOME_TRY(const std::string remote, text_of(entry.get_object(), "remote"));
    BOOST_OUTCOME_TRY(address.remote, Endpoint::parse(remote));
    if (entry.get_object().contains("local")) {
      BOOST_OUTCOME_TRY(address.local_address, text_of(entry.get_object(), "local"));
    }
    peer.addresses.push_back(std::move(address));
  }
  BOOST_OUTCOME_TRY(check_peer(peer));
  return peer;
}

}  // namespace

Result<std::shared_ptr<PeerStore>> PeerStore::load(std::filesystem::path file) {
  std::shared_ptr<PeerStore> store(new PeerStore());
  BOOST_OUTCOME_TRY(const auto content, read_private_file(file));
  store->file_ = std::move(file);
  if (!content) return store;

  const std::string where = store->file_.string();
  boost::system::error_code broken;
  const json::value root = json::parse(*content, broken);
  if (broken) return fail(ErrorCode::bad_data, "{}: no JSON: {}", where, broken.message());
  const json::object* const object = root.if_object();
  const json::value* const version = object == nullptr ? nullptr : object->if_contains("version");
  const json::value* const peers = object == nullptr ? nullptr : object->if_contains("peers");
  if (version == nullptr || *version != kStoreVersion || peers == nullptr || !peers->is_array()) {
    return fail(ErrorCode::bad_data,
                "{}: expected an object with \"version\": {} and an array \"peers\"", where,
                kStoreVersion);
  }
  for (const json::value& entry : peers->get_array()) {
    const std::string place = fmt::format("{}: peer {}", where, store->peers_.size());
    auto peer = peer_from_json(entry);
    if (!peer) return Error(ErrorCode::bad_data, peer.error().message()).in(place);
    if (store->find(peer.value().name) != nullptr ||
        store->find(peer.value().fingerprint) != nullptr) {
      return fail(ErrorCode::bad_data, "{}: name or fingerprint of '{}' occurs twice", place,
                  peer.value().name);
    }
    store->peers_.push_back(std::move(peer).value());
  }
  return store;
}

std::shared_ptr<PeerStore> PeerStore::in_memory() {
  return std::shared_ptr<PeerStore>(new PeerStore());
}

const Peer* PeerStore::find(std::string_view name) const {
  const auto found = std::ranges::find(peers_, name, &Peer::name);
  return found == peers_.end() ? nullptr : &*found;
}

const Peer* PeerStore::find(const Fingerprint& fingerprint) const {
  const auto found = std::ranges::find(peers_, fingerprint, &Peer::fingerprint);
  return found == peers_.end() ? nullptr : &*found;
}

Result<void> PeerStore::put(Peer peer) {
  BOOST_OUTCOME_TRY(check_peer(peer));
  if (const Peer* const other = find(peer.name);
      other != nullptr && other->fingerprint != peer.fingerprint) {
    return fail(
        ErrorCode::exists,
        "a peer named '{}' with another fingerprint ({}) is paired already; unpair it first",
        peer.name, other->fingerprint.groups());
  }
  std::vector<Peer> changed = peers_;
  const auto same = std::ranges::find(changed, peer.fingerprint, &Peer::fingerprint);
  if (same == changed.end()) {
    changed.push_back(std::move(peer));
  } else {
    *same = std::move(peer);
  }
  return replace_all(std::move(changed));
}

Result<void> PeerStore::remove(std::string_view name) {
  if (find(name) == nullptr) return fail(ErrorCode::no_such, "no peer named '{}'", name);
  std::vector<Peer> changed = peers_;
  std::erase_if(changed, [&](const Peer& peer) { return peer.name == name; });
  return replace_all(std::move(changed));
}

Result<void> PeerStore::replace_all(std::vector<Peer> peers) {
  if (!file_.empty()) {
    json::array entries;
    for (const Peer& peer : peers) entries.push_back(to_json(peer));
    const json::object root{{"version", kStoreVersion}, {"peers", std::move(entries)}};
    BOOST_OUTCOME_TRY(write_private_file(file_, json::serialize(root) + "\n"));
  }
  peers_ = std::move(peers);
  return ok();
}

}  // namespace understudy::transport
