//! The messages between the measuring process and its children, one JSON value a line: orders on
//! standard input, and replies on standard output.

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// An order to a child. The first one determines the child's role.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Be a peer that echoes every datagram.
    Echo,
    /// Be a node of a mesh.
    Node(NodeOrder),
    /// Reply once all members are reachable, and `voting` of them vote.
    Ready { voting: usize },
    /// Acquire and release, in one task for each list of keys.
    Cycles {
        /// The keys of each task.
        keys: Vec<Vec<String>>,
        span: Duration,
    },
    /// Acquire and release one key, in each of these tasks.
    Contend {
        key: String,
        /// The numbers of the tasks.
        tasks: Vec<u16>,
        span: Duration,
    },
    /// Acquire a key and keep it.
    Hold {
        key: String,
        /// The TTL of the lock, which is renewed.
        ttl: Duration,
    },
    /// Be a client of another lock service that acquires a key and keeps it.
    #[cfg(feature = "compare")]
    HoldOf {
        service: super::compare::Service,
        key: String,
        /// The TTL of the lock, which is renewed if clients of that service do so.
        ttl: Duration,
    },
    /// Reply with the end of the lease of the lock that is kept.
    Ends,
    /// Be a voter with `locks` claims.
    Remember { locks: u32 },
    /// Reply with the processor time of the process.
    Cpu,
}

/// The settings of a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct NodeOrder {
    /// The node's id is `n` and this number.
    pub(crate) number: usize,
    /// The number of nodes; all of them vote.
    pub(crate) nodes: usize,
    /// Nodes that are running.
    pub(crate) seeds: Vec<SocketAddr>,
    /// The cluster's secret, in base64.
    pub(crate) secret: String,
    /// The address to listen on; `None` for a free port.
    pub(crate) listen: Option<SocketAddr>,
    /// `true` if the cluster starts for the first time.
    pub(crate) is_new: bool,
}

/// A reply of a child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// The process runs, and listens on this address.
    Listens(SocketAddr),
    /// The node runs, and listens on this address. It began to start at this time of [`clock`].
    Runs(SocketAddr, Duration),
    /// The end of the lease, by [`clock`].
    Ends(Duration),
    /// The growth of the process in bytes, if the system reports it.
    Grew(Option<u64>),
    /// The order was carried out.
    Done,
    /// The number of cycles.
    Cycles(u64),
    /// The epoch and the task of each grant.
    Grants(Vec<(u64, u16)>),
    /// The processor time so far.
    Cpu(Duration),
    /// The reason why the order failed.
    Failed(String),
}

/// Returns the orders from standard input. When it ends, the parent has ended, and this process
/// exits.
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

/// Returns the processor time of all threads of this process.
pub(crate) fn cpu() -> Duration {
    span(rustix::time::clock_gettime(
        rustix::time::ClockId::ProcessCPUTime,
    ))
}

/// Reads a clock that all processes of the machine share.
pub(crate) fn clock() -> Duration {
    span(rustix::time::clock_gettime(
        rustix::time::ClockId::Monotonic,
    ))
}

/// Converts a clock's reading to the time since its zero.
fn span(at: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(at.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(at.tv_nsec).unwrap_or_default())
}
