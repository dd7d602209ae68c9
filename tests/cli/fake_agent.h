// An agent that says what a test tells it to: HTTP on a unix socket in a directory of its own.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace understudy::cli {

/// Serves one connection after the other on a thread until it goes. What it is not told to answer
/// gets 404 `no_such`.
class FakeAgent {
 public:
  struct Answer {
    unsigned status = 200;
    std::string body = "{}";
    bool silent = false;  ///< Never answers; the connection stays open until the client closes it.
  };

  FakeAgent();
  ~FakeAgent();
  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;

  /// Answers `request` ("GET /v1/status") with these, one after the other; the last one again and
  /// again.
  void on(const std::string& request, std::vector<Answer> answers);

  /// The requests so far, "POST /v1/domains/web1/protect {…}".
  [[nodiscard]] std::vector<std::string> requests() const;
  /// Those that begin with `start`.
  [[nodiscard]] std::vector<std::string> requests(const std::string& start) const;

  [[nodiscard]] std::string socket_path() const { return (directory_ / "agent.sock").string(); }
  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

 private:
  void serve();
  void serve_one(int descriptor);

  std::filesystem::path directory_;
  int listener_ = -1;
  std::atomic<bool> ending_ = false;
  mutable std::mutex mutex_;
  std::map<std::string, std::vector<Answer>> answers_;
  std::map<std::string, std::size_t> served_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

/// The error body of docs/api.md.
FakeAgent::Answer error_answer(unsigned status, const std::string& code,
                               const std::string& message);

}  // namespace understudy::cli
