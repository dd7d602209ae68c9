// The backup's side of one protection: does what EpochBackup and Promotion decide.
//
// Intuition: the session holds a reserved, paused domain (hypervisor::Standby) whose memory is the
// image. A bulk link brings checkpoints; each is judged when it is whole, acknowledged, and applied
// on a worker thread. Links come and go; the session stays, and with it the last commit, until the
// protection ends or the image is promoted.
//
// Awkward cases:
// - The primary dies while a checkpoint is applied: promotion waits for its end (some
// milliseconds).
// - A complete copy begins: from then until it is whole there is nothing to promote, and status
// says so.
// - Applying and promoting meet on one thread of decisions; only apply() itself runs elsewhere, and
//   nothing touches the image meanwhile.
#pragma once

#include <atomic>
#include <boost/json/object.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/conditions.h"
#include "agent/host_services.h"
#include "agent/protection_messages.h"
#include "agent/replay_gate.h"
#include "agent/signal.h"
#include "base/condition.h"
#include "checkpoint/backup_image.h"
#include "checkpoint/epoch_backup.h"
#include "failover/promotion.h"
#include "hypervisor/rehearsal.h"
#include "replay/input_log.h"

namespace understudy {

/// How a backup's session ended.
enum class BackupEnd {
  promoted,   ///< The domain runs here now.
  discarded,  ///< The image is gone: unprotected, outdated, or lost.
};

/// What came of a replay, for the timeline.
struct ReplayRecord {
  Instant begun;
  std::optional<Instant> live;           ///< Once clients' frames flow again.
  std::optional<Instant> ended;          ///< Once no flow is led any more.
  std::chrono::microseconds covered{0};  ///< The stretch of execution that was replayed.
  std::uint64_t inputs = 0;
  std::uint64_t flows_diverged = 0;
};

/// The phases of one promotion as the API tells them, and what came of it. A replay goes on after
/// the session: whoever shows the record shares it.
struct PromotionRecord {
  Generation generation;
  /// "primary_dead", "primary_gone", "operator", "domain_died" or "handed_over".
  std::string cause;
  std::string outcome;  ///< "in_progress", "promoted", "failed".
  std::string message;
  PromotionTimeline timeline;
  std::chrono::system_clock::time_point
      wall_clock;  ///< The same moment as `monotonic`: turns moments into times of day.
  Instant monotonic;
  std::optional<ReplayRecord> replay;
  /// Of a hand-over: how long the guest had stood still when the primary gave its word.
  std::chrono::microseconds stood{0};
  std::string next_backup;  ///< Of a hand-over: who is to be the backup here; empty: nobody.

  [[nodiscard]] bool handed_over() const { return cause == "handed_over"; }
  /// docs/api.md, "timeline".
  [[nodiscard]] boost::json::object to_json(const std::string& domain) const;
};

/// One protection on the backup. Made with std::make_shared.
class BackupSession : public std::enable_shared_from_this<BackupSession> {
 public:
  /// `promoted` is the running domain, null otherwise.
  /// So is `replay_gate`, which is null where the domain's frames pass by themselves.
  using EndHandler = std::function<void(BackupEnd, std::unique_ptr<Domain> promoted,
                                        std::shared_ptr<ReplayGate> replay_gate)>;

  /// `standby` was prepared for `record`, which is saved and belongs to `owner`; the session keeps
  /// that alive. Errors: the image cannot be set up.
  static Result<std::shared_ptr<BackupSession>> create(const HostServices& services,
                                                       std::shared_ptr<const void> owner,
                                                       DomainRecord& record,
                                                       std::unique_ptr<Standby> standby,
                                                       EndHandler on_end);
  ~BackupSession();
  BackupSession(const BackupSession&) = delete;
  BackupSession& operator=(const BackupSession&) = delete;

  [[nodiscard]] PeerView view() const { return decisions_.view(); }
  [[nodiscard]] ProtectionId protection() const { return decisions_.protection(); }
  /// How far the input log goes here.
  [[nodiscard]] LogPosition log_position() const { return log_.last_position(); }
  /// Whether promotion has been decided: from then on no link is served.
  [[nodiscard]] bool promoting() const;

  /// Serves a bulk link of this protection, whose protection_begin was read and answered, until it
  /// ends. A link that is served already is closed: the newer one counts.
  Task<void> serve(std::shared_ptr<transport::Link> link);

  /// The primary is dead (`primary_dead`), or somebody wants the domain here. Begins the promotion
  /// or refuses with the reason. Success means begun; see promotion_record() for what comes of it.
  Result<void> promote(Promotion::Cause cause, std::string_view cause_word,
                       Instant last_sign_of_life);
  /// The primary's host was heard and says what it is to the domain, for this protection. `none`
  /// begins a promotion; the error is why it was refused.
  Result<void> on_primary_heard(PeerRole role);
  /// The arbiter has answered `claim`. The error is why nothing is promoted.
  Result<void> on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer);
  /// For status: whether the primary's heartbeats arrive.
  void on_peer_reachable(std::string_view reason, bool reachable);
  /// The primary said its generation in a heartbeat.
  void on_peer_generation(Generation generation);

  /// The last commit, copied for a drill.
  struct ImageCopy {
    EpochId epoch;
    Generation generation;
    std::uint64_t bytes = 0;
    std::vector<std::byte> device_state;
    std::vector<std::vector<IpAddress>> addresses;  ///< Of each interface, as learnt.
  };
  /// Copies the last commit into `rehearsal` on a worker. Checkpoints go on to be taken in and
  /// acknowledged meanwhile, but are applied after it; a promotion ends it. `rehearsal` must live
  /// until this returns. Errors: try_again (nothing is whole, or it is promoted), no_resources.
  Task<Result<ImageCopy>> copy_image_to(Rehearsal& rehearsal);
  /// What the guest was heard from, as of the last commit: each interface's addresses.
  [[nodiscard]] std::vector<std::vector<IpAddress>> addresses() const {
    return decode_addresses(addresses_);
  }
  /// What the standby was prepared from.
  [[nodiscard]] const DomainConfig& config() const { return standby_->config(); }

  /// Gives the image up. The primary, if it listens, is told with `reason`.
  Task<void> discard(std::string reason);

  void add_status(boost::json::object& status, Conditions& conditions) const;
  [[nodiscard]] const std::shared_ptr<PromotionRecord>& promotion_record() const {
    return promotion_record_;
  }
  [[nodiscard]] std::uint64_t checkpoints() const { return checkpoints_; }

 private:
  BackupSession(const HostServices& services, std::shared_ptr<const void> owner,
                DomainRecord& record, std::unique_ptr<Standby> standby,
                std::unique_ptr<BackupImage> image, EndHandler on_end);

  /// Frames of one link that wait for their turn: everything but the log, whose acknowledgement
  /// lets output go and must not wait for pages to be written.
  struct Inbox {
    std::deque<transport::Frame> frames;
    std::size_t bytes = 0;
    bool closed = false;  ///< No more frames come.
    bool taken = false;   ///< Nobody takes any more.
    std::string problem;
    Condition changed;
  };
  Result<void> take_over(const ProtectionEnd& word);
  Task<void> fill(std::shared_ptr<transport::Link> link, std::shared_ptr<Inbox> inbox);
  Task<void> empty(std::shared_ptr<transport::Link> link, std::shared_ptr<Inbox> inbox);
  [[nodiscard]] bool serves(const std::shared_ptr<transport::Link>& link) const {
    return !ended_ && !promoting() && link_ == link;
  }
  Task<Result<void>> take(transport::Frame frame);
  Result<void> take_log(std::span<const std::byte> payload);
  Result<void> prepare_replay();
  Task<Result<void>> carry_out(EpochBackup::Actions actions);
  void report(const EpochBackup::Report& report);
  Task<void> apply(EpochId epoch);
  template <typename Work>
  Task<std::invoke_result_t<Work&>> work_on_image(Work& work);
  Task<void> wait_for_image();
  Result<void> begin_promotion(Promotion::Actions actions, std::string_view cause_word);
  Task<void> carry_out_promotion(Promotion::Actions actions);
  Task<void> resume();
  Task<void> announce_rounds();
  Task<void> watch_promotion();
  static Task<void> watch_standby(std::weak_ptr<BackupSession> session);
  Task<void> image_lost(std::string why);
  void promotion_failed(std::string message);
  void finish(BackupEnd end, std::unique_ptr<Domain> promoted);

  HostServices services_;
  std::shared_ptr<const void> owner_;  ///< Of the record.
  DomainRecord& record_;
  std::unique_ptr<Standby> standby_;
  std::unique_ptr<BackupImage> image_;
  EpochBackup decisions_;
  replay::BackupLog log_;
  std::optional<replay::BackupLog::Replayable> replayable_;  ///< Taken for a promotion.
  std::map<EpochId, Instant> marks_;  ///< When they came, of epochs that are not yet committed.
  /// The stretch of execution that a promotion has to replay, by our clock.
  Instant log_begins_{};
  Instant log_ends_{};
  Promotion promotion_;
  EndHandler on_end_;
  std::shared_ptr<transport::Link> link_;
  std::unique_ptr<Domain> promoted_;
  std::shared_ptr<ReplayGate> replay_gate_;
  std::vector<OutputInterface> outputs_;
  std::vector<std::byte> addresses_;
  std::shared_ptr<PromotionRecord> promotion_record_;
  Signal wake_;
  Condition image_idle_;
  bool image_at_work_ = false;  ///< A worker reads or writes it.
  /// Of a copy under way: set, it ends early.
  std::shared_ptr<std::atomic<bool>> copy_given_up_;
  bool ended_ = false;

  std::uint64_t checkpoints_ = 0;
  std::string peer_reason_ = "NeverSeen";
  std::optional<bool> peer_reachable_;
  std::chrono::microseconds stood_{0};  ///< Of a hand-over: see PromotionRecord.
  std::string next_backup_;             ///< The same.
  std::string cause_word_;              ///< Of the promotion that waits for the arbiter.
  Instant primary_heard_{};             ///< The last sign of life, as told with the wish.
  std::string last_problem_;
};

}  // namespace understudy
