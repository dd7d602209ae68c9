// Checking clients: traffic over real TCP connections that knows, byte for byte, what must come
// back.
//
// Each client holds some connections, each served by a thread of its own inside the client's
// network namespace, with blocking sockets: the simplest code that can be wrong in the fewest ways.
// What a connection sees is noted by a Witness, which also measures silence: the longest stretch
// without a verified byte, over all its life and around a given moment (the kill).
//
// The checker knows nothing about Understudy: it would judge any machine that claims to survive.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "tests/guest/ledger.h"

namespace understudy::scene {

using Clock = std::chrono::steady_clock;

/// A moment on both clocks, because `ping -D` and the agents' timelines speak of the wall's.
struct Instant {
  Clock::time_point steady;
  std::chrono::system_clock::time_point wall;

  static Instant now() { return {Clock::now(), std::chrono::system_clock::now()}; }
};

/// What one connection (or, for HTTP, one loop of short connections) has seen.
struct ConnectionReport {
  std::string kind;  ///< "ledger", "stream", "echo", "http".
  unsigned index = 0;
  /// The connection of the beginning carried verified bytes after the last mark, and never broke.
  /// Without a mark: it never broke. For HTTP: no request failed.
  bool survived = false;
  std::string failure;  ///< Why the connection broke; empty if it did not.
  std::uint64_t bytes_verified = 0;
  std::uint64_t bytes_wrong = 0;
  std::uint64_t operations = 0;     ///< Receipts, blocks echoed, requests; 0 for streams.
  std::vector<float> operation_ms;  ///< How long each operation took, in their order.
  double longest_gap_ms = 0;        ///< Longest time without a verified byte, marked or not.
  /// Longest silence before the first mark: what protection itself costs.
  double longest_gap_before_ms = 0;
  /// From the last mark to the end of the silence that it caused: the longest one that began before
  /// or within 150 ms after it. Absent without a mark or if nothing came after it.
  std::optional<double> outage_ms;
};

/// Takes down what one connection sees. Used by its connection's thread; the totals may be read by
/// any thread at any time, the report after the thread has ended.
class Witness {
 public:
  Witness(std::string kind, unsigned index);

  /// `bytes` more bytes have arrived and are right.
  void verified(std::uint64_t bytes);
  /// `bytes` bytes differ from what must have come.
  void wrong(std::uint64_t bytes) { bytes_wrong_ += bytes; }
  /// One operation, asked for at `begun`, has come to its end.
  void operation(Clock::time_point begun);
  /// The connection broke; the first reason is kept.
  void broke(std::string reason);

  /// The moment to measure the outage from. Called by another thread.
  void mark(Clock::time_point moment) { mark_ns_ = moment.time_since_epoch().count(); }

  [[nodiscard]] std::uint64_t bytes() const { return bytes_verified_; }
  [[nodiscard]] std::uint64_t wrong_bytes() const { return bytes_wrong_; }
  [[nodiscard]] std::uint64_t operations() const { return operations_; }
  [[nodiscard]] Clock::time_point last_byte() const {
    return Clock::time_point(Clock::duration(last_ns_));
  }
  /// True if it has not broken.
  [[nodiscard]] bool whole() const;
  [[nodiscard]] ConnectionReport report() const;

 private:
  std::string kind_;
  unsigned index_;
  mutable std::mutex mutex_;  ///< Of failure_.
  std::string failure_;
  std::atomic<std::uint64_t> bytes_verified_ = 0;
  std::atomic<std::uint64_t> bytes_wrong_ = 0;
  std::atomic<std::uint64_t> operations_ = 0;
  std::atomic<std::int64_t> mark_ns_ = 0;  ///< 0: none.
  std::atomic<std::int64_t> last_ns_;      ///< When the last verified byte came.
  // Only the connection's thread writes these.
  std::vector<float> operation_ms_;
  std::int64_t seen_mark_ns_ = 0;
  std::int64_t longest_gap_ns_ = 0;
  std::int64_t longest_gap_before_ns_ = 0;
  std::int64_t outage_gap_ns_ = 0;
  std::int64_t outage_end_ns_ = 0;
};

/// A blocking TCP connection whose waits end with the limit or when a stop is requested.
class TcpSocket {
 public:
  enum class Outcome { done, closed, stopped, timed_out };

  /// Connects from the calling thread's namespace. `address` is numeric, IPv4 or IPv6.
  static Result<TcpSocket> connect(const std::string& address, std::uint16_t port,
                                   std::chrono::milliseconds limit,
                                   const std::stop_token& stop = {});

  /// Receives at least one byte; `size` says how many.
  Outcome receive(std::span<char> bytes, std::size_t& size, std::chrono::milliseconds limit,
                  const std::stop_token& stop);
  /// Sends all.
  Outcome send(std::span<const char> bytes, std::chrono::milliseconds limit,
               const std::stop_token& stop);
  /// Receives one line, without its newline. A line is at most 64 KiB long.
  Outcome receive_line(std::string& line, std::chrono::milliseconds limit,
                       const std::stop_token& stop);
  /// As receive(), but begins with what came behind the last line.
  Outcome receive_rest(std::span<char> bytes, std::size_t& size, std::chrono::milliseconds limit,
                       const std::stop_token& stop);
  /// Why the last outcome was `closed`: "Connection reset by peer", "closed by the other side".
  [[nodiscard]] const std::string& reason() const { return reason_; }
  /// The descriptor, still owned here.
  [[nodiscard]] int get() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  std::string buffer_;  ///< Received past the last line.
  std::string reason_;
};

/// A UDP socket that speaks with one address.
class UdpSocket {
 public:
  /// From the calling thread's namespace. `address` is numeric, IPv4 or IPv6.
  static Result<UdpSocket> connect(const std::string& address, std::uint16_t port);

  /// Sends one datagram. A network that refuses it is no error: datagrams get lost.
  void send(std::string_view datagram) const;
  /// Waits for one datagram of at most 64 KiB. Outcomes: done, stopped, timed_out.
  TcpSocket::Outcome receive(std::string& datagram, std::chrono::milliseconds limit,
                             const std::stop_token& stop) const;

 private:
  UniqueFd socket_;
};

/// Notes what ended a connection, unless it was us.
void note(Witness& witness, const TcpSocket& socket, TcpSocket::Outcome outcome,
          std::chrono::milliseconds patience);

/// How a client reaches the guest.
struct ClientOptions {
  std::string network_namespace;
  std::string address = "10.77.0.10";
  std::uint16_t port = 0;  ///< 0: the one where the guest offers the service.
  unsigned connections = 1;
  /// A connection without progress for this long counts as broken.
  std::chrono::milliseconds patience{30'000};
};

/// Some connections of one kind at work.
class Traffic {
 public:
  /// `port` is where the guest offers the service.
  Traffic(std::string kind, std::uint16_t port, ClientOptions options);
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;
  virtual ~Traffic();

  /// Begins. Returns at once.
  void start();
  /// Waits until every connection has seen a verified byte (again, after `since`).
  Result<void> wait_for_progress(std::chrono::milliseconds limit, Clock::time_point since = {});
  /// From here outages are measured.
  void mark(const Instant& moment);
  /// Waits until every connection has done the work that it was given, or broke. Only for traffic
  /// that ends by itself.
  Result<void> wait_for_end(std::chrono::milliseconds limit);
  /// Ends all connections, after the operations under way (or patience) are over.
  void stop();
  /// Ends all connections at once; operations under way count as broken.
  void abandon();

  [[nodiscard]] const std::string& kind() const { return kind_; }
  [[nodiscard]] const ClientOptions& options() const { return options_; }
  /// Totals so far; at any time.
  [[nodiscard]] std::uint64_t bytes_verified() const;
  [[nodiscard]] std::uint64_t operations() const;
  /// One for each connection; after stop().
  [[nodiscard]] std::vector<ConnectionReport> report() const;

 protected:
  /// One connection's work until `stop`; on a thread inside the namespace.
  /// Derived destructors call stop(), before their members go.
  virtual void run(unsigned index, Witness& witness, std::stop_token stop) = 0;
  /// Stops operations under way; requested by abandon() only.
  [[nodiscard]] std::stop_token abandoned() const { return abandon_.get_token(); }

 private:
  std::stop_source abandon_;
  std::string kind_;
  ClientOptions options_;
  std::vector<std::unique_ptr<Witness>> witnesses_;
  std::atomic<unsigned> working_ = 0;
  std::vector<std::jthread> threads_;
};

/// Receives the endless pattern of port 9001, each connection with a seed of its own.
class StreamTraffic final : public Traffic {
 public:
  /// `bytes_per_s` for each connection; 0: as fast as it goes.
  StreamTraffic(ClientOptions options, std::uint64_t bytes_per_s);
  ~StreamTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  std::uint64_t bytes_per_s_;
};

/// Sends numbered blocks of the pattern to port 7 and checks what comes back, one block at a time.
class EchoTraffic final : public Traffic {
 public:
  explicit EchoTraffic(ClientOptions options, std::size_t block_bytes = 1024);
  ~EchoTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  std::size_t block_bytes_;
};

/// Where a web page comes from.
enum class HttpSource {
  file,       ///< A file of the guest; its header tells the time of day.
  generated,  ///< A program behind the web server: any length, always the same octets.
};

/// Fetches a file of the guest's web server again and again, each time on a new connection.
class HttpTraffic final : public Traffic {
 public:
  /// As a file, `file_bytes` is 4096, 1048576 or 8388608: the guest has files of these sizes.
  /// `requests`: then it is done; 0: goes on until stopped.
  HttpTraffic(ClientOptions options, std::uint64_t file_bytes, HttpSource source = HttpSource::file,
              std::uint64_t requests = 0);
  ~HttpTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  std::uint64_t file_bytes_;
  HttpSource source_;
  std::uint64_t requests_;
};

/// A receipt that a client holds.
struct Receipt {
  std::uint64_t number = 0;
  guest::Transfer transfer;  ///< With the chain value of the receipt.
  std::int64_t balance_from = 0;
  std::int64_t balance_to = 0;
  Clock::time_point sent;
  Clock::time_point received;
};

/// What an audit of the ledger against all receipts has found. Everything but `acknowledged`,
/// `applied` and `unacknowledged` must be 0 or true.
struct Audit {
  std::uint64_t acknowledged = 0;    ///< Receipts that clients hold.
  std::uint64_t applied = 0;         ///< Transfers in the ledger.
  std::uint64_t lost = 0;            ///< Receipts that the ledger does not bear out.
  std::uint64_t repeated = 0;        ///< (client, sequence) that occur more than once.
  std::uint64_t invented = 0;        ///< Entries of our clients that nobody sent.
  std::uint64_t unacknowledged = 0;  ///< Sent and applied, receipt not seen yet: no fault.
  bool chain_true = false;           ///< The chain can be computed anew from the entries.
  bool sum_true = false;             ///< No money has come or gone.
  bool same_boot = false;            ///< It is the guest that the clients began with.
  std::uint64_t repeated_on_one_connection = 0;  ///< As the ledger counts them.
  std::string first_fault;                       ///< In words; empty if there is none.

  [[nodiscard]] bool clean() const {
    return lost == 0 && repeated == 0 && invented == 0 && chain_true && sum_true && same_boot &&
           repeated_on_one_connection == 0;
  }
};

/// Transfers money in a closed loop, keeps every receipt, and audits.
class LedgerTraffic final : public Traffic {
 public:
  /// Connection i is the ledger's client `first_client` + i; clients must be new to the ledger.
  /// `pause` lies between a receipt and the next request.
  explicit LedgerTraffic(ClientOptions options, std::uint32_t first_client = 0,
                         std::chrono::microseconds pause = {});
  ~LedgerTraffic() override;

  /// Reads the whole ledger on a new connection and compares it with every receipt. After stop().
  [[nodiscard]] Result<Audit> audit() const;
  /// Round-trip times of all receipts so far, for benchmarks. After stop().
  [[nodiscard]] std::vector<Receipt> receipts() const;

 private:
  struct Client;
  void run(unsigned index, Witness& witness, std::stop_token stop) override;

  std::uint32_t first_client_;
  std::chrono::microseconds pause_;
  std::vector<std::unique_ptr<Client>> clients_;  ///< One for each connection, its thread's own.
};

/// What `ping` saw.
struct PingReport {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t duplicates = 0;
  double longest_gap_ms = 0;
  std::optional<double> outage_ms;  ///< As a connection's.
  double round_trip_ms_median = 0;
};

/// Reads the output of `ping -D`; `mark` is the moment to measure the outage from.
PingReport parse_ping(const std::string& output, std::optional<Instant> mark);

}  // namespace understudy::scene
