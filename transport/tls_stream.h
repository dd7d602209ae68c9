// TLS 1.3 over one non-blocking TCP socket, without waiting inside.
//
// Each step (handshake, read, write) does what can be done now and says what it wants next; one
// short loop in the caller waits for that. OpenSSL reaches the socket through a BIO of our own that
// never raises SIGPIPE and that can tell the kernel when more is to follow (MSG_MORE), so that the
// records of one frame fill whole packets.
//
// Verification is one question: is the SHA-256 of the peer's certificate accepted? No chain, no
// names, no dates. The proof that the peer holds the key is TLS's own (CertificateVerify).
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "transport/identity.h"

struct ssl_st;
struct ssl_ctx_st;
struct x509_st;
struct evp_pkey_st;

namespace understudy::transport {

/// The OpenSSL context for links of the host with that certificate and key. The caller frees it.
Result<ssl_ctx_st*> make_tls_context(x509_st* certificate, evp_pkey_st* key);

/// One connection. Lives at one address (OpenSSL points back to it).
class TlsStream {
 public:
  enum class Role { connecting, accepting };
  /// Decides over the peer's certificate during the handshake.
  using Accept = std::function<bool(const Fingerprint&)>;

  /// What a step did.
  enum class Outcome {
    done,        ///< it is done, `bytes` were read or written
    want_read,   ///< repeat it when the socket can be read
    want_write,  ///< repeat it when the socket can be written
    ended,       ///< the peer has ended its direction in order
    failed,      ///< `failure` says why; the stream is of no use any more
  };
  struct Step {
    Outcome outcome;
    std::size_t bytes = 0;
  };

  /// Takes over a connected socket. `identity` must outlive the stream (it is shared).
  static Result<std::shared_ptr<TlsStream>> open(boost::asio::ip::tcp::socket socket,
                                                 std::shared_ptr<const TlsIdentity> identity,
                                                 Role role, Accept accept);
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;
  ~TlsStream();

  /// One step of the handshake.
  Step handshake();
  /// Reads at least one octet when done.
  Step read(std::span<std::byte> into);
  /// Writes at least one octet, at most one TLS record, when done. After want_write, the next call
  /// must start with the same octets. `more`: another write follows at once.
  Step write(std::span<const std::byte> from, bool more);
  /// Renews the key of our direction with the next write (RFC 8446, section 4.6.3).
  void update_key();
  /// Ends our direction in order: close_notify, then FIN. The other direction stays open.
  void end_writing();

  /// Waits for what a step wants. May return early; repeat the step and see.
  Task<void> wait(Outcome want);
  /// Wakes all waits.
  void cancel();
  /// Closes the socket and wakes all waits. Safe to repeat.
  void close();

  /// Why the last step failed.
  [[nodiscard]] const Error& failure() const { return failure_; }
  /// Of the certificate that the peer showed; zeros before.
  [[nodiscard]] const Fingerprint& peer_fingerprint() const { return peer_fingerprint_; }
  [[nodiscard]] boost::asio::ip::tcp::socket& socket() { return socket_; }
  /// See Link::export_key.
  [[nodiscard]] Result<std::vector<std::byte>> export_key(std::string_view label,
                                                          std::size_t bytes) const;

  /// For OpenSSL's callbacks only.
  struct Callbacks;

 private:
  TlsStream(boost::asio::ip::tcp::socket socket, std::shared_ptr<const TlsIdentity> identity,
            Accept accept);
  Step explain(int result);

  boost::asio::ip::tcp::socket socket_;
  std::shared_ptr<const TlsIdentity> identity_;
  Accept accept_;
  ssl_st* ssl_ = nullptr;
  Fingerprint peer_fingerprint_;
  Error failure_{ErrorCode::internal, "no failure"};
  bool more_follows_ = false;  // the BIO passes MSG_MORE
  bool socket_ended_ = false;  // the BIO has seen the end of the stream
  int socket_error_ = 0;       // errno of the BIO's last failure
};

}  // namespace understudy::transport
