//! The commands of a chaos run.

use std::fmt;
use std::time::Duration;

use super::world::Netem;
use crate::history::FaultKind;

/// A command and its time in the run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) command: Command,
}

/// One command. Nodes are numbers from 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Sends SIGKILL. If `restarts` is `true`, the next process starts at once.
    Kill { node: usize, restarts: bool },
    /// Sends SIGKILL to all of them, and cuts the power of their disks. The cut is torn if there is a
    /// seed for it.
    PowerCut {
        nodes: Vec<usize>,
        torn: Option<u64>,
    },
    /// Sends SIGTERM.
    Terminate { node: usize },
    /// Starts a new process.
    Start { node: usize, setup: Setup },
    /// Sends SIGSTOP.
    Freeze { node: usize },
    /// Sends SIGCONT.
    Thaw { node: usize },
    /// Blocks datagrams from the first node of each pair to the second.
    Cut {
        kind: FaultKind,
        nodes: Vec<usize>,
        pairs: Vec<(usize, usize)>,
        /// `true` if sends return an error; otherwise the datagrams are dropped silently.
        refused: bool,
    },
    /// Restores all cut links.
    Heal,
    /// Drops `permille` of 1000 datagrams to these nodes; zero ends the loss.
    Loss { nodes: Vec<usize>, permille: u32 },
    /// Delays, duplicates or reorders packets from these nodes; the default `netem` ends it.
    Disturb { nodes: Vec<usize>, netem: Netem },
    /// Starts a second process under the name of a node, at another address.
    Twin { node: usize },
    /// Sends SIGKILL to that second process.
    TwinGone { node: usize },
    /// Replaces the address of a node's interface, whether a process uses it or not. `moved` is
    /// `false` if the first address is restored.
    Readdress { node: usize, moved: bool },
    /// Starts a process that does not vote, acquires one lock and stops.
    Client { number: u32 },
    /// Sends SIGKILL to that process, unless it has stopped.
    KillClient { number: u32 },
}

/// The settings that a process is started with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Setup {
    /// The settings of its peers.
    Usual,
    /// Another secret.
    OtherSecret,
    /// A shorter `max_ttl`.
    ShortMaxTtl,
    /// A wall clock that is ahead by `offset_ms`, or behind if it is negative.
    WallClock { offset_ms: i64 },
}

impl Setup {
    /// Returns `true` if a process with this setup belongs to the cluster of the others.
    pub(crate) fn is_of_cluster(self) -> bool {
        matches!(self, Self::Usual | Self::WallClock { .. })
    }

    /// Returns the kind of fault that its start is recorded as.
    pub(crate) fn kind(self) -> FaultKind {
        match self {
            Self::Usual => FaultKind::Started,
            Self::OtherSecret => FaultKind::OtherSecret,
            Self::ShortMaxTtl => FaultKind::OtherMaxTtl,
            Self::WallClock { .. } => FaultKind::WallClock,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} s  {:?}", self.at.as_secs_f64(), self.command)
    }
}
