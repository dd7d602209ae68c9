// See tls_stream.h.
#include "transport/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <cerrno>
#include <cstring>

namespace understudy::transport {
namespace {

// Application protocol (RFC 7301): a TLS client of another kind is turned away in the handshake.
constexpr unsigned char kProtocol[] = {12,  'u', 'n', 'd', 'e', 'r', 's',
                                       't', 'u', 'd', 'y', '/', '1'};

// As much as one read from the socket may bring: several records for one system call.
constexpr std::size_t kReadBytes = std::size_t{256} << 10;

std::string reason_of(unsigned long code) {
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown reason" : reason;
}

// Alerts with which a peer says that it does not accept our certificate.
bool is_rejection(unsigned long code) {
  if (ERR_GET_LIB(code) != ERR_LIB_SSL) return false;
  switch (ERR_GET_REASON(code)) {
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
      return true;
    default:
      return false;
  }
}

}  // namespace

// What OpenSSL calls: reading and writing octets, and the verdict on a certificate.
struct TlsStream::Callbacks {
  static TlsStream& stream(BIO* bio) { return *static_cast<TlsStream*>(BIO_get_data(bio)); }

  static int write(BIO* bio, const char* data, int bytes) {
    BIO_clear_retry_flags(bio);
    TlsStream& self = stream(bio);
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (self.more_follows_ ? MSG_MORE : 0);
    for (;;) {
      const ssize_t sent =
          ::send(self.socket_.native_handle(), data, static_cast<std::size_t>(bytes), flags);
      if (sent >= 0) return static_cast<int>(sent);
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        BIO_set_retry_write(bio);
      } else {
        self.socket_error_ = errno;
      }
      return -1;
    }
  }

  static int read(BIO* bio, char* data, int bytes) {
    BIO_clear_retry_flags(bio);
    TlsStream& self = stream(bio);
    for (;;) {
      const ssize_t got =
          ::recv(self.socket_.native_handle(), data, static_cast<std::size_t>(bytes), MSG_DONTWAIT);
      if (got > 0) return static_cast<int>(got);
      if (got == 0) {
        self.socket_ended_ = true;
        return 0;
      }
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        BIO_set_retry_read(bio);
      } else {
        self.socket_error_ = errno;
      }
      return -1;
    }
  }

  static long control(BIO* bio, int command, long /*number*/, void* /*pointer*/) {
    switch (command) {
      case BIO_CTRL_FLUSH:
        return 1;
      case BIO_CTRL_EOF:
        return stream(bio).socket_ended_ ? 1 : 0;
      default:
        return 0;
    }
  }

  static int verify(X509_STORE_CTX* store, void* /*argument*/) {
    auto* const ssl =
        static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto& self = *static_cast<TlsStream*>(SSL_get_app_data(ssl));
    X509* const certificate = X509_STORE_CTX_get0_cert(store);
    unsigned int length = 0;
    Fingerprint shown;
    const bool digested = certificate != nullptr &&
                          X509_digest(certificate, EVP_sha256(), shown.octets.data(), &length) == 1;
    if (digested) self.peer_fingerprint_ = shown;
    if (digested && self.accept_(shown)) {
      X509_STORE_CTX_set_error(store, X509_V_OK);
      return 1;
    }
    // Becomes the alert unknown_ca: 'nobody whom I know'.
    X509_STORE_CTX_set_error(store, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
    return 0;
  }

  static int select_protocol(SSL* /*ssl*/, const unsigned char** chosen, unsigned char* length,
                             const unsigned char* offered, unsigned int offered_length,
                             void* /*argument*/) {
    unsigned char* out = nullptr;
    if (SSL_select_next_proto(&out, length, kProtocol, sizeof(kProtocol), offered,
                              offered_length) != OPENSSL_NPN_NEGOTIATED) {
      return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *chosen = out;
    return SSL_TLSEXT_ERR_OK;
  }

  // One method table for the process, made on first use and never freed (OpenSSL keeps such tables
  // for as long as it is loaded).
  static const BIO_METHOD* method() {
    static const BIO_METHOD* const table = [] {
      BIO_METHOD* const made =
          BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "understudy socket");
      UNDERSTUDY_CHECK(made != nullptr, "no memory for a table of functions");
      BIO_meth_set_write(made, write);
      BIO_meth_set_read(made, read);
      BIO_meth_set_ctrl(made, control);
      return made;
    }();
    return table;
  }
};

Result<ssl_ctx_st*> make_tls_context(x509_st* certificate, evp_pkey_st* key) {
  ERR_clear_error();
  SSL_CTX* const context = SSL_CTX_new(TLS_method());
  const bool made =
      context != nullptr && SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_ciphersuites(context,
                               "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                               "TLS_CHACHA20_POLY1305_SHA256") == 1 &&
      SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1 &&
      SSL_CTX_use_certificate(context, certificate) == 1 &&
      SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1 &&
      SSL_CTX_set_num_tickets(context, 0) == 1 &&
      SSL_CTX_set_alpn_protos(context, kProtocol, sizeof(kProtocol)) == 0;
  if (!made) {
    const auto code = ERR_peek_last_error();
    SSL_CTX_free(context);
    ERR_clear_error();
    return fail(ErrorCode::internal, "TLS cannot be set up: {}", reason_of(code));
  }
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_max_early_data(context, 0);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(context, TlsStream::Callbacks::verify, nullptr);
  SSL_CTX_set_alpn_select_cb(context, TlsStream::Callbacks::select_protocol, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, kReadBytes);
  return context;
}

TlsStream::TlsStream(boost::asio::ip::tcp::socket socket,
                     std::shared_ptr<const TlsIdentity> identity, Accept accept)
    : socket_(std::move(socket)), identity_(std::move(identity)), accept_(std::move(accept)) {}

Result<std::shared_ptr<TlsStream>> TlsStream::open(boost::asio::ip::tcp::socket socket,
                                                   std::shared_ptr<const TlsIdentity> identity,
                                                   Role role, Accept accept) {
  ERR_clear_error();
  std::shared_ptr<TlsStream> stream(
      new TlsStream(std::move(socket), std::move(identity), std::move(accept)));
  stream->ssl_ = SSL_new(stream->identity_->context());
  BIO* const bio = BIO_new(Callbacks::method());
  if (stream->ssl_ == nullptr || bio == nullptr) {
    BIO_free(bio);
    ERR_clear_error();
    return fail(ErrorCode::no_resources, "no memory for a TLS session");
  }
  BIO_set_data(bio, stream.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(stream->ssl_, bio, bio);  // one reference for both directions; SSL_free frees it
  SSL_set_app_data(stream->ssl_, stream.get());
  if (role == Role::connecting) {
    SSL_set_connect_state(stream->ssl_);
  } else {
    SSL_set_accept_state(stream->ssl_);
  }
  return stream;
}

TlsStream::~TlsStream() {
  SSL_free(ssl_);
}

TlsStream::Step TlsStream::handshake() {
  ERR_clear_error();
  return explain(SSL_do_handshake(ssl_));
}

TlsStream::Step TlsStream::read(std::span<std::byte> into) {
  if (!socket_.is_open()) {
    failure_ = fail(ErrorCode::unavailable, "closed");
    return {Outcome::failed};
  }
  ERR_clear_error();
  std::size_t bytes = 0;
  const int result = SSL_read_ex(ssl_, into.data(), into.size(), &bytes);
  if (result == 1) return {Outcome::done, bytes};
  return explain(result);
}

TlsStream::Step TlsStream::write(std::span<const std::byte> from, bool more) {
  if (!socket_.is_open()) {
    failure_ = fail(ErrorCode::unavailable, "closed");
    return {Outcome::failed};
  }
  ERR_clear_error();
  more_follows_ = more;
  std::size_t bytes = 0;
  const int result = SSL_write_ex(ssl_, from.data(), from.size(), &bytes);
  more_follows_ = false;
  if (result == 1) return {Outcome::done, bytes};
  return explain(result);
}

void TlsStream::update_key() {
  ERR_clear_error();
  SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED);
}

void TlsStream::end_writing() {
  if (!socket_.is_open()) return;
  ERR_clear_error();
  if (SSL_is_init_finished(ssl_) == 1) SSL_shutdown(ssl_);
  ERR_clear_error();
  boost::system::error_code ignored;
  socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
}

TlsStream::Step TlsStream::explain(int result) {
  if (result == 1) return {Outcome::done};
  const int kind = SSL_get_error(ssl_, result);
  // The first entry of the queue is the cause; later ones are its consequences.
  const auto code = ERR_peek_error();
  ERR_clear_error();
  switch (kind) {
    case SSL_ERROR_WANT_READ:
      return {Outcome::want_read};
    case SSL_ERROR_WANT_WRITE:
      return {Outcome::want_write};
    case SSL_ERROR_ZERO_RETURN:
      return {Outcome::ended};
    default:
      break;
  }
  const bool is_tls = ERR_GET_LIB(code) == ERR_LIB_SSL;
  const int reason = ERR_GET_REASON(code);
  if (socket_error_ != 0) {
    failure_ = fail(ErrorCode::unavailable, "{}", std::strerror(socket_error_));
  } else if (is_rejection(code)) {
    failure_ =
        fail(ErrorCode::permission, "it does not know our certificate: we are not paired there");
  } else if (is_tls && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    failure_ = fail(ErrorCode::permission, "unknown certificate {}", peer_fingerprint_.groups());
  } else if (socket_ended_) {
    failure_ = fail(ErrorCode::unavailable, "the connection ended without a farewell");
  } else {
    failure_ = fail(ErrorCode::protocol, "TLS: {}", reason_of(code));
  }
  return {Outcome::failed};
}

Task<void> TlsStream::wait(Outcome want) {
  using Socket = boost::asio::ip::tcp::socket;
  if (!socket_.is_open()) co_return;
  co_await socket_.async_wait(want == Outcome::want_write ? Socket::wait_write : Socket::wait_read,
                              boost::asio::as_tuple(boost::asio::use_awaitable));
}

void TlsStream::cancel() {
  boost::system::error_code ignored;
  socket_.cancel(ignored);
}

void TlsStream::close() {
  boost::system::error_code ignored;
  socket_.close(ignored);
}

Result<std::vector<std::byte>> TlsStream::export_key(std::string_view label,
                                                     std::size_t bytes) const {
  ERR_clear_error();
  std::vector<std::byte> key(bytes);
  if (SSL_export_keying_material(ssl_, reinterpret_cast<unsigned char*>(key.data()), bytes,
                                 label.data(), label.size(), nullptr, 0, 0) != 1) {
    ERR_clear_error();
    return fail(ErrorCode::internal, "TLS gave no keying material for '{}'", label);
  }
  return key;
}

}  // namespace understudy::transport
