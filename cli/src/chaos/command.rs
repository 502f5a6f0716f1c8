//! Everything that can be done to the nodes, one thing at a time.

use std::fmt;
use std::time::Duration;

use super::world::Netem;
use crate::history::FaultKind;

/// One thing that is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) command: Command,
}

/// One thing that is done. Nodes are numbers from 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// SIGKILL; whether the next process starts at once.
    Kill { node: usize, restarts: bool },
    /// SIGTERM.
    Terminate { node: usize },
    /// A new process.
    Start { node: usize, setup: Setup },
    /// SIGSTOP.
    Freeze { node: usize },
    /// SIGCONT.
    Thaw { node: usize },
    /// From the first node of a pair nothing reaches the second.
    Cut {
        kind: FaultKind,
        nodes: Vec<usize>,
        pairs: Vec<(usize, usize)>,
        /// `true` if the sender is told that it may not send; otherwise its datagrams vanish.
        refused: bool,
    },
    /// All that was cut is whole again.
    Heal,
    /// So many of a thousand datagrams to these nodes are lost; none if it is zero.
    Loss { nodes: Vec<usize>, permille: u32 },
    /// Datagrams of these nodes are late, doubled or out of order; no longer if it is nothing.
    Disturb { nodes: Vec<usize>, netem: Netem },
    /// A second process under the name of a node, at an address of its own.
    Twin { node: usize },
    /// SIGKILL to that second process.
    TwinGone { node: usize },
    /// The address of a node's interface is replaced, whether a process uses it or not; `moved`
    /// is false if the first address comes back.
    Readdress { node: usize, moved: bool },
    /// A process that does not vote starts, asks for one lock and stops.
    Client { number: u32 },
    /// SIGKILL to that process, unless it has stopped.
    KillClient { number: u32 },
}

/// The settings that a process is started with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Setup {
    /// The settings of its peers.
    Usual,
    /// Another secret.
    OtherSecret,
    /// A shorter longest lease.
    ShortMaxTtl,
    /// A wall clock that is so far ahead, or behind if it is negative.
    WallClock { offset_ms: i64 },
}

impl Setup {
    /// Returns `true` if a process with this setup takes part in the cluster of the others.
    pub(crate) fn is_of_cluster(self) -> bool {
        matches!(self, Self::Usual | Self::WallClock { .. })
    }

    /// The word by which its start is noted.
    pub(crate) fn kind(self) -> FaultKind {
        match self {
            Self::Usual => FaultKind::Started,
            Self::OtherSecret => FaultKind::OtherSecret,
            Self::ShortMaxTtl => FaultKind::OtherMaxTtl,
            Self::WallClock { .. } => FaultKind::WallClock,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual => Ok(()),
            Self::OtherSecret => f.write_str(" with another secret"),
            Self::ShortMaxTtl => f.write_str(" with a shorter max_ttl"),
            Self::WallClock { offset_ms } => {
                write!(f, " with a wall clock that is off by {offset_ms} ms")
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} s  {}", self.at.as_secs_f64(), self.command)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[usize]| {
            let names: Vec<String> = nodes.iter().map(|n| format!("n{n}")).collect();
            names.join(" ")
        };
        match self {
            Self::Kill { node, restarts } => {
                let then = if *restarts {
                    ", and start it again at once"
                } else {
                    ""
                };
                write!(f, "kill -9 n{node}{then}")
            }
            Self::Terminate { node } => write!(f, "SIGTERM to n{node}"),
            Self::Start { node, setup } => write!(f, "start n{node}{setup}"),
            Self::Twin { node } => write!(f, "start a twin of n{node}"),
            Self::TwinGone { node } => write!(f, "kill -9 the twin of n{node}"),
            Self::Readdress { node, moved: true } => {
                write!(f, "replace the address of n{node}")
            }
            Self::Readdress { node, moved: false } => {
                write!(f, "give n{node} its first address back")
            }
            Self::Client { number } => write!(f, "start client {number}"),
            Self::KillClient { number } => write!(f, "kill -9 client {number}"),
            Self::Freeze { node } => write!(f, "SIGSTOP to n{node}"),
            Self::Thaw { node } => write!(f, "SIGCONT to n{node}"),
            Self::Cut { pairs, refused, .. } => {
                let pairs: Vec<String> = pairs
                    .iter()
                    .map(|(from, to)| format!("n{from}>n{to}"))
                    .collect();
                let how = if *refused { "refuse" } else { "cut" };
                write!(f, "{how} {}", pairs.join(" "))
            }
            Self::Heal => f.write_str("heal all links"),
            Self::Loss { nodes, permille: 0 } => write!(f, "no more loss at {}", names(nodes)),
            Self::Loss { nodes, permille } => {
                write!(f, "lose {permille} of 1000 at {}", names(nodes))
            }
            Self::Disturb { nodes, netem } if *netem == Netem::default() => {
                write!(f, "no more delay at {}", names(nodes))
            }
            Self::Disturb { nodes, netem } => write!(
                f,
                "at {}: {} ms late, give or take {}; {} % doubled, {} % out of order",
                names(nodes),
                netem.delay_ms,
                netem.jitter_ms,
                netem.duplicate_percent,
                netem.reorder_percent
            ),
        }
    }
}
