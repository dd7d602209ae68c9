// Checking clients that move much data: every byte of it has its place, in either direction.
#pragma once

#include "tests/scene/traffic.h"

namespace understudy::scene {

/// Which way the data goes, as the client sees it.
enum class Direction { down, up };

/// One stream of a given length for each connection, to or from port 9003; then it is done. What
/// goes up counts as verified when the guest has said that it was right.
class BulkTraffic final : public Traffic {
 public:
  BulkTraffic(ClientOptions options, Direction direction, std::uint64_t bytes);
  ~BulkTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  TcpSocket::Outcome receive_all(TcpSocket& socket, std::uint64_t seed, Witness& witness,
                                 const std::stop_token& stop) const;
  TcpSocket::Outcome send_all(TcpSocket& socket, std::uint64_t seed, Witness& witness,
                              const std::stop_token& stop) const;

  Direction direction_;
  std::uint64_t bytes_;
};

/// Uploads a file to the guest's web server, `requests` times (0: until stopped), each on a new
/// connection; the guest must find it right.
class UploadTraffic final : public Traffic {
 public:
  UploadTraffic(ClientOptions options, std::uint64_t file_bytes, std::uint64_t requests = 0);
  ~UploadTraffic() override { stop(); }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;
  std::uint64_t file_bytes_;
  std::uint64_t requests_;
};

}  // namespace understudy::scene
