// See pairing.h. The frames are drawn in docs/protocol-frames.md.
#include "transport/pairing.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "transport/octets.h"

namespace understudy::transport {
namespace {

using Clock = std::chrono::steady_clock;
using TokenId = std::array<std::uint8_t, 8>;
using Secret = std::array<std::uint8_t, 16>;
using Proof = std::array<std::uint8_t, 32>;

constexpr std::string_view kTokenPrefix = "understudy-pair-1.";
constexpr std::string_view kExporterLabel = "EXPORTER-understudy-pairing-1";
constexpr std::size_t kAddressesMax = 16;
// The steps of the exchange, as the first octet of their frames.
constexpr std::uint8_t kClaim = 1;
constexpr std::uint8_t kAnswer = 2;
// Which side a proof speaks for: without it, B could send A's own proof back.
constexpr std::uint8_t kJoiner = 1;
constexpr std::uint8_t kHost = 2;

constexpr std::chrono::milliseconds kStepLimit{10000};

// One text for every way in which a token can be no good: a stranger learns nothing.
Error bad_token() {
  return {ErrorCode::not_authorized,
          "the token is not valid: mistyped, used, expired or withdrawn; make a new one"};
}

// Base64 with the alphabet for URLs (RFC 4648, section 5), without padding.
constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

std::string base64url(std::span<const std::byte> octets) {
  std::string text;
  unsigned bits = 0;
  unsigned count = 0;
  for (const std::byte octet : octets) {
    bits = (bits << 8) | std::to_integer<unsigned>(octet);
    for (count += 8; count >= 6; count -= 6) text += kDigits[(bits >> (count - 6)) & 63];
  }
  if (count > 0) text += kDigits[(bits << (6 - count)) & 63];
  return text;
}

// Nothing when a character does not belong there.
std::optional<std::vector<std::byte>> from_base64url(std::string_view text) {
  std::vector<std::byte> octets;
  unsigned bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    const auto digit = kDigits.find(c);
    if (digit == std::string_view::npos) return {};
    bits = (bits << 6) | static_cast<unsigned>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      octets.push_back(static_cast<std::byte>(bits >> count));
    }
  }
  return octets;
}

std::uint32_t checksum_of(std::span<const std::byte> octets) {
  return static_cast<std::uint32_t>(XXH3_64bits(octets.data(), octets.size()));
}

void write_offer(OctetWriter& writer, const PairingOffer& offer, const Endpoint& local) {
  std::vector<Endpoint> addresses = offer.addresses;
  if (addresses.empty()) addresses.push_back({local.address, offer.listen_port});
  addresses.resize(std::min(addresses.size(), kAddressesMax));
  writer.text(offer.name);
  writer.number(static_cast<std::uint8_t>(addresses.size()));
  for (const Endpoint& address : addresses) writer.text(address.text());
}

// The peer as it presents itself. Bad names and addresses are refused before anything is stored.
Result<Peer> read_offer(OctetReader& reader, const Fingerprint& fingerprint) {
  Peer peer;
  peer.fingerprint = fingerprint;
  peer.name = reader.text();
  const std::size_t count = reader.number<std::uint8_t>();
  std::vector<std::string> addresses;
  for (std::size_t i = 0; i < count && !reader.broken(); ++i) addresses.push_back(reader.text());
  if (reader.broken() || count == 0 || count > kAddressesMax) {
    return fail(ErrorCode::bad_data, "pairing: the peer's offer is malformed");
  }
  if (!check_host_name(peer.name)) {
    return fail(ErrorCode::bad_data, "pairing: the peer calls itself '{}', which is no host name",
                printable(peer.name, 63));
  }
  for (const std::string& text : addresses) {
    const auto endpoint = Endpoint::parse(text);
    if (!endpoint || endpoint.value().port == 0 ||
        boost::asio::ip::make_address(endpoint.value().address).is_unspecified()) {
      return fail(ErrorCode::bad_data,
                  "pairing: {} offers the address '{}', expected one that others can reach",
                  peer.name, printable(text, 64));
    }
    peer.addresses.push_back({endpoint.value(), {}});
  }
  return peer;
}

// HMAC-SHA256 with the token's secret over everything that both sides must agree on: this TLS
// session, both certificates, the role, and the offer that comes with it.
Result<Proof> make_proof(const Link& link, const Secret& secret, std::uint8_t role,
                         const Fingerprint& joiner, const Fingerprint& host, const TokenId& id,
                         std::span<const std::byte> offer) {
  BOOST_OUTCOME_TRY(const auto session, link.export_key(kExporterLabel, 32));
  OctetWriter writer;
  writer.text("understudy pairing 1");
  writer.number(role);
  writer.octets(session);
  writer.array(joiner.octets);
  writer.array(host.octets);
  writer.array(id);
  writer.octets(offer);
  Proof proof{};
  unsigned int length = 0;
  if (HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(writer.written().data()), writer.written().size(),
           proof.data(), &length) == nullptr ||
      length != proof.size()) {
    return fail(ErrorCode::internal, "pairing: HMAC-SHA256 failed");
  }
  return proof;
}

bool equal_in_constant_time(const Proof& one, const Proof& other) {
  return CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

// A name that is ours, or that belongs to another certificate, cannot be stored.
Result<void> check_name_is_free(const LocalHost& self, const Peer& peer) {
  if (peer.name == self.name) {
    return fail(ErrorCode::exists, "both hosts are named '{}'; rename one of them", peer.name);
  }
  const Peer* const other = self.peers->find(peer.name);
  if (other != nullptr && other->fingerprint != peer.fingerprint) {
    return fail(ErrorCode::exists, "{} knows another host named '{}'; unpair that one first",
                self.name, peer.name);
  }
  return ok();
}

// Side B, up to the moment at which the peer is stored and the answer is ready.
Result<std::pair<Peer, std::vector<std::byte>>> judge_claim(const Link& link, const Frame& frame,
                                                            const LocalHost& self,
                                                            const PairingOffer& offer,
                                                            PairingDesk& desk) {
  OctetReader reader(frame.payload);
  const auto step = reader.number<std::uint8_t>();
  const auto id = reader.array<8>();
  const auto claimed = reader.array<32>();
  const auto their_offer = reader.rest();
  if (frame.type != FrameType::pairing || step != kClaim || reader.broken()) {
    return fail(ErrorCode::protocol, "pairing: expected a claim, got {}", to_string(frame.type));
  }
  const Fingerprint& joiner = link.peer().fingerprint;
  const Fingerprint& host = self.identity->fingerprint();
  BOOST_OUTCOME_TRY(const Secret secret, desk.secret(Clock::now(), id));
  BOOST_OUTCOME_TRY(const Proof expected,
                    make_proof(link, secret, kJoiner, joiner, host, id, their_offer));
  if (!equal_in_constant_time(claimed, expected)) {
    desk.wrong_proof(id);
    return bad_token();
  }
  BOOST_OUTCOME_TRY(Peer peer, read_offer(reader, joiner));
  BOOST_OUTCOME_TRY(check_name_is_free(self, peer));
  OctetWriter our_offer;
  write_offer(our_offer, offer, link.peer().local);
  BOOST_OUTCOME_TRY(const Proof proof,
                    make_proof(link, secret, kHost, joiner, host, id, our_offer.written()));
  // Stored first, redeemed after: a store that cannot be written leaves the token usable.
  BOOST_OUTCOME_TRY(self.peers->put(peer));
  desk.redeem(Clock::now(), id);
  OctetWriter answer;
  answer.number(kAnswer);
  answer.array(proof);
  answer.octets(our_offer.written());
  return std::pair(std::move(peer), answer.take());
}

// Side A, over the established link.
Task<Result<Peer>> claim(Link& link, const LocalHost& self, const PairingOffer& offer,
                         const PairingToken& token) {
  const Fingerprint& joiner = self.identity->fingerprint();
  OctetWriter our_offer;
  write_offer(our_offer, offer, link.peer().local);
  BOOST_OUTCOME_CO_TRY(const Proof proof,
                       make_proof(link, token.secret, kJoiner, joiner, token.fingerprint, token.id,
                                  our_offer.written()));
  OctetWriter payload;
  payload.number(kClaim);
  payload.array(token.id);
  payload.array(proof);
  payload.octets(our_offer.written());
  BOOST_OUTCOME_CO_TRY(co_await link.send(FrameType::pairing, payload.written()));

  BOOST_OUTCOME_CO_TRY(const Frame frame, co_await link.receive(kStepLimit));
  OctetReader reader(frame.payload);
  const auto step = reader.number<std::uint8_t>();
  const auto answered = reader.array<32>();
  const auto their_offer = reader.rest();
  if (frame.type != FrameType::pairing || step != kAnswer || reader.broken()) {
    co_return fail(ErrorCode::protocol, "pairing: expected an answer, got {}",
                   to_string(frame.type));
  }
  BOOST_OUTCOME_CO_TRY(const Proof expected, make_proof(link, token.secret, kHost, joiner,
                                                        token.fingerprint, token.id, their_offer));
  if (!equal_in_constant_time(answered, expected)) {
    co_return fail(ErrorCode::not_authorized, "pairing: {} could not prove that it made the token",
                   token.endpoint.text());
  }
  BOOST_OUTCOME_CO_TRY(Peer peer, read_offer(reader, token.fingerprint));
  // The way that has just worked comes first.
  const PeerAddress worked{token.endpoint, {}};
  std::erase(peer.addresses, worked);
  peer.addresses.insert(peer.addresses.begin(), worked);
  peer.addresses.resize(std::min(peer.addresses.size(), kAddressesMax));
  BOOST_OUTCOME_CO_TRY(check_name_is_free(self, peer));
  BOOST_OUTCOME_CO_TRY(self.peers->put(peer));
  co_return peer;
}

}  // namespace

std::string PairingToken::text() const {
  OctetWriter writer;
  writer.array(id);
  writer.array(secret);
  writer.array(fingerprint.octets);
  writer.text(endpoint.text());
  writer.number(checksum_of(writer.written()));
  return std::string(kTokenPrefix) + base64url(writer.written());
}

Result<PairingToken> PairingToken::parse(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  if (!text.starts_with(kTokenPrefix) || text.size() > 400) {
    return fail(ErrorCode::usage, "this is no pairing token, expected one that starts with '{}'",
                kTokenPrefix);
  }
  const auto mistyped = [] {
    return fail(ErrorCode::usage, "the pairing token is mistyped or cut off");
  };
  const auto octets = from_base64url(text.substr(kTokenPrefix.size()));
  // Encoded back, so that no two texts mean the same token.
  if (!octets || base64url(*octets) != text.substr(kTokenPrefix.size())) return mistyped();
  OctetReader reader(*octets);
  PairingToken token;
  token.id = reader.array<8>();
  token.secret = reader.array<16>();
  token.fingerprint.octets = reader.array<32>();
  const std::string endpoint = reader.text();
  const std::size_t covered = octets->size() - reader.rest().size();
  const auto checksum = reader.number<std::uint32_t>();
  if (reader.broken() || !reader.rest().empty() ||
      checksum != checksum_of(std::span(*octets).first(covered))) {
    return mistyped();
  }
  BOOST_OUTCOME_TRY(token.endpoint, Endpoint::parse(endpoint));
  return token;
}

Result<PairingToken> PairingDesk::issue(Time now, const Fingerprint& own, const Endpoint& endpoint,
                                        std::optional<std::chrono::seconds> validity) {
  std::erase_if(pending_, [&](const Pending& entry) { return now >= entry.ends; });
  if (pending_.size() >= settings_.pending_max) {
    return fail(ErrorCode::try_again, "{} pairing tokens are pending, no more are possible now",
                pending_.size());
  }
  BOOST_OUTCOME_TRY(Endpoint::parse(endpoint.text()));
  PairingToken token;
  token.fingerprint = own;
  token.endpoint = endpoint;
  if (RAND_bytes(token.id.data(), static_cast<int>(token.id.size())) != 1 ||
      RAND_priv_bytes(token.secret.data(), static_cast<int>(token.secret.size())) != 1) {
    return fail(ErrorCode::internal, "the system's random source gave nothing");
  }
  pending_.push_back({token, now + validity.value_or(settings_.validity), 0});
  return token;
}

bool PairingDesk::open(Time now) const {
  return pending(now) > 0;
}

std::size_t PairingDesk::pending(Time now) const {
  return static_cast<std::size_t>(
      std::ranges::count_if(pending_, [&](const Pending& entry) { return now < entry.ends; }));
}

Result<Secret> PairingDesk::secret(Time now, const TokenId& id) const {
  for (const Pending& entry : pending_) {
    if (entry.token.id == id && now < entry.ends) return entry.token.secret;
  }
  return bad_token();
}

void PairingDesk::wrong_proof(const TokenId& id) {
  std::erase_if(pending_, [&](Pending& entry) {
    return entry.token.id == id && ++entry.tries >= settings_.tries_max;
  });
}

bool PairingDesk::redeem(Time now, const TokenId& id) {
  return std::erase_if(pending_, [&](const Pending& entry) {
           return entry.token.id == id && now < entry.ends;
         }) > 0;
}

Task<Result<Peer>> pair_with(boost::asio::any_io_executor executor, LocalHost self,
                             PairingOffer offer, PairingToken token) {
  BOOST_OUTCOME_CO_TRY(check_host_name(offer.name));
  if (token.fingerprint == self.identity->fingerprint()) {
    co_return fail(ErrorCode::usage, "this token was made by this very host");
  }
  Connector connector(executor, self);
  // Named, not a temporary of the co_await: GCC 12 destroys such temporaries twice.
  const PeerAddress there{token.endpoint, {}};
  auto connected = co_await connector.connect(there, token.fingerprint, LinkPurpose::pairing,
                                              LinkSettings::for_purpose(LinkPurpose::pairing));
  if (!connected) {
    // A stranger is turned away in the handshake unless a token is pending there.
    if (connected.error().code() == ErrorCode::permission) {
      co_return fail(ErrorCode::not_authorized, "{} ({})", bad_token().message(),
                     connected.error().message());
    }
    co_return connected.error();
  }
  const std::unique_ptr<Link> link = std::move(connected).value();
  auto peer = co_await claim(*link, self, offer, token);
  if (peer) {
    co_await link->say_goodbye("paired");
  } else if (link->open()) {
    co_await link->refuse(peer.error());
  }
  co_return peer;
}

Task<Result<Peer>> answer_pairing(std::unique_ptr<Link> link, LocalHost self, PairingOffer offer,
                                  std::shared_ptr<PairingDesk> desk) {
  BOOST_OUTCOME_CO_TRY(const Frame frame, co_await link->receive(kStepLimit));
  auto judged = judge_claim(*link, frame, self, offer, *desk);
  if (!judged) {
    co_await link->refuse(judged.error());
    co_return judged.error();
  }
  auto [peer, answer] = std::move(judged).value();
  if (auto sent = co_await link->send(FrameType::pairing, answer); !sent) {
    co_return sent.error().in(peer.name + " is stored here, but may not know it");
  }
  // The other side says goodbye; if it refuses us, it has not stored us.
  const auto last = co_await link->receive(kStepLimit);
  if (!last && last.error().code() != ErrorCode::unavailable) {
    co_return last.error().in(peer.name + " is stored here, but has not stored us");
  }
  co_return peer;
}

}  // namespace understudy::transport
