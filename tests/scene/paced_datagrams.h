// A client that sends datagrams at a fixed pace whether or not they come back, as telephones and
// measuring instruments do: what the network or a pause swallows is lost and counted.
#pragma once

#include "tests/scene/traffic.h"

namespace understudy::scene {

/// Sends numbered datagrams to the guest's UDP echo (port 7), `per_second` of them on each
/// connection, none of them twice, and counts those that come back.
class PacedDatagrams final : public Traffic {
 public:
  /// `datagram_bytes`: at least 16; the number, then the pattern.
  PacedDatagrams(ClientOptions options, unsigned per_second, std::size_t datagram_bytes);
  ~PacedDatagrams() override { stop(); }

  /// What the connections together have sent, and never saw again. After stop(), which waits for
  /// the last ones.
  [[nodiscard]] std::uint64_t sent() const;
  [[nodiscard]] std::uint64_t lost() const;

 private:
  struct Count {
    std::uint64_t sent = 0;
    std::uint64_t returned = 0;  ///< Each number once.
  };
  void run(unsigned index, Witness& witness, std::stop_token stop) override;

  std::chrono::nanoseconds pace_;
  std::size_t datagram_bytes_;
  std::vector<Count> counts_;  ///< One for each connection, its thread's own.
};

}  // namespace understudy::scene
