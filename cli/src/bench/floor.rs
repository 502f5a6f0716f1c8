//! The floor: a quorum round of bare datagrams, which no lock by vote can beat.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use super::child::{Child, cpu_with};
use super::protocol::{Order, Reply};
use super::{PATIENCE, Setup};

/// What a datagram of the floor carries.
const DATAGRAM_BYTES: usize = 64;
const COUNT_BYTES: usize = 8;
/// A peer that others are done with before it has answered falls behind, and the system drops
/// what its socket has no room for. A round that lost all it needs asks again at the second tick.
const TICK: Duration = Duration::from_millis(50);

/// Peers that send back whatever comes.
#[derive(Debug)]
pub(crate) struct Floor {
    peers: Vec<SocketAddr>,
    echoes: Vec<Echo>,
    replies: u32,
}

#[derive(Debug)]
enum Echo {
    Here(JoinHandle<()>),
    There(Box<Child>),
}

impl Floor {
    /// The peers of one of `nodes` nodes: it needs as many replies as make a quorum with it.
    pub(crate) async fn start(setup: Setup, nodes: usize) -> anyhow::Result<Self> {
        let (mut peers, mut echoes) = (Vec::new(), Vec::new());
        for _ in 1..nodes {
            if setup.in_process {
                let (socket, addr) = bind().await?;
                peers.push(addr);
                echoes.push(Echo::Here(tokio::spawn(echo(socket))));
                continue;
            }
            let mut child = Child::start(setup.flavour)?;
            match child.ask(&Order::Echo, PATIENCE).await? {
                Reply::Listens(addr) => peers.push(addr),
                other => bail!("an echo answered {other:?}"),
            }
            echoes.push(Echo::There(Box::new(child)));
        }
        // A quorum but for the node itself.
        let replies = u32::try_from(nodes / 2)?;
        Ok(Self {
            peers,
            echoes,
            replies,
        })
    }

    /// The processor time of this process and of all peers.
    pub(crate) async fn cpu(&mut self) -> anyhow::Result<Duration> {
        let children = self.echoes.iter_mut().filter_map(|echo| match echo {
            Echo::Here(_) => None,
            Echo::There(child) => Some(child.as_mut()),
        });
        cpu_with(children.collect()).await
    }

    /// How many replies end a round.
    pub(crate) fn replies(&self) -> u32 {
        self.replies
    }

    /// Somebody who asks, with a socket of its own.
    pub(crate) async fn caller(&self) -> io::Result<Caller> {
        let mut again = tokio::time::interval(TICK);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Caller {
            again,
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            peers: self.peers.clone(),
            replies: self.replies,
            round: 0,
            lost: 0,
        })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for echo in &self.echoes {
            if let Echo::Here(task) = echo {
                task.abort();
            }
        }
    }
}

/// Rounds for `slice`, as many in flight as there are callers. Answers how many.
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

/// A socket for a peer, and its address.
pub(crate) async fn bind() -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = socket.local_addr()?;
    Ok((socket, addr))
}

/// Sends back whatever comes.
pub(crate) async fn echo(socket: UdpSocket) {
    let mut buffer = [0; DATAGRAM_BYTES];
    // An error here is one for a reply that nobody took.
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..len], from).await;
        }
    }
}

/// Asks all peers, round after round.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: UdpSocket,
    peers: Vec<SocketAddr>,
    replies: u32,
    round: u64,
    /// One timer for all rounds: a timer for each would weigh on the floor.
    again: Interval,
    lost: u64,
}

impl Caller {
    /// Asks all, and is done at the last reply that is needed. Later ones are passed over.
    pub(crate) async fn round(&mut self) -> io::Result<()> {
        self.round += 1;
        let count = self.round.to_le_bytes();
        let mut datagram = [0; DATAGRAM_BYTES];
        datagram[..COUNT_BYTES].copy_from_slice(&count);
        self.ask(&datagram).await?;
        let mut reply = [0; DATAGRAM_BYTES];
        let mut replied = 0_u32;
        let mut is_late = false;
        while replied.count_ones() < self.replies {
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
                        self.lost += 1;
                        self.ask(&datagram).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// How many rounds had to ask again.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    async fn ask(&self, datagram: &[u8]) -> io::Result<()> {
        for peer in &self.peers {
            self.socket.send_to(datagram, peer).await?;
        }
        Ok(())
    }
}
