//! One line of a history.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the format, written in the first line of every incarnation.
pub(crate) const FORMAT: u32 = 1;

/// The kind of a lock request.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// Waits in line.
    Acquire,
    /// Does not wait.
    Try,
}

/// One event. Times are nanoseconds of the boot clock. An event with two times happened at an
/// instant between them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// A process starts to run a node. The events up to the next start belong to this incarnation.
    Start {
        at: u64,
        format: u32,
        boot: String,
        node: String,
        incarnation: u64,
        /// The longest lease of the cluster.
        max_lease_ms: u64,
    },
    /// The node's voter starts or stops voting.
    Voting { at: u64, votes: bool },
    /// A lock is about to be requested.
    Asked {
        at: u64,
        /// The number of the request within this incarnation.
        id: u64,
        key: String,
        how: How,
        /// The longest time that the request waits.
        wait_ms: u64,
    },
    /// The lock was granted, and its guard was observed for the first time.
    Granted {
        id: u64,
        before: u64,
        after: u64,
        epoch: u64,
        /// The interval in which the guard's lease ends by its own clock; `None` if it had ended.
        until: Option<[u64; 2]>,
    },
    /// The guard was observed to be held.
    Held {
        id: u64,
        before: u64,
        after: u64,
        until: [u64; 2],
    },
    /// The guard was observed to be lost.
    Lost { id: u64, before: u64, after: u64 },
    /// An extension of the lease was requested.
    Extended {
        id: u64,
        before: u64,
        after: u64,
        extra_ms: u64,
        error: Option<String>,
    },
    /// The lock was released. `held` is `true` if it was held until then.
    Released {
        id: u64,
        before: u64,
        after: u64,
        held: bool,
    },
    /// A lock was granted through the trait `DistributedLock`. It is held from `at` until `ttl_ms`
    /// after the request, even if the process dies.
    Ticked { id: u64, at: u64, ttl_ms: u64 },
    /// A try failed because another claim was granted.
    Denied { id: u64, at: u64 },
    /// The request timed out.
    TimedOut { id: u64, at: u64 },
    /// The caller withdrew the request.
    Withdrawn { id: u64, at: u64 },
    /// The node was shut down while the request waited.
    ShutDown { id: u64, at: u64 },
    /// The node begins to stop.
    Stopping { at: u64, signal: String },
    /// The process ends after a clean shutdown.
    End { at: u64 },
    /// A chaos run begins. Its runner writes this file.
    Chaos {
        at: u64,
        format: u32,
        boot: String,
        seed: u64,
        nodes: Vec<String>,
    },
    /// The runner injected a fault into these nodes, or undid one.
    Fault {
        before: u64,
        after: u64,
        fault: FaultKind,
        nodes: Vec<String>,
        what: String,
    },
    /// All faults are over. From here on every node must be granted a lock.
    Calm { at: u64 },
    /// From here on this node cannot reach a quorum of voters that vote.
    Unserved { at: u64, node: String },
    /// From here on this node can reach such a quorum again.
    Served { at: u64, node: String },
}

/// A fault of a node, or the end of one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// Its process was killed with SIGKILL, to be restarted later.
    Killed,
    /// Its process was killed with SIGKILL and is restarted at once.
    KilledAndRestarted,
    /// Its process was sent SIGTERM.
    Terminated,
    /// A new process was started.
    Started,
    /// Its process was paused with SIGSTOP.
    Frozen,
    /// Its process was resumed.
    Thawed,
    /// All its links are cut in both directions.
    CutOff,
    /// The links between two groups are cut in both directions.
    Split,
    /// Datagrams pass in one direction only.
    OneWay,
    /// Datagrams are lost at random.
    Loss,
    /// Datagrams are delayed.
    Delay,
    /// Datagrams are duplicated.
    Duplication,
    /// Datagrams are reordered.
    Reordering,
    /// A second process was started under the node's name, at another address.
    Twin,
    /// The second process was killed with SIGKILL.
    TwinGone,
    /// A new process was started with another secret.
    OtherSecret,
    /// A new process was started with a shorter `max_ttl`.
    OtherMaxTtl,
    /// A new process was started with a wrong wall clock.
    WallClock,
    /// The address of its interface was replaced.
    Readdressed,
    /// A process that does not vote was started, to acquire one lock and stop.
    Client,
    /// Such a client was killed with SIGKILL.
    ClientKilled,
    /// The links were restored.
    Healed,
}

impl FaultKind {
    /// Returns `true` for a fault, and `false` for an event that undoes one.
    pub(crate) fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Started | Self::Thawed | Self::TwinGone | Self::Healed
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::KilledAndRestarted => "killed and restarted",
            Self::Terminated => "terminated",
            Self::Started => "started",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
            Self::CutOff => "cut off",
            Self::Split => "split",
            Self::OneWay => "one way",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Duplication => "duplication",
            Self::Reordering => "reordering",
            Self::Twin => "twin",
            Self::TwinGone => "twin gone",
            Self::OtherSecret => "other secret",
            Self::OtherMaxTtl => "other max_ttl",
            Self::WallClock => "wall clock off",
            Self::Readdressed => "readdressed",
            Self::Client => "client",
            Self::ClientKilled => "client killed",
            Self::Healed => "healed",
        })
    }
}
