//! The floor: a quorum round of bare datagrams, which no voting lock can beat.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use crate::child::{Child, Order, Reply, cpu_with};

/// The size of the floor's datagrams.
const DATAGRAM_BYTES: usize = 64;
const COUNT_BYTES: usize = 8;
/// The interval of the retransmission timer. Rounds do not wait for a slow peer, so its socket
/// buffer may overflow and drop datagrams. A round without enough replies retransmits at its second
/// tick.
const TICK: Duration = Duration::from_millis(50);

/// Peers that echo every datagram, each in a child.
#[derive(Debug)]
pub(crate) struct Floor {
    peers: Vec<SocketAddr>,
    children: Vec<Child>,
}

impl Floor {
    /// Starts the peers of one of `nodes` nodes.
    pub(crate) async fn start(nodes: usize) -> anyhow::Result<Self> {
        let (mut peers, mut children) = (Vec::new(), Vec::new());
        for _ in 1..nodes {
            let mut child = Child::start()?;
            match child.ask(&Order::Echo).await? {
                Reply::Runs(addr, _) => peers.push(addr),
                other => bail!("an echo replied {other:?}"),
            }
            children.push(child);
        }
        Ok(Self { peers, children })
    }

    /// Returns the processor time of this process and of all peers.
    pub(crate) async fn cpu(&mut self) -> anyhow::Result<Duration> {
        cpu_with(&mut self.children).await
    }

    /// Returns a caller with a socket of its own. Its rounds need the replies that make a quorum
    /// with it.
    pub(crate) async fn caller(&self) -> io::Result<Caller> {
        let mut again = tokio::time::interval(TICK);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Caller {
            again,
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            replies: self.peers.len().div_ceil(2),
            peers: self.peers.clone(),
            round: 0,
        })
    }
}

/// Runs rounds for `slice`, one at a time for each caller. Returns their number.
pub(crate) async fn rounds(callers: &mut Vec<Caller>, slice: Duration) -> anyhow::Result<u64> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut caller in callers.drain(..) {
        running.spawn(async move {
            let mut done = 0;
            while began.elapsed() < slice {
                caller.round().await?;
                done += 1;
            }
            anyhow::Ok((caller, done))
        });
    }
    let mut sum = 0;
    while let Some(ended) = running.join_next().await {
        let (caller, done) = ended??;
        callers.push(caller);
        sum += done;
    }
    Ok(sum)
}

/// Returns a socket for a peer, and its address.
pub(crate) async fn bind() -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = socket.local_addr()?;
    Ok((socket, addr))
}

/// Echoes every datagram.
pub(crate) async fn echo(socket: UdpSocket) {
    let mut buffer = [0; DATAGRAM_BYTES];
    // An error here belongs to an earlier reply that was not delivered.
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..len], from).await;
        }
    }
}

/// Runs rounds with all peers, one after another.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: UdpSocket,
    peers: Vec<SocketAddr>,
    replies: usize,
    round: u64,
    /// One timer for all rounds, since a timer for each would slow the floor down.
    again: Interval,
}

impl Caller {
    /// Sends to all peers, and returns at the last reply that is needed. Later replies are ignored.
    pub(crate) async fn round(&mut self) -> io::Result<()> {
        self.round += 1;
        let count = self.round.to_le_bytes();
        let mut datagram = [0; DATAGRAM_BYTES];
        datagram[..COUNT_BYTES].copy_from_slice(&count);
        self.ask(&datagram).await?;
        let mut reply = [0; DATAGRAM_BYTES];
        let mut replied = 0_u32;
        let mut is_late = false;
        while (replied.count_ones() as usize) < self.replies {
            tokio::select! {
                biased;
                received = self.socket.recv_from(&mut reply) => {
                    let (len, from) = received?;
                    let peer = self.peers.iter().position(|peer| *peer == from);
                    if let Some(peer) = peer && reply[..len].starts_with(&count) {
                        replied |= 1 << peer;
                    }
                }
                _ = self.again.tick() => {
                    if std::mem::replace(&mut is_late, true) {
                        self.ask(&datagram).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, datagram: &[u8]) -> io::Result<()> {
        for peer in &self.peers {
            self.socket.send_to(datagram, peer).await?;
        }
        Ok(())
    }
}
