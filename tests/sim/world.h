// Two hosts, a network and a client in one thread, from one seed.
//
// Each host runs the very machines of the product (EpochPrimary, EpochBackup, FailureDetector,
// Promotion); what the agent does around them with sockets, disks and a hypervisor is done here
// with events on a simulated clock. First comes a safety phase in which anything may break, then
// everything is repaired and the world must become whole again: output flows, and the domain is
// protected. At every moment the Oracle watches.
//
// The two hosts' clocks differ in origin and in rate (up to 10 % each). A bulk connection keeps
// order and loses its tail when it breaks; while its direction is cut its messages wait, as TCP's
// do, and may come late. Heartbeats are lost, delayed, heard twice, and overtake each other.
//
// Not modelled: bytes (the wire format has fuzz targets of its own), wrong content on the wire,
// disks that lie, a stall between the decision to release and the system call, the client
// network's own faults (TCP above it is there for that); more hosts and more domains are
// cluster.h's. Some guests do the same again from the same state, others never do. A host's clock
// may stand still while the host does (a frozen virtual machine), or leap ahead: then the oracle
// lets late echoes of committed output pass, and counts them. Wall clocks may say what they like:
// nothing here reads one.
//
// The fault budget: any number of faults of networks, disks, clocks, agents and the arbiter, which
// may cost time and never safety; hosts that lose their power in any number, too, but a domain of
// which no copy is left that knows all that was said counts as lost, and must then be silent. A
// single crash never costs a domain whose backup held a whole image (the sweeps).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace understudy::sim {

/// A wrong rule put in on purpose: the checkers must find each.
enum class Canary {
  none,
  release_when_sent,           ///< Release at send instead of at acknowledgement.
  acknowledge_before_whole,    ///< The backup acknowledges at the first record.
  acknowledge_after_decision,  ///< The backup goes on acknowledging while it promotes.
  open_by_timeout,             ///< The primary opens its gate after a while without a backup.
  trust_old_acknowledgements,  ///< No lease: an acknowledgement of any age releases.
  apply_half,                  ///< A broken-off checkpoint's pages go to the image all the same.
  forget_generation,           ///< The generation does not survive a crash.
  unprotect_unconfirmed,       ///< The gate opens when unprotect is asked, not when confirmed.
  speak_before_stored,         ///< What is written counts as written before it is.
  trust_empty_arbiter,         ///< An arbiter that has lost its data grants whoever asks first.
  speak_after_the_word,        ///< A primary that has handed over speaks again, hearing nothing.
  cut_off_forgets,             ///< A promotion that an agent's end cuts off leaves no generation.
};

enum class Fault {
  crash,            ///< The host loses power and comes back later.
  restart_agent,    ///< The agent is killed and comes back; the domain lives on.
  stall,            ///< The agent is stopped for a while (SIGSTOP), the domain is not.
  break_link,       ///< The bulk connection breaks.
  cut_one_way,      ///< Nothing from this host reaches the other for a while.
  cut_both_ways,    ///< A partition.
  slow_link,        ///< What this host sends takes long.
  lose_heartbeats,  ///< Heartbeats of this host are lost, bulk data is not.
  flap,             ///< The network between the hosts comes and goes in quick turns.
  freeze,           ///< As a stall, and the host's clock stands still (a paused virtual machine).
  slow_disk,        ///< Writes take long.
  full_disk,        ///< Writes fail.
  arbiter_outage,   ///< The arbiter does not answer.
  arbiter_emptied,  ///< It comes back without its data.
  duplicate,        ///< What this host says is heard twice, the second time late and out of order.
  clock_jump        ///< The host's clock leaps ahead (a virtual machine that is moved).
};
inline constexpr int kFaults = 16;
/// The name of `fault` as it is written above.
std::string_view name_of(Fault fault);

/// One fault of a schedule. How long it lasts and how far it goes comes from `dice` alone, so that
/// a schedule can be played again with fewer faults.
struct Blow {
  std::int64_t at = 0;  ///< Microseconds of the world's time.
  Fault fault = Fault::crash;
  int host = 0;
  std::uint64_t dice = 0;
};

/// Who is asked when the hosts cannot ask each other.
enum class ArbiterKind { none, etcd, fence };

/// Rare things that a set of schedules is asked to have reached.
enum class Reached {
  promotion,
  promotion_of_living_primary,
  promotion_by_hand,
  promotion_failed,
  second_promotion,
  image_incomplete,
  superseded,
  newer_copy_lost,
  peer_promoting,
  stretched,
  lease_withheld_output,
  commit_learnt_at_hello,
  continued_without_copy,
  incremental_copy,
  full_copy,
  capture_failed,
  capture_keeps_failing,
  captured_for_dead_link,
  checkpoint_dropped,
  backup_refused,
  went_solo,
  solo_not_written,
  unprotected,
  unprotect_confirmed_by_hello,
  taken_up_again,
  own_stall_noticed,
  domain_lost_to_two_faults,
  promotion_by_grant,
  solo_by_grant,
  claim_refused,
  grant_unused,
  fenced,
  arbiter_lost_its_data,
  late_echo_after_a_freeze,
  write_lost_in_a_crash,
  heard_twice,
  word_given,
  handed_over,
  hand_over_failed,
};
inline constexpr std::size_t kReached = 39;
/// The name of `what` as it is written above.
std::string_view name_of(Reached what);

struct Options {
  std::uint64_t seed = 1;
  Canary canary = Canary::none;
  /// Faults, operators and odd delays at random; else only the `planned` fault, in a calm world.
  bool random_faults = true;
  /// Strike `host` with `fault` just before its `step`-th event.
  struct Planned {
    Fault fault = Fault::crash;
    int host = 0;
    std::uint64_t step = 0;
  };
  std::optional<Planned> planned;
  /// Without it: drawn from the seed if faults are random, else none.
  std::optional<ArbiterKind> arbiter;
  /// With `given`: the faults, and no others, instead of drawn ones.
  bool given = false;
  std::vector<Blow> blows;
  /// The small troubles that come at random beside the blows are left out: lost heartbeats, failing
  /// captures and writes, slow arbiters, an operator's whims.
  bool no_small_troubles = false;
  /// Another order of events after the same beginning: for a shortened schedule, which goes another
  /// way than the whole one anyway.
  std::uint64_t variation = 0;
  bool hand_over = false;  ///< In a calm world: the operator moves the domain once.
  bool trace = false;      ///< Keep what happens, line by line.
};

struct Outcome {
  std::string violation;  ///< Empty if all went well.
  std::array<std::uint32_t, kReached> reached{};
  std::array<std::uint64_t, 2> steps{};  ///< Events on each host.
  bool lost = false;  ///< No copy was left that knew all that the client had been told.
  bool whole_when_struck = false;  ///< The backup held a whole image when the last fault struck.
  std::uint64_t released = 0;      ///< Frames that the client got.
  std::uint64_t trace_digest = 0;  ///< Equal for equal runs.
  std::vector<std::string> story;  ///< With `trace`.
  std::vector<Blow> blows;         ///< What was struck, in order of time.
};

/// Runs one schedule from beginning to end. Equal options give equal outcomes.
Outcome run(const Options& options);

/// Options of a schedule that is wrong, too, and has no more to it than it needs: faults are taken
/// away one after the other while something still goes wrong. `wrong` has failed.
Options shortened(const Options& wrong);

}  // namespace understudy::sim
