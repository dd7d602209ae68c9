// Who a host is: its key and certificate, and the peers that it has been paired with.
//
// Intuition: there is no certificate authority. A host makes a key and a self-signed certificate
// once, and is known to others by the SHA-256 of that certificate, its fingerprint, just as with
// ssh. Pairing writes the other side's fingerprint down; from then on nothing but that exact
// certificate, with proof of its key, is let in.
//
// Awkward cases: key and certificate live in one file, so that a crash can never leave a key beside
// the certificate of another. The certificate carries no host name: whoever connects sees a
// server's certificate before being turned away, and must not learn anything from it. Dates in it
// mean nothing to us: a backup must take over on a host whose clock is wrong.
//
// What a crash can leave behind: the old file or the new one, and at worst a file with the suffix
// ".new", which is replaced at the next write.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct ssl_ctx_st;

namespace understudy::transport {

/// The SHA-256 of a host's certificate (its DER octets).
struct Fingerprint {
  std::array<std::uint8_t, 32> octets{};

  auto operator<=>(const Fingerprint&) const = default;
  /// 64 lower-case hexadecimal digits, as stored and logged.
  [[nodiscard]] std::string hex() const;
  /// The same in groups of four, to be compared by eye: "3f9a-01bc-…".
  [[nodiscard]] std::string groups() const;
  /// Reads either form. Error usage when it is neither.
  static Result<Fingerprint> parse(std::string_view text);
};

/// Where a listener can be reached. `address` is a numeric IPv4 or IPv6 address: a name would make
/// us depend on a lookup that may hang just when a host has died.
struct Endpoint {
  std::string address;
  std::uint16_t port = 0;

  auto operator<=>(const Endpoint&) const = default;
  /// "192.0.2.1:7411" or "[2001:db8::1]:7411".
  [[nodiscard]] std::string text() const;
  /// Reads what `text` writes. Error usage names what is wrong.
  static Result<Endpoint> parse(std::string_view text);
};

/// One way to a peer.
struct PeerAddress {
  Endpoint remote;
  /// The local address that the way starts from; empty lets the kernel choose.
  std::string local_address;

  auto operator<=>(const PeerAddress&) const = default;
};

/// A host that we have been paired with.
struct Peer {
  std::string name;
  Fingerprint fingerprint;
  /// All ways to it, the preferred one first. Heartbeats use all of them.
  std::vector<PeerAddress> addresses;

  bool operator==(const Peer&) const = default;
};

/// A number drawn once for each start of an agent: tells a restarted peer from a slow one.
struct BootId {
  std::array<std::uint8_t, 16> octets{};

  auto operator<=>(const BootId&) const = default;
  [[nodiscard]] std::string hex() const;
  /// A new one from the system's random source.
  static BootId random();
};

/// Error usage unless `name` is 1 to 63 letters, digits, '.', '-' or '_', starting with a letter or
/// digit.
Result<void> check_host_name(std::string_view name);

/// This host's private key (Ed25519) and self-signed certificate, with the TLS settings that every
/// link uses: TLS 1.3 only, both sides show a certificate, no tickets, no resumption, no early
/// data. Immutable; used by any number of links.
class TlsIdentity {
 public:
  /// Reads `file` or, when there is none, makes a new identity and writes it there (mode 0600,
  /// atomically; missing parent folders are made with mode 0700). Refuses (permission) a file that
  /// others may read, and (bad_data) one that does not hold a key with its certificate.
  static Result<std::shared_ptr<const TlsIdentity>> load_or_create(
      const std::filesystem::path& file);
  /// A new identity that lives in memory only.
  static Result<std::shared_ptr<const TlsIdentity>> generate();

  TlsIdentity(const TlsIdentity&) = delete;
  TlsIdentity& operator=(const TlsIdentity&) = delete;
  ~TlsIdentity();

  [[nodiscard]] const Fingerprint& fingerprint() const { return fingerprint_; }
  /// The OpenSSL context of links to and from this host. For the transport room only.
  [[nodiscard]] ssl_ctx_st* context() const { return context_; }

 private:
  TlsIdentity() = default;
  static Result<std::shared_ptr<const TlsIdentity>> from_pem(std::string_view pem,
                                                             const std::string& where);
  Fingerprint fingerprint_;
  ssl_ctx_st* context_ = nullptr;
};

/// The peers of this host, kept in one JSON file. Every change is on disk (atomically, mode 0600)
/// before it takes effect; a change that cannot be written changes nothing. One thread only.
class PeerStore {
 public:
  /// Reads `file`; a missing file is an empty store. Errors: bad_data (naming the entry), io.
  static Result<std::shared_ptr<PeerStore>> load(std::filesystem::path file);
  /// A store without a file.
  static std::shared_ptr<PeerStore> in_memory();

  [[nodiscard]] const std::vector<Peer>& all() const { return peers_; }
  /// The peer of that name or fingerprint; null when there is none. Valid until the next change.
  [[nodiscard]] const Peer* find(std::string_view name) const;
  [[nodiscard]] const Peer* find(const Fingerprint& fingerprint) const;

  /// Adds a peer, or replaces the addresses and the name of the one with the same fingerprint.
  /// Error exists when another fingerprint has that name, usage when a field is not valid.
  Result<void> put(Peer peer);
  /// Forgets a peer. Its open links go on until they are closed. Error no_such.
  Result<void> remove(std::string_view name);

 private:
  PeerStore() = default;
  Result<void> replace_all(std::vector<Peer> peers);

  std::filesystem::path file_;  // empty: memory only
  std::vector<Peer> peers_;
};

/// Who we are, as every link tells its peer. Copied freely.
struct LocalHost {
  std::string name;
  BootId boot_id;
  std::shared_ptr<const TlsIdentity> identity;
  std::shared_ptr<PeerStore> peers;
};

}  // namespace understudy::transport
