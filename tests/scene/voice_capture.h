// Who speaks for the guest, as the client's network sees it: a capture, which asks no agent.
//
// Intuition: each host hangs on the client's bridge with a port of its own. A frame with the
// guest's address that comes in by a port is that host's voice. Written down is who spoke in turn:
// "A", then "AB" after a takeover. Two voices at a time show as "ABA": that the turns are as many
// as the story has takeovers is the whole proof.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace understudy::scene {

/// Listens from its making to its end, in a thread of its own.
class VoiceCapture {
 public:
  /// In the client's namespace `network_namespace`, on all hosts' ports. Errors: permission,
  /// no_such.
  static Result<std::unique_ptr<VoiceCapture>> start(const std::string& network_namespace);
  ~VoiceCapture();
  VoiceCapture(const VoiceCapture&) = delete;
  VoiceCapture& operator=(const VoiceCapture&) = delete;

  /// The hosts in the order in which they spoke: "A", "AB", "ABA" …
  [[nodiscard]] std::string turns() const;
  /// One line for each turn: who, from when to when after the start, how many frames.
  [[nodiscard]] std::string story() const;
  /// How many frames of the guest came by the port of host 'A', 'B' ….
  [[nodiscard]] std::uint64_t frames_of(char host) const;

 private:
  struct Turn {
    char host;
    double first_ms;
    double last_ms;
    std::uint64_t frames;
  };
  struct State;
  explicit VoiceCapture(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace understudy::scene
