// The common beginning of the end-to-end tests: a scene, a guest on host A, clients at work,
// protection; and the common end: what the clients must be able to say.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/object.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/scene/json_fields.h"
#include "tests/scene/scene.h"
#include "tests/scene/voice_capture.h"

namespace understudy::scene {

/// Fails the test with the error's message.
#define ASSERT_OK(expression)                                        \
  do {                                                               \
    auto&& asserted = (expression);                                  \
    ASSERT_TRUE(asserted.has_value()) << asserted.error().message(); \
  } while (false)

/// The status of the condition `type`, if the domain has it and it is known.
std::optional<bool> condition_of(const boost::json::object& domain, std::string_view type);
/// The reason of the condition `type`; empty if the domain does not have it.
std::string reason_at(const boost::json::object& domain, std::string_view type);

class ProtectedGuest : public ::testing::Test {
 protected:
  /// Sets up the scene and the guest, starts the clients, protects.
  void play(SceneOptions options = options_from_environment(), const Protection& protection = {});
  /// Only scene and guest; clients are made, but not started.
  void set_the_stage(SceneOptions options = options_from_environment());
  /// Only scene, guest and clients.
  void open(SceneOptions options = options_from_environment());

  void TearDown() override;

  /// Fills `ledger` and `others`, once the guest is there.
  virtual void make_clients();

  /// Marks the moment of the fault for all clients.
  void mark(const Instant& moment);
  /// Waits until every connection has verified bytes that came after `since`.
  void expect_everyone_goes_on(Clock::time_point since,
                               std::chrono::milliseconds limit = std::chrono::seconds(20));
  /// Stops the clients: all connections survived, every byte right, no receipt broken.
  void expect_nothing_lost();
  /// True if no client has verified a byte for `time`.
  bool silent_for(std::chrono::milliseconds time);

  /// The capture has heard the hosts in this order and no other: "A", or "AB" after one takeover.
  void expect_voices(const std::string& turns);

  std::unique_ptr<Scene> scene;
  std::unique_ptr<VoiceCapture> voices;  ///< From before the guest's first frame on.
  std::unique_ptr<LedgerTraffic> ledger;
  std::vector<std::unique_ptr<Traffic>> others;

 private:
  std::vector<Traffic*> all() const;

  std::string expected_voices_;
};

}  // namespace understudy::scene
