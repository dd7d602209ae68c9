// The identity of this host: names, fingerprints, addresses, key and certificate. See identity.h.
#include "transport/identity.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/ip/address.hpp>
#include <charconv>
#include <cstring>

#include "base/unique_fd.h"
#include "transport/private_file.h"
#include "transport/tls_stream.h"

namespace understudy::transport {
namespace {

template <auto function>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    function(pointer);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using Memory = std::unique_ptr<BIO, Deleter<BIO_free_all>>;

std::string hex_of(std::span<const std::uint8_t> octets) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.reserve(octets.size() * 2);
  for (const auto octet : octets) {
    text += digits[octet >> 4];
    text += digits[octet & 15];
  }
  return text;
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string openssl_reason() {
  const auto code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

std::string contents(BIO* memory) {
  char* data = nullptr;
  const long bytes = BIO_get_mem_data(memory, &data);
  return {data, static_cast<std::size_t>(bytes)};
}

// A new Ed25519 key with its certificate, in PEM. The subject is the same for every host, and the
// dates span all time: see identity.h.
Result<std::string> make_identity() {
  const Key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  const Certificate certificate(X509_new());
  if (!key || !certificate) {
    return fail(ErrorCode::internal, "making an Ed25519 key: {}", openssl_reason());
  }
  std::array<unsigned char, 16> serial{};
  if (RAND_bytes(serial.data(), serial.size()) != 1) {
    return fail(ErrorCode::internal, "the random source gave nothing: {}", openssl_reason());
  }
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);  // positive, full length
  X509* const x509 = certificate.get();
  const std::unique_ptr<BIGNUM, Deleter<BN_free>> number(
      BN_bin2bn(serial.data(), serial.size(), nullptr));
  X509_NAME* const name = X509_get_subject_name(x509);
  const bool made = X509_set_version(x509, X509_VERSION_3) == 1 &&
                    BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(x509)) != nullptr &&
                    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                               reinterpret_cast<const unsigned char*>("understudy"),
                                               -1, -1, 0) == 1 &&
                    X509_set_issuer_name(x509, name) == 1 &&
                    ASN1_TIME_set_string_X509(X509_getm_notBefore(x509), "19700101000000Z") == 1 &&
                    ASN1_TIME_set_string_X509(X509_getm_notAfter(x509), "99991231235959Z") == 1 &&
                    X509_set_pubkey(x509, key.get()) == 1 &&
                    X509_sign(x509, key.get(), nullptr) > 0;
  const Memory pem(BIO_new(BIO_s_mem()));
  if (!made || !pem ||
      PEM_write_bio_PrivateKey(pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1 ||
      PEM_write_bio_X509(pem.get(), x509) != 1) {
    return fail(ErrorCode::internal, "making a certificate: {}", openssl_reason());
  }
  return contents(pem.get());
}

}  // namespace

std::string Fingerprint::hex() const {
  return hex_of(octets);
}

std::string Fingerprint::groups() const {
  const std::string digits = hex();
  std::string text;
  for (std::size_t i = 0; i < digits.size(); i += 4) {
    if (i != 0) text += '-';
    text += digits.substr(i, 4);
  }
  return text;
}

Result<Fingerprint> Fingerprint::parse(std::string_view text) {
  Fingerprint fingerprint;
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '-' || c == ':') continue;
    const int digit = digit_of(c);
    if (digit < 0 || digits == 64) {
      digits = 0;
      break;
    }
    auto& octet = fingerprint.octets[digits++ / 2];
    octet = static_cast<std::uint8_t>((octet << 4) | digit);
  }
  if (digits != 64) {
    return fail(ErrorCode::usage, "a fingerprint is 64 hexadecimal digits, got '{}'",
                text.substr(0, 100));
  }
  return fingerprint;
}

std::string Endpoint::text() const {
  const bool is_v6 = address.find(':') != std::string::npos;
  return is_v6 ? fmt::format("[{}]:{}", address, port) : fmt::format("{}:{}", address, port);
}

Result<Endpoint> Endpoint::parse(std::string_view text) {
  const auto wrong = [&] {
    return fail(ErrorCode::usage,
                "'{}' is no address with port, expected like 192.0.2.1:7411 or [2001:db8::1]:7411",
                text.substr(0, 100));
  };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong();
  std::string_view address = text.substr(0, colon);
  const bool bracketed = address.size() > 2 && address.front() == '[' && address.back() == ']';
  if (bracketed) address = address.substr(1, address.size() - 2);
  const std::string_view digits = text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (code != std::errc() || end != digits.data() + digits.size()) return wrong();
  boost::system::error_code not_numeric;
  const auto parsed = boost::asio::ip::make_address(std::string(address), not_numeric);
  if (not_numeric || parsed.is_v6() != bracketed) return wrong();
  return Endpoint{parsed.to_string(), port};
}

std::string BootId::hex() const {
  return hex_of(octets);
}

BootId BootId::random() {
  BootId id;
  UNDERSTUDY_CHECK(RAND_bytes(id.octets.data(), static_cast<int>(id.octets.size())) == 1,
                   "the system's random source gave nothing");
  return id;
}

Result<void> check_host_name(std::string_view name) {
  const auto letter_or_digit = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  bool good = !name.empty() && name.size() <= 63 && letter_or_digit(name.front());
  for (const char c : name) good = good && (letter_or_digit(c) || c == '.' || c == '-' || c == '_');
  if (good) return ok();
  return fail(ErrorCode::usage,
              "'{}' is no host name, expected 1 to 63 letters, digits, '.', '-' or '_', starting "
              "with a letter or digit",
              name.substr(0, 100));
}

TlsIdentity::~TlsIdentity() {
  SSL_CTX_free(context_);
}

Result<std::shared_ptr<const TlsIdentity>> TlsIdentity::from_pem(std::string_view pem,
                                                                 const std::string& where) {
  ERR_clear_error();
  const Memory key_memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const Memory certificate_memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  // An empty passphrase: without it OpenSSL would ask on the terminal for that of an encrypted key.
  char no_passphrase[] = "";
  const Key key(PEM_read_bio_PrivateKey(key_memory.get(), nullptr, nullptr, no_passphrase));
  const Certificate certificate(
      PEM_read_bio_X509(certificate_memory.get(), nullptr, nullptr, nullptr));
  if (!key || !certificate || X509_check_private_key(certificate.get(), key.get()) != 1) {
    ERR_clear_error();
    return fail(ErrorCode::bad_data, "{}: expected a private key with its certificate, in PEM",
                where);
  }
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity());
  unsigned int length = 0;
  if (X509_digest(certificate.get(), EVP_sha256(), identity->fingerprint_.octets.data(), &length) !=
          1 ||
      length != identity->fingerprint_.octets.size()) {
    return fail(ErrorCode::internal, "{}: fingerprint: {}", where, openssl_reason());
  }
  BOOST_OUTCOME_TRY(identity->context_, make_tls_context(certificate.get(), key.get()));
  return std::shared_ptr<const TlsIdentity>(std::move(identity));
}

Result<std::shared_ptr<const TlsIdentity>> TlsIdentity::load_or_create(
    const std::filesystem::path& file) {
  BOOST_OUTCOME_TRY(const auto found, read_private_file(file));
  if (found) return from_pem(*found, file.string());
  BOOST_OUTCOME_TRY(const std::string made, make_identity());
  // Checked before it is written, so that a broken file is never left behind.
  BOOST_OUTCOME_TRY(auto identity, from_pem(made, file.string()));
  BOOST_OUTCOME_TRY(write_private_file(file, made));
  return identity;
}

Result<std::shared_ptr<const TlsIdentity>> TlsIdentity::generate() {
  BOOST_OUTCOME_TRY(const std::string made, make_identity());
  return from_pem(made, "new identity");
}

}  // namespace understudy::transport
