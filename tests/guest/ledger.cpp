#include "tests/guest/ledger.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace understudy::guest {
namespace {

/// Takes one space-separated unsigned number off the front of `text`; false if there is none, or if
/// it exceeds `limit`.
template <typename Number>
bool take(std::string_view& text, Number& number,
          std::uint64_t limit = std::numeric_limits<Number>::max()) {
  while (!text.empty() && text.front() == ' ') {
    text.remove_prefix(1);
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value > limit) {
    return false;
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  number = static_cast<Number>(value);
  return text.empty() || text.front() == ' ';
}

/// Ends a reply with its check value and a newline.
std::string sealed(std::string text) {
  std::array<char, 24> check = {};
  std::snprintf(check.data(), check.size(), " %016llx\n",
                static_cast<unsigned long long>(line_check(text)));
  return text += check.data();
}

std::string error(const char* why) {
  return sealed(std::string("E ") + why);
}

}  // namespace

Ledger::Ledger(std::string boot)
    : boot_(std::move(boot)),
      transfers_(static_cast<Transfer*>(std::calloc(ledger_transfers_max, sizeof(Transfer))),
                 [](Transfer* memory) { std::free(memory); }),
      clients_(new Client[ledger_clients_max]) {
  balances_.fill(ledger_initial_balance);
}

std::string Ledger::answer(std::string_view request, LedgerConnection& connection) {
  if (!request.empty() && request.back() == '\r') {
    request.remove_suffix(1);
  }
  if (request == "S") {
    return state();
  }
  if (request.starts_with("T ")) {
    return transfer(request.substr(2), connection);
  }
  if (request.starts_with("Q ")) {
    return query(request.substr(2));
  }
  return error("malformed: expected T, Q or S");
}

std::string Ledger::transfer(std::string_view arguments, LedgerConnection& connection) {
  Transfer asked;
  if (!take(arguments, asked.client, ledger_clients_max - 1) || !take(arguments, asked.sequence) ||
      !take(arguments, asked.from, ledger_accounts - 1) ||
      !take(arguments, asked.to, ledger_accounts - 1) || !take(arguments, asked.amount) ||
      !take(arguments, asked.nonce) || !arguments.empty()) {
    return error("malformed: expected T client sequence from to amount nonce");
  }
  const bool asked_here_before =
      connection.last_transfer == std::array{asked.client, asked.sequence};
  connection.last_transfer = {asked.client, asked.sequence};
  Client& client = clients_[asked.client];
  if (asked.sequence == client.sequence && client.number != 0) {
    // A client that never saw the reply asks again, on a new connection. It gets the first receipt
    // once more, provided that it asks for the same transfer.
    const Transfer& applied = transfers_[client.number - 1];
    if (applied.nonce != asked.nonce || applied.from != asked.from || applied.to != asked.to ||
        applied.amount != asked.amount) {
      return error("conflict: this sequence number was used for another transfer");
    }
    ++repeated_;
    repeated_same_link_ += static_cast<std::uint64_t>(asked_here_before);
    return receipt('D', client.number, client);
  }
  if (asked.sequence != client.sequence + 1) {
    return error("sequence: neither the client's last nor its next");
  }
  if (count_ == ledger_transfers_max) {
    return error("full: no room for another transfer");
  }
  chain_ = next_chain(chain_, ++count_, asked);
  asked.chain = chain_;
  transfers_[count_ - 1] = asked;
  balances_[asked.from] -= asked.amount;
  balances_[asked.to] += asked.amount;
  client = {asked.sequence, count_, balances_[asked.from], balances_[asked.to]};
  return receipt('R', count_, client);
}

std::string Ledger::receipt(char kind, std::uint64_t number, const Client& client) const {
  const Transfer& transfer = transfers_[number - 1];
  std::array<char, 256> text = {};
  std::snprintf(
      text.data(), text.size(), "%c %llu %u %u %u %u %u %lld %lld %016llx %llu", kind,
      static_cast<unsigned long long>(number), transfer.client, transfer.sequence, transfer.from,
      transfer.to, transfer.amount, static_cast<long long>(client.balance_from),
      static_cast<long long>(client.balance_to), static_cast<unsigned long long>(transfer.chain),
      static_cast<unsigned long long>(transfer.nonce));
  return sealed(text.data());
}

std::string Ledger::query(std::string_view arguments) const {
  std::uint64_t first = 0;
  std::uint64_t entries = 1;
  if (!take(arguments, first) || (!arguments.empty() && !take(arguments, entries)) ||
      !arguments.empty()) {
    return error("malformed: expected Q number [entries]");
  }
  if (first == 0 || first > count_ || entries == 0 || entries > ledger_query_max) {
    return error("unknown: no transfer of that number, or too many asked for");
  }
  std::string reply;
  for (std::uint64_t number = first; number <= count_ && number - first < entries; ++number) {
    const Transfer& transfer = transfers_[number - 1];
    std::array<char, 256> text = {};
    std::snprintf(text.data(), text.size(), "Q %llu %u %u %u %u %u %016llx %llu",
                  static_cast<unsigned long long>(number), transfer.client, transfer.sequence,
                  transfer.from, transfer.to, transfer.amount,
                  static_cast<unsigned long long>(transfer.chain),
                  static_cast<unsigned long long>(transfer.nonce));
    reply += sealed(text.data());
  }
  return reply;
}

std::string Ledger::state() const {
  std::int64_t sum = 0;
  for (const std::int64_t balance : balances_) {
    sum += balance;
  }
  std::array<char, 256> text = {};
  std::snprintf(text.data(), text.size(), "S %llu %016llx %lld %llu %llu %s",
                static_cast<unsigned long long>(count_), static_cast<unsigned long long>(chain_),
                static_cast<long long>(sum), static_cast<unsigned long long>(repeated_),
                static_cast<unsigned long long>(repeated_same_link_), boot_.c_str());
  return sealed(text.data());
}

}  // namespace understudy::guest
