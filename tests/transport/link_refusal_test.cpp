// Everybody who must not get in: strangers, impostors, old TLS, plain text, the slow and the many.
// Goal: each is turned away with an error that says why to the one who may know, and learns nothing
// about the host otherwise; a paired host still gets in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <thread>

#include "base/unique_fd.h"
#include "tests/transport/two_hosts.h"

namespace understudy::transport {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;

// What a stranger with OpenSSL's plain client sees.
struct Stranger {
  bool shook_hands = false;
  std::string seen;         // all octets of the certificate that it was shown
  std::string application;  // octets of the application that it could read
  std::string error;
};

// Blocking, in a thread of its own, while the loop serves the listener.
Stranger visit(TwoHosts& hosts, const Endpoint& endpoint, int tls_version, bool with_protocol) {
  Stranger stranger;
  std::atomic<bool> done = false;
  std::thread thread([&] {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{20, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(endpoint.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, tls_version);
    SSL_CTX_set_max_proto_version(context, tls_version);
    SSL* const ssl = SSL_new(context);
    if (with_protocol) {
      constexpr unsigned char kName[] = "\x0cunderstudy/1";
      SSL_set_alpn_protos(ssl, kName, sizeof(kName) - 1);
    }
    SSL_set_fd(ssl, fd.get());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      stranger.shook_hands = SSL_connect(ssl) == 1;
      char buffer[4096];
      int bytes = 0;
      while (stranger.shook_hands && (bytes = SSL_read(ssl, buffer, sizeof(buffer))) > 0) {
        stranger.application.append(buffer, static_cast<std::size_t>(bytes));
      }
      const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
      stranger.error = reason == nullptr ? "" : reason;
      if (X509* const certificate = SSL_get1_peer_certificate(ssl)) {
        unsigned char* der = nullptr;
        const int length = i2d_X509(certificate, &der);
        if (length > 0) {
          stranger.seen.assign(reinterpret_cast<char*>(der), static_cast<std::size_t>(length));
        }
        OPENSSL_free(der);
        X509_free(certificate);
      }
    }
    SSL_free(ssl);
    SSL_CTX_free(context);
    done = true;
  });
  try {
    hosts.run_until([&] { return done.load(); });
  } catch (...) {
    thread.join();
    throw;
  }
  thread.join();
  return stranger;
}

TEST(Listener, an_unpaired_host_is_turned_away_by_TLS_and_told_why) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  ASSERT_TRUE(hosts.b.peers->remove("hostA"));
  const auto link = hosts.connect(listener->endpoint(), LinkPurpose::control);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code(), ErrorCode::permission);
  EXPECT_THAT(link.error().message(), HasSubstr("not paired"));
  hosts.run_until([&] { return listener->counters().refused == 1; });
  EXPECT_TRUE(accepted.empty());
}

TEST(Connector, a_server_with_another_certificate_is_an_impostor) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const LocalHost real = hosts.b;
  hosts.b.identity = TlsIdentity::generate().value();
  const auto listener = hosts.listen(accepted);
  hosts.b = real;
  const auto link = hosts.connect(listener->endpoint(), LinkPurpose::control);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code(), ErrorCode::permission);
  EXPECT_THAT(link.error().message(), HasSubstr(real.identity->fingerprint().groups()));
  hosts.run_for(milliseconds(20));
  EXPECT_TRUE(accepted.empty());
}

TEST(Listener, a_stranger_without_certificate_learns_nothing) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  const Stranger stranger = visit(hosts, listener->endpoint(), TLS1_3_VERSION, true);
  EXPECT_EQ(stranger.application, "");
  EXPECT_THAT(stranger.error, HasSubstr("alert"));
  EXPECT_FALSE(stranger.seen.empty());
  EXPECT_THAT(stranger.seen, Not(HasSubstr("hostB")));
  EXPECT_TRUE(accepted.empty());
}

TEST(Listener, TLS_1_2_is_refused) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  const Stranger stranger = visit(hosts, listener->endpoint(), TLS1_2_VERSION, true);
  EXPECT_FALSE(stranger.shook_hands);
  EXPECT_THAT(stranger.error, HasSubstr("protocol version"));
}

TEST(Listener, a_TLS_client_of_another_protocol_is_refused) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  const Stranger stranger = visit(hosts, listener->endpoint(), TLS1_3_VERSION, false);
  EXPECT_EQ(stranger.application, "");
  EXPECT_TRUE(accepted.empty());
  hosts.run_until([&] { return listener->counters().refused == 1; });
}

TEST(Listener, plain_text_garbage_is_refused_and_the_next_host_gets_in) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  boost::asio::ip::tcp::socket socket(hosts.io);
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), listener->endpoint().port});
  boost::asio::write(socket, boost::asio::buffer(std::string("GET / HTTP/1.1\r\n\r\n")));
  hosts.run_until([&] { return listener->counters().refused == 1; });
  EXPECT_TRUE(hosts.connect(listener->endpoint(), LinkPurpose::control));
}

TEST(Connector, a_server_that_is_no_understudy_is_a_named_error) {
  TwoHosts hosts;
  boost::asio::ip::tcp::acceptor acceptor(hosts.io,
                                          {boost::asio::ip::make_address("127.0.0.1"), 0});
  const auto serve = [&]() -> Task<void> {
    auto socket = co_await acceptor.async_accept(boost::asio::use_awaitable);
    co_await boost::asio::async_write(socket,
                                      boost::asio::buffer("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"),
                                      boost::asio::use_awaitable);
    char discarded[1000];
    co_await socket.async_read_some(boost::asio::buffer(discarded), boost::asio::use_awaitable);
  };
  hosts.start(serve());
  const auto link = hosts.connect(endpoint_of(acceptor.local_endpoint()), LinkPurpose::control);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code(), ErrorCode::protocol);
  EXPECT_THAT(link.error().message(), HasSubstr("connect to hostB"));
}

TEST(Connector, nobody_there_is_unavailable_and_a_name_is_no_address) {
  TwoHosts hosts;
  std::uint16_t port = 0;
  {
    std::vector<std::unique_ptr<Link>> accepted;
    port = hosts.listen(accepted)->endpoint().port;
  }
  const auto link = hosts.connect({"127.0.0.1", port}, LinkPurpose::control);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(link.error().message(), HasSubstr("127.0.0.1"));
  const auto named = hosts.connect({"hostB.example", port}, LinkPurpose::control);
  ASSERT_FALSE(named);
  EXPECT_EQ(named.error().code(), ErrorCode::usage);
}

TEST(Connector, a_server_that_never_answers_ends_the_handshake_in_time) {
  TwoHosts hosts;
  // Connections complete in the kernel's backlog; nobody accepts them.
  boost::asio::ip::tcp::acceptor silent(hosts.io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  auto settings = LinkSettings::for_purpose(LinkPurpose::control);
  settings.handshake_limit = milliseconds(200);
  const auto link =
      hosts.connect(endpoint_of(silent.local_endpoint()), LinkPurpose::control, settings);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code(), ErrorCode::timed_out);
  EXPECT_THAT(link.error().message(), HasSubstr("within 200 ms"));
}

TEST(Connector, tries_all_addresses_of_a_peer_by_name) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  Connector connector(hosts.io.get_executor(), hosts.a);
  const auto stranger = hosts.run(connector.connect("hostX", LinkPurpose::control));
  ASSERT_FALSE(stranger);
  EXPECT_EQ(stranger.error().code(), ErrorCode::no_such);
  ASSERT_TRUE(hosts.a.peers->put({"hostB",
                                  hosts.b.identity->fingerprint(),
                                  {{{"127.0.0.1", 1}, {}}, {listener->endpoint(), "127.0.0.1"}}}));
  const auto link = hosts.run(connector.connect("hostB", LinkPurpose::control));
  ASSERT_TRUE(link) << link.error().message();
}

TEST(Listener, whoever_is_silent_after_TCP_or_after_TLS_is_shown_out_in_time) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  ListenerSettings settings;
  settings.handshake_limit = milliseconds(300);
  const auto listener = hosts.listen(accepted, settings);
  boost::asio::ip::tcp::socket socket(hosts.io);
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), listener->endpoint().port});
  RudePeer peer(hosts, listener->endpoint(), hosts.a.identity);
  ASSERT_TRUE(peer.shake());
  hosts.run_until([&] { return listener->counters().refused == 2; });
  hosts.run_until([&] { return listener->counters().handshaking == 0; });
}

TEST(Listener, a_crowd_at_the_door_is_bounded_and_does_not_keep_a_paired_host_out) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  ListenerSettings settings;
  settings.handshakes_max = 8;
  settings.handshake_limit = milliseconds(30000);
  const auto listener = hosts.listen(accepted, settings);
  std::vector<boost::asio::ip::tcp::socket> crowd;
  for (int i = 0; i < 50; ++i) {
    crowd.emplace_back(hosts.io);
    crowd.back().connect({boost::asio::ip::make_address("127.0.0.1"), listener->endpoint().port});
  }
  hosts.run_until([&] { return listener->counters().refused == 42; });
  EXPECT_EQ(listener->counters().handshaking, 8U);
  EXPECT_TRUE(hosts.connect(listener->endpoint(), LinkPurpose::control));
}

TEST(Listener, a_hello_that_is_wrong_is_refused_with_words) {
  const struct {
    std::function<void(RudePeer&)> act;
    std::string complaint;
  } cases[] = {
      {[](RudePeer& peer) { peer.say(FrameType::control, octets("{}")); }, "expected hello"},
      {[](RudePeer& peer) { peer.say(FrameType::hello, octets("short")); }, "cut short"},
      {[](RudePeer& peer) {
         Hello hello;
         hello.name = "hostA";
         hello.version_lowest = 5;
         hello.version_highest = 6;
         peer.say(FrameType::hello, encode(hello));
       },
       "speaks 5 to 6"},
      {[](RudePeer& peer) { peer.hello(LinkPurpose::pairing); }, "no token is pending"},
  };
  for (const auto& [act, complaint] : cases) {
    TwoHosts hosts;
    std::vector<std::unique_ptr<Link>> accepted;
    const auto listener = hosts.listen(accepted);
    RudePeer peer(hosts, listener->endpoint(), hosts.a.identity);
    ASSERT_TRUE(peer.shake());
    act(peer);
    const auto heard = peer.hear();
    ASSERT_TRUE(heard) << heard.error().message();
    EXPECT_EQ(heard.value().type, FrameType::refusal);
    EXPECT_THAT(decode_refusal(heard.value().payload).message(), HasSubstr(complaint));
    EXPECT_TRUE(accepted.empty());
  }
}

TEST(Listener, a_stranger_may_only_pair_while_a_token_is_pending) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto desk = std::make_shared<PairingDesk>();
  const auto listener = hosts.listen(accepted, {}, desk);
  ASSERT_TRUE(desk->issue(std::chrono::steady_clock::now(), hosts.b.identity->fingerprint(),
                          listener->endpoint()));
  const auto strange = TlsIdentity::generate().value();
  for (const auto purpose : {LinkPurpose::control, LinkPurpose::bulk, LinkPurpose::heartbeat}) {
    RudePeer peer(hosts, listener->endpoint(), strange);
    ASSERT_TRUE(peer.shake());
    peer.hello(purpose);
    const auto heard = peer.hear();
    ASSERT_TRUE(heard) << heard.error().message();
    EXPECT_EQ(heard.value().type, FrameType::refusal);
    EXPECT_THAT(text_of(heard.value().payload), Not(HasSubstr("hostB")));
  }
  EXPECT_TRUE(accepted.empty());
}

TEST(Listener, a_port_in_use_is_a_named_error) {
  TwoHosts hosts;
  std::vector<std::unique_ptr<Link>> accepted;
  const auto listener = hosts.listen(accepted);
  const auto second =
      Listener::open(hosts.io.get_executor(), listener->endpoint(), hosts.b, nullptr,
                     [](std::unique_ptr<Link>) -> Task<void> { co_return; });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::exists);
}

TEST(Listener, a_handler_that_throws_is_no_end_of_the_listener) {
  TwoHosts hosts;
  const auto listener = Listener::open(hosts.io.get_executor(), {"127.0.0.1", 0}, hosts.b, nullptr,
                                       [](std::unique_ptr<Link>) -> Task<void> {
                                         throw std::runtime_error("thrown by a handler");
                                         co_return;
                                       });
  ASSERT_TRUE(listener);
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(hosts.connect(listener.value()->endpoint(), LinkPurpose::control));
  }
}

}  // namespace
}  // namespace understudy::transport
