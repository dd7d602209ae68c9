// A checking client of redis: what was acknowledged must be there, once.
#pragma once

#include "tests/scene/traffic.h"

namespace understudy::scene {

/// Each connection counts up a key of its own, stores a value that follows from the count, and
/// reads an earlier one. INCR tells everything: a reply that is not one more than the last says
/// that an operation was lost or done twice.
class RedisTraffic final : public Traffic {
 public:
  /// Keys carry `first_client` + i; they must be new to the server.
  explicit RedisTraffic(ClientOptions options, unsigned first_client = 0);
  ~RedisTraffic() override { stop(); }

  /// Asks for all counters on a new connection: as many as were acknowledged, or one more for a
  /// request under way at the end. The error says which one is not. After stop().
  [[nodiscard]] Result<void> audit() const;

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;

  unsigned first_client_;
  std::vector<std::uint64_t> acknowledged_;  ///< One for each connection, its thread's own.
};

}  // namespace understudy::scene
