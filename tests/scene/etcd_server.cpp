#include "tests/scene/etcd_server.h"

#include <chrono>
#include <thread>

namespace understudy::scene {

using namespace std::chrono_literals;

Result<EtcdServer> EtcdServer::start(const std::filesystem::path& folder,
                                     const std::string& network_namespace,
                                     const std::string& address) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  EtcdServer server(folder, network_namespace, address);
  // One certificate for all: etcd's gateway is a client of its own server.
  BOOST_OUTCOME_TRY(run_checked(
      {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
       "-nodes", "-keyout", server.key().string(), "-out", server.certificate().string(), "-days",
       "30", "-subj", "/CN=arbiter", "-addext", "subjectAltName=IP:" + address + ",IP:127.0.0.1"}));
  BOOST_OUTCOME_TRY(server.launch());
  return server;
}

Result<void> EtcdServer::launch() {
  const std::string url = "https://" + endpoint();
  BOOST_OUTCOME_TRY(process_, Process::spawn({"etcd",
                                              "--data-dir",
                                              (folder_ / "data").string(),
                                              "--listen-client-urls",
                                              url,
                                              "--advertise-client-urls",
                                              url,
                                              "--listen-peer-urls",
                                              "http://127.0.0.1:2380",
                                              "--initial-advertise-peer-urls",
                                              "http://127.0.0.1:2380",
                                              "--initial-cluster",
                                              "default=http://127.0.0.1:2380",
                                              "--client-cert-auth",
                                              "--cert-file",
                                              certificate().string(),
                                              "--key-file",
                                              key().string(),
                                              "--trusted-ca-file",
                                              certificate().string()},
                                             {.network_namespace = network_namespace_,
                                              .log = folder_ / "etcd.log"}));
  const auto end = std::chrono::steady_clock::now() + 30s;
  for (;;) {
    auto asked =
        run_command({"curl", "-s", "--max-time", "2", "--cacert", certificate().string(), "--cert",
                     certificate().string(), "--key", key().string(), url + "/health"},
                    5s, network_namespace_);
    if (asked && asked.value().out.find("true") != std::string::npos) return ok();
    if (!process_.running() || std::chrono::steady_clock::now() > end)
      return fail(ErrorCode::unavailable, "etcd does not answer; see {}",
                  (folder_ / "etcd.log").string());
    std::this_thread::sleep_for(50ms);
  }
}

Result<void> EtcdServer::restart_empty() {
  process_ = Process();
  std::error_code error;
  std::filesystem::remove_all(folder_ / "data", error);
  return launch();
}

std::string EtcdServer::toml() const {
  return fmt::format(R"(
[arbiter.default]
kind = "etcd"
endpoints = ["{}"]
ca_file = "{}"
certificate_file = "{}"
key_file = "{}"
timeout = "1s"
solo_after = "2s"
)",
                     endpoint(), certificate().string(), certificate().string(), key().string());
}

}  // namespace understudy::scene
