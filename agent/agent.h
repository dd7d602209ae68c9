// The agent of one host: which domains it runs or holds, who its peers are, and every request of
// the API.
//
// Intuition: the agent wires; it decides nothing about checkpoints or promotions. For each domain
// there is one entry with a durable record (state_store.h) and at most one session: PrimarySession
// where the domain runs and is protected, BackupSession where its image is held. Events come from
// four sides (requests, links of peers, heartbeats, the hypervisor) on one thread; requests on the
// same domain wait for each other.
//
// What a crash of the agent leaves behind: running guests (go on, their gates closed if protected),
// rules in the kernel (stay), images of backups (worthless without us: removed at the next start,
// the primary copies again), state files. take_up() sorts that out before the API is served.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/backup_session.h"
#include "agent/config.h"
#include "agent/drill_reports.h"
#include "agent/event_log.h"
#include "agent/health_watch.h"
#include "agent/hooks.h"
#include "agent/peer_watch.h"
#include "agent/primary_session.h"
#include "agent/renewal_policy.h"
#include "agent/repair.h"
#include "agent/state_store.h"
#include "arbiter/arbiter_service.h"
#include "failover/failback.h"
#include "failover/renewal.h"
#include "hypervisor/domain.h"
#include "transport/link.h"
#include "transport/pairing.h"

namespace understudy {

/// What `protect` is asked for.
struct ProtectRequest {
  std::string to;  ///< The host to try.
  /// All hosts that may be its backup, in their order; empty: only `to`.
  std::vector<std::string> hosts = {};
  /// RenewalPolicy of the protections before; null: a new one of `hosts`.
  boost::json::value renewal = nullptr;
  bool by_renewal = false;  ///< Nobody asked: Agent::renew does.
  std::string mode = "remus";
  std::chrono::microseconds interval{25'000};
  boost::json::value replay;  ///< ReplayOptions, checked; null for the defaults.
};

/// To protect a domain to `to` in the way in which its record says that it was protected; by which
/// policy is the caller's to say.
ProtectRequest as_it_was_protected(const DomainRecord& record, std::string to);

/// What `set` is to change; what is not named stays.
struct SetRequest {
  std::optional<std::string> mode;
  std::optional<std::chrono::microseconds> interval;
  boost::json::value replay;  ///< Fields of ReplayOptions; ports are added to those that are set.
  RenewalChange renewal = {};
};

/// One host's agent. Everything runs on the io_context's one thread. Methods that answer requests
/// return what docs/api.md says, and its errors.
class Agent {
 public:
  /// Opens identity, peers, state and listeners. The references must outlive the agent.
  static Result<std::unique_ptr<Agent>> create(boost::asio::io_context& context,
                                               boost::asio::thread_pool& workers,
                                               AgentConfig config);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// Takes up what an earlier run left: running domains, closed gates, remains of backups. Once,
  /// before requests.
  Task<Result<void>> take_up();
  /// An orderly end: protections are paused with the other host's consent, guests run on.
  Task<void> shut_down();

  boost::json::value status() const;
  boost::json::value version() const;
  boost::json::value peers() const;
  boost::json::value events(const std::string& domain, std::uint64_t after, bool has_after,
                            std::size_t limit) const;
  std::string metrics() const;

  Result<boost::json::value> domain_status(const std::string& name) const;
  Result<boost::json::value> timeline(const std::string& name) const;
  Task<Result<boost::json::value>> start_domain(const std::string& config_toml,
                                                const std::string& file);
  Task<Result<void>> stop_domain(const std::string& name, bool force);
  Task<Result<boost::json::value>> check(const std::string& name, const std::string& to,
                                         const std::string& mode);
  /// `findings` is filled where a check refused.
  Task<Result<boost::json::value>> protect(const std::string& name, const ProtectRequest& request,
                                           boost::json::array& findings);
  /// The same, to the first host of request.hosts that can be the backup.
  Task<Result<boost::json::value>> protect_to_first(std::string name, ProtectRequest request,
                                                    boost::json::array& findings);
  Task<Result<boost::json::value>> unprotect(const std::string& name);
  Task<Result<boost::json::value>> promote(const std::string& name, bool force);
  /// Moves the domain to `to`, and returns when it runs there. Empty, or the host that protects it:
  /// a hand-over; that host is protected from there to here. Another one: its memory is copied
  /// there first, as for a protection; a domain that was protected is not meanwhile, and from its
  /// new place it is protected to its old backup again. On an error it goes on here.
  Task<Result<boost::json::value>> move(const std::string& name, std::string to);
  Task<Result<boost::json::value>> solo(const std::string& name, bool promised);
  /// What troubles the domain, and the ways out of it (agent/repair.h).
  Result<boost::json::value> repair_choices_of(const std::string& name) const;
  /// Does the choice of that name.
  Task<Result<boost::json::value>> repair(const std::string& name, std::string choice);
  Task<Result<boost::json::value>> set(const std::string& name, const SetRequest& request);

  // Hooks and drills (agent/agent_operations.cpp).
  boost::json::value hooks() const { return hooks_->to_json(); }
  Task<Result<boost::json::value>> test_hook(std::string name, std::string kind,
                                             std::string domain);
  /// Begins a drill of `kind` ("dry", "planned" or "real") and returns its report so far; `by` says
  /// who asked for it. drill_report() tells the rest.
  Task<Result<boost::json::value>> drill(std::string name, std::string kind, std::string by);
  /// Takes a drill that is under way back: a dry one's copy is thrown away, a planned one goes back
  /// as soon as it can. Returns its report so far. Errors: no_such, usage (it has ended, or is a
  /// real one, or another host holds it).
  Task<Result<boost::json::value>> cancel_drill(std::string id);
  boost::json::value drills(const std::string& domain) const;
  Result<boost::json::value> drill_report(const std::string& id) const;

  Result<boost::json::value> create_token(std::vector<std::string> addresses,
                                          std::chrono::seconds valid_for);
  Task<Result<boost::json::value>> join(const std::string& token);
  Result<void> remove_peer(const std::string& name);

 private:
  /// A domain that runs here, or whose image is held here. Shared with its session, whose last
  /// coroutine may outlive the entry's place in the list.
  struct Entry {
    DomainRecord record;
    std::unique_ptr<Domain> domain;              ///< Set where it runs.
    std::shared_ptr<PrimarySession> primary;     ///< Set while protected.
    std::shared_ptr<BackupSession> backup;       ///< Set while its image is held.
    std::shared_ptr<PromotionRecord> promotion;  ///< The last one here.
    /// Where its frames are carried by us: in replay mode, and after a replay.
    std::shared_ptr<ReplayGate> replay_gate;
    std::optional<std::string> failure;  ///< Why it does not run, where it should.
    std::string failure_reason = "HypervisorDied";
    bool starting = false;
    bool stopping = false;
    bool busy = false;        ///< A request is at work on it.
    bool renewing = false;    ///< renew() is at work on it.
    bool by_renewal = false;  ///< The first copy of a protection that renew() began is under way.
    Renewal renewal;
    std::string renewal_reason;  ///< Why it waits, as last told in an event.
    bool failback_told = false;  ///< That it could go home.
    bool going_home = false;     ///< It is on its way there.
    mutable Conditions conditions;
  };
  /// Marks an entry as busy for the time of one request. Not valid if the entry was busy.
  class Claim;

  Agent(boost::asio::io_context& context, boost::asio::thread_pool& workers, AgentConfig config,
        StateStore store);
  Result<void> open();
  Result<void> open_hypervisor();
  /// What sessions of a pair with `peer` work with.
  [[nodiscard]] HostServices services(const std::string& peer);
  /// The arbiter of the pair with `peer`.
  ArbiterService& arbiter_for(const std::string& peer);
  void on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer);
  // Hooks, health and drills (agent/agent_operations.cpp).
  void begin_operations();
  Task<Result<boost::json::value>> start_configured(DomainConfig config);
  [[nodiscard]] HookContext describe_for_hooks(const std::string& domain) const;
  [[nodiscard]] HealthHooks::View view_for_health(const std::string& domain) const;
  Task<void> restart_domain(std::string name, std::string reason);
  Task<void> move_to_backup(std::string name);
  Task<void> leave_host(std::string reason);
  Task<void> hold_planned_drill(std::string name, boost::json::object report);
  Result<boost::json::object> begin_dry_drill(const std::string& name, const std::string& by);
  /// From now on a drill of the domain is under way here. Errors: try_again if one is already.
  Result<void> claim_drill(const std::string& name, const std::string& id);
  Task<void> hold_dry_drill_of(std::shared_ptr<BackupSession> backup, boost::json::object report);
  /// Gives the report to the drill's other host, which is asked up to `tries` times, 2 s apart.
  Task<void> share_drill(boost::json::object report, unsigned tries);
  boost::json::object accept_drill(const std::string& peer, const boost::json::object& request);
  Task<void> follow_drill(boost::json::object report, std::string peer, std::string their_id);
  Task<void> hold_real_drill(std::string name, boost::json::object report);
  Task<void> keep_drills();
  void end_drill(const std::string& name, boost::json::object report);
  [[nodiscard]] boost::json::object new_drill(const std::string& name, const std::string& kind,
                                              const std::string& peer, const std::string& by) const;
  boost::json::object answer_drill(const std::string& peer, const boost::json::object& request);
  // Renewal (agent/agent_renewal.cpp): who has no backup and may have another one gets it.
  Task<void> keep_renewed();
  void look_after(Entry& entry);
  void look_homeward(Entry& entry);
  /// Moves it to its home, because failback is when-healthy and the time has come.
  Task<void> go_home(std::string name, std::string home);
  Task<void> renew(std::string name, std::string host);
  Task<void> give_up_first_copy(std::string name);
  [[nodiscard]] RenewalPolicy policy_of(const Entry& entry) const;
  [[nodiscard]] Renewal::Choice next_backup(const Entry& entry, Renewal& renewal) const;
  [[nodiscard]] boost::json::object renewal_status(const Entry& entry) const;
  [[nodiscard]] bool heard(const std::string& peer) const;
  void on_news_of_third(Entry& entry, const std::string& peer, const HeartbeatDomain& news);

  /// Part of move(): copies the domain to `to` until that host holds it warm.
  Task<Result<void>> make_warm(std::string name, std::string to);
  Result<Entry*> find(const std::string& name) const;
  /// The entry, which must run here.
  Result<Entry*> find_running(const std::string& name) const;
  /// The entry, or a new one for a domain of that name that somebody else started here.
  Task<Result<Entry*>> find_or_take(std::string name);
  boost::json::object status_of(const Entry& entry) const;
  /// From now on `domain` is the entry's. The error is that of save(); it is the entry's all the
  /// same.
  Result<void> take_in(Entry& entry, std::unique_ptr<Domain> domain);
  [[nodiscard]] boost::json::object status_of_damaged(const std::string& name,
                                                      const Damage& damage) const;
  [[nodiscard]] Trouble trouble_of(const std::string& name) const;
  Result<void> save(const Entry& entry);
  void retire(DomainRecord record, std::string note);
  void retire(const std::string& name, std::string note);
  [[nodiscard]] Generation fresh_generation(const std::string& name) const;

  Task<void> take_up_entry(DomainRecord record);
  Task<void> take_up_promotion(DomainRecord record);
  void become_voice(Entry& entry, std::unique_ptr<Domain> domain);
  void begin_primary(Entry& entry, bool taken_up_again);
  Task<void> end_primary(std::string name, PrimaryEnd end);
  Task<void> end_backup(std::string name, BackupEnd end, std::unique_ptr<Domain> promoted,
                        std::shared_ptr<ReplayGate> replay_gate);
  static void remove_replay_gate(Entry& entry);
  void watch_exit(Entry& entry);
  Task<void> on_exit(std::string name, DomainExit exit);
  Task<std::vector<Finding>> local_findings(const Entry& entry, const std::string& to,
                                            const std::string& mode);
  /// Whether the arbiter of the pair with `peer` would answer.
  Task<Finding> arbiter_finding(std::string peer);
  std::optional<std::string> other_arbiter(const std::string& peer, std::string_view theirs);
  [[nodiscard]] static bool wants_renewal(const Entry& entry);
  /// Whether this host's kernel can hold frames.
  Task<Finding> gate_finding();
  Task<Result<boost::json::object>> ask_peer(const std::string& peer, boost::json::value request);

  Task<void> on_link(std::unique_ptr<transport::Link> link);
  Task<void> serve_control(std::shared_ptr<transport::Link> link);
  Task<void> serve_bulk(std::shared_ptr<transport::Link> link);
  [[nodiscard]] ProtectionReply outdated(const ProtectionBegin& begin, Generation known) const;
  Task<Result<ProtectionReply>> answer_begin(const std::string& peer, ProtectionBegin begin);
  Task<boost::json::object> answer_control(const std::string& peer, boost::json::object request);

  void on_verdict(const std::string& peer, const FailureDetector::Change& change);
  void on_news(const std::string& peer, const HeartbeatDomain& news, Instant echoed);
  std::vector<HeartbeatDomain> news_for(const std::string& peer) const;
  void tell_reachability(const std::string& peer);

  transport::PairingOffer offer() const;

  boost::asio::io_context& context_;
  boost::asio::thread_pool& workers_;
  AgentConfig config_;
  StateStore store_;
  EventLog events_;
  std::unique_ptr<Hooks> hooks_;  ///< Told of every event: goes after whoever records any.
  DrillReports drills_;
  std::unique_ptr<HealthWatch> health_;
  struct DrillUnderWay {
    std::string id;
    std::string id_there;  ///< Where another host holds it for us: what it is called there.
    std::shared_ptr<bool> cancelled = std::make_shared<bool>(false);
  };
  std::map<std::string, DrillUnderWay> drilled_;  ///< By domain; those begun here.
  std::map<std::string, std::unique_ptr<ArbiterService>> arbiters_;  ///< By peer, as needed.
  std::unique_ptr<Hypervisor> hypervisor_;
  transport::LocalHost self_;
  std::unique_ptr<transport::Connector> connector_;
  std::shared_ptr<transport::PairingDesk> desk_;
  std::vector<std::unique_ptr<transport::Listener>> listeners_;
  std::unique_ptr<PeerWatch> peers_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  std::map<std::string, DomainRecord> retired_;  ///< What is gone from here, for its generation.
  std::map<std::string, Failback> failbacks_;    ///< By domain; kept while it is elsewhere.
  std::map<std::string, Damage> damaged_;
  std::set<std::string> dead_peers_;  ///< Told as dead: their return is worth an event, too.
  std::set<std::string> introduced_;  ///< Heard at least once since the start.
  bool stopping_ = false;
};

}  // namespace understudy
