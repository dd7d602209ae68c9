// What must survive a restart of the agent: for each domain its role, its generation, and how to
// find it again.
//
// Intuition: a decision counts once it is on disk. A promotion writes that it is promoting, with
// the raised generation, before the image runs; a primary writes that it is protected before the
// gate closes; what is gone from this host leaves its generation behind (`retired`), so that an
// older copy elsewhere cannot pass for the newest. One file per domain, written whole to a
// neighbour, synced, renamed over the old one, the folder synced: a reader sees the old text or the
// new one.
//
// A file can still be spoilt, vanish, or come back from somebody's backup. All three err on the
// mute side: the domain is not touched, its gate stays as it is, nobody may use this host as its
// backup, status says so and `understudy repair` lists what can be done.
// - Torn or spoilt: the checksum does not match.
// - Older: each save counts a serial up, and a *witness* of the newest serial lies in the runtime
//   directory, whose life (a tmpfs) is that of the kernel and so of every running guest. A record
//   with a lower serial than its witness is not the last one. After a reboot there is no witness,
//   and no guest that could speak by an old record.
// - Lost: a witness without a record.
// The witness is written after the record and needs no sync: a crash between the two leaves a
// record that is newer than its witness, which is fine.
#pragma once

#include <boost/json/value.hpp>
#include <filesystem>
#include <map>
#include <string>

#include "base/ids.h"
#include "base/result.h"

namespace understudy {

/// What this host is to a domain.
enum class Role {
  unprotected,  ///< It runs here and speaks freely.
  primary,      ///< It runs here behind a gate that is closed at the start (unless `solo`).
  backup,       ///< Its image is held here.
  promoting,    ///< The image is about to run here under the raised generation, or does already.
  superseded,   ///< Another host runs it; what is left here is mute.
  retired       ///< Nothing is left here; the record keeps the generation.
};
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
  bool solo =
      false;  ///< Primary without a backup, its gate open: by an operator's word or a grant.
  /// It runs without a backup and may: protect it again as soon as a host of its list can be one.
  /// So after a promotion, after the backup's resignation, solo, and where the agent was stopped in
  /// good order.
  bool protect_again = false;
  /// Primary: a hand-over was begun, and its end is not known (PrimarySession::hand_over).
  bool handing_over = false;
  std::string note;            ///< For people: why it is retired.
  boost::json::value replay;   ///< ReplayOptions (replay_options.h), or null.
  boost::json::value renewal;  ///< RenewalPolicy (renewal_policy.h), or null.
  boost::json::value config;
  boost::json::value runtime;
};

/// Why a record cannot be trusted.
struct Damage {
  enum class Kind { torn, older, lost } kind = Kind::torn;
  Error error;  ///< For people: the file, and what is wrong with it.
};

/// The records in one folder. save() may be called from any thread, for one domain at a time.
class StateStore {
 public:
  /// Opens (makes) both folders, mode 0700. `witnesses` should not outlive the kernel (/run).
  static Result<StateStore> open(std::filesystem::path directory, std::filesystem::path witnesses);

  /// Reads all records. Files that cannot be trusted are returned by name in `damaged` with the
  /// reason.
  std::map<std::string, DomainRecord> load(std::map<std::string, Damage>& damaged) const;
  /// Makes `record` durable: when this returns, it is on disk.
  [[nodiscard]] Result<void> save(const DomainRecord& record) const;
  /// Forgets a domain altogether. Forgetting an unknown one succeeds.
  [[nodiscard]] Result<void> remove(const std::string& name) const;

  /// What can still be read of a record that load() called damaged: nothing unless it is merely
  /// older than its witness. For a person who decides to trust it.
  [[nodiscard]] Result<DomainRecord> read_older(const std::string& name) const;
  /// Moves a damaged record out of the way (to NAME.domain.json.damaged) and forgets its witness.
  [[nodiscard]] Result<void> set_aside(const std::string& name) const;

 private:
  StateStore(std::filesystem::path directory, std::filesystem::path witnesses)
      : directory_(std::move(directory)), witnesses_(std::move(witnesses)) {}
  [[nodiscard]] std::filesystem::path record_path(const std::string& name) const;
  [[nodiscard]] std::filesystem::path witness_path(const std::string& name) const;
  /// 0 if there is none that can be read.
  [[nodiscard]] std::uint64_t witnessed(const std::string& name) const;

  std::filesystem::path directory_;
  std::filesystem::path witnesses_;
};

/// Writes `text` to `path` so that a crash leaves the old content or the new one, never a mixture.
/// Mode 0600.
Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace understudy
