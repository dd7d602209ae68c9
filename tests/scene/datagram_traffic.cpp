#include "tests/scene/datagram_traffic.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <future>

#include "tests/guest/names.h"
#include "tests/guest/pattern.h"
#include "tests/scene/network_namespace.h"

namespace understudy::scene {
namespace {

/// A reply of the register, read.
struct Name {
  std::uint32_t client = 0;
  std::uint64_t sequence = 0;
  std::uint64_t nonce = 0;
  std::uint64_t serial = 0;
};

std::optional<Name> parse_name(const std::string& reply) {
  const std::size_t cut = reply.rfind(' ');
  Name name;
  if (cut == std::string::npos ||
      reply.substr(cut + 1) != fmt::format("{:016x}", guest::line_check(reply.substr(0, cut))) ||
      std::sscanf(reply.c_str(), "N %" SCNu32 " %" SCNu64 " %" SCNu64 " %" SCNu64, &name.client,
                  &name.sequence, &name.nonce, &name.serial) != 4) {
    return std::nullopt;
  }
  return name;
}

std::uint64_t nonce_of(std::uint32_t client, std::uint64_t sequence) {
  return guest::mix(std::uint64_t{client} << 32U ^ sequence);
}

}  // namespace

NamesTraffic::NamesTraffic(ClientOptions options, std::uint32_t first_client,
                           std::chrono::milliseconds retry)
    : Traffic("names", 9053, std::move(options)), first_client_(first_client), retry_(retry) {
  clients_.resize(this->options().connections);
}

std::string NamesTraffic::request(unsigned index, std::uint64_t sequence) const {
  const std::uint32_t client = first_client_ + index;
  return fmt::format("N {} {} {}", client, sequence, nonce_of(client, sequence));
}

bool NamesTraffic::take(unsigned index, const std::string& reply, std::uint64_t sequence,
                        Client& client) const {
  const auto name = parse_name(reply);
  if (!name || name->client != first_client_ + index || name->sequence == 0 ||
      name->sequence > sequence || name->nonce != nonce_of(name->client, name->sequence)) {
    client.contradictions.push_back(
        fmt::format("'{}' was asked, '{}' came", request(index, sequence), reply));
    return false;
  }
  if (name->sequence <= client.replies.size()) {
    const std::string& first = client.replies[name->sequence - 1];
    ++client.repeated;
    if (first != reply) {
      client.contradictions.push_back(fmt::format("first '{}', then '{}'", first, reply));
    }
    return false;
  }
  client.replies.push_back(reply);
  return true;
}

void NamesTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto made = UdpSocket::connect(options().address, options().port);
  if (!made) {
    witness.broke(made.error().message());
    return;
  }
  Client& client = clients_[index];
  std::string reply;
  while (!stop.stop_requested()) {
    const std::uint64_t sequence = client.replies.size() + 1;
    const auto begun = Clock::now();
    auto next_sending = begun;
    while (client.replies.size() < sequence) {
      const auto now = Clock::now();
      if (now - begun > options().patience) {
        witness.broke(fmt::format("'{}' is lost", request(index, sequence)));
        return;
      }
      if (now >= next_sending) {
        client.sent_again += static_cast<std::uint64_t>(next_sending != begun);
        next_sending = now + retry_;
        made.value().send(request(index, sequence));
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next_sending - now);
      const auto outcome = made.value().receive(reply, left, abandoned());
      if (outcome == TcpSocket::Outcome::stopped) {
        return;
      }
      if (outcome == TcpSocket::Outcome::done) {
        const std::size_t contradictions = client.contradictions.size();
        if (take(index, reply, sequence, client)) {
          witness.verified(reply.size());
          witness.operation(begun);
        } else if (client.contradictions.size() > contradictions) {
          witness.wrong(reply.size());
        }
      }
    }
  }
}

Result<DatagramReport> NamesTraffic::audit() const {
  // On a thread of its own, because entering the namespace is for good.
  auto work = std::async(std::launch::async, [this]() -> Result<DatagramReport> {
    if (!options().network_namespace.empty()) {
      BOOST_OUTCOME_TRY(enter_network_namespace(options().network_namespace));
    }
    BOOST_OUTCOME_TRY(const auto socket, UdpSocket::connect(options().address, options().port));
    DatagramReport report;
    std::map<std::uint64_t, std::string> serials;
    for (unsigned index = 0; index < clients_.size(); ++index) {
      Client client = clients_[index];
      const std::uint64_t count = client.replies.size();
      report.requests += count;
      report.sent_again += client.sent_again;
      report.repeated += client.repeated;
      for (const std::string& reply : client.replies) {
        const auto [other, fresh] = serials.try_emplace(parse_name(reply)->serial, reply);
        if (!fresh) {
          client.contradictions.push_back(
              fmt::format("one serial for '{}' and '{}'", other->second, reply));
        }
      }
      // A request that was sent, but not answered before the end, may have displaced one more.
      const std::uint64_t remembered = guest::names_remembered - 1;
      for (std::uint64_t sequence = count > remembered ? count - remembered + 1 : 1;
           sequence <= count; ++sequence) {
        const auto end = Clock::now() + options().patience;
        for (bool answered = false; !answered;) {
          if (Clock::now() > end) {
            return fail(ErrorCode::timed_out, "the register of names does not answer");
          }
          socket.send(request(index, sequence));
          std::string reply;
          while (!answered && socket.receive(reply, retry_, {}) == TcpSocket::Outcome::done) {
            const auto name = parse_name(reply);
            if (name && (name->client != first_client_ + index || name->sequence != sequence)) {
              continue;  // a late one of an earlier question
            }
            answered = true;
            if (reply != client.replies[sequence - 1]) {
              client.contradictions.push_back(
                  fmt::format("first '{}', in the end '{}'", client.replies[sequence - 1], reply));
            }
          }
        }
      }
      report.contradictions += client.contradictions.size();
      if (report.first_contradiction.empty() && !client.contradictions.empty()) {
        report.first_contradiction = client.contradictions.front();
      }
    }
    return report;
  });
  return work.get();
}

DatagramEchoTraffic::DatagramEchoTraffic(ClientOptions options, std::size_t datagram_bytes,
                                         std::chrono::milliseconds retry)
    : Traffic("udp echo", 7, std::move(options)),
      datagram_bytes_(std::max<std::size_t>(datagram_bytes, 8)),
      retry_(retry) {}

void DatagramEchoTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  auto made = UdpSocket::connect(options().address, options().port);
  if (!made) {
    witness.broke(made.error().message());
    return;
  }
  const std::uint64_t seed =
      guest::mix(static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) ^ index);
  std::string sent(datagram_bytes_, '\0');
  std::string reply;
  for (std::uint64_t position = 0; !stop.stop_requested(); position += sent.size()) {
    guest::fill_pattern(seed, position, sent);
    const auto begun = Clock::now();
    auto next_sending = begun;
    for (bool answered = false; !answered;) {
      const auto now = Clock::now();
      if (now - begun > options().patience) {
        witness.broke(fmt::format("the datagram at {} does not come back", position));
        return;
      }
      if (now >= next_sending) {
        next_sending = now + retry_;
        made.value().send(sent);
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next_sending - now);
      const auto outcome = made.value().receive(reply, left, abandoned());
      if (outcome == TcpSocket::Outcome::stopped) {
        return;
      }
      if (outcome != TcpSocket::Outcome::done) {
        continue;
      }
      if (reply == sent) {
        answered = true;
        witness.verified(reply.size());
        witness.operation(begun);
        continue;
      }
      // An earlier one that comes twice is allowed; anything else was never sent.
      bool earlier = false;
      for (std::uint64_t back = sent.size();
           reply.size() == sent.size() && !earlier && back <= position; back += sent.size()) {
        earlier = guest::count_wrong(seed, position - back, reply) == 0;
      }
      if (!earlier) {
        witness.wrong(reply.size());
      }
    }
  }
}

}  // namespace understudy::scene
