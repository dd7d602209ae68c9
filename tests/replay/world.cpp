#include "tests/replay/world.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>

#include "replay/input_log.h"
#include "replay/release_rule.h"
#include "replay/replayer.h"
#include "replay/translator.h"
#include "tests/replay/tcp_model.h"

namespace understudy::replay::test {
namespace {

using Random = std::mt19937_64;

std::uint64_t draw(Random& random, std::uint64_t from, std::uint64_t to) {
  return from + random() % (to - from + 1);
}

Instant at(Milliseconds now) {
  return Instant{} + std::chrono::hours(1) + std::chrono::milliseconds(now);
}

constexpr std::uint16_t kEcho = 7;
constexpr std::uint16_t kRandomLines = 13;
constexpr std::uint16_t kLedger = 5000;
constexpr std::uint16_t kDownload = 9001;
constexpr std::uint16_t kUpload = 9002;
constexpr std::uint16_t kNumbers = 6000;  // UDP.

/// Octets [from, from + count) of the endless download of one client.
std::string download_octets(std::uint16_t client_port, std::uint64_t from, std::size_t count) {
  std::string octets(count, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t place = from + i;
    octets[i] = static_cast<char>('a' + (place * 7 + place / 13 + client_port) % 26);
  }
  return octets;
}
constexpr std::uint64_t kDownloadBytes = 12'000;

std::string upload_answer(std::string_view sent) {
  return fmt::format("{} octets {:016x}\n", sent.size(), XXH3_64bits(sent.data(), sent.size()));
}

// --- the guest ---

struct LedgerEntry {
  std::uint16_t client = 0;
  std::string request;
  std::int64_t balance = 0;
  bool operator==(const LedgerEntry&) const = default;
};

/// A domain with five services. A value.
class Guest {
 public:
  struct Peer {
    std::uint8_t client = 0;
    std::uint16_t port = 0;
    std::uint16_t service = 0;
    auto operator<=>(const Peer&) const = default;
  };

  /// What may differ between two executions of the same guest.
  void begin_execution(std::uint64_t seed, bool jumbled) {
    execution_.seed(seed);
    jumbled_ = jumbled;
  }

  void on_frame(Milliseconds now, const Frame& frame, std::vector<Frame>& out) {
    const Packet packet = parse(frame);
    const auto payload = payload_of(frame, packet);
    if (packet.kind == FrameKind::udp) return on_datagram(packet, payload, out);
    if (packet.kind == FrameKind::echo) {
      out.push_back(
          echo_frame(packet.destination, packet.source, false, packet.source_port, payload));
      return;
    }
    if (packet.kind != FrameKind::tcp) return;
    const Peer peer{packet.source.octets().back(), packet.source_port, packet.destination_port};
    auto found = connections_.find(peer);
    const bool opens = packet.tcp.has(kSyn) && !packet.tcp.has(kAck);
    if (found != connections_.end() && opens && found->second.tcp.ended() &&
        found->second.tcp.client_isn() != packet.tcp.sequence) {
      connections_.erase(found);
      found = connections_.end();
    }
    if (found == connections_.end()) {
      if (!opens) {
        if (packet.tcp.has(kRst)) return;
        TcpSegment reset{.source_mac = kGuestMac,
                         .destination_mac = kClientMac,
                         .source = packet.destination,
                         .destination = packet.source,
                         .source_port = packet.destination_port,
                         .destination_port = packet.source_port};
        reset.header.flags = kRst;
        reset.header.sequence = packet.tcp.acknowledgement;
        out.push_back(build_tcp(reset));
        return;
      }
      Service service;
      service.tcp = Connection::answer({kGuestMac, packet.destination, packet.destination_port},
                                       {kClientMac, packet.source, packet.source_port}, packet,
                                       static_cast<std::uint32_t>(execution_()),
                                       static_cast<std::uint32_t>(execution_()));
      found = connections_.emplace(peer, std::move(service)).first;
    }
    const bool was_idle = !found->second.queued;
    found->second.tcp.on_segment(now, packet, payload, out);
    acknowledged_unsent = std::max(acknowledged_unsent, found->second.tcp.acknowledged_unsent());
    if (was_idle && found->second.tcp.has_news() && !found->second.served_end) {
      found->second.queued = true;
      ready_.push_back(peer);
    }
  }

  void on_tick(Milliseconds now, std::vector<Frame>& out) {
    // First come, first served; or, jumbled, not always.
    for (std::size_t served = 0; served < 4 && !ready_.empty(); ++served) {
      if (jumbled_ && execution_() % 3 == 0) {
        ready_.push_back(ready_.front());
        ready_.pop_front();
      }
      const Peer peer = ready_.front();
      ready_.pop_front();
      const auto found = connections_.find(peer);
      if (found == connections_.end()) continue;
      found->second.queued = false;
      serve(peer, found->second);
      // What a service writes leaves at once, so answers leave in the order of service.
      found->second.tcp.on_tick(now, out);
    }
    for (auto next = connections_.begin(); next != connections_.end();) {
      Service& service = next->second;
      // A download fills its sending buffer as it empties.
      if (next->first.service == kDownload && service.tcp.state() == Connection::State::open) {
        feed_download(next->first, service);
      }
      service.tcp.on_tick(now, out);
      if (service.tcp.ended() && service.ended_at == 0) service.ended_at = now + 1;
      const bool gone = service.tcp.state() == Connection::State::reset ||
                        (service.ended_at != 0 && now > service.ended_at + 400);
      next = gone ? connections_.erase(next) : std::next(next);
    }
  }

  std::vector<LedgerEntry> ledger;
  std::map<std::string, std::uint64_t> numbers;
  std::uint32_t acknowledged_unsent = 0;

 private:
  struct Service {
    Connection tcp;
    std::string line;
    std::uint64_t chain = 0;
    std::uint64_t sent = 0;
    std::string uploaded;
    bool answered = false;
    bool queued = false;
    bool served_end = false;
    Milliseconds ended_at = 0;
  };

  void on_datagram(const Packet& packet, std::span<const std::uint8_t> payload,
                   std::vector<Frame>& out) {
    const std::string request(payload.begin(), payload.end());
    const auto [number, is_new] = numbers.try_emplace(request, numbers.size() + 1);
    out.push_back(udp_frame(packet.destination, packet.destination_port, packet.source,
                            packet.source_port,
                            octets(fmt::format("{} is {}", request, number->second))));
  }

  void feed_download(const Peer& peer, Service& service) const {
    while (service.sent < kDownloadBytes && service.tcp.unsent() < 4000) {
      const std::size_t count = std::min<std::uint64_t>(700, kDownloadBytes - service.sent);
      service.tcp.send(download_octets(peer.port, service.sent, count));
      service.sent += count;
    }
    if (service.sent == kDownloadBytes && !service.answered) {
      service.answered = true;
      service.tcp.end();
    }
  }

  void serve(const Peer& peer, Service& service) {
    const std::string arrived = service.tcp.read();
    switch (peer.service) {
      case kEcho:
        service.tcp.send(arrived);
        break;
      case kLedger:
      case kRandomLines:
        service.line += arrived;
        for (auto end = service.line.find('\n'); end != std::string::npos;
             end = service.line.find('\n')) {
          const std::string request = service.line.substr(0, end);
          service.line.erase(0, end + 1);
          service.tcp.send(peer.service == kLedger ? book(peer, request) : next_line(service));
        }
        break;
      case kUpload:
        service.uploaded += arrived;
        if (service.tcp.peer_ended() && !service.answered) {
          service.answered = true;
          service.tcp.send(upload_answer(service.uploaded));
        }
        break;
      default:
        break;
    }
    if (service.tcp.peer_ended()) {
      service.tcp.end();
      service.served_end = true;
    }
  }

  std::string book(const Peer& peer, const std::string& request) {
    const std::int64_t before = ledger.empty() ? 0 : ledger.back().balance;
    const auto amount = std::stoll("0" + request.substr(request.find(' ') + 1));
    ledger.push_back({static_cast<std::uint16_t>(peer.port), request, before + amount});
    return fmt::format("{} {} {}\n", ledger.size(), request, ledger.back().balance);
  }

  std::string next_line(Service& service) {
    const std::uint64_t random = execution_();
    service.chain = XXH3_64bits_withSeed(&random, sizeof(random), service.chain);
    return fmt::format("{:016x} {:016x}\n", random, service.chain);
  }

  std::map<Peer, Service> connections_;
  std::deque<Peer> ready_;
  Random execution_;
  bool jumbled_ = false;
};

// --- the clients ---

struct Client {
  std::uint8_t host = 2;
  std::uint16_t port = 0;
  std::uint16_t service = 0;
  Milliseconds starts_at = 0;
  Connection tcp;
  bool started = false;
  std::string sent;
  std::string received;
  std::size_t requests = 0;
  std::size_t requests_max = 5;
  Milliseconds thinks_until = 0;
  bool ended = false;
  bool was_reset = false;
  int rounds = 1;  ///< How many connections one after the other on the same ports.
  std::vector<std::string> earlier;

  [[nodiscard]] bool done() const {
    return was_reset || (started && tcp.ended() && ended && rounds == 1);
  }
};

/// Everything of one schedule.
class World {
 public:
  explicit World(const Options& options) : options_(options), random_(options.seed) {}

  Outcome run() {
    set_up();
    const std::uint64_t crash_at = options_.crash_at.value_or(draw(random_, 50, 4000));
    const bool twice = draw(random_, 0, 3) == 0;
    constexpr Milliseconds kTrouble = 2500;
    constexpr Milliseconds kEnd = 14'000;
    Milliseconds rested_for = 0;
    for (now_ = 1; now_ < kEnd && outcome_.violation.empty(); ++now_) {
      calm_ = now_ > kTrouble;
      if (alive_ && !crashed_once_ && steps_ >= crash_at) crash();
      if (twice && crashed_once_ && alive_ && protected_ && promotions_ == 1 &&
          draw(random_, 0, 200) == 0) {
        crash();
      }
      step();
      const bool at_rest = alive_ && (!replayer_ || !replayer_->replaying()) && tap_.empty();
      if (!(calm_ && everyone_done() && at_rest)) rested_for = 0;
      if (++rested_for > 30) break;  // The guest has served what it was given.
    }
    outcome_.steps = steps_;
    judge();
    outcome_.digest = XXH3_64bits(story_.data(), story_.size());
    return outcome_;
  }

 private:
  [[nodiscard]] IpAddress host(std::uint8_t last) const {
    return options_.six ? v6(last) : v4(last);
  }
  struct Message {
    Milliseconds due = 0;
    std::optional<LogBatch> batch;
    std::optional<EpochId> checkpoint;
    std::shared_ptr<Guest> image;
  };
  struct Answer {
    Milliseconds due = 0;
    std::optional<LogAcknowledged> log;
    std::optional<EpochId> committed;
    std::optional<Instant> heard;
  };
  struct InTap {
    Milliseconds due = 0;
    Frame frame;
    LogPosition position;
  };

  void trace(const std::string& line) {
    if (options_.trace) fmt::print("{:>6} {}\n", now_, line);
  }
  void trace_frame(const char* way, const Frame& frame, bool to_guest) {
    if (!options_.trace) return;
    const Packet packet = parse(frame);
    if (packet.kind != FrameKind::tcp) return;
    trace(fmt::format("{} {} seq {} +{} ack {} flags {:#x}", way,
                      to_guest ? packet.source_port : packet.destination_port, packet.tcp.sequence,
                      packet.payload_bytes, packet.tcp.acknowledgement, packet.tcp.flags));
  }
  void violate(const std::string& what) {
    if (outcome_.violation.empty()) outcome_.violation = fmt::format("at {} ms: {}", now_, what);
  }

  // --- set-up ---

  void set_up() {
    guest_.begin_execution(random_(), options_.jumbled);
    const auto count = draw(random_, 2, 7);
    for (std::uint64_t i = 0; i < count; ++i) {
      Client client;
      client.host = static_cast<std::uint8_t>(2 + i % 3);
      client.port = static_cast<std::uint16_t>(40'000 + i);
      const std::array services{kEcho, kLedger, kLedger, kDownload, kUpload};
      client.service = services[draw(random_, 0, services.size() - 1)];
      if (options_.random_service && i % 2 == 0) client.service = kRandomLines;
      client.starts_at = draw(random_, 1, 900);
      client.requests_max = draw(random_, 3, 25);
      if (client.service == kLedger && draw(random_, 0, 2) == 0) client.rounds = 3;
      clients_.push_back(std::move(client));
    }
    protect();
  }

  void protect() {
    ReleaseRule::Config config;
    config.protection = ProtectionId(100 + promotions_);
    config.generation = Generation(1 + promotions_);
    if (options_.small_log) {
      config.limits = {.bytes_max = 12'000, .records_max = 140};
      config.fall_back_for = std::chrono::milliseconds(200);
    }
    rule_ = std::make_unique<ReleaseRule>(config);
    backup_ = std::make_unique<BackupLog>(config.protection, config.generation, config.limits);
    image_.reset();
    committed_ = captured_ = EpochId();
    next_capture_ = now_ + draw(random_, 5, 60);
    interval_ = draw(random_, 30, 400);
    link_up_ = true;
    link_until_ = now_ + draw(random_, 100, 2000);
    capture_under_way_ = false;
    protected_ = true;
    act(rule_->on_link_up(at(now_), LogPosition()));
  }

  // --- one millisecond ---

  void step() {
    deliver_to_clients();
    for (Client& client : clients_) {
      tick_client(client);
    }
    tick_datagrams();
    if (alive_) {
      deliver_to_gate();
      deliver_answers();
      drain_tap();
      tick_guest();
      if (replayer_) {
        do_replay(replayer_->on_tick(at(now_)));
        if (!replayer_->replaying() && !protected_ && !replay_done_) {
          replay_done_ = true;
          if (promotions_ == 1) outcome_.replay_ms = now_ - promoted_at_;
          if (!replayer_->translator().empty()) ++outcome_.reached[kTranslated];
        }
        if (replay_done_ && !protected_ && tap_.empty() && promotions_ < 2) protect();
      }
      if (protected_) {
        act(rule_->on_tick(at(now_)));
        tick_link();
        capture_if_due();
      }
    } else {
      // A host that is dead hears nothing; the switch still sends it frames.
      while (!to_gate_.empty() && to_gate_.begin()->first <= now_) to_gate_.erase(to_gate_.begin());
      if (now_ >= promote_at_) promote();
    }
    if (protected_) deliver_messages();
  }

  // --- clients ---

  Endpoint client_end(const Client& client) const {
    return {kClientMac, host(client.host), client.port};
  }

  /// Ahead of all before (RFC 6528), and anywhere.
  std::uint32_t next_isn() {
    return static_cast<std::uint32_t>(options_.seed * 0x9E3779B9U + now_ * 16'000 +
                                      draw(random_, 0, 50'000));
  }

  void tick_client(Client& client) {
    if (client.was_reset || now_ < client.starts_at) return;
    std::vector<Frame> out;
    if (!client.started) {
      client.started = true;
      client.tcp = Connection(client_end(client), {kGuestMac, host(1), client.service}, next_isn(),
                              static_cast<std::uint32_t>(random_()));
    }
    client.tcp.on_tick(now_, out);
    if (client.tcp.state() == Connection::State::open) speak(client);
    client.tcp.on_tick(now_, out);
    hear(client);
    send_from_client(out);
    if (client.rounds > 1 && client.ended && client.tcp.ended() && !client.was_reset) {
      --client.rounds;
      client.earlier.push_back(client.received);
      client.received.clear();
      client.sent.clear();
      client.requests = 0;
      client.ended = client.started = false;
      client.starts_at = now_ + draw(random_, 0, 700);
      ++outcome_.reached[kPortsUsedAgain];
    }
  }

  void hear(Client& client) {
    const std::string arrived = client.tcp.read();
    if (!arrived.empty()) {
      client.received += arrived;
      story_ += fmt::format("{} {} {};", now_, client.port, arrived);
    }
    if (client.tcp.state() == Connection::State::reset) {
      client.was_reset = true;
      ++outcome_.resets;
      trace(fmt::format("client {} was reset", client.port));
    }
    if (client.tcp.acknowledged_unsent() > 0) {
      violate(fmt::format("client {} got an acknowledgement of what it never sent", client.port));
    }
  }

  void speak(Client& client) {
    if (now_ < client.thinks_until || client.ended) return;
    const auto say = [&client](const std::string& octets) {
      client.sent += octets;
      client.tcp.send(octets);
    };
    switch (client.service) {
      case kEcho:
        if (client.requests < client.requests_max) {
          ++client.requests;
          std::string octets(draw(random_, 1, 900), 0);
          for (char& octet : octets) octet = static_cast<char>('A' + draw(random_, 0, 25));
          say(octets);
        } else if (client.received.size() == client.sent.size()) {
          client.ended = true;
          client.tcp.end();
        }
        break;
      case kLedger:
      case kRandomLines: {
        const auto answers = std::ranges::count(client.received, '\n');
        if (static_cast<std::size_t>(answers) < client.requests) break;
        if (client.requests == client.requests_max) {
          client.ended = true;
          client.tcp.end();
          break;
        }
        ++client.requests;
        say(fmt::format("{}/{}/{} {}\n", client.port, client.rounds, client.requests,
                        draw(random_, 1, 99)));
        break;
      }
      case kUpload:
        if (client.sent.size() < 9000) {
          say(std::string(draw(random_, 100, 2500), static_cast<char>('a' + client.requests++)));
        } else {
          client.ended = true;
          client.tcp.end();
        }
        break;
      default:
        if (client.received.size() == kDownloadBytes) {
          client.ended = true;
          client.tcp.end();
        }
    }
    client.thinks_until = now_ + draw(random_, 0, 60);
  }

  void tick_datagrams() {
    if (now_ > 2000 || draw(random_, 0, 30) != 0) return;
    const std::string request = fmt::format("request {}", ++datagrams_);
    to_gate_.emplace(now_ + draw(random_, 1, 3),
                     udp_frame(host(9), 7777, host(1), kNumbers, octets(request)));
    if (draw(random_, 0, 3) == 0) {
      to_gate_.emplace(now_ + 1, echo_frame(host(9), host(1), true, 7, octets(request)));
    }
  }

  void send_from_client(std::vector<Frame>& out) {
    for (Frame& frame : out) onto_network(to_gate_, std::move(frame));
    out.clear();
  }

  /// Loses, repeats and delays differently, as the seed says.
  void onto_network(std::multimap<Milliseconds, Frame>& network, Frame frame) {
    const bool wild = !calm_ && !options_.lossless;
    if (wild && draw(random_, 0, 99) < 3) return;
    const Milliseconds due = now_ + (wild ? draw(random_, 1, 4) : 1);
    if (wild && draw(random_, 0, 99) < 2) network.emplace(now_ + draw(random_, 1, 12), frame);
    network.emplace(due, std::move(frame));
  }

  void deliver_to_clients() {
    std::vector<Frame> out;
    while (!to_clients_.empty() && to_clients_.begin()->first <= now_) {
      const Frame frame = std::move(to_clients_.begin()->second);
      to_clients_.erase(to_clients_.begin());
      const Packet packet = parse(frame);
      if (!transport_checksum_is_right(frame, packet)) violate("a wrong checksum left");
      if (packet.kind == FrameKind::udp) {
        hear_datagram(payload_of(frame, packet));
        continue;
      }
      for (Client& client : clients_) {
        if (!client.started || client.was_reset || packet.kind != FrameKind::tcp ||
            client.port != packet.destination_port) {
          continue;
        }
        client.tcp.on_segment(now_, packet, payload_of(frame, packet), out);
      }
    }
    send_from_client(out);
  }

  void hear_datagram(std::span<const std::uint8_t> payload) {
    const std::string reply(payload.begin(), payload.end());
    const auto is = reply.find(" is ");
    const auto [known, is_new] = replies_.try_emplace(reply.substr(0, is), reply.substr(is + 4));
    if (!is_new && known->second != reply.substr(is + 4)) {
      violate(fmt::format("contradicts a released datagram: '{}'", reply));
    }
  }

  // --- the host that runs the domain ---

  void deliver_to_gate() {
    while (!to_gate_.empty() && to_gate_.begin()->first <= now_) {
      Frame frame = std::move(to_gate_.begin()->second);
      to_gate_.erase(to_gate_.begin());
      ++steps_;
      trace_frame("gate gets", frame, true);
      if (protected_) {
        const auto verdict = rule_->on_input(at(now_), 0, frame, ChecksumState::complete);
        act(verdict.actions);
        if (!verdict.let_in) continue;
      }
      if (replayer_) {
        do_replay(replayer_->on_client_frame(at(now_), 0, std::move(frame), {}));
      } else {
        into_tap(std::move(frame));
      }
    }
  }

  void into_tap(Frame frame) {
    const Milliseconds due =
        std::max(tap_.empty() ? 0 : tap_.back().due, now_ + draw(random_, 0, 2));
    tap_.push_back(
        {due, std::move(frame), protected_ ? rule_->log().last_position() : LogPosition()});
  }

  void drain_tap() {
    std::vector<Frame> out;
    while (!tap_.empty() && tap_.front().due <= now_) {
      ++steps_;
      trace_frame("guest gets", tap_.front().frame, true);
      guest_.on_frame(guest_now(), tap_.front().frame, out);
      if (protected_) rule_->on_delivered(tap_.front().position);
      tap_.pop_front();
      hear_guest(out);
    }
    // Nothing is on its way: whatever was let in is inside.
    if (protected_ && tap_.empty()) rule_->on_delivered(rule_->log().last_position());
  }

  void tick_guest() {
    std::vector<Frame> out;
    guest_.on_tick(guest_now(), out);
    hear_guest(out);
  }

  /// The guest's clock stands still between its checkpoint and its promotion.
  [[nodiscard]] Milliseconds guest_now() const { return now_ - guest_clock_back_; }

  void hear_guest(std::vector<Frame>& out) {
    for (Frame& frame : out) {
      ++steps_;
      trace_frame("guest says", frame, false);
      if (replayer_) {
        do_replay(replayer_->on_guest_frame(at(now_), 0, std::move(frame), {}));
      } else {
        to_output_gate(std::move(frame));
      }
    }
    out.clear();
  }

  void to_output_gate(Frame frame) {
    if (!protected_) return onto_network(to_clients_, std::move(frame));
    const OutputId id{0, ++outputs_};
    held_[id.packet_id] = frame;
    act(rule_->on_output(at(now_), id, frame));
  }

  void act(const ReleaseRule::Actions& actions) {
    for (const auto& action : actions) {
      if (const auto* release = std::get_if<ReleaseRule::Release>(&action)) {
        const auto held = held_.find(release->output.packet_id);
        if (held == held_.end()) {
          violate("released twice");
          continue;
        }
        trace_frame("released", held->second, false);
        onto_network(to_clients_, std::move(held->second));
        held_.erase(held);
      } else if (std::holds_alternative<ReleaseRule::CheckpointEarly>(action)) {
        next_capture_ = now_;
      } else if (const auto* report = std::get_if<ReleaseRule::Report>(&action)) {
        trace(fmt::format("rule: {} at {}", to_string(report->event), report->position));
        if (report->event == ReleaseRule::Event::fell_back) ++outcome_.reached[kFellBack];
      }
    }
    if (!protected_ || !link_up_) return;
    while (auto batch = rule_->take_unsent(at(now_), 4000)) {
      ++steps_;
      if (options_.canary == Canary::release_before_acknowledged && !acting_on_canary_) {
        acting_on_canary_ = true;
        act(rule_->on_log_acknowledged(
            at(now_), {batch->protection, batch->generation, batch->records.back().position}));
        acting_on_canary_ = false;
      }
      send_message({0, std::move(batch), {}, {}});
    }
  }

  void send_message(Message message) {
    message.due =
        std::max(messages_.empty() ? 0 : messages_.back().due, now_ + draw(random_, 0, 3));
    messages_.push_back(std::move(message));
  }

  void capture_if_due() {
    if (!link_up_ || capture_under_way_ || now_ < next_capture_) return;
    ++steps_;
    next_capture_ = now_ + interval_;
    capture_under_way_ = true;
    captured_ = captured_.next();
    if (!tap_.empty()) ++outcome_.reached[kInFlightAtPause];
    if (options_.canary == Canary::count_in_flight_as_delivered) {
      rule_->on_delivered(rule_->log().last_position());
    }
    auto translations = replayer_ ? replayer_->translator().encode() : std::vector<std::byte>{};
    const auto paused = rule_->on_paused(at(now_), captured_, std::move(translations));
    if (!paused) return violate("no room for a mark");
    act(paused.value());
    send_message({0, {}, captured_, std::make_shared<Guest>(guest_)});
    image_clock_[captured_.value] = guest_now();
    capture_at_[captured_.value] = now_;
  }

  // --- the link and the backup ---

  void tick_link() {
    if (!options_.link_faults || calm_) {
      if (!link_up_) link_returns();
      return;
    }
    if (now_ < link_until_) return;
    if (link_up_) {
      link_up_ = false;
      link_until_ = now_ + draw(random_, 5, 80);
      // What is on its way arrives up to some point, or not.
      messages_.resize(draw(random_, 0, messages_.size()));
      while (!messages_.empty()) deliver_message();
      answers_.clear();
      rule_->on_link_down();
      capture_under_way_ = false;
      ++outcome_.reached[kLinkLost];
      trace("link lost");
    } else {
      link_returns();
    }
  }

  void link_returns() {
    link_up_ = true;
    link_until_ = now_ + draw(random_, 100, 2000);
    // What the hello says of the image counts as its acknowledgement.
    if (committed_.value > 0) act(rule_->on_epoch_released(at(now_), committed_));
    act(rule_->on_link_up(at(now_), backup_->last_position()));
    act(rule_->on_peer_heard(at(now_), at(now_)));
    next_capture_ = now_;
  }

  void deliver_messages() {
    while (!messages_.empty() && messages_.front().due <= now_) deliver_message();
  }

  void deliver_message() {
    Message message = std::move(messages_.front());
    messages_.pop_front();
    ++steps_;
    Answer answer;
    answer.due = now_ + draw(random_, 0, 2);
    answer.heard = at(now_);
    if (message.batch) {
      const auto octets = encode(*message.batch);
      auto decoded = decode_log_batch(octets);
      if (!decoded) return violate(decoded.error().message());
      auto acknowledged = backup_->on_batch(std::move(decoded).value());
      if (!acknowledged) return violate(acknowledged.error().message());
      answer.log = acknowledged.value();
    }
    if (message.checkpoint) {
      if (!backup_->on_committed(*message.checkpoint)) return violate("a commit without its mark");
      image_ = message.image;
      committed_ = *message.checkpoint;
      answer.committed = committed_;
    }
    if (!answers_.empty()) answer.due = std::max(answer.due, answers_.back().due);
    answers_.push_back(answer);
  }

  void deliver_answers() {
    while (protected_ && !answers_.empty() && answers_.front().due <= now_) {
      const Answer answer = answers_.front();
      answers_.pop_front();
      ++steps_;
      if (answer.heard) act(rule_->on_peer_heard(at(now_), *answer.heard));
      if (answer.log) act(rule_->on_log_acknowledged(at(now_), *answer.log));
      if (answer.committed) {
        capture_under_way_ = false;
        act(rule_->on_epoch_released(at(now_), *answer.committed));
      }
    }
  }

  // --- the crash and the promotion ---

  void crash() {
    if (!image_) return;  // Not protected yet: there is nothing to show.
    trace("crash");
    crashed_once_ = true;
    alive_ = false;
    held_.clear();
    tap_.clear();
    answers_.clear();
    replayer_.reset();
    messages_.resize(draw(random_, 0, messages_.size()));
    promote_at_ = now_ + draw(random_, 30, 200);
  }

  void promote() {
    while (!messages_.empty()) deliver_message();
    answers_.clear();
    backup_->on_promote_decided();
    auto replayable = backup_->take();
    if (options_.canary == Canary::cut_one_too_many) {
      const auto first = std::ranges::find_if(replayable.records, [](const LogRecord& record) {
        return std::holds_alternative<InputRecord>(record.content);
      });
      if (first != replayable.records.end()) replayable.records.erase(first);
    }
    auto translator = Translator::decode(replayable.translations);
    if (!translator) return violate(translator.error().message());
    guest_ = *image_;
    guest_.begin_execution(random_(), options_.jumbled);
    guest_clock_back_ = now_ - image_clock_.at(committed_.value);
    trace(fmt::format("promote epoch {} with {} records", committed_, replayable.records.size()));
    if (promotions_ == 0) outcome_.log_ms = promote_at_ - capture_at_.at(committed_.value);
    Replayer::Config config;
    config.order_wait = std::chrono::milliseconds(150);
    config.order_wait_total = std::chrono::milliseconds(600);
    config.flow_wait = std::chrono::milliseconds(1500);
    config.feed_again_after = std::chrono::milliseconds(80);
    config.frames_per_ms = 20;
    if (options_.canary == Canary::no_comparison) config.on_divergence = OnDivergence::tolerate;
    replayer_ = std::make_unique<Replayer>(config, at(now_), std::move(replayable.records),
                                           std::move(translator).value());
    ++promotions_;
    ++outcome_.reached[promotions_ == 1 ? kPromoted : kPromotedTwice];
    alive_ = true;
    protected_ = false;
    replay_done_ = false;
    promoted_at_ = now_;
  }

  void do_replay(Replayer::Actions actions) {
    for (auto& action : actions) {
      if (auto* to_guest = std::get_if<Replayer::ToGuest>(&action)) {
        const Packet packet = parse(to_guest->frame);
        if (packet.in_a_flow() && !transport_checksum_is_right(to_guest->frame, packet)) {
          violate("a wrong checksum went to the guest");
        }
        if (options_.leaky_tap && packet.kind == FrameKind::tcp && replayer_->replaying() &&
            draw(random_, 0, 99) < 2) {
          continue;
        }
        into_tap(std::move(to_guest->frame));
      } else if (auto* to_network = std::get_if<Replayer::ToNetwork>(&action)) {
        to_output_gate(std::move(to_network->frame));
      } else if (const auto* report = std::get_if<Replayer::Report>(&action)) {
        trace(fmt::format("replayer: {} {} position {} offset {}", to_string(report->event),
                          report->flow, report->position, report->offset));
        if (report->event == Replayer::Event::not_waited_for) ++outcome_.reached[kNotWaitedFor];
        if (report->event != Replayer::Event::not_waited_for &&
            report->event != Replayer::Event::order_complete &&
            report->event != Replayer::Event::order_given_up &&
            report->event != Replayer::Event::datagram_differs) {
          ++outcome_.reached[kResetByDivergence];
          if (options_.must_not_diverge) violate("a guest that repeats itself has diverged");
        }
      }
    }
  }

  // --- the judge ---

  bool everyone_done() const {
    return std::ranges::all_of(clients_, [](const Client& client) { return client.done(); });
  }

  void judge() {
    if (!outcome_.violation.empty() || (promotions_ == 0 && crashed_once_)) return;
    for (const Client& client : clients_) {
      if (!client.done()) {
        violate(fmt::format("client {} of service {} hangs: {} octets received, {} sent, {} unsent",
                            client.port, client.service, client.received.size(), client.sent.size(),
                            client.tcp.unsent()));
        return;
      }
      judge_stream(client, client.received, !client.was_reset);
      for (const std::string& earlier : client.earlier) judge_stream(client, earlier, true);
    }
    for (const auto& [request, number] : replies_) {
      const auto known = guest_.numbers.find(request);
      if (known == guest_.numbers.end() || fmt::format("{}", known->second) != number) {
        violate(fmt::format("the guest has forgotten the answer to '{}'", request));
      }
    }
    if (outcome_.resets == 0 && promotions_ > 0) ++outcome_.reached[kAllClientsContent];
  }

  void judge_stream(const Client& client, const std::string& received, bool whole) {
    std::string expected;
    switch (client.service) {
      case kEcho:
        expected = client.sent;
        break;
      case kDownload:
        expected = download_octets(client.port, 0, kDownloadBytes);
        break;
      case kUpload:
        expected = upload_answer(client.sent);
        break;
      case kLedger:
        return judge_ledger(client, received);
      default:
        return judge_chain(client, received);
    }
    if (!expected.starts_with(received) || (whole && received != expected)) {
      violate(
          fmt::format("client {} of service {} got another stream", client.port, client.service));
    }
  }

  void judge_ledger(const Client& client, const std::string& received) {
    std::istringstream lines(received);
    for (std::string line; std::getline(lines, line) && !lines.eof();) {
      std::istringstream words(line);
      std::uint64_t entry = 0;
      std::string name;
      std::string amount;
      std::int64_t balance = 0;
      words >> entry >> name >> amount >> balance;
      const std::string request = name + " " + amount;
      const bool there = std::ranges::any_of(guest_.ledger, [&](const LedgerEntry& booked) {
        return booked.client == client.port && booked.request == request;
      });
      if (!there) {
        violate(fmt::format("client {}: '{}' was acknowledged and is lost", client.port, request));
        return;
      }
      // Whoever was reset knows that numbers and balances may be those of another order; whoever
      // had closed already cannot be told.
      if (client.was_reset || options_.jumbled || options_.leaky_tap) continue;
      const LedgerEntry told{client.port, request, balance};
      if (entry == 0 || entry > guest_.ledger.size() || !(guest_.ledger[entry - 1] == told)) {
        violate(fmt::format("client {} was told '{}', which the guest has forgotten", client.port,
                            line));
        return;
      }
    }
  }

  void judge_chain(const Client& client, const std::string& received) {
    std::istringstream lines(received);
    std::uint64_t chain = 0;
    for (std::string line; std::getline(lines, line) && !lines.eof();) {
      const std::uint64_t random = std::stoull(line.substr(0, 16), nullptr, 16);
      chain = XXH3_64bits_withSeed(&random, sizeof(random), chain);
      if (line.size() != 33 || std::stoull(line.substr(17), nullptr, 16) != chain) {
        violate(fmt::format("client {} got a splice of two executions", client.port));
        return;
      }
    }
  }

  Options options_;
  Random random_;
  Outcome outcome_;
  Milliseconds now_ = 0;
  bool calm_ = false;
  std::uint64_t steps_ = 0;
  std::string story_;

  std::vector<Client> clients_;
  std::uint64_t datagrams_ = 0;
  std::map<std::string, std::string> replies_;
  std::multimap<Milliseconds, Frame> to_gate_;
  std::multimap<Milliseconds, Frame> to_clients_;

  Guest guest_;
  Milliseconds guest_clock_back_ = 0;
  bool alive_ = true;
  bool crashed_once_ = false;
  bool protected_ = false;
  bool replay_done_ = false;
  bool acting_on_canary_ = false;
  std::uint64_t promotions_ = 0;
  Milliseconds promote_at_ = 0;
  Milliseconds promoted_at_ = 0;
  std::unique_ptr<Replayer> replayer_;
  std::unique_ptr<ReleaseRule> rule_;
  std::deque<InTap> tap_;
  std::map<std::uint32_t, Frame> held_;
  std::uint32_t outputs_ = 0;

  bool link_up_ = false;
  Milliseconds link_until_ = 0;
  std::deque<Message> messages_;
  std::deque<Answer> answers_;
  std::unique_ptr<BackupLog> backup_;
  std::shared_ptr<Guest> image_;
  EpochId captured_;
  EpochId committed_;
  bool capture_under_way_ = false;
  Milliseconds next_capture_ = 0;
  Milliseconds interval_ = 100;
  std::map<std::uint64_t, Milliseconds> image_clock_;
  std::map<std::uint64_t, Milliseconds> capture_at_;
};

}  // namespace

const char* name_of(Reached reached) {
  switch (reached) {
    case kPromoted:
      return "a promotion";
    case kPromotedTwice:
      return "a second promotion";
    case kResetByDivergence:
      return "a divergence";
    case kTranslated:
      return "connections that are translated";
    case kNotWaitedFor:
      return "a flow that is not waited for";
    case kFellBack:
      return "a log that was too long";
    case kLinkLost:
      return "a lost link";
    case kInFlightAtPause:
      return "frames in flight at a pause";
    case kPortsUsedAgain:
      return "ports used again";
    case kAllClientsContent:
      return "a promotion that no client noticed";
    case kReached:
      break;
  }
  return "";
}

Outcome run(const Options& options) {
  return World(options).run();
}

}  // namespace understudy::replay::test
