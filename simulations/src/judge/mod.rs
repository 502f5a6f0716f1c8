//! The laws of `docs/protocol.md`, section 1, one file for each, and the facts that they judge.
//!
//! The world emits [`Fact`]s: events of requests, recorded votes of voters, writes at the resource.
//! [`History`] keeps what several laws need. A law sees each fact with the history before it, and
//! returns a description if the fact breaks the law. Nothing here calls a node, so the tests of a
//! law forge a history and check that it is rejected.

mod history;
mod l1_someone_wins;
mod l2_no_barging;
mod l3_the_dead_do_not_hold_up;
mod l4_one_round_trip;
mod l5_bounded_memory;
mod l6_waits_are_bounded;
mod l7_leases_are_kept;
mod m10_marked_keys_rest;
mod m1_mutual_exclusion;
mod m2_fencing;
mod m3_lost_means_told;
mod m4_a_quorum_of_what;
mod m5_recovery;
mod m6_outlives_its_process;
mod m7_epochs_follow_most_clocks;
mod m8_one_process_of_a_name;
mod m9_memory;
mod s4_damage_is_dropped;
mod s6_leases_live_through_restarts;
mod s7_leases_end;
mod s8_memory_is_taken_up;
mod s9_revoked_leases_end;

use std::fmt;

use serde::Serialize;

pub(crate) use history::History;

/// The number of a host.
pub(crate) type HostAt = usize;
/// The number of a key.
pub(crate) type KeyAt = usize;

/// One request for a lock, from its beginning to its end. Unique over all hosts and incarnations.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct RequestId(pub(crate) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(to)
    }
}

/// The assumptions of the laws in this run.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// `true` if the ratio of any two monotonic clocks' rates is at most 1 + `max_drift`.
    pub(crate) clocks_kept: bool,
    /// The voters of each key.
    pub(crate) voters: Vec<Vec<HostAt>>,
    /// The voters of each key in the other voter set.
    pub(crate) other_voters: Vec<Vec<HostAt>>,
    /// The longest that state of a former holder may stay at a voter, in nanoseconds of true time.
    pub(crate) linger: u64,
    /// The age at which a claim has reached every voter if no link has a fault, in nanoseconds.
    pub(crate) settled: u64,
    /// The maximum error of all wall clocks outside `wrong_clocks`, in milliseconds, if it is
    /// bounded.
    pub(crate) right_clocks_off_ms: Option<u64>,
    /// The hosts whose wall clocks are wrong for the whole run.
    pub(crate) wrong_clocks: Vec<HostAt>,
    /// `max_clock_skew`, in milliseconds.
    pub(crate) skew_ms: u64,
}

/// The way in which a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) enum End {
    /// It was released or withdrawn.
    Released,
    /// Its lease ended without a release.
    Lost,
    /// Its lease ended since its lock was freed by hand.
    Revoked,
    /// Its deadline passed.
    TimedOut,
    /// It was a `try` and got `false`.
    Denied,
    /// Its key is marked.
    Done,
    /// Its process crashed.
    Crashed,
    /// Its process shut down cleanly.
    ShutDown,
}

/// The situation of a wait that is timed after the world has settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Handover {
    /// A free key.
    Free,
    /// A key that its holder released.
    Release,
    /// A key whose holder crashed.
    DeadHolder,
    /// A key that was released to a waiter that had crashed.
    DeadWaiter,
    /// A `try` on a key whose holder had crashed or shut down, timed until its result.
    DeadOwner,
    /// A key that nearby hosts request continuously.
    Churn,
    /// A key whose holder crashed and came back, or whose release was lost.
    Restarted,
    /// A `try` beside a live holder, timed until its result.
    Try,
    /// A key with a minority of its voters broken for good.
    BrokenMinority,
}

/// An observation of the world. Times are true time, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A request began.
    Asked {
        request: RequestId,
        host: HostAt,
        key: KeyAt,
        /// `true` if its lease outlives its process.
        outlives: bool,
    },
    /// A request claims with a new epoch.
    Claimed { request: RequestId, epoch: u64 },
    /// A request holds its key until true time `until`.
    Granted {
        request: RequestId,
        epoch: u64,
        until: u64,
    },
    /// The end of a lease moved to `until`: it was renewed, or its node's clock changed its rate.
    Until { request: RequestId, until: u64 },
    /// A request ended.
    Over { request: RequestId, how: End },
    /// A guard was checked: whether it reported `held`, and whether its lease had `expired` by the
    /// node's clock.
    Looked {
        request: RequestId,
        held: bool,
        expired: bool,
    },
    /// A node handled its timeouts, and did not report that this request's lease is over.
    Untold { request: RequestId },
    /// A voter's recorded vote for a key changed to this host and epoch, or to none.
    Voted {
        voter: HostAt,
        key: KeyAt,
        to: Option<(HostAt, u64)>,
    },
    /// A voter lost its memory.
    Forgot { voter: HostAt },
    /// A voter that had lost its memory votes from now on.
    Returned {
        voter: HostAt,
        /// Its fence for each key that it votes for.
        fences: Vec<(KeyAt, u64)>,
        /// The highest epoch that its clocks accepted when it started.
        believed: u64,
        /// `true` if M2 depends on its wall clock.
        leans_on_wall_clock: bool,
        /// `true` if too few members replied and it had other settings in an earlier incarnation.
        leans_on_settings: bool,
    },
    /// A voter votes again, with the memory of its journal.
    Resumed { voter: HostAt },
    /// A voter knows less than its process that ended, or than its journal.
    Weaker { voter: HostAt, what: String },
    /// A voter that was shut down in order and started again votes. `took` is `None` if the check gave
    /// up, or if nobody has its memory.
    Deployed {
        voter: HostAt,
        took: Option<u64>,
        bound: u64,
    },
    /// A voter dropped the memory of its journal, which is the newest.
    Dropped { voter: HostAt },
    /// A host will run in the other voter set, or in the first one again.
    Changed { host: HostAt, is_other: bool },
    /// A write reached the resource.
    Wrote {
        request: RequestId,
        key: KeyAt,
        epoch: u64,
        taken: bool,
    },
    /// A node read a damaged datagram. `is_dropped`: it counted it as dropped and did nothing else.
    Damaged { host: HostAt, is_dropped: bool },
    /// Two processes of one name have run for `both_for` since a member received datagrams of both.
    /// `goes_on`: one of them holds a lock, or the first one votes.
    TwoProcesses {
        host: HostAt,
        both_for: u64,
        goes_on: bool,
        bound: u64,
    },
    /// A lease with renewal was lost after a quorum of its voters could have renewed it for
    /// `steady`. They need at most `bound`.
    Lapsed {
        request: RequestId,
        steady: u64,
        bound: u64,
    },
    /// The voters of a lease were unreachable and came back in time. `held`: the lease survived.
    Stalled { request: RequestId, held: bool },
    /// A node handled its timeouts, and this request is still open after its deadline.
    Overdue { request: RequestId },
    /// A lease without renewal is to last longer than requested.
    Outlasts { request: RequestId },
    /// The number of entries of one kind that an idle host keeps, and its bound.
    Kept {
        host: HostAt,
        what: &'static str,
        size: usize,
        bound: usize,
    },
    /// All faults are over, and the links have none.
    Settled,
    /// The key of a held request was marked until then. The mark began at `since`.
    Marked {
        request: RequestId,
        since: u64,
        until: u64,
    },
    /// A quorum has confirmed that a claim (host, epoch) is renewed no more. Its lease must be over
    /// at `ends`. The confirmations came after `since`.
    Revoked {
        key: KeyAt,
        claim: (HostAt, u64),
        voters: Vec<HostAt>,
        since: u64,
        ends: u64,
    },
    /// A voter that lost its memory reports that it may lack marks.
    MarksLost { voter: HostAt },
    /// A request was not served within `bound`.
    Unserved { request: RequestId, bound: u64 },
    /// `asked` hosts sent a `try` for one free key at one instant.
    Stormed {
        asked: usize,
        granted: usize,
        denied: usize,
        bound: u64,
    },
    /// A request was served after the world had settled. `took` is `None` if the check gave up.
    Handed {
        what: Handover,
        took: Option<u64>,
        bound: u64,
    },
    /// A lease went through failures of a minority of its voters. `held`: it survived.
    Survived { request: RequestId, held: bool },
    /// The run exceeded its limit of steps.
    Endless { steps: u64 },
    /// The state that a host keeps after all requests have ended.
    Drained {
        host: HostAt,
        slots: usize,
        waiters: usize,
        claims: usize,
    },
    /// The slots of a host's voter, and the number of keys with recent requests.
    Keeps {
        host: HostAt,
        slots: usize,
        wanted: usize,
    },
}

/// The kind of a law.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LawKind {
    Safety,
    Liveness,
}

/// A breach of a law.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    /// The number of the law in the protocol.
    pub(crate) law: &'static str,
    pub(crate) kind: LawKind,
    /// The time of the breach, in nanoseconds of true time.
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// A law. It returns a description if the fact breaks it.
type Law = dyn FnMut(u64, &Fact, &History) -> Option<String> + Send;

/// The number of laws.
pub(crate) const LAWS: usize = 22;

/// Returns every law with its number in the protocol.
fn laws() -> [(&'static str, Box<Law>); LAWS] {
    [
        ("M1", Box::new(m1_mutual_exclusion::judge)),
        ("M2", Box::new(m2_fencing::judge)),
        ("M3", Box::new(m3_lost_means_told::judge)),
        ("M4", Box::new(m4_a_quorum_of_what::judge)),
        ("M5", Box::new(m5_recovery::judge)),
        ("M6", m6_outlives_its_process::law()),
        ("M7", Box::new(m7_epochs_follow_most_clocks::judge)),
        ("M8", Box::new(m8_one_process_of_a_name::judge)),
        ("M9", Box::new(m9_memory::judge)),
        ("M10", m10_marked_keys_rest::law()),
        ("L1", Box::new(l1_someone_wins::judge)),
        ("L2", l2_no_barging::law()),
        ("L3", Box::new(l3_the_dead_do_not_hold_up::judge)),
        ("L4", Box::new(l4_one_round_trip::judge)),
        ("L5", Box::new(l5_bounded_memory::judge)),
        ("L6", Box::new(l6_waits_are_bounded::judge)),
        ("L7", Box::new(l7_leases_are_kept::judge)),
        ("S4", Box::new(s4_damage_is_dropped::judge)),
        ("S6", Box::new(s6_leases_live_through_restarts::judge)),
        ("S7", Box::new(s7_leases_end::judge)),
        ("S8", Box::new(s8_memory_is_taken_up::judge)),
        ("S9", s9_revoked_leases_end::law()),
    ]
}

/// All laws, their history, and the breaches that they found.
pub(crate) struct Laws {
    laws: Vec<(&'static str, Box<Law>)>,
    pub(crate) history: History,
    pub(crate) violations: Vec<Violation>,
    pub(crate) facts: u64,
}

impl Laws {
    /// Creates all laws, or only those with these numbers.
    pub(crate) fn new(terms: Terms, only: Option<&[&str]>) -> Self {
        let mut laws = Vec::from(laws());
        laws.retain(|(number, _)| only.is_none_or(|only| only.contains(number)));
        Self {
            laws,
            history: History::new(terms),
            violations: Vec::new(),
            facts: 0,
        }
    }

    /// Passes a fact to every law, then adds it to the history.
    pub(crate) fn see(&mut self, at: u64, fact: &Fact) {
        self.facts += 1;
        for (law, judge) in &mut self.laws {
            if let Some(what) = judge(at, fact, &self.history) {
                let kind = if law.starts_with('M') || ["S4", "S9"].contains(law) {
                    LawKind::Safety
                } else {
                    LawKind::Liveness
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

/// Forged histories for the tests of the laws.
#[cfg(test)]
mod forged {
    use super::*;

    /// One key with three voters, hosts 0 to 2, and clocks that keep `max_drift`.
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

    /// Passes facts at these times to one law. Returns how many it rejects.
    pub(super) fn rejected(
        mut law: impl FnMut(u64, &Fact, &History) -> Option<String>,
        terms: Terms,
        facts: &[(u64, Fact)],
    ) -> usize {
        let mut history = History::new(terms);
        let mut count = 0;
        for (at, fact) in facts {
            count += usize::from(law(*at, fact, &history).is_some());
            history.keep(*at, fact);
        }
        count
    }

    pub(super) fn asked(request: u64, host: HostAt) -> Fact {
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

    pub(super) fn voted(voter: HostAt, to: Option<(HostAt, u64)>) -> Fact {
        Fact::Voted { voter, key: 0, to }
    }
}
