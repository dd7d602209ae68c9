// See private_file.h.
#include "transport/private_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/unique_fd.h"

namespace understudy::transport {
namespace {

constexpr off_t kFileBytesMax = 1 << 20;

Result<void> make_folders(const std::filesystem::path& folder) {
  if (folder.empty() || ::access(folder.c_str(), F_OK) == 0) return ok();
  BOOST_OUTCOME_TRY(make_folders(folder.parent_path()));
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return system_error(errno, "make folder " + folder.string());
  }
  return ok();
}

}  // namespace

Result<void> write_private_file(const std::filesystem::path& file, std::string_view content) {
  BOOST_OUTCOME_TRY(make_folders(file.parent_path()));
  const std::string fresh = file.string() + ".new";
  ::unlink(fresh.c_str());  // what a crash may have left
  UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return system_error(errno, "create " + fresh);
  const auto give_up = [&](const char* doing) {
    const int reason = errno;
    ::unlink(fresh.c_str());
    return system_error(reason, doing + fresh);
  };
  for (std::string_view left = content; !left.empty();) {
    const ssize_t written = ::write(fd.get(), left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return give_up("write ");
    left.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(fd.get()) != 0) return give_up("write to disk ");
  if (::rename(fresh.c_str(), file.c_str()) != 0) return give_up("give its name to ");
  const auto folder = file.has_parent_path() ? file.parent_path().string() : std::string(".");
  const UniqueFd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder_fd.valid()) ::fsync(folder_fd.get());
  return ok();
}

Result<std::optional<std::string>> read_private_file(const std::filesystem::path& file) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) return std::optional<std::string>{};
  if (!fd.valid()) return system_error(errno, "open " + file.string());
  struct stat about {};
  if (::fstat(fd.get(), &about) != 0) return system_error(errno, "stat " + file.string());
  if (!S_ISREG(about.st_mode) || about.st_size > kFileBytesMax) {
    return fail(ErrorCode::bad_data, "{}: expected a plain file of at most {} octets",
                file.string(), kFileBytesMax);
  }
  if ((about.st_mode & 077) != 0) {
    return fail(ErrorCode::permission,
                "{}: others may read or write it (mode {:o}), expected mode 600: chmod 600 it, and "
                "think about who may have read it",
                file.string(), about.st_mode & 0777);
  }
  std::string content(static_cast<std::size_t>(about.st_size), '\0');
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t got = ::read(fd.get(), content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(errno, "read " + file.string());
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  content.resize(filled);
  return std::optional<std::string>(std::move(content));
}

}  // namespace understudy::transport
