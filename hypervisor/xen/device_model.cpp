#include "hypervisor/xen/device_model.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <thread>

namespace understudy::xen {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kLineBytesMax = std::size_t{1} << 20;
/// A device model that takes longer is dead or hangs.
constexpr auto kPatience = std::chrono::seconds(10);

/// A file that goes with its object.
class Scratch {
 public:
  explicit Scratch(std::filesystem::path path) : path_(std::move(path)) {}
  ~Scratch() { (void)::unlink(path_.c_str()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

 private:
  std::filesystem::path path_;
};

Result<std::vector<std::byte>> read_whole(const std::filesystem::path& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat facts {};
  if (!file.valid() || ::fstat(file.get(), &facts) != 0)
    return system_error(errno, "the device model's state");
  const auto bytes = static_cast<std::size_t>(facts.st_size);
  if (bytes == 0 || bytes > DeviceModel::kStateBytesMax) {
    return fail(ErrorCode::bad_data, "the device model's state has {} octets, expected 1 to {}",
                bytes, DeviceModel::kStateBytesMax);
  }
  std::vector<std::byte> state(bytes);
  for (std::size_t at = 0; at < bytes;) {
    const ssize_t got = ::read(file.get(), state.data() + at, bytes - at);
    if (got <= 0) return system_error(got < 0 ? errno : EIO, "the device model's state");
    at += static_cast<std::size_t>(got);
  }
  return state;
}

/// A file in memory with this content, its position at the beginning.
Result<UniqueFd> in_memory(std::span<const std::byte> octets) {
  UniqueFd file(::memfd_create("device-model-state", MFD_CLOEXEC));
  if (!file.valid()) return system_error(errno, "memory for the device model's state");
  while (!octets.empty()) {
    const ssize_t written = ::write(file.get(), octets.data(), octets.size());
    if (written < 0) return system_error(errno, "memory for the device model's state");
    octets = octets.subspan(static_cast<std::size_t>(written));
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) return system_error(errno, "the device model's state");
  return file;
}

/// Sends the first octets, with a descriptor beside them.
ssize_t send_with(int socket, std::string_view text, int fd) {
  iovec part{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL);
}

}  // namespace

std::filesystem::path DeviceModel::monitor_of(std::uint32_t domid) {
  return fmt::format("/var/run/xen/qmp-libxenstat-{}", domid);
}

DeviceModel::DeviceModel(UniqueFd socket, std::filesystem::path scratch)
    : socket_(std::move(socket)), scratch_(std::move(scratch)), lines_(kLineBytesMax) {}

Result<std::unique_ptr<DeviceModel>> DeviceModel::connect(const std::filesystem::path& monitor,
                                                          std::filesystem::path scratch) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = monitor.string();
  if (!socket.valid() || path.size() >= sizeof address.sun_path)
    return system_error(socket.valid() ? ENAMETOOLONG : errno, path);
  std::memcpy(static_cast<char*>(address.sun_path), path.c_str(), path.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail(ErrorCode::unavailable, "the device model does not answer at {}: {}", path,
                std::generic_category().message(errno));
  }
  std::unique_ptr<DeviceModel> model(new DeviceModel(std::move(socket), std::move(scratch)));
  BOOST_OUTCOME_TRY(const auto greeting, model->receive(Clock::now() + kPatience));
  if (!std::holds_alternative<QmpGreeting>(greeting)) {
    return fail(ErrorCode::bad_data, "{} is no monitor of QEMU's", path);
  }
  BOOST_OUTCOME_TRY(model->execute("qmp_capabilities"));
  return model;
}

Result<QmpMessage> DeviceModel::receive(Clock::time_point limit) {
  for (;;) {
    if (const auto line = lines_.next()) return parse_qmp_line(*line);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(limit - Clock::now()).count();
    pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    const int polled = left > 0 ? ::poll(&ready, 1, static_cast<int>(left)) : 0;
    if (polled < 0 && errno == EINTR) continue;
    if (polled <= 0) {
      return fail(ErrorCode::timed_out, "the device model does not answer within {} s",
                  kPatience.count());
    }
    std::array<char, 4096> octets{};
    const ssize_t got = ::recv(socket_.get(), octets.data(), octets.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return fail(ErrorCode::unavailable, "the device model is gone");
    BOOST_OUTCOME_TRY(lines_.feed(std::string_view(octets.data(), static_cast<std::size_t>(got))));
  }
}

Result<json::value> DeviceModel::execute(std::string_view command, json::object arguments, int fd) {
  const std::uint64_t id = next_id_++;
  json::object request = {{"execute", command}, {"id", id}};
  if (!arguments.empty()) request["arguments"] = std::move(arguments);
  const std::string text = json::serialize(request) + "\n";
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t sent = send_with(socket_.get(), rest, fd);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return system_error(errno, "the device model");
    rest.remove_prefix(static_cast<std::size_t>(sent));
    fd = -1;
  }
  const auto limit = Clock::now() + kPatience;
  for (;;) {
    BOOST_OUTCOME_TRY(auto message, receive(limit));
    auto* reply = std::get_if<QmpReply>(&message);
    if (reply == nullptr || reply->id != id) continue;  // An event, or an answer that came late.
    if (reply->error) {
      return fail(ErrorCode::failed, "the device model refuses '{}': {}", command, *reply->error);
    }
    return std::move(reply->value);
  }
}

Result<void> DeviceModel::stop() {
  BOOST_OUTCOME_TRY(execute("stop"));
  return ok();
}

Result<void> DeviceModel::go_on() {
  BOOST_OUTCOME_TRY(execute("cont"));
  return ok();
}

Result<void> DeviceModel::log_writes(bool wanted) {
  BOOST_OUTCOME_TRY(execute("xen-set-global-dirty-log", {{"enable", wanted}}));
  return ok();
}

Result<std::vector<std::byte>> DeviceModel::save_state() {
  const Scratch file(scratch_);
  // A file of an earlier attempt must not be taken for this one's.
  (void)::unlink(scratch_.c_str());
  BOOST_OUTCOME_TRY(
      execute("xen-save-devices-state", {{"filename", scratch_.string()}, {"live", true}}));
  return read_whole(scratch_);
}

Result<void> DeviceModel::start_from(std::span<const std::byte> state) {
  BOOST_OUTCOME_TRY(const auto file, in_memory(state));
  BOOST_OUTCOME_TRY(execute("getfd", {{"fdname", "state"}}, file.get()));
  BOOST_OUTCOME_TRY(execute("migrate-incoming", {{"uri", "fd:state"}}));
  // It runs when it has loaded, and ends (the connection, too) if it cannot.
  const auto limit = Clock::now() + kPatience;
  for (;;) {
    BOOST_OUTCOME_TRY(const auto answer, execute("query-status"));
    const auto* object = answer.if_object();
    const auto* status = object != nullptr ? object->if_contains("status") : nullptr;
    if (status != nullptr && *status == "running") return ok();
    if (Clock::now() > limit) {
      return fail(ErrorCode::timed_out, "the device model has not taken its state within {} s",
                  kPatience.count());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

const std::vector<std::string>& DeviceModel::arguments_of_standby() {
  static const std::vector<std::string> arguments = {
      "-incoming",      "defer",           "-global",
      "e1000.romfile=", "-global",         "virtio-net-pci.romfile=",
      "-global",        "rtl8139.romfile="};
  return arguments;
}

}  // namespace understudy::xen
