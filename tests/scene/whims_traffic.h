// The client of a service that never says the same twice. It cannot know what must come; it can
// know whether what came is of one piece.
#pragma once

#include "tests/scene/traffic.h"

namespace understudy::scene {

/// Asks port 9004 again and again and follows the chain over all that it is told on a connection.
/// A connection that is reset is no fault: it begins anew. One that mixes two executions is.
class WhimsTraffic final : public Traffic {
 public:
  explicit WhimsTraffic(ClientOptions options, std::size_t random_bytes = 256,
                        std::chrono::milliseconds pause = {});
  ~WhimsTraffic() override { stop(); }

  /// Connections that were reset (or closed by the guest's side) so far.
  [[nodiscard]] std::uint64_t resets() const { return resets_; }
  /// Answers in which a mixture of two executions showed. Must be 0.
  [[nodiscard]] std::uint64_t mixtures() const { return mixtures_; }

 private:
  void run(unsigned index, Witness& witness, std::stop_token stop) override;

  std::size_t random_bytes_;
  std::chrono::milliseconds pause_;
  std::atomic<std::uint64_t> resets_ = 0;
  std::atomic<std::uint64_t> mixtures_ = 0;
};

}  // namespace understudy::scene
