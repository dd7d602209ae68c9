#include "arbiter/etcd_arbiter.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <chrono>
#include <list>

#include "arbiter/etcd_messages.h"
#include "transport/identity.h"

namespace understudy {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr auto kRetry = std::chrono::seconds(1);
/// An answer is a header and at most one small key.
constexpr std::size_t kAnswerBytesMax = std::size_t{64} << 10;

class EtcdArbiter final : public ArbiterService {
 public:
  EtcdArbiter(asio::any_io_executor executor, const ArbiterConfig& config, std::string self,
              Answered answered, asio::ssl::context tls)
      : ArbiterService(config.solo_after),
        executor_(std::move(executor)),
        config_(config),
        self_(std::move(self)),
        answered_(std::move(answered)),
        tls_(std::move(tls)),
        lease_ttl_(std::max<std::chrono::seconds>(
            std::chrono::seconds(2),
            std::chrono::duration_cast<std::chrono::seconds>(config.timeout * 2))),
        alive_(std::make_shared<bool>(true)) {}
  ~EtcdArbiter() override { *alive_ = false; }

  [[nodiscard]] std::string_view name() const override { return "etcd"; }
  [[nodiscard]] bool may_grant_solo() const override { return true; }

  Answer ask(const Claim& claim) override {
    if (Pending* known = find(claim)) {
      known->wanted = true;
      return known->answer;
    }
    Pending& pending = pending_.emplace_back();
    pending.claim = claim;
    asio::co_spawn(executor_, pursue(claim), asio::detached);
    return Answer::pending;
  }

  void forget(const Claim& claim) override {
    if (Pending* known = find(claim)) known->wanted = false;
  }

  [[nodiscard]] std::string explain(const Claim& claim) const override {
    const auto found = std::ranges::find(pending_, claim, &Pending::claim);
    if (found != pending_.end()) return found->note;
    return refusals_.empty() || !(refusals_.back().claim == claim) ? "" : refusals_.back().note;
  }

  Task<Result<void>> begin(std::string domain, ProtectionId protection,
                           Generation generation) override {
    const std::string key = etcd::key_of(config_.prefix, domain, protection);
    const etcd::Holding holding{generation, self_, false};
    // Earlier protections of this domain are over: whoever claims within one of them is refused.
    const std::string clear = etcd::clear_request(config_.prefix, domain);
    BOOST_OUTCOME_CO_TRY(co_await exchange("/v3/kv/deleterange", clear));
    const std::string request = etcd::begin_request(key, holding);
    BOOST_OUTCOME_CO_TRY(const std::string answer, co_await exchange("/v3/kv/txn", request));
    BOOST_OUTCOME_CO_TRY(const bool done, etcd::transaction_answer(answer));
    if (!done) co_return fail(ErrorCode::exists, "etcd: the key {} is there already", key);
    co_return ok();
  }

  Task<Result<std::string>> probe() override {
    const std::string request = etcd::read_request(config_.prefix);
    BOOST_OUTCOME_CO_TRY(const std::string answer, co_await exchange("/v3/kv/range", request));
    BOOST_OUTCOME_CO_TRY(const etcd::Read read, etcd::read_answer(answer));
    co_return fmt::format("etcd answers (revision {})", read.header_revision);
  }

 private:
  struct Pending {
    Claim claim;
    Answer answer = Answer::pending;
    bool wanted = true;
    std::string note;  ///< The last trouble.
  };

  Pending* find(const Claim& claim) {
    const auto found = std::ranges::find(pending_, claim, &Pending::claim);
    return found == pending_.end() ? nullptr : &*found;
  }

  // Tries until it is known, or until it is neither wanted nor possibly done.
  Task<void> pursue(Claim claim) {
    const auto alive = alive_;
    std::optional<std::chrono::steady_clock::time_point> swap_possible_until;
    for (;;) {
      Pending* pending = find(claim);
      if (pending == nullptr) co_return;
      const bool settled =
          !swap_possible_until || std::chrono::steady_clock::now() > *swap_possible_until;
      if (!pending->wanted && settled) {
        drop(claim);
        co_return;
      }
      bool swap_sent = false;
      auto judged = co_await attempt(claim, pending->wanted, swap_sent);
      if (!*alive) co_return;
      pending = find(claim);
      if (pending == nullptr) co_return;
      if (swap_sent) swap_possible_until = std::chrono::steady_clock::now() + 2 * lease_ttl_;
      if (judged && judged.value().judgement != etcd::Judgement::claim) {
        const bool granted = judged.value().judgement == etcd::Judgement::granted;
        conclude(claim, granted ? Answer::granted : Answer::refused, judged.value().reason);
        co_return;
      }
      if (!judged) {
        if (pending->note != judged.error().message())
          spdlog::warn("domain={} arbiter=etcd {}", claim.domain, judged.error().message());
        pending->note = judged.error().message();
      }
      asio::steady_timer timer(executor_, kRetry);
      co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
      if (!*alive) co_return;
    }
  }

  // One look, and one swap if it may be. Judgement `claim` at the end: look again.
  Task<Result<etcd::Judged>> attempt(const Claim& claim, bool wanted, bool& swap_sent) {
    const std::string key = etcd::key_of(config_.prefix, claim.domain, claim.protection);
    const std::string look = etcd::read_request(key);
    BOOST_OUTCOME_CO_TRY(const std::string looked, co_await exchange("/v3/kv/range", look));
    BOOST_OUTCOME_CO_TRY(const etcd::Read read, etcd::read_answer(looked));
    etcd::Judged judged = etcd::judge(read, self_, claim.generation, highest_seen_);
    highest_seen_ = std::max(highest_seen_, read.header_revision);
    if (judged.judgement != etcd::Judgement::claim || !wanted) co_return judged;

    const std::string lease_wish = etcd::lease_request(lease_ttl_);
    BOOST_OUTCOME_CO_TRY(const std::string leased,
                         co_await exchange("/v3/lease/grant", lease_wish));
    BOOST_OUTCOME_CO_TRY(const std::string lease, etcd::lease_answer(leased));
    const etcd::Holding holding{claim.generation, self_, true};
    const std::string swap = etcd::claim_request(key, read.revision, holding, lease);
    swap_sent = true;
    BOOST_OUTCOME_CO_TRY(const std::string swapped, co_await exchange("/v3/kv/txn", swap));
    BOOST_OUTCOME_CO_TRY(const bool done, etcd::transaction_answer(swapped));
    if (done) judged.judgement = etcd::Judgement::granted;
    co_return judged;
  }

  void conclude(const Claim& claim, Answer answer, std::string reason) {
    const auto found = std::ranges::find(pending_, claim, &Pending::claim);
    if (answer == Answer::granted) {
      found->answer = answer;
      found->note.clear();
    } else {
      found->note = std::move(reason);
      refusals_.splice(refusals_.end(), pending_, found);
      while (refusals_.size() > 16) refusals_.pop_front();
    }
    spdlog::info("domain={} arbiter=etcd generation={} {}", claim.domain, claim.generation,
                 answer == Answer::granted ? "granted" : "refused");
    if (answered_) answered_(claim, answer);
  }

  void drop(const Claim& claim) {
    std::erase_if(pending_, [&](const Pending& one) { return one.claim == claim; });
  }

  // One request to the first endpoint that answers. An answer that is not 200 counts as none.
  Task<Result<std::string>> exchange(std::string_view target, const std::string& body) {
    Error last = fail(ErrorCode::config, "etcd: no endpoint is configured");
    for (std::size_t turn = 0; turn < config_.endpoints.size(); ++turn) {
      const std::size_t index = (preferred_ + turn) % config_.endpoints.size();
      const std::string& endpoint = config_.endpoints[index];
      auto answer = co_await exchange_with(endpoint, target, body);
      if (answer) {
        preferred_ = index;
        co_return answer;
      }
      last = answer.error().in("etcd " + endpoint);
    }
    co_return last;
  }

  Task<Result<std::string>> exchange_with(const std::string& endpoint_text, std::string_view target,
                                          const std::string& body) {
    BOOST_OUTCOME_CO_TRY(const auto endpoint, transport::Endpoint::parse(endpoint_text));
    boost::system::error_code error;
    const auto address = asio::ip::make_address(endpoint.address, error);
    if (error) co_return fail(ErrorCode::config, "'{}' is no address", endpoint.address);

    asio::ssl::stream<beast::tcp_stream> stream(executor_, tls_);
    stream.set_verify_callback(asio::ssl::host_name_verification(endpoint.address), error);
    const auto failed = [&](std::string_view step) {
      return fail(ErrorCode::unavailable, "{}: {}", step, error.message());
    };
    beast::get_lowest_layer(stream).expires_after(
        std::chrono::duration_cast<std::chrono::milliseconds>(config_.timeout));
    const asio::ip::tcp::endpoint remote(address, endpoint.port);
    std::tie(error) = co_await beast::get_lowest_layer(stream).async_connect(
        remote, asio::as_tuple(asio::use_awaitable));
    if (error) co_return failed("connect");
    std::tie(error) = co_await stream.async_handshake(asio::ssl::stream_base::client,
                                                      asio::as_tuple(asio::use_awaitable));
    if (error) co_return failed("TLS");

    http::request<http::string_body> request(http::verb::post, std::string(target), 11);
    request.set(http::field::host, endpoint_text);
    request.set(http::field::content_type, "application/json");
    request.keep_alive(false);
    request.body() = body;
    request.prepare_payload();
    std::size_t count = 0;
    std::tie(error, count) =
        co_await http::async_write(stream, request, asio::as_tuple(asio::use_awaitable));
    if (error) co_return failed("send");
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(kAnswerBytesMax);
    std::tie(error, count) =
        co_await http::async_read(stream, buffer, parser, asio::as_tuple(asio::use_awaitable));
    if (error) co_return failed("answer");
    const auto& response = parser.get();
    if (response.result() != http::status::ok) {
      co_return fail(ErrorCode::unavailable, "HTTP {}: {}", response.result_int(),
                     response.body().substr(0, 200));
    }
    co_return response.body();
  }

  asio::any_io_executor executor_;
  ArbiterConfig config_;
  std::string self_;
  Answered answered_;
  asio::ssl::context tls_;
  std::chrono::seconds lease_ttl_;
  std::list<Pending> pending_;
  std::list<Pending> refusals_;
  std::size_t preferred_ = 0;
  std::uint64_t highest_seen_ = 0;
  std::shared_ptr<bool> alive_;  ///< False once we are gone; coroutines may end later.
};

}  // namespace

Result<std::unique_ptr<ArbiterService>> make_etcd_arbiter(asio::any_io_executor executor,
                                                          const ArbiterConfig& config,
                                                          const std::string& self,
                                                          ArbiterService::Answered answered) {
  asio::ssl::context tls(asio::ssl::context::tls_client);
  boost::system::error_code error;
  tls.set_options(asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1, error);
  tls.set_verify_mode(asio::ssl::verify_peer, error);
  tls.load_verify_file(config.ca_file.string(), error);
  if (error)
    return fail(ErrorCode::config, "arbiter ca_file {}: {}", config.ca_file.string(),
                error.message());
  if (!config.certificate_file.empty()) {
    tls.use_certificate_chain_file(config.certificate_file.string(), error);
    if (!error) tls.use_private_key_file(config.key_file.string(), asio::ssl::context::pem, error);
    if (error)
      return fail(ErrorCode::config, "arbiter certificate_file {} or key_file {}: {}",
                  config.certificate_file.string(), config.key_file.string(), error.message());
  }
  std::unique_ptr<ArbiterService> made = std::make_unique<EtcdArbiter>(
      std::move(executor), config, self, std::move(answered), std::move(tls));
  return made;
}

}  // namespace understudy
