#include "tests/cli/fake_agent.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace understudy::cli {
namespace {

/// True when `descriptor` can be read; false when `ending` was set.
bool readable(int descriptor, const std::atomic<bool>& ending) {
  while (!ending) {
    pollfd waiting{descriptor, POLLIN, 0};
    if (::poll(&waiting, 1, 20) > 0) {
      return true;
    }
  }
  return false;
}

}  // namespace

FakeAgent::Answer error_answer(unsigned status, const std::string& code,
                               const std::string& message) {
  return {status, R"({"error":{"code":")" + code + R"(","message":")" + message + R"("}})"};
}

FakeAgent::FakeAgent() {
  std::string pattern = (std::filesystem::temp_directory_path() / "fake-agent-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("no directory for the fake agent");
  }
  directory_ = pattern;
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path().c_str(), sizeof(address.sun_path) - 1);
  if (::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_, 16) != 0) {
    throw std::runtime_error("the fake agent cannot listen");
  }
  thread_ = std::thread([this] { serve(); });
}

FakeAgent::~FakeAgent() {
  ending_ = true;
  thread_.join();
  ::close(listener_);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void FakeAgent::on(const std::string& request, std::vector<Answer> answers) {
  const std::lock_guard lock(mutex_);
  answers_[request] = std::move(answers);
  served_[request] = 0;
}

std::vector<std::string> FakeAgent::requests() const {
  return requests("");
}

std::vector<std::string> FakeAgent::requests(const std::string& start) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> found;
  std::copy_if(requests_.begin(), requests_.end(), std::back_inserter(found),
               [&](const std::string& request) { return request.starts_with(start); });
  return found;
}

void FakeAgent::serve() {
  while (readable(listener_, ending_)) {
    const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0) {
      serve_one(connection);
      ::close(connection);
    }
  }
}

void FakeAgent::serve_one(int descriptor) {
  std::string text;
  std::size_t header_end = std::string::npos;
  std::size_t body_bytes = 0;
  while (header_end == std::string::npos || text.size() < header_end + 4 + body_bytes) {
    std::array<char, 4096> chunk{};
    if (!readable(descriptor, ending_)) {
      return;
    }
    const ssize_t count = ::read(descriptor, chunk.data(), chunk.size());
    if (count <= 0) {
      return;
    }
    text.append(chunk.data(), static_cast<std::size_t>(count));
    header_end = text.find("\r\n\r\n");
    const std::size_t length = text.find("Content-Length: ");
    if (header_end != std::string::npos && length < header_end) {
      body_bytes = std::stoul(text.substr(length + 16));
    }
  }
  const std::string request = text.substr(0, text.find(" HTTP/1.1"));
  Answer answer = error_answer(404, "no_such", "nothing at " + request);
  {
    const std::lock_guard lock(mutex_);
    const std::string body = text.substr(header_end + 4);
    requests_.push_back(body.empty() ? request : request + " " + body);
    if (const auto found = answers_.find(request); found != answers_.end()) {
      std::size_t& next = served_[request];
      answer = found->second[std::min(next++, found->second.size() - 1)];
    }
  }
  if (answer.silent) {
    readable(descriptor, ending_);
    return;
  }
  const std::string reply =
      "HTTP/1.1 " + std::to_string(answer.status) +
      " X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
      std::to_string(answer.body.size()) + "\r\n\r\n" + answer.body;
  [[maybe_unused]] const ssize_t sent =
      ::send(descriptor, reply.data(), reply.size(), MSG_NOSIGNAL);
}

}  // namespace understudy::cli
