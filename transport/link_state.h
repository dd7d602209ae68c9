// The inside of a Link: queue, writer, reader and the watch over time limits. Shared between the
// Link and the coroutines that work for it, so that none of them outlives it.
//
// Once `ended` is set nothing else changes: the socket is closed, the queue is empty, everybody who
// waited has been woken and finds the reason there.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/frame.h"
#include "transport/link.h"
#include "transport/tls_stream.h"
#include "transport/waiters.h"

namespace understudy::transport {

class Link::State : public std::enable_shared_from_this<Link::State> {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Over a stream whose TLS handshake is done. Starts the writer.
  static std::shared_ptr<State> start(boost::asio::any_io_executor executor,
                                      std::shared_ptr<TlsStream> stream, LinkPurpose purpose,
                                      LinkSettings settings, PeerIdentity peer);
  State(boost::asio::any_io_executor executor, std::shared_ptr<TlsStream> stream,
        LinkPurpose purpose, LinkSettings settings, PeerIdentity peer);

  /// What hello has told: from now on the link is what it is.
  void settle(LinkPurpose purpose, LinkSettings settings, PeerIdentity peer);

  // The operations of Link, each holding the state alive by itself.
  static Task<Result<void>> send(std::shared_ptr<State> self, FrameType type,
                                 std::span<const std::byte> head, std::vector<std::byte> body,
                                 std::uint32_t flags);
  Result<void> send_urgent(FrameType type, std::vector<std::byte> body);
  static Task<Result<void>> flush(std::shared_ptr<State> self, Time deadline);
  static Task<Result<Frame>> receive(std::shared_ptr<State> self,
                                     std::optional<std::chrono::milliseconds> limit);
  static Task<void> say_goodbye(std::shared_ptr<State> self, FrameType type,
                                std::vector<std::byte> payload, std::chrono::milliseconds limit);

  /// Ends the link for good; the first reason counts.
  void end(const Error& reason);
  /// Why it ended, while it has.
  [[nodiscard]] const std::optional<Error>& ended() const { return ended_; }
  /// "link to hostB (bulk, 192.0.2.1:7411)", for messages.
  [[nodiscard]] std::string title() const;

  [[nodiscard]] const std::shared_ptr<TlsStream>& stream() const { return stream_; }
  [[nodiscard]] LinkPurpose purpose() const { return purpose_; }
  [[nodiscard]] const PeerIdentity& peer() const { return peer_; }
  [[nodiscard]] std::uint64_t bytes_sent() const { return bytes_sent_; }
  [[nodiscard]] std::uint64_t bytes_received() const { return bytes_received_; }
  [[nodiscard]] std::size_t bytes_queued() const { return queued_bytes_; }

 private:
  // A frame that has not got its number yet: until then it can be overtaken.
  struct Waiting {
    FrameType type{};
    std::uint32_t flags = 0;
    std::vector<std::byte> head;
    std::vector<std::byte> body;
  };
  // A run of octets to be sent: some small frames together, or one large body by itself.
  struct Chunk {
    std::vector<std::byte> octets;
    std::size_t sent = 0;
    bool small = true;
  };

  static Task<void> write_queue(std::shared_ptr<State> self);
  static Task<void> yield(const std::shared_ptr<State>& self);
  void enqueue(std::deque<Waiting>& line, Waiting frame);
  void fill_queue();
  void number_frame(Waiting frame);
  void on_sent(std::size_t bytes);
  void watch(Time deadline);
  void on_watch();

  boost::asio::any_io_executor executor_;
  std::shared_ptr<TlsStream> stream_;
  LinkPurpose purpose_;
  LinkSettings settings_;
  PeerIdentity peer_;
  std::optional<Error> ended_;

  // Sending.
  std::deque<Waiting> urgent_;
  std::deque<Waiting> waiting_;
  std::deque<Chunk> queue_;         // numbered, in the order of the wire
  std::size_t numbered_bytes_ = 0;  // of these, not yet sent
  std::size_t queued_bytes_ = 0;    // of everything
  std::uint64_t next_sequence_ = 1;
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t bytes_since_key_update_ = 0;
  Waiters senders_;                     // wait for room
  Waiters writer_;                      // waits for work
  Waiters drained_;                     // wait for an empty queue
  std::optional<Time> stall_deadline_;  // while something is queued

  // Receiving.
  FrameDecoder decoder_;
  bool receiving_ = false;
  std::size_t bytes_in_turn_ = 0;  // read since the thread was handed back last
  std::uint64_t bytes_received_ = 0;
  std::optional<Time> idle_deadline_;     // while a receive waits
  std::optional<Time> receive_deadline_;  // of the waiting receive itself

  boost::asio::steady_timer watchdog_;
  std::optional<Time> watchdog_at_;
};

/// A time limit over some steps on a stream: when it passes, the stream is closed, and `passed`
/// says so. Ends with its scope.
class Deadline {
 public:
  Deadline(const boost::asio::any_io_executor& executor, std::chrono::milliseconds limit,
           std::function<void()> on_passed);
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  ~Deadline();
  [[nodiscard]] bool passed() const { return *passed_; }

 private:
  boost::asio::steady_timer timer_;
  std::shared_ptr<bool> passed_;
};

/// Runs the TLS handshake to its end. Errors as TlsStream explains them.
Task<Result<void>> shake_hands(std::shared_ptr<TlsStream> stream);

/// Options that every connected socket of a link gets. Errors of single options are ignored: each
/// only improves what works without it.
void tune_socket(boost::asio::ip::tcp::socket& socket, const LinkSettings& settings);

/// Address and port of an end of a socket.
Endpoint endpoint_of(const boost::asio::ip::tcp::endpoint& endpoint);

}  // namespace understudy::transport
