//! What the measuring process and its children say to each other: a line of JSON each, orders
//! down the standard input and replies up the standard output.

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What a child is told to do. The first order says what it is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Be a peer that sends back whatever comes.
    Echo,
    /// Be a node of a mesh.
    Node(NodeOrder),
    /// Reply once all members are reachable, and so many of them vote.
    Ready {
        /// How many.
        voting: usize,
    },
    /// Acquire and release: a task for each list of keys.
    Cycles {
        /// The keys of each task.
        keys: Vec<Vec<String>>,
        /// For how long.
        span: Duration,
    },
    /// Acquire and release one key: all of these tasks.
    Contend {
        /// The key.
        key: String,
        /// The tasks, by their numbers.
        tasks: Vec<u16>,
        /// For how long.
        span: Duration,
    },
    /// Acquire a key and keep it.
    Hold {
        /// The key.
        key: String,
        /// For how long at a time; it is renewed.
        ttl: Duration,
    },
    /// Be a client of another lock service that acquires a key and keeps it.
    #[cfg(feature = "compare")]
    HoldOf {
        /// Where the service is.
        service: super::compare::Service,
        /// The key.
        key: String,
        /// For how long at a time; it is renewed where clients of that service renew.
        ttl: Duration,
    },
    /// Reply when the lease of what was last acquired to be kept ends.
    Ends,
    /// Be a voter that remembers so many claims.
    Remember {
        /// How many.
        locks: u32,
    },
    /// Reply how much processor time the process has taken.
    Cpu,
}

/// How a node of a mesh is to be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct NodeOrder {
    /// The node is `n` and this number.
    pub(crate) number: usize,
    /// How many nodes there are; all of them vote.
    pub(crate) nodes: usize,
    /// Nodes that run already.
    pub(crate) seeds: Vec<SocketAddr>,
    /// The cluster's secret, in base64.
    pub(crate) secret: String,
    /// Where it listens; on a free port if nothing is said.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether it is there for the first time.
    pub(crate) is_new: bool,
}

/// What a child answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// It runs, and listens there.
    Listens(SocketAddr),
    /// The same of a node, and when it began to start, by [`clock`].
    Runs(SocketAddr, Duration),
    /// By [`clock`].
    Ends(Duration),
    /// By so many bytes, where the system says so.
    Grew(Option<u64>),
    /// As ordered.
    Done,
    /// So many cycles.
    Cycles(u64),
    /// The epoch of each grant, and the task that got it.
    Grants(Vec<(u64, u16)>),
    /// Processor time so far.
    Cpu(Duration),
    /// It could not.
    Failed(String),
}

/// The orders that come down the standard input. Where it ends the parent is gone, however it
/// ended, and so is this process.
pub(crate) fn from_stdin() -> mpsc::UnboundedReceiver<Order> {
    let (pass_on, protocol) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = line.map_err(anyhow::Error::from);
            let order = order.and_then(|line| Ok(serde_json::from_str(&line)?));
            match order {
                Ok(order) => drop(pass_on.send(order)),
                Err(error) => {
                    eprintln!("lockmesh: no order: {error}");
                    std::process::exit(2);
                }
            }
        }
        std::process::exit(0);
    });
    protocol
}

/// Processor time that this process has taken, all its threads together.
pub(crate) fn cpu() -> Duration {
    span(rustix::time::clock_gettime(
        rustix::time::ClockId::ProcessCPUTime,
    ))
}

/// A clock that all processes of the machine share.
pub(crate) fn clock() -> Duration {
    span(rustix::time::clock_gettime(
        rustix::time::ClockId::Monotonic,
    ))
}

/// A clock's reading as a span since its zero.
fn span(at: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(at.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(at.tv_nsec).unwrap_or_default())
}
