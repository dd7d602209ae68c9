#include <boost/json.hpp>

#include "demo/stage.h"

namespace understudy::demo {
namespace {

using scene::HostId;

class NamespaceStage final : public Stage {
 public:
  explicit NamespaceStage(std::unique_ptr<scene::Scene> scene) : scene_(std::move(scene)) {}

  std::string description() const override {
    return "Two hosts and a client as network namespaces; an agent on each host, paired over "
           "mutual TLS";
  }
  Result<void> start_guest() override { return scene_->start_guest(); }
  Result<boost::json::object> domain(HostId host) override { return scene_->domain(host); }
  Result<void> protect(const scene::Protection& protection,
                       const std::function<void(const boost::json::object&)>& progress) override {
    return scene_->protect(protection, progress);
  }
  Result<boost::json::value> timeline() override {
    return scene_->understudy_json(HostId::b, {"timeline", "web1"});
  }
  Result<scene::Instant> kill_host(bool power_off) override {
    death_ = fmt::format("SIGKILL to every process of hostA at once ({}){}",
                         scene_->processes(HostId::a).size(),
                         power_off ? ", its networks silenced" : "");
    return power_off ? scene_->power_off(HostId::a) : scene_->kill_host(HostId::a);
  }
  std::string death() const override { return death_; }
  scene::ClientOptions client_options(unsigned connections) const override {
    return scene_->client_options(connections);
  }
  Result<scene::Process> start_client(const std::vector<std::string>& command,
                                      const std::string& log) override {
    return scene_->start_client(command, log);
  }
  const std::filesystem::path& folder() const override { return scene_->folder(); }
  std::string logs() override { return scene_->logs(); }
  void keep() override { scene_->keep(); }
  std::vector<std::string> ways_to_look() const override {
    return {
        fmt::format("{} --socket {} status",
                    (scene_->options().build_directory / "cli" / "understudy").string(),
                    scene_->control_socket(HostId::b).string()),
        fmt::format("ip netns exec {} curl http://{}/", scene_->client_namespace(),
                    scene::guest_address),
        fmt::format("ip netns exec {} nc {} 9000        # the ledger: try S",
                    scene_->client_namespace(), scene::guest_address),
        fmt::format("less {}/hostB/understudyd.log", scene_->folder().string()),
    };
  }

 private:
  std::unique_ptr<scene::Scene> scene_;
  std::string death_;
};

}  // namespace

Result<std::unique_ptr<Stage>> build_namespace_stage(scene::SceneOptions options) {
  BOOST_OUTCOME_TRY(auto scene, scene::Scene::build(std::move(options)));
  return std::make_unique<NamespaceStage>(std::move(scene));
}

}  // namespace understudy::demo
