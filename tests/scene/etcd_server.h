// A real etcd for a test: its own certificates, its own data, in a namespace of the scene.
#pragma once

#include <csignal>
#include <filesystem>
#include <string>

#include "base/result.h"
#include "tests/scene/process.h"

namespace understudy::scene {

/// Debian's etcd-server, with TLS and client certificates on its one port. Killed at the end.
class EtcdServer {
 public:
  /// Makes certificates and data in `folder`, and waits until it answers on `address`:2379 in the
  /// namespace.
  static Result<EtcdServer> start(const std::filesystem::path& folder,
                                  const std::string& network_namespace, const std::string& address);

  [[nodiscard]] std::string endpoint() const { return address_ + ":2379"; }
  [[nodiscard]] std::filesystem::path certificate() const { return folder_ / "cert.pem"; }
  [[nodiscard]] std::filesystem::path key() const { return folder_ / "key.pem"; }
  /// An [arbiter.default] section that leads here.
  [[nodiscard]] std::string toml() const;

  /// SIGSTOP and SIGCONT: connections are taken by the kernel and never answered.
  void freeze() { process_.signal(SIGSTOP); }
  void thaw() { process_.signal(SIGCONT); }
  /// Starts anew without data: an arbiter that lies by having forgotten everything.
  Result<void> restart_empty();

 private:
  EtcdServer(std::filesystem::path folder, std::string network_namespace, std::string address)
      : folder_(std::move(folder)),
        network_namespace_(std::move(network_namespace)),
        address_(std::move(address)) {}
  Result<void> launch();

  std::filesystem::path folder_;
  std::string network_namespace_;
  std::string address_;
  Process process_;
};

}  // namespace understudy::scene
