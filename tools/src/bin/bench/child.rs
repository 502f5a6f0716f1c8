//! Child processes: the parent sends orders to their standard input and reads replies from their
//! standard output, one JSON value a line.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::Durability;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::PATIENCE;

/// An order to a child. The first one determines the child's role.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Be a peer that echoes every datagram.
    Echo,
    /// Be a node of a mesh.
    Node(NodeOrder),
    /// Reply once all members are reachable, and `voting` of them vote.
    Ready { voting: usize },
    /// Acquire and release one key, in each of these tasks.
    Contend {
        key: String,
        tasks: Vec<u16>,
        span: Duration,
    },
    /// Acquire a key and keep it.
    Hold { key: String, ttl: Duration },
    /// Be a client of another lock service that acquires a key and keeps it.
    #[cfg(feature = "compare")]
    HoldOf {
        service: crate::compare::Service,
        key: String,
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
    /// The directory of its journal, if it keeps one, and how durable that is.
    pub(crate) data_dir: Option<(PathBuf, Durability)>,
}

/// A reply of a child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// The process runs, and listens on this address. It began to start at this time of [`clock`].
    Runs(SocketAddr, Duration),
    /// A time: the end of a lease by [`clock`], or the processor time so far.
    Time(Duration),
    /// The growth of the process in bytes, if the system reports it.
    Grew(Option<u64>),
    /// The order was carried out.
    Done,
    /// The epoch and the task of each grant.
    Grants(Vec<(u64, u16)>),
    /// The reason why the order failed.
    Failed(String),
}

/// A child process, which is killed on drop. It also ends with its standard input, and thus however
/// the parent ends.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    orders: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program as a child.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut process = Command::new(program)
            .arg("child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("no child process")?;
        let orders = process.stdin.take().context("a child without input")?;
        let replies = process.stdout.take().context("a child without output")?;
        Ok(Self {
            process,
            orders,
            replies: BufReader::new(replies).lines(),
        })
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process
            .kill()
            .await
            .context("a child cannot be killed")
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(Pid::from_raw).context("a child is gone")?;
        kill_process(pid, signal).map_err(io::Error::from)?;
        Ok(())
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait());
        ended.await.context("a child does not end")??;
        Ok(())
    }

    /// Sends an order and waits for the reply.
    pub(crate) async fn ask(&mut self, order: &Order) -> anyhow::Result<Reply> {
        self.send(order).await?;
        self.reply(PATIENCE).await
    }

    /// Sends an order whose reply is a time.
    pub(crate) async fn time(&mut self, order: &Order) -> anyhow::Result<Duration> {
        match self.ask(order).await? {
            Reply::Time(time) => Ok(time),
            other => bail!("a child replied {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        let sent = self.orders.write_all(line.as_bytes()).await;
        sent.context("a child is gone")
    }

    /// Waits for the reply to the earliest order without one.
    pub(crate) async fn reply(&mut self, at_most: Duration) -> anyhow::Result<Reply> {
        let line = tokio::time::timeout(at_most, self.replies.next_line());
        let line = line.await.context("a child does not reply")??;
        match serde_json::from_str(&line.context("a child is gone")?)? {
            Reply::Failed(why) => bail!("a child failed: {why}"),
            reply => Ok(reply),
        }
    }
}

/// Returns the processor time of this process and of these children.
pub(crate) async fn cpu_with(children: &mut [Child]) -> anyhow::Result<Duration> {
    let mut sum = cpu();
    for child in children {
        sum += child.time(&Order::Cpu).await?;
    }
    Ok(sum)
}

/// Returns the orders from standard input. When it ends, the parent has ended, and this process
/// exits.
pub(crate) fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (pass_on, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let order = line.map_err(anyhow::Error::from);
            let order = order.and_then(|line| Ok(serde_json::from_str(&line)?));
            match order {
                Ok(order) => drop(pass_on.send(order)),
                Err(error) => {
                    eprintln!("bench: no order: {error}");
                    std::process::exit(2);
                }
            }
        }
        std::process::exit(0);
    });
    orders
}

/// Sends a reply to the parent.
pub(crate) fn say(reply: &Reply) -> anyhow::Result<()> {
    let line = serde_json::to_string(reply)?;
    writeln!(io::stdout().lock(), "{line}").context("the parent is gone")
}

/// Returns the processor time of all threads of this process.
pub(crate) fn cpu() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// Reads a clock that all processes of the machine share.
pub(crate) fn clock() -> Duration {
    time_of(ClockId::Monotonic)
}

fn time_of(clock: ClockId) -> Duration {
    let at = clock_gettime(clock);
    let seconds = u64::try_from(at.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(at.tv_nsec).unwrap_or_default())
}
