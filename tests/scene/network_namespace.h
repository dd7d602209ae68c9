// Network namespaces: the scene's hosts and its client side.
//
// A 'host' of the scene is a network namespace and the processes in it. Its memory is ours and its
// kernel is ours; what makes it a host for our purpose is that its network and its processes can be
// taken away at once.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace understudy::scene {

/// A network namespace of `ip netns` by its name. Owns it: destruction kills what runs in it and
/// deletes it, unless released.
class NetworkNamespace {
 public:
  NetworkNamespace() = default;
  NetworkNamespace(NetworkNamespace&& other) noexcept : name_(std::exchange(other.name_, {})) {}
  NetworkNamespace& operator=(NetworkNamespace&& other) noexcept;
  NetworkNamespace(const NetworkNamespace&) = delete;
  NetworkNamespace& operator=(const NetworkNamespace&) = delete;
  ~NetworkNamespace();

  /// Makes it, with its loopback up. Errors: exists, permission.
  static Result<NetworkNamespace> create(const std::string& name);

  [[nodiscard]] const std::string& name() const { return name_; }
  /// Runs `ip ARGUMENTS` inside; `arguments` are words separated by blanks.
  [[nodiscard]] Result<void> ip(std::string_view arguments) const;
  /// Lets it live on after us.
  void release() { name_.clear(); }

 private:
  std::string name_;
};

/// Puts the calling thread into the namespace `name`, for good: sockets that it makes belong there.
/// Meant for threads made for the purpose.
Result<void> enter_network_namespace(const std::string& name);

/// The processes (not ourselves) whose network namespace is `name`; empty if there is none.
std::vector<pid_t> processes_in(const std::string& name);

/// Sends `signal_number` to each of processes_in(name), newcomers too; with SIGKILL again and again
/// until none is left. Error: that does not end within 5 s.
Result<void> signal_all_in(const std::string& name, int signal_number);

/// Kills what runs in the namespace `name` and deletes it. No error if it does not exist.
Result<void> delete_network_namespace(const std::string& name);

}  // namespace understudy::scene
