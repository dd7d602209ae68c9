// Pairing: how two hosts that do not know each other come to trust each other's certificates, from
// a one-time token that an operator carries from one to the other.
//
// Intuition: host B makes a token. It says where B listens, what B's certificate is (so A can tell
// B from an impostor before saying anything), and holds a secret. A connects; each side proves that
// it knows the secret with an HMAC over this very TLS session and both certificates, so a man in
// the middle has nothing to forward. Then each writes the other down.
//
// Awkward cases: the secret is single use, ends after some minutes, and is withdrawn after a few
// wrong proofs. While a token is pending, B lets unknown certificates finish the TLS handshake, but
// such a link can do nothing except pair. B stores A before it answers; if the answer is lost, A
// does not know B, and pairing again with a new token mends it. Pairing anew replaces addresses.
//
// Not taken: a short code with a password-authenticated key exchange (nicer to type, but a protocol
// that Debian's OpenSSL does not offer), and trust on first use (no proof at all).
#pragma once

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "transport/identity.h"
#include "transport/link.h"

namespace understudy::transport {

/// What the operator carries from B to A. As text: "understudy-pair-1." and base64url.
struct PairingToken {
  std::array<std::uint8_t, 8> id{};       ///< Which of B's pending tokens this is. Not secret.
  std::array<std::uint8_t, 16> secret{};  ///< Known to both hosts and nobody else.
  Fingerprint fingerprint;                ///< B's certificate.
  Endpoint endpoint;                      ///< Where B listens.

  /// The token in one word, safe in a shell.
  [[nodiscard]] std::string text() const;
  /// Reads what `text` wrote; white space around it is allowed. Error usage: not a token, or
  /// mistyped (it carries a checksum).
  static Result<PairingToken> parse(std::string_view text);
};

/// What a host tells the other about itself while pairing.
struct PairingOffer {
  std::string name;
  /// Ways to us. Empty: our address on the pairing link itself, with `listen_port`.
  std::vector<Endpoint> addresses;
  std::uint16_t listen_port = 0;
};

/// Limits of the desk.
struct PairingSettings {
  std::chrono::seconds validity{600};  ///< how long a token lives
  unsigned tries_max = 5;              ///< wrong proofs after which a token is withdrawn
  std::size_t pending_max = 8;         ///< tokens at a time; one more is refused with try_again
};

/// Keeps the tokens that this host (B) has handed out: which are pending, how often they were
/// tried. Pure: the caller brings the time (any monotonic clock).
class PairingDesk {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit PairingDesk(PairingSettings settings = {}) : settings_(settings) {}

  /// A new token that ends after `validity` (default: the settings'). `endpoint` is where A is to
  /// connect.
  Result<PairingToken> issue(Time now, const Fingerprint& own, const Endpoint& endpoint,
                             std::optional<std::chrono::seconds> validity = {});
  /// Withdraws all tokens.
  void withdraw_all() { pending_.clear(); }
  /// True while some token could be used: only then may unknown certificates shake hands.
  [[nodiscard]] bool open(Time now) const;
  /// Tokens that can be used now.
  [[nodiscard]] std::size_t pending(Time now) const;

  /// The secret of the pending token `id`. Error not_authorized, with the same words whether it was
  /// never issued, used, expired or withdrawn: a stranger learns nothing.
  [[nodiscard]] Result<std::array<std::uint8_t, 16>> secret(
      Time now, const std::array<std::uint8_t, 8>& id) const;
  /// A proof for `id` was wrong: counts, and withdraws the token at the limit.
  void wrong_proof(const std::array<std::uint8_t, 8>& id);
  /// The token was used: it is gone. False if it was gone before.
  bool redeem(Time now, const std::array<std::uint8_t, 8>& id);

 private:
  struct Pending {
    PairingToken token;
    Time ends;
    unsigned tries = 0;
  };
  PairingSettings settings_;
  std::vector<Pending> pending_;
};

/// Side A: connects to where the token says, proves, and stores the peer. Returns the peer as
/// stored. Errors: those of Connector::connect, not_authorized (the token is wrong, used or
/// expired), exists (one side knows another host of that name).
Task<Result<Peer>> pair_with(boost::asio::any_io_executor executor, LocalHost self,
                             PairingOffer offer, PairingToken token);

/// Side B: what the listener's handler does with a link of purpose `pairing`. Returns the peer as
/// stored. Errors: not_authorized, exists, protocol, bad_data; the other side is told as much as it
/// may know.
Task<Result<Peer>> answer_pairing(std::unique_ptr<Link> link, LocalHost self, PairingOffer offer,
                                  std::shared_ptr<PairingDesk> desk);

}  // namespace understudy::transport
