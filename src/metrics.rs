//! Metrics through the `metrics` facade: their names, types and help texts.
//!
//! Install a recorder before the first mesh starts. Each metric has the label `node`, the id of
//! the node. [`ALL`] is the table of all metrics; docs/observability.md adds when to alert.
//!
//! Gauges and the counters of traffic are refreshed once per second. All other metrics are updated
//! at once. Counters start at 0 with each start of a node.
//!
//! docs/prometheus-rules.yml has alerts, and docs/grafana.json a dashboard.

use std::fmt;
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::engine::core::{Core, Ended};
use crate::obstacles::NOTED_FOR;
use crate::status::{Health, VoterStart};
use lockmesh_proto::{
    DropReason, Event, NodeId, Now, Standing, VoteTally, Voter, WallClock, quorum,
};

/// A metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The unit, in the plural.
    pub unit: &'static str,
    /// The labels beside `node`.
    pub labels: &'static [&'static str],
    /// The help text.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A number that only rises.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// A distribution of values.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help, ".")]
            pub const $constant: &str = $name;
        )*

        /// All metrics.
        ///
        /// | name | type | unit | further labels | meaning |
        /// | --- | --- | --- | --- | --- |
        $(
            #[doc = concat!(
                "| `", $name, "` | ", stringify!($kind), " | ", $unit, " | ",
                $("`", $label, "` ",)* "| ", $help, " |"
            )]
        )*
        pub const ALL: &[Metric] = &[$(
            Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            }
        ),*];
    };
}

metrics! {
    REQUESTS: Counter "lockmesh_requests_total" "requests" []
        "requests for locks that began";
    GRANTS: Counter "lockmesh_grants_total" "requests" []
        "requests that were granted";
    DENIED: Counter "lockmesh_denied_total" "requests" []
        "`try` requests that ended because another claim is granted";
    TIMEOUTS: Counter "lockmesh_timeouts_total" "requests" ["reason"]
        "requests whose deadline passed without a quorum of votes, by reason";
    LOST: Counter "lockmesh_lost_total" "leases" []
        "leases of guards that ended because they were not renewed in time";
    REVOKED: Counter "lockmesh_revoked_total" "leases" []
        "leases of guards that ended because somebody freed their locks by hand";
    TICKS: Counter "lockmesh_ticks_total" "ticks" ["outcome"]
        "calls that asked for a tick of `Mesh::once`, by outcome";
    ACQUIRE_SECONDS: Histogram "lockmesh_acquire_seconds" "seconds" []
        "time from a request to its grant, with the time in the queue";
    HELD_SECONDS: Histogram "lockmesh_held_seconds" "seconds" ["kind"]
        "time from a grant to the end of its lease: released, lost or run out. By what the lock is \
         for";
    HELD: Gauge "lockmesh_held" "locks" []
        "locks that this node holds";
    WAITING: Gauge "lockmesh_waiting" "requests" []
        "pending requests of this node";
    READY: Gauge "lockmesh_ready" "0 or 1" []
        "1 if this node is ready: a quorum of the voters would vote for its claims, with its own \
         voter if it has one. A voter that has just started first waits until the next may be \
         restarted, at most for about `max_ttl`";
    SAFE_TO_RESTART: Gauge "lockmesh_safe_to_restart" "0 or 1" []
        "1 if one of the voters may be restarted now: every key has a quorum without any one more";
    QUORUM: Gauge "lockmesh_quorum" "0 or 1" []
        "1 if every key has a quorum of voters that would vote for claims of this node";
    VOTERS: Gauge "lockmesh_voters" "voters" []
        "members of the voter set";
    VOTERS_REACHABLE: Gauge "lockmesh_voters_reachable" "voters" []
        "members of the voter set that answer this node, with itself";
    VOTERS_VOTING: Gauge "lockmesh_voters_voting" "voters" []
        "members of the voter set that would vote for claims of this node, with itself";
    RECOVERING: Gauge "lockmesh_recovering" "0 or 1" []
        "1 if the voter of this node is in recovery and does not vote. 0 on a node without a voter";
    QUARANTINE_SECONDS: Gauge "lockmesh_quarantine_seconds" "seconds" []
        "time left in the quarantine of this node's voter. Recovery may last longer";
    VOTER_STARTS: Counter "lockmesh_voter_starts_total" "starts" ["from"]
        "starts of this node's voter, by the source of its memory: its journal, a handover, or \
         nothing, so that it had to wait";
    JOURNAL_BYTES: Gauge "lockmesh_journal_bytes" "bytes" []
        "size of the journal of this node's voter. 0 without a journal";
    JOURNAL_FAILED: Gauge "lockmesh_journal_failed" "0 or 1" []
        "1 if the journal cannot be written, so that this voter does not vote";
    JOURNAL_FAILURES: Counter "lockmesh_journal_failures_total" "failures" []
        "failed writes of the journal";
    OTHER_VOTER_SETS: Gauge "lockmesh_other_voter_sets" "nodes" []
        "nodes with another voter set from which a message came in the last 30 s";
    SECRETS: Gauge "lockmesh_secrets" "secrets" []
        "cluster secrets with which this node opens datagrams: more than 1 while the secret is \
         replaced, 0 in plaintext";
    OTHER_SECRETS: Gauge "lockmesh_other_secrets" "nodes" []
        "members, and other nodes that gossip knows, whose newest datagram is not sealed with the \
         secret with which this node seals";
    VOTER_KEYS: Gauge "lockmesh_voter_keys" "keys" []
        "keys that this node's voter keeps: held or waited for. 0 on a node without a voter";
    VOTER_MARKS: Gauge "lockmesh_voter_marks" "marks" []
        "marks at this node's voter: keys that nobody is granted, such as ticks that ran";
    VOTER_MAY_LACK_MARKS: Gauge "lockmesh_voter_may_lack_marks" "1" []
        "1 if this node's voter lost its memory and could not read the marks of enough others, until \
         it is restarted; ticks that ran before may run again";
    WALL_CLOCK_AHEAD_SECONDS: Gauge "lockmesh_wall_clock_ahead_seconds" "seconds" []
        "the wall clock of this node, ahead of those of most voters. Negative if it is behind; 0 if \
         it is within their range, or if too few clocks are known";
    WALL_CLOCKS_DISPUTED_SECONDS: Gauge "lockmesh_wall_clocks_disputed_seconds" "seconds" []
        "difference between the wall clocks of the voters, if too few are known to tell which are \
         right; else 0";
    DATAGRAMS_OUT: Counter "lockmesh_datagrams_out_total" "datagrams" []
        "datagrams sent, without gossip";
    DATAGRAMS_IN: Counter "lockmesh_datagrams_in_total" "datagrams" []
        "datagrams received and accepted, without gossip";
    GOSSIP_BYTES_OUT: Counter "lockmesh_gossip_bytes_out_total" "bytes" []
        "bytes of gossip sent, after sealing";
    GOSSIP_RESTARTS: Counter "lockmesh_gossip_restarts_total" "restarts" []
        "ends of gossip; each is followed by a restart";
    DROPPED: Counter "lockmesh_dropped_total" "datagrams and messages" ["reason"]
        "dropped datagrams and messages, by reason";
}

/// The values of the label `reason` of [`TIMEOUTS`].
///
/// | reason | the voters at the deadline |
/// | --- | --- |
/// | `contended` | A quorum answered with its vote, or that another claim is ahead. |
/// | `refused` | A quorum answered, and too many of it refused. |
/// | `silent` | Fewer than a quorum answered. |
pub const TIMEOUT_REASONS: [&str; 3] = ["contended", "refused", "silent"];

/// The values of the label `outcome` of [`TICKS`].
///
/// | outcome | the tick |
/// | --- | --- |
/// | `ran` | The call ran it and marked it. |
/// | `failed` | The work returned an error, and the tick was given back. |
/// | `already_ran` | It ran before. |
/// | `running` | Another node still ran it when the wait was over. |
/// | `not_acquired` | There was no quorum, or the request was not valid. The work did not run. |
/// | `lease_lost` | The lease was lost while the work ran. It may run again. |
/// | `not_marked` | The work is done, but no quorum has the mark. It may run again. |
pub const TICK_OUTCOMES: [&str; 7] = [
    "ran",
    "failed",
    "already_ran",
    "running",
    "not_acquired",
    "lease_lost",
    "not_marked",
];

/// The purpose of a lock: the label `kind` of [`HELD_SECONDS`].
///
/// [`LockRequest::kind`](crate::LockRequest::kind) sets it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum LockKind {
    /// A lock by itself.
    #[default]
    Lock,
    /// A permit of a [semaphore](crate::Mesh::semaphore).
    Semaphore,
    /// One of [several keys](crate::Mesh::lock_all).
    LockAll,
    /// The lock of the leader of an [election](crate::Mesh::election).
    Election,
}

impl LockKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Lock, Self::Semaphore, Self::LockAll, Self::Election];

    /// Returns the value of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
            Self::LockAll => "lock_all",
            Self::Election => "election",
        }
    }
}

/// Returns the index of the reason in [`TIMEOUT_REASONS`].
fn timeout_reason(tally: &VoteTally) -> usize {
    let quorum = quorum(tally.voters);
    let in_turn = tally.voted + tally.waiting;
    match () {
        () if in_turn >= quorum => 0,
        () if in_turn + tally.refused >= quorum => 1,
        () => 2,
    }
}

/// Gives the recorder the help texts.
fn describe() {
    for metric in ALL {
        let Metric { name, help, .. } = *metric;
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
}

/// The metrics of one mesh.
pub(crate) struct Meter {
    node: String,
    requests: Counter,
    grants: Counter,
    denied: Counter,
    timeouts: [Counter; 3],
    lost: Counter,
    revoked: Counter,
    gossip_restarts: Counter,
    acquire: Histogram,
    /// In the order of [`LockKind::ALL`].
    held: [Histogram; LockKind::ALL.len()],
}

impl Meter {
    pub(crate) fn new(node: &NodeId) -> Self {
        describe();
        let node = node.to_string();
        let label = || node.clone();
        for outcome in TICK_OUTCOMES {
            let _ = counter!(TICKS, "node" => label(), "outcome" => outcome);
        }
        Self {
            requests: counter!(REQUESTS, "node" => label()),
            grants: counter!(GRANTS, "node" => label()),
            denied: counter!(DENIED, "node" => label()),
            timeouts: TIMEOUT_REASONS
                .map(|reason| counter!(TIMEOUTS, "node" => label(), "reason" => reason)),
            lost: counter!(LOST, "node" => label()),
            revoked: counter!(REVOKED, "node" => label()),
            gossip_restarts: counter!(GOSSIP_RESTARTS, "node" => label()),
            acquire: histogram!(ACQUIRE_SECONDS, "node" => label()),
            held: LockKind::ALL
                .map(|kind| histogram!(HELD_SECONDS, "node" => label(), "kind" => kind.as_str())),
            node,
        }
    }

    pub(crate) fn began(&self) {
        self.requests.increment(1);
    }

    pub(crate) fn granted(&self, took: Duration) {
        self.grants.increment(1);
        self.acquire.record(took);
    }

    pub(crate) fn was_held(&self, kind: LockKind, span: Duration) {
        self.held[kind as usize].record(span);
    }

    pub(crate) fn lost(&self) {
        self.lost.increment(1);
    }

    pub(crate) fn revoked(&self) {
        self.revoked.increment(1);
    }

    /// Counts a tick with one of [`TICK_OUTCOMES`].
    pub(crate) fn tick(&self, outcome: &'static str) {
        counter!(TICKS, "node" => self.node.clone(), "outcome" => outcome).increment(1);
    }

    pub(crate) fn voter_starts(&self, start: &VoterStart) {
        counter!(VOTER_STARTS, "node" => self.node.clone(), "from" => start.label()).increment(1);
    }

    pub(crate) fn gossip_ended(&self) {
        self.gossip_restarts.increment(1);
    }

    pub(crate) fn ended_without(&self, ended: &Ended) {
        match ended {
            Ended::Denied | Ended::Done { .. } => self.denied.increment(1),
            Ended::TimedOut { answers, .. } => {
                self.timeouts[timeout_reason(answers)].increment(1);
            }
            Ended::Granted(_) | Ended::Refused(_) | Ended::Reentry(_) | Ended::ShutDown => {}
        }
    }

    /// Refreshes the gauges and the traffic counters.
    pub(crate) fn refresh(&self, core: &Core, now: Now) {
        if core.has_failed {
            self.set(READY, 0.0);
            self.set(SAFE_TO_RESTART, 0.0);
            self.set(QUORUM, 0.0);
            return;
        }
        let node = &core.node;
        self.refresh_voters(core, now);
        self.set(HELD, count(node.claimant().held(now).count()));
        self.set(WAITING, count(node.claimant().waiting()));
        self.set(VOTER_KEYS, count(node.voter().map_or(0, Voter::slots)));
        self.set(VOTER_MARKS, count(node.voter().map_or(0, Voter::marks)));
        self.set(VOTER_MAY_LACK_MARKS, f64::from(core.may_lack_marks));
        self.set(WALL_CLOCK_AHEAD_SECONDS, seconds(node.wall_ahead_ms(now)));
        let disputed = match node.wall_clock(now) {
            WallClock::Disputed { by_ms } => i64::try_from(by_ms).unwrap_or(i64::MAX),
            _ => 0,
        };
        self.set(WALL_CLOCKS_DISPUTED_SECONDS, seconds(disputed));
        let traffic = node.traffic();
        let label = || self.node.clone();
        counter!(DATAGRAMS_OUT, "node" => label()).absolute(traffic.datagrams_out);
        counter!(DATAGRAMS_IN, "node" => label()).absolute(traffic.datagrams_in);
        counter!(GOSSIP_BYTES_OUT, "node" => label()).absolute(traffic.gossip_bytes_out);
        // Also the reasons without a drop: a counter that begins above 0 triggers no alert.
        for reason in DropReason::ALL {
            let dropped = counter!(DROPPED, "node" => label(), "reason" => reason.as_str());
            dropped.absolute(traffic.dropped.get(&reason).copied().unwrap_or(0));
        }
    }

    fn refresh_voters(&self, core: &Core, now: Now) {
        let node = &core.node;
        let members = node.voter_set().members();
        let (mut reachable, mut voting) = (0, 0);
        for member in members {
            let standing = node.standing_of(now, member);
            reachable += usize::from(standing != Standing::Silent);
            voting += usize::from(standing == Standing::Votes);
        }
        let quarantine = node.voter().and_then(Voter::quarantine);
        let remaining = quarantine.map_or(Duration::ZERO, |until| until.since(now.mono));
        let others = node.of_other_sets(now, NOTED_FOR).count();
        let is_ready = core.health(now) == Health::Ready;
        self.set(READY, f64::from(is_ready));
        self.set(SAFE_TO_RESTART, f64::from(core.check_restart(now).is_ok()));
        self.set(QUORUM, f64::from(core.has_quorum(voting)));
        self.set(VOTERS, count(members.len()));
        self.set(VOTERS_REACHABLE, count(reachable));
        self.set(VOTERS_VOTING, count(voting));
        self.set(RECOVERING, f64::from(quarantine.is_some()));
        self.set(QUARANTINE_SECONDS, remaining.as_secs_f64());
        self.set(OTHER_VOTER_SETS, count(others));
        self.set(SECRETS, count(node.secrets().len()));
        self.set(OTHER_SECRETS, count(node.with_other_secrets().count()));
        let journal = core.journal.as_ref().map(|journal| journal.status());
        let (bytes, has_failed, failures) =
            journal.map_or((0, false, 0), |it| (it.bytes, it.has_failed, it.failures));
        self.set(JOURNAL_BYTES, bytes as f64);
        self.set(JOURNAL_FAILED, f64::from(has_failed));
        let label = self.node.clone();
        counter!(JOURNAL_FAILURES, "node" => label).absolute(failures);
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name, "node" => self.node.clone()).set(value);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// Emits an event as a `tracing` event.
pub(crate) fn trace(event: &Event, node: &NodeId) {
    match event {
        Event::Granted {
            ticket, key, epoch, ..
        } => {
            tracing::debug!(%node, ticket = ticket.0, %key, %epoch, "lock granted");
        }
        Event::Renewed { ticket, .. } => {
            tracing::trace!(%node, ticket = ticket.0, "lease renewed");
        }
        Event::Lost {
            ticket,
            key,
            epoch,
            was_due: true,
        } => {
            tracing::debug!(%node, ticket = ticket.0, %key, %epoch, "lease over");
        }
        Event::Lost {
            ticket,
            key,
            epoch,
            was_due: false,
        } => {
            tracing::warn!(
                %node, ticket = ticket.0, %key, %epoch,
                "lease lost; stop the work under it, and look for a pause of this process or for a \
                 lost quorum"
            );
        }
        Event::Revoked {
            ticket,
            key,
            epoch,
            by,
            through,
        } => {
            tracing::warn!(
                %node, ticket = ticket.0, %key, %epoch, by = by.as_str(), %through,
                "lock freed by hand; stop the work under it, and release its guard"
            );
        }
        Event::VoteRevoked {
            key,
            holder,
            epoch,
            by,
            through,
        } => {
            tracing::warn!(
                %node, %key, %holder, %epoch, by = by.as_str(), %through,
                "vote renewed no more, since its lock is freed by hand; nothing is to be done"
            );
        }
        Event::Denied { ticket } => {
            tracing::debug!(%node, ticket = ticket.0, "lock is another's");
        }
        Event::Done {
            ticket, by, epoch, ..
        } => {
            tracing::debug!(%node, ticket = ticket.0, %by, %epoch, "key is marked");
        }
        Event::Marked { ticket } => {
            tracing::debug!(%node, ticket = ticket.0, "key marked");
        }
        Event::NotMarked { ticket } => {
            tracing::warn!(
                %node, ticket = ticket.0,
                "key not marked: the voters have no room; raise limits.marks_max, or mark for less \
                 time"
            );
        }
        Event::MarksRead { marks, may_lack } => {
            tracing::debug!(%node, marks, may_lack, "marks of the others read");
        }
        Event::TimedOut {
            ticket, answers, ..
        } => {
            tracing::debug!(%node, ticket = ticket.0, ?answers, "no quorum in time");
        }
        Event::QuarantineEnded { answers, .. } => {
            tracing::debug!(%node, answers, "quarantine over");
        }
        Event::QuarantineExtended { node: other, .. } => {
            tracing::debug!(%node, %other, "quarantine extended");
        }
        Event::VoterSetMismatch {
            node: other,
            differences,
        } => {
            tracing::debug!(%node, %other, %differences, "another voter set");
        }
        Event::VoterSetMatch { node: other } => {
            tracing::debug!(%node, %other, "the same voter set");
        }
        Event::Resumed {
            votes,
            answers,
            is_confirmed,
        } => {
            tracing::info!(%node, votes, answers, is_confirmed, "voter resumed from its journal");
        }
        Event::TookUp { from, votes, .. } => {
            tracing::info!(%node, %from, votes, "voter took up its memory by handover");
        }
        Event::HandedOver { voters } => {
            tracing::debug!(%node, voters = voters.len(), "handover over");
        }
        Event::JournalOutdated { node: other } => {
            tracing::warn!(
                %node, %other,
                "the journal is an old copy, so it is not used; never put a data directory back"
            );
        }
        Event::JournalFailed => {
            tracing::warn!(
                %node,
                "the journal cannot be written, so this voter does not vote; give its data \
                 directory space, and look at its disk"
            );
        }
        Event::JournalRestored => {
            tracing::info!(%node, "the journal is written again; this voter votes");
        }
        Event::SecretChanged {
            node: other,
            secret,
        } => {
            tracing::info!(%node, %other, %secret, "a node seals with another secret than before");
        }
        // Logged as obstacles, in obstacles.rs.
        Event::QuarantineBegan { .. } | Event::TwinFound | Event::TwinGone => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_reason_tells_contention_from_no_quorum() {
        let reason = |[voted, waiting, refused, silent]: [usize; 4]| {
            let mut tally = VoteTally::default();
            tally.voters = voted + waiting + refused + silent;
            (tally.voted, tally.waiting) = (voted, waiting);
            (tally.refused, tally.silent) = (refused, silent);
            TIMEOUT_REASONS[timeout_reason(&tally)]
        };
        assert_eq!(reason([0, 1, 0, 0]), "contended");
        assert_eq!(reason([1, 2, 0, 2]), "contended");
        assert_eq!(reason([2, 0, 1, 2]), "refused");
        assert_eq!(reason([0, 0, 1, 0]), "refused");
        assert_eq!(reason([2, 0, 0, 3]), "silent");
        assert_eq!(reason([0, 1, 1, 3]), "silent");
    }
}
