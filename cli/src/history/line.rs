//! One line of a history.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of the format, in the first line of every incarnation.
pub(crate) const FORMAT: u32 = 1;

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// It waits in line.
    Acquire,
    /// It does not.
    Try,
}

/// One thing that happened, with times in nanoseconds of the boot clock. Where there are two, the
/// thing happened at an instant between them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// A process begins to speak for a node: what follows is this incarnation's, until the next
    /// start.
    Start {
        at: u64,
        format: u32,
        boot: String,
        node: String,
        incarnation: u64,
        /// The longest lease of the cluster.
        max_lease_ms: u64,
    },
    /// The node's voter votes from now on, or does not.
    Voting { at: u64, votes: bool },
    /// A lock is about to be asked for.
    Asked {
        at: u64,
        /// Counts the requests of this incarnation.
        id: u64,
        key: String,
        how: How,
        /// For how long it waits at the most.
        wait_ms: u64,
    },
    /// It was granted, and its guard was looked at for the first time.
    Granted {
        id: u64,
        before: u64,
        after: u64,
        epoch: u64,
        /// Between which instants the guard's lease ends by its own clock; none where it was over.
        until: Option<[u64; 2]>,
    },
    /// The guard said that it is held.
    Held {
        id: u64,
        before: u64,
        after: u64,
        until: [u64; 2],
    },
    /// The guard said that it is not held.
    Lost { id: u64, before: u64, after: u64 },
    /// The lease was to last longer.
    Extended {
        id: u64,
        before: u64,
        after: u64,
        extra_ms: u64,
        error: Option<String>,
    },
    /// The lock was let go of; whether it was held until then.
    Released {
        id: u64,
        before: u64,
        after: u64,
        held: bool,
    },
    /// Through the trait: it is held from now on, until `ttl_ms` after it was asked for, whatever
    /// becomes of the process.
    Ticked { id: u64, at: u64, ttl_ms: u64 },
    /// A try that another has beaten.
    Denied { id: u64, at: u64 },
    /// Its time was over.
    TimedOut { id: u64, at: u64 },
    /// Who asked for it does not want it any more.
    Withdrawn { id: u64, at: u64 },
    /// The node was shut down meanwhile.
    ShutDown { id: u64, at: u64 },
    /// The node was told to stop.
    Stopping { at: u64, signal: String },
    /// The process ends in order.
    End { at: u64 },
    /// Whoever writes this file does something to the nodes.
    Chaos {
        at: u64,
        format: u32,
        boot: String,
        seed: u64,
        nodes: Vec<String>,
    },
    /// It did something to these nodes.
    Fault {
        before: u64,
        after: u64,
        fault: FaultKind,
        nodes: Vec<String>,
        what: String,
    },
    /// All faults are over: from here on every node must be granted something.
    Calm { at: u64 },
    /// From here on a quorum of voters that vote cannot be reached from this node.
    Unserved { at: u64, node: String },
    /// From here on it can.
    Served { at: u64, node: String },
}

/// What was done to a node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// Its process was killed with SIGKILL, and stays away for a while.
    Killed,
    /// Its process was killed with SIGKILL, and the next one starts at once.
    KilledAndRestarted,
    /// Its process was told to stop with SIGTERM.
    Terminated,
    /// A new process was started.
    Started,
    /// Its process was stopped with SIGSTOP.
    Frozen,
    /// Its process goes on.
    Thawed,
    /// All its links to all others are cut, both ways.
    CutOff,
    /// The links between two groups are cut, both ways.
    Split,
    /// Datagrams go one way only.
    OneWay,
    /// Datagrams are lost at random.
    Loss,
    /// Datagrams are late.
    Delay,
    /// Datagrams come twice.
    Duplication,
    /// Datagrams overtake each other.
    Reordering,
    /// A second process was started under its name, at another address.
    Twin,
    /// The second process was killed with SIGKILL.
    TwinGone,
    /// A new process was started, with another secret.
    OtherSecret,
    /// A new process was started, with a shorter longest lease.
    OtherMaxTtl,
    /// A new process was started, with a wall clock that is off.
    WallClock,
    /// The address of its interface was replaced.
    Readdressed,
    /// A process that does not vote was started, to ask for one lock and stop.
    Client,
    /// Such a process was killed with SIGKILL.
    ClientKilled,
    /// Links are as they should be again.
    Healed,
}

impl FaultKind {
    /// Whether something goes wrong, rather than right again.
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
