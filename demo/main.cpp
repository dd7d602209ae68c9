// understudy-demo: a guest survives the death of its host, and clients tell what they saw of it.
//
// Exit status: 0, nothing was lost; 1, something was; else the scene could not be set up (the code
// of the error, as with `understudy`), or 130 after Ctrl-C.

#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "demo/story.h"

namespace understudy::demo {
namespace {

/// Takes down every scene that nobody plays any more.
int clean(Narrator& narrator) {
  int status = 0;
  for (const std::string& standing : scene::Scene::standing()) {
    if (scene::Scene::in_use(standing)) {
      narrator.line(fmt::format("scene {} is being played: left alone", standing));
      continue;
    }
    if (auto done = scene::Scene::clean(standing); !done) {
      narrator.complain(done.error().message());
      status = static_cast<int>(done.error().code());
    } else {
      narrator.line(fmt::format("scene {} taken down", standing));
    }
  }
  return status;
}

/// Handles Ctrl-C on a thread of its own: takes the scene down from under the story, and ends the
/// process. To be made before any other thread, because it blocks the signals for all of them.
class Interruption {
 public:
  /// `clean_up` takes down what the story has made.
  Interruption(Narrator& narrator, std::function<void()> clean_up)
      : narrator_(narrator), clean_up_(std::move(clean_up)) {
    sigemptyset(&signals_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
      sigaddset(&signals_, signal);
    }
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
  }

  /// Waits for the end if it has begun: what fails meanwhile fails because of it.
  void wait_if_begun() const {
    while (begun_) {
      pause();
    }
  }

 private:
  void watch(const std::stop_token& stop) {
    const timespec moment = {.tv_sec = 0, .tv_nsec = 100'000'000};
    while (!stop.stop_requested()) {
      const int signal = sigtimedwait(&signals_, nullptr, &moment);
      if (signal > 0) {
        begun_ = true;
        narrator_.complain("interrupted: taking the scene down");
        narrator_.silence();
        clean_up_();
        _exit(128 + signal);
      }
    }
  }

  Narrator& narrator_;
  std::function<void()> clean_up_;
  sigset_t signals_ = {};
  std::atomic<bool> begun_ = false;
  std::jthread thread_;
};

void explain_kept_stage(Narrator& narrator, const Stage& stage, bool xen) {
  narrator.act("The scene stays. To look around");
  for (const std::string& way : stage.ways_to_look()) {
    narrator.line(way);
  }
  narrator.line(fmt::format("./run demo {}--clean         # takes it down", xen ? "--xen " : ""));
}

int run(int argument_count, char** arguments) {
  StoryOptions options;
  options.scene = scene::options_from_environment();
  options.scene.tag = "demo";
  std::string json_file;
  bool keep = false;
  bool only_clean = false;
  std::string build_directory;
  std::string lab_program = "lab/lab";
  bool xen = false;

  CLI::App app(
      "A Linux guest runs on one host, another host holds its image; the first host is killed in "
      "the middle of client traffic, and the clients tell what they saw.\n"
      "Exit status: 0 nothing was lost, 1 something was, others: see the message.",
      "./run demo");
  const auto time = CLI::AsNumberWithUnit(
      std::map<std::string, std::int64_t>{{"ms", 1}, {"s", 1000}, {"min", 60'000}});
  std::int64_t before_ms = options.before.count();
  std::int64_t after_ms = options.after.count();
  app.add_option("--json", json_file, "Write the figures to this file")->type_name("FILE");
  app.add_flag("--keep", keep, "Leave the scene standing, for exploring by hand");
  app.add_flag("--clean", only_clean,
               "Take down what --keep or a broken-off run has left, and end");
  app.add_option(
         "--mode", options.mode,
         "remus: answers wait for a checkpoint; replay: they leave at once, and what led to "
         "them is replayed")
      ->type_name("MODE")
      ->capture_default_str()
      ->check(CLI::IsMember({"remus", "replay"}).description(""));
  app.add_option("--interval", options.interval, "Time between two checkpoints")
      ->type_name("TIME")
      ->capture_default_str();
  app.add_option("--duration-before", before_ms, "Protected traffic before the kill")
      ->transform(time)
      ->type_name("TIME")
      ->check(CLI::Range(1000, 3'600'000).description(""));
  app.add_option("--duration-after", after_ms, "Traffic after the kill, at least")
      ->transform(time)
      ->type_name("TIME")
      ->check(CLI::Range(1000, 3'600'000).description(""));
  app.add_option("--connections", options.ledger_connections, "Connections to the ledger")
      ->capture_default_str()
      ->type_name("N")
      ->check(CLI::Range(1, 200).description(""));
  app.add_option("--vcpus", options.scene.vcpus, "Of the guest")
      ->capture_default_str()
      ->type_name("N")
      ->check(CLI::Range(1, 16).description(""));
  app.add_flag("--power-off", options.power_off,
               "Silence host A's networks in the same moment, so that not even a reset gets out");
  app.add_option("--tag", options.scene.tag, "Name of the scene, so that several can stand at once")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_flag("--xen", xen, "Play it on two real Xen hosts: machines of the lab (lab/README.md)");
  app.add_option("--lab-program", lab_program, "The lab's command")->group("");
  app.add_option("--build-directory", build_directory, "Where the programs are")->group("");
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ErrorCode::usage);
  }
  Narrator narrator;
  if (geteuid() != 0) {
    narrator.complain("namespaces need root: sudo ./run demo");
    return static_cast<int>(ErrorCode::permission);
  }
  if (only_clean && xen) {
    auto cleaned = clean_xen_stage(lab_program);
    if (!cleaned) narrator.complain(cleaned.error().message());
    return cleaned ? 0 : static_cast<int>(cleaned.error().code());
  }
  if (only_clean) {
    return clean(narrator);
  }
  if (!build_directory.empty()) {
    options.scene.build_directory = build_directory;
    if (std::getenv("UNDERSTUDY_GUEST_DIR") == nullptr) {
      options.scene.guest_directory = options.scene.build_directory / "guest";
    }
  }
  // Replay makes checkpoints rare: that is what it is for.
  if (options.mode == "replay" && app.count("--interval") == 0) options.interval = "2s";
  options.before = std::chrono::milliseconds(before_ms);
  options.after = std::chrono::milliseconds(after_ms);
  if (xen) {
    options.xen = XenStageOptions{.lab_program = lab_program,
                                  .build_directory = options.scene.build_directory,
                                  .vcpus = options.scene.vcpus};
    // Emulated processors suspend a guest in tens of milliseconds.
    if (options.mode == "remus" && app.count("--interval") == 0) options.interval = "200ms";
    if (app.count("--connections") == 0) options.ledger_connections = 3;
  }

  const Interruption interruption(narrator, [xen, lab_program, tag = options.scene.tag] {
    if (xen) {
      (void)clean_xen_stage(lab_program);
    } else {
      (void)scene::Scene::clean(tag);
    }
  });
  Story story(options, narrator);
  auto played = story.play();
  interruption.wait_if_begun();
  if (!played) {
    narrator.complain(played.error().message());
    if (story.stage() != nullptr) {
      narrator.complain("the agents' last words:\n" + story.stage()->logs());
      if (keep) {
        explain_kept_stage(narrator, *story.stage(), xen);
        story.stage()->keep();
      }
    }
    return static_cast<int>(played.error().code());
  }
  const Report& report = played.value();
  report.tell(narrator);
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << boost::json::serialize(report.to_json()) << '\n';
    if (!file.flush()) {
      narrator.complain(fmt::format("{}: cannot be written", json_file));
      return static_cast<int>(ErrorCode::io);
    }
  }
  if (!report.nothing_lost()) {
    narrator.complain("the agents' last words:\n" + story.stage()->logs());
  }
  if (keep) {
    explain_kept_stage(narrator, *story.stage(), xen);
    story.stage()->keep();
  }
  return report.nothing_lost() ? 0 : 1;
}

}  // namespace
}  // namespace understudy::demo

int main(int argument_count, char** arguments) {
  return understudy::demo::run(argument_count, arguments);
}
