#include "agent/state_store.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <boost/json.hpp>
#include <fstream>
#include <iterator>

#include "base/unique_fd.h"

namespace understudy {
namespace {

constexpr std::string_view kSuffix = ".domain.json";

std::string checksum_of(std::string_view text) {
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

Result<Role> role_from(std::string_view text) {
  for (const Role role : {Role::unprotected, Role::primary, Role::backup, Role::superseded}) {
    if (to_string(role) == text) return role;
  }
  return fail(ErrorCode::bad_data, "unknown role '{}'", text);
}

// The file is two lines: the checksum of the second, and the record as JSON.
std::string to_text(const DomainRecord& record) {
  const boost::json::value json = {
      {"schema", 1},
      {"name", record.name},
      {"role", to_string(record.role)},
      {"generation", record.generation.value},
      {"protection", record.protection},
      {"peer", record.peer},
      {"mode", record.mode},
      {"interval_us", record.interval_us},
      {"solo", record.solo},
      {"protect_again", record.protect_again},
      {"replay", record.replay},
      {"config", record.config},
      {"runtime", record.runtime},
  };
  const std::string body = boost::json::serialize(json);
  return checksum_of(body) + "\n" + body + "\n";
}

Result<DomainRecord> from_text(const std::string& text) {
  const auto line_end = text.find('\n');
  if (line_end == std::string::npos || line_end + 1 >= text.size() || text.back() != '\n') {
    return fail(ErrorCode::bad_data, "cut short");
  }
  const std::string_view body(text.data() + line_end + 1, text.size() - line_end - 2);
  if (checksum_of(body) != text.substr(0, line_end)) {
    return fail(ErrorCode::bad_data, "its checksum does not match its content");
  }
  try {
    const boost::json::value json = boost::json::parse(body);
    DomainRecord record;
    record.name = json.at("name").as_string();
    BOOST_OUTCOME_TRY(record.role, role_from(json.at("role").as_string()));
    record.generation = Generation(json.at("generation").to_number<std::uint64_t>());
    record.protection = json.at("protection").to_number<std::uint64_t>();
    record.peer = json.at("peer").as_string();
    record.mode = json.at("mode").as_string();
    record.interval_us = json.at("interval_us").to_number<std::uint64_t>();
    record.solo = json.at("solo").as_bool();
    record.protect_again = json.at("protect_again").as_bool();
    if (const auto* replay = json.as_object().if_contains("replay")) record.replay = *replay;
    record.config = json.at("config");
    record.runtime = json.at("runtime");
    return record;
  } catch (const std::exception& error) {
    return fail(ErrorCode::bad_data, "not a domain record: {}", error.what());
  }
}

}  // namespace

std::string_view to_string(Role role) {
  switch (role) {
    case Role::unprotected:
      return "unprotected";
    case Role::primary:
      return "primary";
    case Role::backup:
      return "backup";
    case Role::superseded:
      return "superseded";
  }
  return "unprotected";
}

Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  const std::filesystem::path next = path.string() + ".new";
  const UniqueFd file(::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return system_error(errno, fmt::format("create {}", next.string()));
  for (std::size_t written = 0; written < text.size();) {
    const auto count = ::write(file.get(), text.data() + written, text.size() - written);
    if (count < 0) {
      if (errno == EINTR) continue;
      return system_error(errno, fmt::format("write {}", next.string()));
    }
    written += static_cast<std::size_t>(count);
  }
  if (::fsync(file.get()) != 0) return system_error(errno, fmt::format("sync {}", next.string()));
  if (::rename(next.c_str(), path.c_str()) != 0) {
    return system_error(errno, fmt::format("rename {} to {}", next.string(), path.string()));
  }
  // Without this the rename itself may be forgotten by a crash of the host.
  const UniqueFd folder(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || ::fsync(folder.get()) != 0) {
    return system_error(errno, fmt::format("sync {}", path.parent_path().string()));
  }
  return ok();
}

Result<StateStore> StateStore::open(std::filesystem::path directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return system_error(error.value(), fmt::format("create {}", directory.string()));
  std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  if (error) return system_error(error.value(), fmt::format("protect {}", directory.string()));
  return StateStore(std::move(directory));
}

std::map<std::string, DomainRecord> StateStore::load(std::map<std::string, Error>& damaged) const {
  std::map<std::string, DomainRecord> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    const std::string file_name = entry.path().filename().string();
    if (!file_name.ends_with(kSuffix)) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    auto record = from_text(text);
    if (record) {
      records.emplace(record.value().name, std::move(record.value()));
    } else {
      const std::string name = file_name.substr(0, file_name.size() - kSuffix.size());
      damaged.emplace(name, record.error().in(entry.path().string()));
    }
  }
  return records;
}

Result<void> StateStore::save(const DomainRecord& record) const {
  return write_file_atomically(directory_ / (record.name + std::string(kSuffix)), to_text(record));
}

Result<void> StateStore::remove(const std::string& name) const {
  std::error_code error;
  std::filesystem::remove(directory_ / (name + std::string(kSuffix)), error);
  if (error) return system_error(error.value(), fmt::format("forget domain {}", name));
  return ok();
}

}  // namespace understudy
