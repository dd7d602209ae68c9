// A small and honest TCP, for guests and clients of the simulation.
//
// It does what the replayer has to cope with: retransmission with back-off, fast retransmission, a
// congestion window, flow control with window scaling, SACK, timestamps with the PAWS check, FIN in
// both directions, resets as RFC 5961 wants them, challenges, and it drops whatever acknowledges
// what was never sent (RFC 9293, section 3.10.7.4). It acknowledges at once, has no Nagle, no
// persist timer beyond its retransmission timer, and no urgent data.
//
// A value: to copy it is to take a checkpoint of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "replay/flow_table.h"
#include "replay/packet.h"
#include "tests/replay/frames.h"

namespace understudy::replay::test {

/// Milliseconds on the clock of whoever owns the connection.
using Milliseconds = std::uint64_t;

struct Endpoint {
  MacAddress mac;
  IpAddress address;
  std::uint16_t port = 0;
};

class Connection {
 public:
  enum class State { opening, answering, open, reset };
  static constexpr std::size_t kSegmentBytes = 200;
  static constexpr std::size_t kBufferBytes = 3000;
  static constexpr std::uint8_t kScale = 2;

  Connection() = default;
  /// Opens actively: the first tick sends the SYN.
  Connection(Endpoint local, Endpoint remote, std::uint32_t isn, std::uint32_t clock_offset)
      : local_(local), remote_(remote), base_(isn + 1), clock_offset_(clock_offset) {}
  /// Answers a SYN.
  static Connection answer(Endpoint local, Endpoint remote, const Packet& syn, std::uint32_t isn,
                           std::uint32_t clock_offset) {
    Connection connection(local, remote, isn, clock_offset);
    connection.state_ = State::answering;
    connection.peer_base_ = syn.tcp.sequence + 1;
    if (syn.tcp.timestamps) connection.recent_ = syn.tcp.timestamps->value;
    connection.peer_window_ = syn.tcp.window;
    return connection;
  }

  // --- the application's side ---

  void send(std::string_view octets) { unsent_and_unacknowledged_ += octets; }
  void end() { ending_ = true; }
  /// What has arrived in order since the last call.
  std::string read() { return std::exchange(readable_, {}); }
  [[nodiscard]] bool has_news() const { return !readable_.empty() || peer_ended(); }
  [[nodiscard]] bool peer_ended() const { return peer_ended_ && !answering(); }
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool ended() const {
    return state_ == State::reset || (ending_ && acknowledged_ == stream_end() + 1 && peer_ended_);
  }
  [[nodiscard]] std::size_t unsent() const { return unsent_and_unacknowledged_.size(); }
  [[nodiscard]] std::uint32_t client_isn() const { return peer_base_ - 1; }
  void abort(Milliseconds now, std::vector<Frame>& out) {
    emit(now, sent_, {}, kRst | kAck, out);
    state_ = State::reset;
  }

  // --- the network's side ---

  void on_tick(Milliseconds now, std::vector<Frame>& out) {
    if (state_ == State::reset) return;
    if (state_ == State::opening || state_ == State::answering) {
      if (syn_sent_ && now < retransmit_at_) return;
      syn_sent_ = true;
      arm(now);
      emit_syn(now, out);
      return;
    }
    if (acknowledged_ < sent_ && now >= retransmit_at_) {
      ++backoff_;
      congestion_window_ = kSegmentBytes;
      sacked_.clear();
      recover_to_ = sent_;
      emit_data(now, acknowledged_, out);
      retransmit_at_ = now + (kTimeout << std::min(backoff_, 4U));
    }
    transmit(now, out);
  }

  void on_segment(Milliseconds now, const Packet& packet, std::span<const std::uint8_t> payload,
                  std::vector<Frame>& out) {
    const TcpHeader& tcp = packet.tcp;
    if (state_ == State::reset) return;
    if (state_ == State::opening) return on_answer(now, packet, out);
    const std::int64_t place = offset_of(tcp.sequence, peer_base_, received_);
    if (tcp.has(kRst)) {
      if (place == static_cast<std::int64_t>(received_)) {
        state_ = State::reset;
      } else if (place > static_cast<std::int64_t>(received_) &&
                 place < static_cast<std::int64_t>(received_ + kBufferBytes)) {
        emit(now, sent_, {}, kAck, out);
      }
      return;
    }
    if (tcp.has(kSyn)) {
      if (state_ == State::answering) return emit_syn(now, out);
      return emit(now, sent_, {}, kAck, out);
    }
    if (tcp.timestamps && before(tcp.timestamps->value, recent_)) {
      ++refused_as_old_;
      return emit(now, sent_, {}, kAck, out);
    }
    if (!tcp.has(kAck)) return;
    const std::int64_t acknowledged = offset_of(tcp.acknowledgement, base_, sent_);
    if (acknowledged > static_cast<std::int64_t>(sent_)) {
      ++acknowledged_unsent_;
      return emit(now, sent_, {}, kAck, out);
    }
    for (std::size_t i = 0; i < tcp.sack_count; ++i) {
      const std::int64_t left = offset_of(tcp.sack[i].left, base_, sent_);
      const std::int64_t right = offset_of(tcp.sack[i].right, base_, sent_);
      if (right > static_cast<std::int64_t>(sent_)) ++acknowledged_unsent_;
      if (left > acknowledged && right <= static_cast<std::int64_t>(sent_) && left < right) {
        sacked_[static_cast<std::uint64_t>(left)] = static_cast<std::uint64_t>(right);
      }
    }
    if (state_ == State::answering) {
      if (acknowledged < 0) return;
      state_ = State::open;
    }
    if (tcp.timestamps && place <= static_cast<std::int64_t>(received_)) {
      recent_ = tcp.timestamps->value;
    }
    const std::uint32_t window = static_cast<std::uint32_t>(tcp.window) << kScale;
    if (acknowledged > static_cast<std::int64_t>(acknowledged_)) {
      const auto to = static_cast<std::uint64_t>(acknowledged);
      const std::uint64_t octets =
          std::min(to, stream_end()) - std::min(acknowledged_, stream_end());
      unsent_and_unacknowledged_.erase(0, octets);
      stream_start_ += octets;
      acknowledged_ = to;
      duplicates_ = 0;
      backoff_ = 0;
      congestion_window_ += kSegmentBytes;
      arm(now);
      if (acknowledged_ < recover_to_ && acknowledged_ < sent_) emit_data(now, acknowledged_, out);
    } else if (acknowledged == static_cast<std::int64_t>(acknowledged_) && payload.empty() &&
               acknowledged_ < sent_ && window == peer_window_ && ++duplicates_ == 3) {
      congestion_window_ = std::max<std::uint64_t>(congestion_window_ / 2, 2 * kSegmentBytes);
      recover_to_ = sent_;
      emit_data(now, acknowledged_, out);
    }
    peer_window_ = window;
    take_in(now, place, payload, tcp.has(kFin), out);
    transmit(now, out);
  }

  [[nodiscard]] std::uint32_t acknowledged_unsent() const { return acknowledged_unsent_; }

 private:
  static constexpr Milliseconds kTimeout = 60;

  [[nodiscard]] bool answering() const { return state_ == State::answering; }
  [[nodiscard]] std::uint64_t stream_end() const {
    return stream_start_ + unsent_and_unacknowledged_.size();
  }
  void arm(Milliseconds now) { retransmit_at_ = now + kTimeout; }

  void on_answer(Milliseconds now, const Packet& packet, std::vector<Frame>& out) {
    const TcpHeader& tcp = packet.tcp;
    if (!tcp.has(kAck)) return;
    if (tcp.acknowledgement != base_) {
      // An older connection on these ports: whoever still has it is told (RFC 9293, 3.10.7.3).
      if (tcp.has(kRst)) return;
      TcpSegment segment = between();
      segment.header.flags = kRst;
      segment.header.sequence = tcp.acknowledgement;
      out.push_back(build_tcp(segment));
      return;
    }
    if (tcp.has(kRst)) {
      state_ = State::reset;
      return;
    }
    if (!tcp.has(kSyn)) return;
    peer_base_ = tcp.sequence + 1;
    if (tcp.timestamps) recent_ = tcp.timestamps->value;
    peer_window_ = tcp.window;
    state_ = State::open;
    emit(now, sent_, {}, kAck, out);
    transmit(now, out);
  }

  void take_in(Milliseconds now, std::int64_t place, std::span<const std::uint8_t> payload,
               bool fin, std::vector<Frame>& out) {
    if (payload.empty() && !fin) return;
    const std::int64_t end = place + static_cast<std::int64_t>(payload.size());
    const auto edge = static_cast<std::int64_t>(received_ + window());
    const auto from = std::max(place, static_cast<std::int64_t>(received_));
    const auto to = std::min(end, edge);
    if (from < to) {
      auto& piece = pieces_[static_cast<std::uint64_t>(from)];
      const std::string_view octets(reinterpret_cast<const char*>(payload.data()) + (from - place),
                                    static_cast<std::size_t>(to - from));
      if (octets.size() > piece.size()) piece = octets;
    }
    if (fin && end <= edge) peer_end_ = static_cast<std::uint64_t>(end);
    while (!pieces_.empty() && pieces_.begin()->first <= received_) {
      const auto [start, piece] = *pieces_.begin();
      pieces_.erase(pieces_.begin());
      if (start + piece.size() <= received_) continue;
      readable_ += piece.substr(received_ - start);
      received_ = start + piece.size();
    }
    if (peer_end_ && received_ == *peer_end_ && !peer_ended_) {
      peer_ended_ = true;
      ++received_;
    }
    emit(now, sent_, {}, kAck, out);
  }

  [[nodiscard]] std::uint64_t window() const {
    std::uint64_t used = readable_.size();
    return used >= kBufferBytes ? 0 : (kBufferBytes - used) >> kScale << kScale;
  }

  void transmit(Milliseconds now, std::vector<Frame>& out) {
    if (state_ != State::open) return;
    while (true) {
      const std::uint64_t in_flight = sent_ - acknowledged_;
      const std::uint64_t allowed = std::min<std::uint64_t>(congestion_window_, peer_window_);
      const bool end_due = ending_ && sent_ == stream_end();
      if (sent_ > stream_end() || (sent_ == stream_end() && !end_due)) return;
      // One octet into a closed window: what a persist timer would try.
      if (in_flight >= allowed && !(in_flight == 0 && sent_ < stream_end())) return;
      if (in_flight == 0) arm(now);
      const std::uint64_t next = sent_;
      std::uint64_t octets = std::min<std::uint64_t>(
          {kSegmentBytes, stream_end() - next,
           std::max<std::uint64_t>(allowed - std::min(allowed, in_flight), 1)});
      if (end_due) octets = 0;
      sent_ = next + octets;
      const bool fin = ending_ && sent_ == stream_end();
      if (fin) ++sent_;
      emit_data(now, next, out);
    }
  }

  /// What was sent from `offset` on, one segment of it.
  void emit_data(Milliseconds now, std::uint64_t offset, std::vector<Frame>& out) {
    const std::uint64_t end = std::min(sent_, stream_end());
    std::uint64_t octets = offset < end ? std::min<std::uint64_t>(kSegmentBytes, end - offset) : 0;
    const auto sacked = sacked_.upper_bound(offset);
    if (sacked != sacked_.end()) octets = std::min(octets, sacked->first - offset);
    const bool fin = sent_ == stream_end() + 1 && offset + octets == stream_end() && ending_;
    const auto from = static_cast<std::size_t>(std::min(offset, stream_end()) - stream_start_);
    emit(now, offset, std::string_view(unsent_and_unacknowledged_).substr(from, octets),
         static_cast<std::uint8_t>(kAck | (fin ? kFin : 0) | (octets > 0 ? kPsh : 0)), out);
  }

  void emit(Milliseconds now, std::uint64_t offset, std::string_view payload, std::uint8_t flags,
            std::vector<Frame>& out) {
    TcpSegment segment = between();
    segment.payload = octets(payload);
    TcpHeader& tcp = segment.header;
    tcp.sequence = sequence_of(offset, base_);
    tcp.acknowledgement = sequence_of(received_, peer_base_);
    tcp.flags = flags;
    tcp.window = static_cast<std::uint16_t>(window() >> kScale);
    tcp.timestamps = TcpTimestamps{clock(now), recent_};
    for (const auto& [start, piece] : pieces_) {
      if (tcp.sack_count == 3) break;
      tcp.sack[tcp.sack_count++] = {sequence_of(start, peer_base_),
                                    sequence_of(start + piece.size(), peer_base_)};
    }
    out.push_back(build_tcp(segment));
  }

  void emit_syn(Milliseconds now, std::vector<Frame>& out) {
    TcpSegment segment = between();
    TcpHeader& tcp = segment.header;
    tcp.sequence = base_ - 1;
    tcp.flags = kSyn;
    tcp.window = kBufferBytes;
    tcp.segment_size_max = kSegmentBytes;
    tcp.window_scale = kScale;
    tcp.sack_permitted = true;
    tcp.timestamps = TcpTimestamps{clock(now), 0};
    if (answering()) {
      tcp.flags = kSyn | kAck;
      tcp.acknowledgement = peer_base_;
      tcp.timestamps->echo = recent_;
    }
    out.push_back(build_tcp(segment));
  }

  [[nodiscard]] TcpSegment between() const {
    return {.source_mac = local_.mac,
            .destination_mac = remote_.mac,
            .source = local_.address,
            .destination = remote_.address,
            .source_port = local_.port,
            .destination_port = remote_.port};
  }
  [[nodiscard]] std::uint32_t clock(Milliseconds now) const {
    return clock_offset_ + static_cast<std::uint32_t>(now);
  }

  Endpoint local_;
  Endpoint remote_;
  State state_ = State::opening;
  std::uint32_t base_ = 0;  ///< Sequence number of offset 0 of our stream.
  std::uint32_t clock_offset_ = 0;
  bool syn_sent_ = false;
  std::string unsent_and_unacknowledged_;
  std::uint64_t stream_start_ = 0;  ///< Offset of its first octet.
  std::uint64_t acknowledged_ = 0;
  std::uint64_t sent_ = 0;
  bool ending_ = false;
  std::uint64_t congestion_window_ = 4 * kSegmentBytes;
  std::uint32_t peer_window_ = 0;
  std::uint32_t duplicates_ = 0;
  std::uint64_t recover_to_ = 0;
  std::uint32_t backoff_ = 0;
  Milliseconds retransmit_at_ = 0;
  std::map<std::uint64_t, std::uint64_t> sacked_;

  std::uint32_t peer_base_ = 0;
  std::uint64_t received_ = 0;
  std::map<std::uint64_t, std::string> pieces_;
  std::string readable_;
  std::optional<std::uint64_t> peer_end_;
  bool peer_ended_ = false;
  std::uint32_t recent_ = 0;
  std::uint32_t refused_as_old_ = 0;
  std::uint32_t acknowledged_unsent_ = 0;
};

}  // namespace understudy::replay::test
