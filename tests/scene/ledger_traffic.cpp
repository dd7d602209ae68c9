// The ledger's client and auditor. The auditor believes nothing: it reads all entries anew,
// computes chain and balances itself, and asks of every receipt whether this history bears it out.
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <random>
#include <sstream>

#include "tests/scene/network_namespace.h"
#include "tests/scene/traffic.h"

namespace understudy::scene {
namespace {

using Words = std::vector<std::string>;

/// The words of a reply whose check value holds (without it); nothing if it does not.
std::optional<Words> checked_words(const std::string& line) {
  const std::size_t cut = line.rfind(' ');
  if (cut == std::string::npos ||
      line.substr(cut + 1) != fmt::format("{:016x}", guest::line_check(line.substr(0, cut)))) {
    return std::nullopt;
  }
  std::istringstream stream(line.substr(0, cut));
  return Words{std::istream_iterator<std::string>(stream), {}};
}

template <typename Number>
bool number_in(const std::string& text, Number& number, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return error == std::errc() && end == text.data() + text.size();
}

/// "R" or "D" number client sequence from to amount balance_from balance_to chain nonce.
bool parse_receipt(const Words& words, Receipt& receipt) {
  guest::Transfer& transfer = receipt.transfer;
  return words.size() == 11 && number_in(words[1], receipt.number) &&
         number_in(words[2], transfer.client) && number_in(words[3], transfer.sequence) &&
         number_in(words[4], transfer.from) && number_in(words[5], transfer.to) &&
         number_in(words[6], transfer.amount) && number_in(words[7], receipt.balance_from) &&
         number_in(words[8], receipt.balance_to) && number_in(words[9], transfer.chain, 16) &&
         number_in(words[10], transfer.nonce);
}

/// "Q" number client sequence from to amount chain nonce.
bool parse_entry(const Words& words, std::uint64_t& number, guest::Transfer& transfer) {
  return words.size() == 9 && words[0] == "Q" && number_in(words[1], number) &&
         number_in(words[2], transfer.client) && number_in(words[3], transfer.sequence) &&
         number_in(words[4], transfer.from) && number_in(words[5], transfer.to) &&
         number_in(words[6], transfer.amount) && number_in(words[7], transfer.chain, 16) &&
         number_in(words[8], transfer.nonce);
}

bool same_order(const guest::Transfer& one, const guest::Transfer& other) {
  return one.client == other.client && one.sequence == other.sequence && one.from == other.from &&
         one.to == other.to && one.amount == other.amount && one.nonce == other.nonce;
}

/// The ledger as it is now: its state line and all its entries.
struct LedgerCopy {
  std::uint64_t count = 0;
  std::uint64_t chain = 0;
  std::int64_t sum = 0;
  std::uint64_t repeated_on_one_connection = 0;
  std::string boot;
  std::vector<guest::Transfer> entries;
};

Result<Words> ask(TcpSocket& socket, const std::string& request,
                  std::chrono::milliseconds patience) {
  std::string line;
  if ((!request.empty() && socket.send(request, patience, {}) != TcpSocket::Outcome::done) ||
      socket.receive_line(line, patience, {}) != TcpSocket::Outcome::done) {
    return fail(ErrorCode::unavailable, "the ledger does not answer: {}", socket.reason());
  }
  auto words = checked_words(line);
  if (!words || words->empty()) {
    return fail(ErrorCode::bad_data, "the ledger's reply is damaged: '{}'", line);
  }
  return std::move(*words);
}

Result<LedgerCopy> read_state(TcpSocket& socket, std::chrono::milliseconds patience) {
  LedgerCopy copy;
  BOOST_OUTCOME_TRY(const auto words, ask(socket, "S\n", patience));
  if (words.size() != 7 || words[0] != "S" || !number_in(words[1], copy.count) ||
      !number_in(words[2], copy.chain, 16) || !number_in(words[3], copy.sum) ||
      !number_in(words[5], copy.repeated_on_one_connection)) {
    return fail(ErrorCode::bad_data, "the ledger's state is malformed: {}", fmt::join(words, " "));
  }
  copy.boot = words[6];
  return copy;
}

Result<LedgerCopy> read_ledger(const std::string& address, std::uint16_t port,
                               std::chrono::milliseconds patience) {
  BOOST_OUTCOME_TRY(auto socket, TcpSocket::connect(address, port, patience));
  BOOST_OUTCOME_TRY(auto copy, read_state(socket, patience));
  copy.entries.reserve(copy.count);
  while (copy.entries.size() < copy.count) {
    const std::uint64_t first = copy.entries.size() + 1;
    const std::uint64_t size =
        std::min<std::uint64_t>(guest::ledger_query_max, copy.count - first + 1);
    std::string request = fmt::format("Q {} {}\n", first, size);
    for (std::uint64_t i = 0; i < size; ++i, request.clear()) {
      BOOST_OUTCOME_TRY(const auto words, ask(socket, request, patience));
      std::uint64_t number = 0;
      guest::Transfer transfer;
      if (!parse_entry(words, number, transfer) || number != first + i) {
        return fail(ErrorCode::bad_data, "entry {} of the ledger is malformed: {}", first + i,
                    fmt::join(words, " "));
      }
      copy.entries.push_back(transfer);
    }
  }
  return copy;
}

}  // namespace

struct LedgerTraffic::Client {
  std::string boot;                   ///< Of the guest that it began with.
  std::vector<guest::Transfer> sent;  ///< Every order, by sequence number from 1.
  std::vector<Receipt> receipts;
};

LedgerTraffic::LedgerTraffic(ClientOptions options, std::uint32_t first_client,
                             std::chrono::microseconds pause)
    : Traffic("ledger", 9000, std::move(options)), first_client_(first_client), pause_(pause) {
  for (unsigned i = 0; i < this->options().connections; ++i) {
    clients_.push_back(std::make_unique<Client>());
  }
}

LedgerTraffic::~LedgerTraffic() {
  stop();
}

void LedgerTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  Client& client = *clients_[index];
  const auto patience = options().patience;
  auto connected = TcpSocket::connect(options().address, options().port, patience, stop);
  if (!connected) {
    witness.broke(connected.error().message());
    return;
  }
  TcpSocket& socket = connected.value();
  if (auto state = read_state(socket, patience)) {
    client.boot = state.value().boot;
  }
  std::mt19937_64 random(std::random_device{}());
  std::string line;
  while (!stop.stop_requested()) {
    guest::Transfer order{.client = first_client_ + index,
                          .sequence = static_cast<std::uint32_t>(client.sent.size() + 1),
                          .from = static_cast<std::uint16_t>(random() % guest::ledger_accounts),
                          .to = static_cast<std::uint16_t>(random() % guest::ledger_accounts),
                          .amount = static_cast<std::uint32_t>(random() % 1000),
                          .nonce = random(),
                          .chain = 0};
    client.sent.push_back(order);
    Receipt receipt;
    receipt.sent = Clock::now();
    // A request that was sent is waited for even if we are to stop: whether it is acknowledged is
    // just what the audit wants to know.
    auto outcome = socket.send(fmt::format("T {} {} {} {} {} {}\n", order.client, order.sequence,
                                           order.from, order.to, order.amount, order.nonce),
                               patience, abandoned());
    if (outcome == TcpSocket::Outcome::done) {
      outcome = socket.receive_line(line, patience, abandoned());
    }
    if (outcome != TcpSocket::Outcome::done) {
      witness.broke(outcome == TcpSocket::Outcome::closed
                        ? socket.reason()
                        : fmt::format("no receipt for {} ms", patience.count()));
      return;
    }
    receipt.received = Clock::now();
    const auto words = checked_words(line);
    if (!words || !parse_receipt(*words, receipt) || (*words)[0] != "R" ||
        !same_order(order, receipt.transfer)) {
      witness.wrong(line.size() + 1);
      witness.broke(fmt::format("not the receipt of what was asked for: '{}'", line));
      return;
    }
    client.receipts.push_back(receipt);
    witness.verified(line.size() + 1);
    witness.operation(receipt.sent);
    if (pause_.count() > 0) {
      std::this_thread::sleep_for(pause_);
    }
  }
}

std::vector<Receipt> LedgerTraffic::receipts() const {
  std::vector<Receipt> all;
  for (const auto& client : clients_) {
    all.insert(all.end(), client->receipts.begin(), client->receipts.end());
  }
  return all;
}

Result<Audit> LedgerTraffic::audit() const {
  // A thread of its own, because it stays in the client's namespace for good.
  Result<LedgerCopy> read = fail(ErrorCode::internal, "the audit did not run");
  std::jthread([&] {
    if (!options().network_namespace.empty()) {
      if (auto entered = enter_network_namespace(options().network_namespace); !entered) {
        read = entered.error();
        return;
      }
    }
    read = read_ledger(options().address, options().port, options().patience);
  }).join();
  if (!read) {
    return read.error().in("audit");
  }
  const LedgerCopy& ledger = read.value();

  Audit audit;
  const auto fault = [&audit](std::string what) {
    if (audit.first_fault.empty()) {
      audit.first_fault = std::move(what);
    }
  };
  audit.applied = ledger.count;
  audit.repeated_on_one_connection = ledger.repeated_on_one_connection;
  if (audit.repeated_on_one_connection > 0) {
    fault("the ledger received the same request twice on one connection");
  }

  // The history itself: chain, sum, balances after each entry, nothing twice, nothing invented.
  struct Balances {
    std::int64_t from;
    std::int64_t to;
  };
  std::vector<Balances> balances_after;
  balances_after.reserve(ledger.count);
  std::vector<std::int64_t> balances(guest::ledger_accounts, guest::ledger_initial_balance);
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> occurrences;
  std::uint64_t chain = guest::ledger_initial_chain;
  audit.chain_true = true;
  for (std::uint64_t number = 1; number <= ledger.count; ++number) {
    const guest::Transfer& entry = ledger.entries[number - 1];
    chain = guest::next_chain(chain, number, entry);
    if (chain != entry.chain) {
      audit.chain_true = false;
      fault(fmt::format("entry {}: its chain value does not follow from the history", number));
    }
    balances.at(entry.from % guest::ledger_accounts) -= entry.amount;
    balances.at(entry.to % guest::ledger_accounts) += entry.amount;
    balances_after.push_back({balances.at(entry.from % guest::ledger_accounts),
                              balances.at(entry.to % guest::ledger_accounts)});
    if (++occurrences[{entry.client, entry.sequence}] > 1) {
      ++audit.repeated;
      fault(fmt::format("entry {}: client {} sequence {} was applied before", number, entry.client,
                        entry.sequence));
    }
    if (entry.client >= first_client_ && entry.client - first_client_ < clients_.size()) {
      const auto& sent = clients_[entry.client - first_client_]->sent;
      if (entry.sequence == 0 || entry.sequence > sent.size() ||
          !same_order(sent[entry.sequence - 1], entry)) {
        ++audit.invented;
        fault(fmt::format("entry {}: nobody has sent this", number));
      }
    }
  }
  if (chain != ledger.chain) {
    audit.chain_true = false;
    fault("the ledger's chain value is not that of its entries");
  }
  audit.sum_true =
      ledger.sum == std::int64_t{guest::ledger_accounts} * guest::ledger_initial_balance;
  if (!audit.sum_true) {
    fault(fmt::format("the sum of all balances is {}", ledger.sum));
  }

  // Every receipt against the history.
  audit.same_boot = true;
  std::uint64_t ours = 0;
  for (const auto& client : clients_) {
    if (!client->boot.empty() && client->boot != ledger.boot) {
      audit.same_boot = false;
      fault("the guest was started anew");
    }
    for (const Receipt& receipt : client->receipts) {
      ++audit.acknowledged;
      const bool known = receipt.number >= 1 && receipt.number <= ledger.count;
      if (!known || !same_order(ledger.entries[receipt.number - 1], receipt.transfer) ||
          ledger.entries[receipt.number - 1].chain != receipt.transfer.chain ||
          balances_after[receipt.number - 1].from != receipt.balance_from ||
          balances_after[receipt.number - 1].to != receipt.balance_to) {
        ++audit.lost;
        fault(fmt::format("receipt {} (client {} sequence {}) is not in the ledger", receipt.number,
                          receipt.transfer.client, receipt.transfer.sequence));
      }
    }
  }
  for (const guest::Transfer& entry : ledger.entries) {
    ours += static_cast<std::uint64_t>(entry.client >= first_client_ &&
                                       entry.client - first_client_ < clients_.size());
  }
  audit.unacknowledged = ours - std::min(ours, audit.acknowledged - audit.lost);
  return audit;
}

}  // namespace understudy::scene
