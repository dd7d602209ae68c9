// Checking clients over UDP. Datagrams may get lost or come twice; what they say may not
// contradict what another one said.
#pragma once

#include <map>

#include "tests/scene/traffic.h"

namespace understudy::scene {

/// What clients over UDP have seen beside a Witness' figures.
struct DatagramReport {
  std::uint64_t requests = 0;        ///< Different ones, all of them answered.
  std::uint64_t sent_again = 0;      ///< Because no reply came in time.
  std::uint64_t repeated = 0;        ///< Replies that had come before, word by word.
  std::uint64_t contradictions = 0;  ///< Must be 0.
  std::string first_contradiction;   ///< In words; empty if there is none.
};

/// Asks the register of names (port 9053) one request at a time, each again until it is answered,
/// and compares every reply with all that was heard before. A request without an answer for the
/// time of patience counts as lost: the connection broke.
class NamesTraffic final : public Traffic {
 public:
  /// Connection i is the register's client `first_client` + i; clients must be new to it.
  NamesTraffic(ClientOptions options, std::uint32_t first_client = 0,
               std::chrono::milliseconds retry = std::chrono::milliseconds(250));
  ~NamesTraffic() override { stop(); }

  /// Asks again what the register still has to remember, and compares; no serial number may have
  /// been given twice. After stop().
  [[nodiscard]] Result<DatagramReport> audit() const;

 private:
  struct Client {
    std::vector<std::string> replies;  ///< By sequence, from 1.
    std::uint64_t sent_again = 0;
    std::uint64_t repeated = 0;
    std::vector<std::string> contradictions;
  };
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  [[nodiscard]] std::string request(unsigned index, std::uint64_t sequence) const;
  /// Takes a reply in; true if it answers `sequence` for the first time.
  bool take(unsigned index, const std::string& reply, std::uint64_t sequence, Client& client) const;

  std::uint32_t first_client_;
  std::chrono::milliseconds retry_;
  std::vector<Client> clients_;  ///< One for each connection, its thread's own.
};

/// Sends numbered datagrams of the pattern to port 7, one at a time, each again until it comes
/// back.
class DatagramEchoTraffic final : public Traffic {
 public:
  explicit DatagramEchoTraffic(ClientOptions options, std::size_t datagram_bytes = 512,
                               std::chrono::milliseconds retry = std::chrono::milliseconds(250));
  ~DatagramEchoTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  std::size_t datagram_bytes_;
  std::chrono::milliseconds retry_;
};

}  // namespace understudy::scene
