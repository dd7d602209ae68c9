// What must survive a restart of the agent: for each domain its role, its generation, and how to
// find it again.
//
// Intuition: a decision counts once it is on disk. A promotion writes the raised generation here
// before the image runs; a primary writes that it is protected before the gate closes. One file per
// domain, written whole to a neighbour, synced, renamed over the old one, the folder synced: a
// reader sees the old text or the new one. A checksum tells a file that a disk or a person damaged;
// such a file errs on the mute side: the domain is not touched, its gate stays as it is, and status
// says so.
#pragma once

#include <boost/json/value.hpp>
#include <filesystem>
#include <map>
#include <string>

#include "base/ids.h"
#include "base/result.h"

namespace understudy {

/// What this host is to a domain.
enum class Role { unprotected, primary, backup, superseded };
std::string_view to_string(Role role);

/// One domain's record. `config` and `runtime` are the hypervisor's own (DomainConfig::to_json,
/// Domain::runtime_state or Standby::runtime_state).
struct DomainRecord {
  std::string name;
  Role role = Role::unprotected;
  Generation generation;
  std::uint64_t protection = 0;  ///< Random number of the running protection; 0: none.
  std::string peer;              ///< The other host's name; empty: none.
  std::string mode;              ///< "remus" or "replay"; empty: not protected.
  std::uint64_t interval_us = 0;
  bool solo = false;  ///< Primary without a backup, its gate open, by an operator's word.
  bool protect_again =
      false;  ///< The agent was stopped in good order: protect as before when it is back.
  boost::json::value replay;  ///< ReplayOptions (replay_options.h), or null.
  boost::json::value config;
  boost::json::value runtime;
};

/// The records in one folder. Not thread-safe: used from the agent's thread.
class StateStore {
 public:
  /// Opens (makes) `directory`, mode 0700.
  static Result<StateStore> open(std::filesystem::path directory);

  /// Reads all records. Files that are damaged are returned by name in `damaged` with the reason.
  std::map<std::string, DomainRecord> load(std::map<std::string, Error>& damaged) const;
  /// Makes `record` durable: when this returns, it is on disk.
  [[nodiscard]] Result<void> save(const DomainRecord& record) const;
  /// Forgets a domain. Forgetting an unknown one succeeds.
  [[nodiscard]] Result<void> remove(const std::string& name) const;

 private:
  explicit StateStore(std::filesystem::path directory) : directory_(std::move(directory)) {}
  std::filesystem::path directory_;
};

/// Writes `text` to `path` so that a crash leaves the old content or the new one, never a mixture.
/// Mode 0600.
Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace understudy
