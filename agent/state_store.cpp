#include "agent/state_store.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <iterator>

#include "base/unique_fd.h"

namespace understudy {
namespace {

constexpr std::string_view kSuffix = ".domain.json";
constexpr std::string_view kWitnessSuffix = ".witness";

std::string checksum_of(std::string_view text) {
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

Result<Role> role_from(std::string_view text) {
  for (const Role role : {Role::unprotected, Role::primary, Role::backup, Role::promoting,
                          Role::superseded, Role::retired}) {
    if (to_string(role) == text) return role;
  }
  return fail(ErrorCode::bad_data, "unknown role '{}'", text);
}

// The file is two lines: the checksum of the second, and the record as JSON.
std::string to_text(const DomainRecord& record, std::uint64_t serial) {
  const boost::json::value json = {
      {"schema", 2},
      {"serial", serial},
      {"name", record.name},
      {"role", to_string(record.role)},
      {"generation", record.generation.value},
      {"protection", record.protection},
      {"peer", record.peer},
      {"mode", record.mode},
      {"interval_us", record.interval_us},
      {"solo", record.solo},
      {"protect_again", record.protect_again},
      {"renewal", record.renewal},
      {"handing_over", record.handing_over},
      {"replay", record.replay},
      {"note", record.note},
      {"config", record.config},
      {"runtime", record.runtime},
  };
  const std::string body = boost::json::serialize(json);
  return checksum_of(body) + "\n" + body + "\n";
}

struct Stored {
  DomainRecord record;
  std::uint64_t serial = 0;
};

Result<Stored> from_text(const std::string& text) {
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
    Stored stored;
    DomainRecord& record = stored.record;
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
    if (const auto* renewal = json.as_object().if_contains("renewal")) record.renewal = *renewal;
    if (const auto* handing_over = json.as_object().if_contains("handing_over"))
      record.handing_over = handing_over->as_bool();
    record.config = json.at("config");
    record.runtime = json.at("runtime");
    // Schema 1 had neither.
    const auto& object = json.as_object();
    if (const auto* note = object.if_contains("note")) record.note = note->as_string();
    if (const auto* serial = object.if_contains("serial"))
      stored.serial = serial->to_number<std::uint64_t>();
    return stored;
  } catch (const std::exception& error) {
    return fail(ErrorCode::bad_data, "not a domain record: {}", error.what());
  }
}

Result<Stored> read_record(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(ErrorCode::no_such, "cannot be read");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return from_text(text);
}

Result<void> make_folder(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return system_error(error.value(), fmt::format("create {}", directory.string()));
  std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  if (error) return system_error(error.value(), fmt::format("protect {}", directory.string()));
  return ok();
}

// Not synced: see the head of the header.
Result<void> write_witness(const std::filesystem::path& path, std::uint64_t serial) {
  const std::filesystem::path next = path.string() + ".new";
  std::ofstream file(next, std::ios::trunc);
  file << serial << "\n";
  file.close();
  if (!file) return system_error(errno, fmt::format("write {}", next.string()));
  std::error_code error;
  std::filesystem::rename(next, path, error);
  if (error) return system_error(error.value(), fmt::format("rename {}", next.string()));
  return ok();
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
    case Role::promoting:
      return "promoting";
    case Role::superseded:
      return "superseded";
    case Role::retired:
      return "retired";
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

Result<StateStore> StateStore::open(std::filesystem::path directory,
                                    std::filesystem::path witnesses) {
  BOOST_OUTCOME_TRY(make_folder(directory));
  BOOST_OUTCOME_TRY(make_folder(witnesses));
  return StateStore(std::move(directory), std::move(witnesses));
}

std::filesystem::path StateStore::record_path(const std::string& name) const {
  return directory_ / (name + std::string(kSuffix));
}

std::filesystem::path StateStore::witness_path(const std::string& name) const {
  return witnesses_ / (name + std::string(kWitnessSuffix));
}

std::uint64_t StateStore::witnessed(const std::string& name) const {
  std::ifstream file(witness_path(name));
  std::uint64_t serial = 0;
  file >> serial;
  return file.fail() ? 0 : serial;
}

std::map<std::string, DomainRecord> StateStore::load(std::map<std::string, Damage>& damaged) const {
  std::map<std::string, DomainRecord> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    const std::string file_name = entry.path().filename().string();
    if (!file_name.ends_with(kSuffix)) continue;
    const std::string name = file_name.substr(0, file_name.size() - kSuffix.size());
    auto stored = read_record(entry.path());
    if (!stored) {
      damaged.emplace(name, Damage{Damage::Kind::torn, stored.error().in(entry.path().string())});
    } else if (stored.value().record.name != name) {
      damaged.emplace(name, Damage{Damage::Kind::torn,
                                   fail(ErrorCode::bad_data, "{}: it is the record of '{}'",
                                        entry.path().string(), stored.value().record.name)});
    } else if (const auto newest = witnessed(name); stored.value().serial < newest) {
      damaged.emplace(
          name,
          Damage{
              Damage::Kind::older,
              fail(ErrorCode::bad_data,
                   "{}: it is older than what this host decided last (record {}, the last was {})",
                   entry.path().string(), stored.value().serial, newest)});
    } else {
      records.emplace(name, std::move(stored.value().record));
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(witnesses_, error)) {
    const std::string file_name = entry.path().filename().string();
    if (!file_name.ends_with(kWitnessSuffix)) continue;
    const std::string name = file_name.substr(0, file_name.size() - kWitnessSuffix.size());
    if (records.contains(name) || damaged.contains(name)) continue;
    damaged.emplace(name, Damage{Damage::Kind::lost,
                                 fail(ErrorCode::bad_data,
                                      "{}: the record is lost: it was there since this host was "
                                      "started",
                                      record_path(name).string())});
  }
  return records;
}

Result<void> StateStore::save(const DomainRecord& record) const {
  const auto before = read_record(record_path(record.name));
  const std::uint64_t serial =
      std::max(witnessed(record.name), before ? before.value().serial : 0) + 1;
  BOOST_OUTCOME_TRY(write_file_atomically(record_path(record.name), to_text(record, serial)));
  return write_witness(witness_path(record.name), serial);
}

Result<void> StateStore::remove(const std::string& name) const {
  // The witness first: alone it would say that the record is lost.
  for (const auto& path : {witness_path(name), record_path(name)}) {
    std::error_code error;
    std::filesystem::remove(path, error);
    if (error) return system_error(error.value(), fmt::format("forget domain {}", name));
  }
  return ok();
}

Result<DomainRecord> StateStore::read_older(const std::string& name) const {
  BOOST_OUTCOME_TRY(auto stored, read_record(record_path(name)));
  if (stored.record.name != name)
    return fail(ErrorCode::bad_data, "it is the record of '{}'", stored.record.name);
  return std::move(stored.record);
}

Result<void> StateStore::set_aside(const std::string& name) const {
  std::error_code error;
  std::filesystem::remove(witness_path(name), error);
  if (error) return system_error(error.value(), fmt::format("forget domain {}", name));
  const auto path = record_path(name);
  if (!std::filesystem::exists(path, error)) return ok();
  std::filesystem::rename(path, path.string() + ".damaged", error);
  if (error) return system_error(error.value(), fmt::format("set {} aside", path.string()));
  return ok();
}

}  // namespace understudy
