// The register of names: a request and its reply in one datagram each, as with DNS, but made so
// that a client can tell whether it was lied to.
//
// A request `N client sequence nonce` that is seen for the first time gets the next serial number;
// the same request again gets the same reply. Datagrams get lost, so a client asks until it is
// answered, and then knows: the serial number of (client, sequence) is fixed for ever, no other
// request has it, and whoever asks again hears the same. A service that went back in time and
// forgot what it had said gives a number away twice, or another one than before.
//
// README.md describes the protocol. Logic only; the socket is in datagram_server.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tests/guest/ledger.h"

namespace understudy::guest {

constexpr std::uint32_t names_clients_max = 1024;  ///< Clients 0 … 1023.
constexpr std::uint32_t names_remembered = 64;     ///< The latest requests of each client.

/// The register's state and rules. Not thread-safe.
class Names {
 public:
  /// `boot` names this run of the guest.
  explicit Names(std::string boot);

  /// The reply to one datagram, without a newline. Anything malformed is answered with an `E` line
  /// and changes nothing.
  std::string answer(std::string_view request);

 private:
  struct Entry {
    std::uint64_t sequence = 0;  ///< 0: none yet.
    std::uint64_t nonce = 0;
    std::uint64_t serial = 0;
  };
  using Client = std::array<Entry, names_remembered>;

  std::string boot_;
  std::unique_ptr<std::array<Client, names_clients_max>> clients_;
  std::uint64_t serial_ = 0;
  std::uint64_t repeated_ = 0;
};

}  // namespace understudy::guest
