/* One voice: the protocol of role and generation, for two hosts and an arbiter, to be searched
 * exhaustively by SPIN. docs/failure-model.md, "The model", says which line of the code each step is.
 *
 * Host A runs the domain and is protected by host B. Everything may happen in any order: agents and
 * hosts crash between any two steps, the link breaks and comes back, news and answers are late or
 * lost. What must hold (the asserts, and nothing else, judge):
 *
 *   - B's domain never speaks while A may still release or speak        (one voice at a time)
 *   - A's copy never speaks once B's has spoken, nor B's once A's has   (no second story)
 *     spoken alone
 *   - nothing is released that B could not resume                       (output commit)
 *
 * Time appears in one place only: B's domain is resumed when A's lease has run out (R2 and R4; the
 * lease is shorter than what B waits). So `lease` is a fact that ends at any moment, is prolonged only
 * by what B says before it has decided, and is waited for.
 *
 * ARBITER: 0 none, 1 etcd, 2 fence. The BAD_… are mistakes, put in on purpose: each must be found. */

#ifndef ARBITER
#define ARBITER 0
#endif
#define EPOCHS 3

mtype = { protecting, lost, solo, gone,                        /* A */
          nothing, holding, asking, decided, stored, running,    /* B */
          unclaimed, by_a, by_b, forgotten };                  /* the arbiter's book */

/* host A */
mtype a_state = protecting;
byte a_generation = 1;      /* on disk */
bool a_claim_asked = false;
bool a_granted = false;     /* heard of a grant, and not yet on disk */
bool a_claim_stale = false; /* asked before the backup was back: no answer to it counts */
bool lease = false;
byte captured = 1;          /* newest epoch of A */
byte acknowledged = 0;
byte released = 0;

/* host B */
mtype b_state = holding;
byte b_generation = 1;      /* on disk */
byte committed = 1;
bool b_promoting_on_disk = false;
bool b_process_runs = false;   /* the hypervisor's process: outlives B's agent */
bool b_claim_asked = false;
byte crashes = 0;

/* the world */
bool link = true;
bool a_spoke_alone = false;
bool b_spoke = false;
chan acks = [2] of { byte };
chan claims = [2] of { mtype };
chan answer_a = [1] of { bool };
chan answer_b = [1] of { bool };
mtype book = unclaimed;

#define a_has_copy (a_state != gone)
#define A_MAY_SPEAK (a_state == solo || (a_state == protecting && lease && acknowledged > released))

/* A fence's grant is a fact about a moment: the other host is off now. Once that host has been heard
 * again, an earlier claim is void (EpochPrimary::Config::grants_last). */
inline a_meets_backup() {
#if ARBITER == 2
#ifndef BAD_STALE_FENCE
  a_claim_stale = a_claim_asked
#else
  skip
#endif
#else
  skip
#endif
}

inline a_releases() {
  assert(acknowledged <= committed || b_state != holding);
  assert(!b_spoke);
  released = acknowledged
}

active proctype A() {
  byte epoch;
  bool granted;
end: do
  /* a checkpoint: EpochPrimary::capture_if_due */
  :: atomic { a_state == protecting && captured < EPOCHS && captured < acknowledged + 2 -> captured++ }
  /* EpochPrimary::on_acknowledged: R1 */
  :: atomic { acks?epoch ->
       if
       :: a_state == protecting && epoch > acknowledged && epoch <= captured -> acknowledged = epoch
       :: else
       fi }
  /* EpochPrimary::release_if_allowed: R2 */
#ifdef BAD_NO_LEASE
  :: atomic { a_state == protecting && acknowledged > released -> a_releases() }
#else
  :: atomic { a_state == protecting && lease && acknowledged > released -> a_releases() }
#endif
  /* EpochPrimary::on_link_down; nothing opens the gate */
  :: atomic { a_state == protecting && !link -> a_state = lost }
#ifdef BAD_OPEN_BY_TIMEOUT
  :: atomic { a_state == lost -> a_state = solo }
#endif
  /* EpochPrimary::on_link_up, meet_generation, Agent::answer_begin: what B is decides */
  :: atomic { a_state == lost && !a_granted && link && b_state == holding && a_generation >= b_generation ->
       a_meets_backup(); a_state = protecting }
  :: atomic { a_state == lost && !a_granted && link && b_state == nothing && !b_process_runs && crashes < 3 && a_generation >= b_generation ->
       /* a full copy, whole at once */
       a_meets_backup(); b_state = holding; committed = captured; acknowledged = captured; a_state = protecting }
  :: atomic { a_state == lost && link && b_state == running && b_generation > a_generation ->
       a_state = gone; a_generation = b_generation }
  /* EpochPrimary::claim_if_due */
  :: atomic { ARBITER != 0 && a_state == lost && !a_claim_asked && !a_granted && len(claims) < 2 ->
       a_claim_asked = true; claims!by_a }
  /* EpochPrimary::on_arbiter */
  :: atomic { answer_a?granted ->
       a_claim_asked = false;
       if
       :: granted && !a_claim_stale && a_has_copy && a_state != solo -> a_granted = true
       :: else
       fi;
       a_claim_stale = false }
  /* EpochPrimary::use_grant, on_generation_persisted: R5. A trouble (the peer is promoting or runs)
   * bars it, where it is known; here it never is. */
  :: atomic { a_granted && (a_state == lost || a_state == protecting) ->
       a_generation = 2; a_granted = false; a_state = solo }
  :: atomic { a_state == solo && !a_spoke_alone -> assert(!b_spoke); a_spoke_alone = true }
  od
}

active proctype B() {
  bool granted;
end: do
  /* EpochBackup::on_whole: R1, R3 */
  :: atomic { b_state == holding && link && a_state == protecting && committed < captured && len(acks) < 2 ->
       committed = captured; acks!committed }
#ifdef BAD_ACKNOWLEDGE_AFTER_DECISION
  :: atomic { (b_state == decided || b_state == stored || b_state == running) && link && a_state == protecting && acknowledged < captured && len(acks) < 2 ->
       acks!captured; lease = true }
#endif
  /* a heartbeat that comes back, EpochPrimary::on_peer_heard */
  :: atomic { b_state == holding && link && a_state == protecting && !lease -> lease = true }
  /* EpochBackup::on_peer_generation: A went solo */
  :: atomic { (b_state == holding || b_state == asking || b_state == decided || b_state == stored) && link && a_generation > b_generation && a_state == solo ->
       b_state = nothing; b_generation = a_generation; b_promoting_on_disk = false }
  /* Promotion::on_wanted: A is silent (or gone) */
  :: atomic { b_state == holding && (!link || a_state == gone) ->
       if
       :: ARBITER == 0 -> b_state = decided
       :: ARBITER != 0 -> b_state = asking
       fi }
  :: atomic { b_state == asking && !b_claim_asked && len(claims) < 2 -> b_claim_asked = true; claims!by_b }
  /* Promotion::on_primary_heard: the wish is forgotten */
  :: atomic { b_state == asking && link && a_state == protecting -> b_state = holding }
  :: atomic { answer_b?granted ->
       b_claim_asked = false;
       if
       :: granted && b_state == asking -> b_state = decided
       :: else
       fi }
  /* Promotion::decide, on_generation_persisted: R5 */
  :: atomic { b_state == decided -> b_state = stored; b_generation = 2; b_promoting_on_disk = true }
#ifdef BAD_SPEAK_BEFORE_STORED
  :: atomic { b_state == decided && !lease -> b_process_runs = true; b_spoke = true; b_state = stored }
#endif
  /* Promotion::resume_if_ready: R4 */
#ifdef BAD_NO_WAIT
  :: atomic { b_state == stored && !b_process_runs ->
#else
  :: atomic { b_state == stored && !b_process_runs && !lease ->
#endif
       b_process_runs = true }
  /* it speaks as soon as its process runs, whatever its agent knows */
  :: atomic { b_process_runs && !b_spoke ->
       assert(!A_MAY_SPEAK); assert(!a_spoke_alone); assert(committed >= released);
       b_spoke = true }
  :: atomic { b_state == stored && b_process_runs -> b_state = running; b_promoting_on_disk = false }
  od
}

/* etcd (etcd_messages.h, judge) or a fence (fence_arbiter.h): takes claims in any order of time, and
 * its answers may be lost. */
active proctype Arbiter() {
  mtype who;
  bool granted;
end: do
  :: atomic { claims?who ->
#if ARBITER == 1
       if
       :: book == unclaimed -> book = who; granted = true
#ifdef BAD_EMPTY_GRANTS
       :: book == forgotten -> book = who; granted = true
#endif
       :: book == who -> granted = true
#ifdef BAD_GRANTS_TWICE
       :: book != who && book != unclaimed -> granted = true
#endif
       :: else -> granted = false
       fi;
#else
       /* the other host is off, and its domain with it; or the agent failed */
       if
       :: true ->
            granted = true;
            if
            :: who == by_a -> b_process_runs = false; b_state = nothing; b_generation = b_generation
#ifdef BAD_FENCE_LIES
            :: who == by_a -> skip
#endif
            :: who == by_b -> a_state = gone; lease = false; a_granted = false
            fi
       :: true -> granted = false
       fi;
#endif
       if   /* the answer, or nothing */
       :: who == by_a && len(answer_a) < 1 -> answer_a!granted
       :: who == by_b && len(answer_b) < 1 -> answer_b!granted
       :: who == by_a -> a_claim_asked = false; a_claim_stale = false
       :: who == by_b -> b_claim_asked = false
       fi }
#if ARBITER == 1
  :: atomic { book != forgotten -> book = forgotten }   /* restarted empty */
#endif
  od
}

/* Everything that breaks. */
active proctype World() {
end: do
  :: atomic { link -> link = false }
  :: atomic { !link -> link = true }
  :: atomic { lease -> lease = false }
  /* A's agent: PrimarySession is gone, the gate stays closed, the new one begins with 'lost'; what it
   * had asked may still be granted, and nobody listens. */
  :: atomic { crashes < 3 && (a_state == protecting || a_state == lost) ->
       crashes++; a_state = lost; lease = false; a_claim_stale = a_claim_asked; a_granted = false;
       do :: len(answer_a) > 0 -> answer_a?_ :: else -> break od }
  /* A's host: the domain is gone. */
  :: atomic { crashes < 3 && a_has_copy -> crashes++; a_state = gone; lease = false; a_granted = false }
  /* B's agent. Agent::take_up_entry, take_up_promotion: the image is lost, or the process tells. */
  :: atomic { crashes < 3 && b_state != nothing ->
       crashes++; b_claim_asked = false;
       do :: len(answer_b) > 0 -> answer_b?_ :: else -> break od;
#ifdef BAD_CUT_OFF_FORGETS
       if
       :: b_state == running -> skip
       :: else -> b_process_runs = false; b_state = nothing; b_generation = 1; b_promoting_on_disk = false
       fi
#else
       if
       :: b_state == running || (b_promoting_on_disk && b_process_runs) ->
            b_state = running; b_promoting_on_disk = false
       :: else -> b_state = nothing; b_promoting_on_disk = false; b_process_runs = false
       fi
#endif
     }
  /* B's host, or its domain: what is on disk stays. */
  :: atomic { crashes < 3 && (b_state != nothing || b_process_runs) ->
       crashes++; b_process_runs = false; b_state = nothing; b_claim_asked = false; b_promoting_on_disk = false;
#ifdef BAD_FORGET_GENERATION
       b_generation = 1
#else
       skip
#endif
     }
  od
}
