//! The laws of `docs/protocol.md`, section 1: one file for each, and what they look at.
//!
//! The world tells [`Fact`]s: what nodes report of their locks, what their voters have on record,
//! what the ledger took. [`History`] keeps what several laws need; a law sees each fact together
//! with the history up to it, and answers with a sentence for each breach. Nothing here calls a
//! node, so the tests of a law forge a history and see that it is rejected.

mod history;
mod l1_someone_wins;
mod l2_no_barging;
mod l3_the_dead_do_not_hold_up;
mod l4_one_round_trip;
mod l5_bounded_memory;
mod l6_waits_are_bounded;
mod l7_leases_are_kept;
mod m1_mutual_exclusion;
mod m2_fencing;
mod m3_lost_means_told;
mod m4_a_quorum_of_what;
mod m5_recovery;
mod m6_outlives_its_process;
mod m7_epochs_follow_most_clocks;
mod m8_one_process_of_a_name;
mod s4_damage_is_dropped;
mod s6_leases_live_through_restarts;
mod s7_leases_end;

use serde::Serialize;

pub(crate) use history::History;

/// A host of the world, by number.
pub(crate) type Host = usize;
/// A key of the world, by number.
pub(crate) type KeyAt = usize;

/// One request for a lock, from its beginning to its end, over all hosts and lives.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct RequestId(pub(crate) u64);

/// What the laws take for granted in this run.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Whether the ratio of any two monotonic clocks' rates is within `max_drift`.
    pub(crate) clocks_kept: bool,
    /// The voters of each key.
    pub(crate) voters: Vec<Vec<Host>>,
    /// The same in the other voter set.
    pub(crate) other_voters: Vec<Vec<Host>>,
    /// The longest that anything of an owner may linger at a voter, in nanoseconds of true time.
    pub(crate) linger: u64,
    /// A claim that is older than this has reached every voter, in fair weather.
    pub(crate) settled: u64,
    /// How far wall clocks are off at the most, but for those of a minority of each key's voters.
    pub(crate) right_clocks_off_ms: Option<u64>,
    /// The hosts whose wall clocks are wrong then.
    pub(crate) wrong_clocks: Vec<Host>,
    /// `max_clock_skew`.
    pub(crate) skew_ms: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Its holder let go of it, or withdrew it.
    Released,
    /// Its lease was over.
    Lost,
    /// Its deadline passed.
    TimedOut,
    /// A `try` that another has beaten.
    Denied,
    /// Its process died.
    Crashed,
    /// Its process was shut down in order.
    ShutDown,
}

/// What somebody waited for once the world has settled at the end, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Handover {
    /// A key that was free.
    Free,
    /// A key that its holder released.
    Release,
    /// A key whose holder died.
    DeadHolder,
    /// A key that was released to a waiter that had died.
    DeadWaiter,
    /// A key beside whose dead owner somebody tried: how long until it was told.
    DeadOwner,
    /// A key that others near by ask for again and again.
    Churn,
    /// A key whose holder died and came back, or let go of it unheard.
    Reborn,
    /// A try that was decided, beside a holder.
    Try,
    /// A key of which a minority of the voters is broken for good.
    Maimed,
}

/// One thing that happened. Times are true time, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A request began.
    Asked {
        request: RequestId,
        host: Host,
        key: KeyAt,
        /// Its lease outlives its process.
        outlives: bool,
    },
    /// A request claims under a new epoch.
    Claimed { request: RequestId, epoch: u64 },
    /// A request owns its key until true time `until`.
    Granted {
        request: RequestId,
        epoch: u64,
        until: u64,
    },
    /// A lease ends at `until` now: it was renewed, or its node's clock changed its pace.
    Until { request: RequestId, until: u64 },
    /// A request is over.
    Over { request: RequestId, how: End },
    /// Somebody looked at a guard: what it said, and whether its own clock had reached the end.
    Looked {
        request: RequestId,
        held: bool,
        expired: bool,
    },
    /// A node did all that was due; these guards of it are over by its own clock and were not
    /// told so.
    Untold { request: RequestId },
    /// A voter's record for a key changed: the host and the epoch that have its vote.
    Voted {
        voter: Host,
        key: KeyAt,
        to: Option<(Host, u64)>,
    },
    /// A voter's process died, and with it its memory.
    Forgot { voter: Host },
    /// A voter that had no memory votes from now on.
    Returned {
        voter: Host,
        /// Its fence for each key that it votes for.
        fences: Vec<(KeyAt, u64)>,
        /// The highest epoch that its wall clock believed in when it started.
        believed: u64,
        /// It says that too few others answered.
        leans_on_wall_clock: bool,
        /// And it had other settings in an earlier incarnation.
        leans_on_settings: bool,
    },
    /// A host runs in the other voter set, or in the first one again.
    Changed { host: Host, is_other: bool },
    /// A write reached the ledger.
    Wrote {
        request: RequestId,
        key: KeyAt,
        epoch: u64,
        taken: bool,
    },
    /// A node read a datagram that was damaged on the way; whether it dropped and counted it, and
    /// did nothing else.
    Damaged { host: Host, is_dropped: bool },
    /// Two processes of one name have been there for so long, and others heard both; whether either
    /// holds a lock, or the voter of that name votes.
    TwoProcesses {
        host: Host,
        both_for: u64,
        goes_on: bool,
        bound: u64,
    },
    /// A lease that renews itself was lost; for how long a quorum of its voters could have
    /// renewed it by then, and how long they need at the most.
    Lapsed {
        request: RequestId,
        steady: u64,
        bound: u64,
    },
    /// The voters of a lease were away for some while, and could be reached again in time; whether
    /// it was held throughout.
    Stalled { request: RequestId, held: bool },
    /// A node did all that was due, and a request of it goes on after its deadline.
    Overdue { request: RequestId },
    /// A lease that does not renew itself is to last longer than was asked for.
    Outlasts { request: RequestId },
    /// How much a host keeps of something once nobody wants anything, and how much it may.
    Kept {
        host: Host,
        what: &'static str,
        size: usize,
        bound: usize,
    },
    /// All faults are over, and the network is fair.
    Settled,
    /// A lock was still wanted when all had to be served.
    Unserved { request: RequestId, bound: u64 },
    /// Some asked for one free key with `try`, in one instant.
    Stormed {
        asked: usize,
        granted: usize,
        denied: usize,
        bound: u64,
    },
    /// A key changed hands once the world has settled; `took` is `None` where it did not within the
    /// bound.
    Handed {
        what: Handover,
        took: Option<u64>,
        bound: u64,
    },
    /// The voters of a key were restarted one by one; whether its lease was held throughout.
    Survived { request: RequestId, held: bool },
    /// The run was ended since it came to no end.
    Endless { steps: u64 },
    /// What a host keeps after everybody let go of everything.
    Drained {
        host: Host,
        slots: usize,
        waiters: usize,
        claims: usize,
    },
    /// What a host's voter keeps, and for how many keys somebody asked of late.
    Keeps {
        host: Host,
        slots: usize,
        wanted: usize,
    },
}

/// What kind of law was broken.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Safety,
    Liveness,
}

/// A law that was broken.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    /// Which law, as the protocol numbers it.
    pub(crate) law: &'static str,
    pub(crate) kind: Kind,
    /// When, in nanoseconds of true time.
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// One law.
pub(crate) trait Law {
    /// Its number in the protocol.
    fn number(&self) -> &'static str;

    /// Looks at a fact, and says what is wrong with it.
    fn see(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String>;
}

/// How many there are.
pub(crate) const LAWS: usize = 18;

/// All laws, and what they have seen.
pub(crate) struct Laws {
    laws: Vec<Box<dyn Law + Send>>,
    pub(crate) history: History,
    pub(crate) violations: Vec<Violation>,
    pub(crate) facts: u64,
}

impl Laws {
    /// All laws, or those of these numbers alone.
    pub(crate) fn new(terms: Terms, only: Option<&[&str]>) -> Self {
        let laws: [Box<dyn Law + Send>; LAWS] = [
            Box::new(m1_mutual_exclusion::MutualExclusion),
            Box::new(m2_fencing::Fencing),
            Box::new(m3_lost_means_told::LostMeansTold),
            Box::new(m4_a_quorum_of_what::AQuorumOfWhat),
            Box::new(m5_recovery::Recovering),
            Box::new(m6_outlives_its_process::OutlivesItsProcess::default()),
            Box::new(m7_epochs_follow_most_clocks::EpochsFollowMostClocks),
            Box::new(m8_one_process_of_a_name::OneProcessOfAName),
            Box::new(l1_someone_wins::SomeoneWins),
            Box::new(l2_no_barging::NoBarging::default()),
            Box::new(l3_the_dead_do_not_hold_up::TheDeadDoNotHoldUp),
            Box::new(l4_one_round_trip::OneRoundTrip),
            Box::new(l5_bounded_memory::BoundedMemory),
            Box::new(l6_waits_are_bounded::WaitsAreBounded),
            Box::new(l7_leases_are_kept::LeasesAreKept),
            Box::new(s4_damage_is_dropped::DamageIsDropped),
            Box::new(s6_leases_live_through_restarts::LeasesLiveThroughRestarts),
            Box::new(s7_leases_end::LeasesEnd),
        ];
        let mut laws = Vec::from(laws);
        laws.retain(|law| only.is_none_or(|only| only.contains(&law.number())));
        Self {
            laws,
            history: History::new(terms),
            violations: Vec::new(),
            facts: 0,
        }
    }

    /// Shows a fact to every law, and keeps it.
    pub(crate) fn see(&mut self, at: u64, fact: &Fact) {
        self.facts += 1;
        for law in &mut self.laws {
            if let Some(what) = law.see(at, fact, &self.history) {
                let law = law.number();
                let kind = if law.starts_with('M') || law == "S4" {
                    Kind::Safety
                } else {
                    Kind::Liveness
                };
                self.violations.push(Violation {
                    law,
                    kind,
                    at,
                    what,
                });
            }
        }
        self.history.keep(at, fact);
    }
}

/// What the tests of the laws share: forged histories.
#[cfg(test)]
mod forged {
    use super::*;

    /// One key with three voters, hosts 0 to 2, and clocks that keep the bound.
    pub(super) fn terms() -> Terms {
        Terms {
            clocks_kept: true,
            voters: vec![vec![0, 1, 2]],
            other_voters: vec![vec![0]],
            linger: 100,
            settled: 10,
            right_clocks_off_ms: None,
            wrong_clocks: Vec::new(),
            skew_ms: 5,
        }
    }

    /// Shows facts at these times to one law, and answers how many it rejects.
    pub(super) fn rejected(law: &mut dyn Law, terms: Terms, facts: &[(u64, Fact)]) -> usize {
        let mut history = History::new(terms);
        let mut count = 0;
        for (at, fact) in facts {
            count += usize::from(law.see(*at, fact, &history).is_some());
            history.keep(*at, fact);
        }
        count
    }

    pub(super) fn asked(request: u64, host: Host) -> Fact {
        let request = RequestId(request);
        Fact::Asked {
            request,
            host,
            key: 0,
            outlives: false,
        }
    }

    pub(super) fn claimed(request: u64, epoch: u64) -> Fact {
        let request = RequestId(request);
        Fact::Claimed { request, epoch }
    }

    pub(super) fn granted(request: u64, epoch: u64, until: u64) -> Fact {
        let request = RequestId(request);
        Fact::Granted {
            request,
            epoch,
            until,
        }
    }

    pub(super) fn over(request: u64, how: End) -> Fact {
        let request = RequestId(request);
        Fact::Over { request, how }
    }

    pub(super) fn voted(voter: Host, to: Option<(Host, u64)>) -> Fact {
        Fact::Voted { voter, key: 0, to }
    }
}
