// The ledger: numbers and applies transfers, and answers each with a receipt that can be checked
// for as long as the guest lives.
//
// It exists to catch a fault-tolerant system at lying. Every receipt carries a global number, the
// client's own sequence number and nonce, both balances, and a running hash over all transfers up
// to this one. A reply that was lost leaves a gap in the sequence; a transfer applied twice,
// forgotten or invented changes every later chain value; a reply from a history that was rolled
// back carries a chain value that the surviving history does not have. README.md describes the
// protocol.
//
// This file is logic only: lines in, lines out; the sockets are in server.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tests/guest/pattern.h"

namespace understudy::guest {

constexpr std::uint32_t ledger_accounts = 1024;              ///< Accounts 0 … 1023.
constexpr std::int64_t ledger_initial_balance = 1'000'000;   ///< Of every account.
constexpr std::uint64_t ledger_initial_chain = 0x1edce5eed;  ///< Chain value before transfer 1.
constexpr std::uint64_t ledger_transfers_max = 1'000'000;    ///< Then transfers are refused.
constexpr std::uint32_t ledger_clients_max = 4096;           ///< Clients 0 … 4095.
constexpr std::uint32_t ledger_query_max = 512;              ///< Entries for one query.

/// One applied transfer, as it is kept: 32 bytes.
struct Transfer {
  std::uint32_t client = 0;
  std::uint32_t sequence = 0;  ///< The client's own count, from 1.
  std::uint16_t from = 0;
  std::uint16_t to = 0;
  std::uint32_t amount = 0;
  std::uint64_t nonce = 0;  ///< Chosen by the client at random: nobody else can have made this up.
  std::uint64_t chain = 0;  ///< Hash over all transfers from the first to this one.
};

/// The chain value after `transfer` (its own `chain` is not looked at), numbered `number`, has
/// followed a history that ended in `previous`.
constexpr std::uint64_t next_chain(std::uint64_t previous, std::uint64_t number,
                                   const Transfer& transfer) {
  std::uint64_t chain = mix(previous ^ number);
  chain = mix(chain ^ (std::uint64_t{transfer.client} << 32U | transfer.sequence));
  chain = mix(chain ^ (std::uint64_t{transfer.from} << 48U | std::uint64_t{transfer.to} << 32U |
                       transfer.amount));
  return mix(chain ^ transfer.nonce);
}

/// The check value that ends every reply: over the line's text before it.
constexpr std::uint64_t line_check(std::string_view text) {
  std::uint64_t check = text.size();
  for (const char character : text) {
    check = mix(check ^ static_cast<std::uint8_t>(character));
  }
  return check;
}

/// What the ledger remembers about one connection. A connection needs no sign-on.
struct LedgerConnection {
  std::array<std::uint32_t, 2> last_transfer = {};  ///< Client and sequence last asked for here.
};

/// The ledger's state and rules. All memory is taken at construction (about 32 MB, touched only as
/// transfers come in), none later. Not thread-safe.
class Ledger {
 public:
  /// `boot` names this run of the guest; a client that sees it change knows that the guest was
  /// started anew instead of going on.
  explicit Ledger(std::string boot);

  /// Answers one request line (without its newline) with one or more lines, each ending in a
  /// newline. Anything malformed is answered with an `E` line and changes nothing.
  std::string answer(std::string_view request, LedgerConnection& connection);

 private:
  struct Client {
    std::uint32_t sequence = 0;     ///< Of its last applied transfer; 0: none yet.
    std::uint64_t number = 0;       ///< Global number of that transfer.
    std::int64_t balance_from = 0;  ///< As told in that receipt.
    std::int64_t balance_to = 0;
  };

  std::string transfer(std::string_view arguments, LedgerConnection& connection);
  std::string query(std::string_view arguments) const;
  std::string state() const;
  std::string receipt(char kind, std::uint64_t number, const Client& client) const;

  std::string boot_;
  std::unique_ptr<Transfer[], void (*)(Transfer*)> transfers_;  ///< calloc: touched only when used.
  std::unique_ptr<Client[]> clients_;
  std::array<std::int64_t, ledger_accounts> balances_;
  std::uint64_t count_ = 0;
  std::uint64_t chain_ = ledger_initial_chain;
  std::uint64_t repeated_ = 0;            ///< Requests for a transfer that had been applied.
  std::uint64_t repeated_same_link_ = 0;  ///< … on the very connection it was first sent on.
};

}  // namespace understudy::guest
