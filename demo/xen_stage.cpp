#include <boost/json.hpp>
#include <thread>

#include "demo/stage.h"
#include "tests/scene/lab_program.h"

namespace understudy::demo {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using scene::Clock;
using scene::HostId;

// A lab of its own, so that a lab of the user's stays what it is.
std::string lab_name() {
  return scene::LabProgram::chosen_name("demo");
}

const char* letter_of(HostId host) {
  return host == HostId::a ? "A" : "B";
}

class XenStage final : public Stage {
 public:
  explicit XenStage(XenStageOptions options)
      : options_(std::move(options)),
        lab_(options_.lab_program, options_.build_directory, lab_name()),
        folder_(lab_.folder()) {}
  ~XenStage() override {
    if (!kept_) (void)lab_.run({"down"});
  }

  Result<void> set_up() {
    BOOST_OUTCOME_TRY(lab_.run({"up"}, 900s));
    for (const HostId host : {HostId::a, HostId::b}) {
      // Two emulated hosts on one machine, with clients at work, fall silent for a moment now and
      // then; that is no death.
      BOOST_OUTCOME_TRY(lab_.start_agent(letter_of(host), 3s));
    }
    BOOST_OUTCOME_TRY(lab_.run({"pair"}));
    return ok();
  }

  std::string description() const override {
    return "Two real Xen hosts, each a machine of QEMU's; an agent in each dom0, paired over "
           "mutual TLS";
  }

  Result<void> start_guest() override {
    BOOST_OUTCOME_TRY(
        lab_.run({"domain", "A", "web1", "--address", std::string(scene::guest_address), "--vcpus",
                  std::to_string(options_.vcpus)}));
    BOOST_OUTCOME_TRY(exec(HostId::a, "xl create /etc/xen/web1.cfg"));
    const auto end = Clock::now() + 180s;
    // The last service to listen; httpd may answer before.
    while (!lab_.run(
        {"client", "sh", "-c",
         fmt::format("echo S | nc -q 1 -w 3 {} 9000 | grep -q '^S'", scene::guest_address)})) {
      if (Clock::now() > end)
        return fail(ErrorCode::timed_out, "web1's services do not answer after 180 s");
      std::this_thread::sleep_for(200ms);
    }
    return ok();
  }

  Result<json::object> domain(HostId host) override {
    // Its exit status tells the state, too.
    BOOST_OUTCOME_TRY(const json::value value,
                      lab_.ask(letter_of(host), "understudy status web1 -o json || true"));
    if (!value.is_object()) return fail(ErrorCode::bad_data, "no domain object");
    return value.get_object();
  }

  Result<void> protect(const scene::Protection& protection,
                       const std::function<void(const json::object&)>& progress) override {
    BOOST_OUTCOME_TRY(
        exec(HostId::a,
             fmt::format("understudy protect web1 --to hostB --mode {} --interval {} --no-wait",
                         protection.mode, protection.interval)));
    const auto end = Clock::now() + 240s;
    std::string state;
    while (state != "protected") {
      if (Clock::now() > end) {
        return fail(ErrorCode::timed_out, "not protected after 240 s; last state: {}", state);
      }
      if (auto object = domain(HostId::a)) {
        progress(object.value());
        const json::value* word = object.value().if_contains("state");
        state = word != nullptr && word->is_string() ? std::string(word->get_string()) : "";
        if (state == "failed" || state == "running") {
          return fail(ErrorCode::failed, "protection ended in state {}:\n{}", state, logs());
        }
      }
      std::this_thread::sleep_for(200ms);
    }
    return ok();
  }

  Result<json::value> timeline() override {
    return lab_.ask("B", "understudy timeline web1 -o json");
  }

  Result<scene::Instant> kill_host(bool power_off) override {
    const scene::Instant moment = scene::Instant::now();
    if (power_off) {
      BOOST_OUTCOME_TRY(lab_.run({"cut", "A", "all"}));
    }
    BOOST_OUTCOME_TRY(lab_.run({"kill", "A"}));
    return moment;
  }
  std::string death() const override {
    return "SIGKILL to the QEMU that is hostA: Xen, dom0 and web1 are gone at once";
  }

  scene::ClientOptions client_options(unsigned connections) const override {
    return {.network_namespace = lab_.network_namespace(),
            .address = std::string(scene::guest_address),
            .connections = connections,
            .patience = 60s};
  }
  Result<scene::Process> start_client(const std::vector<std::string>& command,
                                      const std::string& log) override {
    return scene::Process::spawn(
        command,
        {.network_namespace = lab_.network_namespace(), .log = folder_ / log, .cgroup = {}});
  }
  const std::filesystem::path& folder() const override { return folder_; }

  std::string logs() override {
    std::string text;
    for (const HostId host : {HostId::a, HostId::b}) {
      auto log = exec(host, "lab-agent log | tail -n 40");
      text += fmt::format("--- understudyd on {}, last lines:\n{}\n", scene::name_of(host),
                          log ? log.value() : log.error().message());
    }
    return text;
  }
  void keep() override { kept_ = true; }
  std::vector<std::string> ways_to_look() const override {
    const std::string lab = fmt::format("UNDERSTUDY_LAB={} ./run lab", lab_.name());
    return {lab + " exec B -- understudy status", lab + " exec B -- xl list",
            fmt::format("{} client curl http://{}/", lab, scene::guest_address),
            lab + " agent B log", lab + " shell B"};
  }

 private:
  Result<std::string> exec(HostId host, const std::string& shell_command) {
    return lab_.exec(letter_of(host), shell_command);
  }

  XenStageOptions options_;
  scene::LabProgram lab_;
  std::filesystem::path folder_;
  bool kept_ = false;
};

}  // namespace

Result<std::unique_ptr<Stage>> build_xen_stage(XenStageOptions options) {
  auto stage = std::make_unique<XenStage>(std::move(options));
  BOOST_OUTCOME_TRY(stage->set_up());
  return stage;
}

Result<void> clean_xen_stage(const std::filesystem::path& lab_program) {
  BOOST_OUTCOME_TRY(scene::LabProgram(lab_program, {}, lab_name()).run({"down"}));
  return ok();
}

}  // namespace understudy::demo
