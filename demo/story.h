// The demo's story in its acts: the stage, the guest, the clients, the understudy, the death of
// host A, and what the clients saw of it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "demo/narrator.h"
#include "demo/report.h"
#include "demo/stage.h"

namespace understudy::demo {

/// What the user may choose.
struct StoryOptions {
  scene::SceneOptions scene;
  std::optional<XenStageOptions> xen;  ///< Played on real Xen hosts instead.
  std::string mode = "remus";
  std::string interval = "25ms";
  std::chrono::milliseconds before{8'000};  ///< Protected traffic before the kill.
  std::chrono::milliseconds after{6'000};   ///< Traffic after the last connection came back.
  unsigned ledger_connections = 8;
  bool power_off = false;  ///< Silence host A's networks first, so that not even a reset gets out.
};

/// Plays the story. Errors: something could not be set up or did not happen in time; that clients
/// lost something is no error but part of the report.
class Story {
 public:
  Story(StoryOptions options, Narrator& narrator);
  ~Story();

  /// All acts. May be called once.
  Result<Report> play();
  /// The stage, once play() has set it up; else null.
  [[nodiscard]] Stage* stage() { return stage_.get(); }

 private:
  /// Traffic of one kind and what to call it.
  struct Cast {
    std::unique_ptr<scene::Traffic> traffic;
    std::string what;
    bool long_lived = true;  ///< One connection for the whole play, not one for each request.
  };

  Result<void> set_the_stage();
  Result<void> start_the_guest();
  Result<void> send_in_clients();
  Result<void> protect();
  Result<void> watch(std::chrono::milliseconds time);
  Result<void> kill_the_host(Report& report);
  Result<void> go_on(Report& report);
  void read_timeline(Report& report);
  Result<void> take_stock(Report& report);
  void judge_curl(Report& report);
  void judge_netcat(Report& report);
  [[nodiscard]] bool replays() const { return options_.mode == "replay"; }
  [[nodiscard]] std::string totals() const;

  StoryOptions options_;
  Narrator& narrator_;
  std::unique_ptr<Stage> stage_;
  std::vector<Cast> cast_;
  scene::LedgerTraffic* ledger_ = nullptr;  ///< Of cast_.
  scene::Process ping_;
  scene::Process curl_;
  scene::Process netcat_;
  scene::Clock::time_point protected_at_;
  scene::Instant kill_;
};

}  // namespace understudy::demo
