// Small files that only their owner may read, replaced as a whole.
//
// A write goes to a file beside the old one (suffix ".new"), is forced to disk, and takes the old
// one's name in one step; then the folder is forced to disk too. A crash leaves the old or the new
// content, never a mixture.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::transport {

/// Replaces `file` by `content`, mode 0600; makes missing parent folders with mode 0700.
Result<void> write_private_file(const std::filesystem::path& file, std::string_view content);

/// The content of `file`, nothing when there is none. Error permission when others than its owner
/// may read or write it, bad_data above 1 MiB or when it is no plain file.
Result<std::optional<std::string>> read_private_file(const std::filesystem::path& file);

}  // namespace understudy::transport
