//! The floor: a majority round of bare datagrams, which no lock by vote can beat.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What a datagram of the floor carries.
const DATAGRAM_BYTES: usize = 64;
const COUNT_BYTES: usize = 8;

/// Peers that send back whatever comes.
#[derive(Debug)]
pub(crate) struct Floor {
    peers: Vec<SocketAddr>,
    echoes: Vec<JoinHandle<()>>,
    replies: usize,
}

impl Floor {
    /// The peers of one of `nodes` nodes: it needs as many replies as make a majority with it.
    pub(crate) async fn start(nodes: usize) -> io::Result<Self> {
        let (mut peers, mut echoes) = (Vec::new(), Vec::new());
        for _ in 1..nodes {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            peers.push(socket.local_addr()?);
            echoes.push(tokio::spawn(echo(socket)));
        }
        let replies = nodes / 2;
        Ok(Self {
            peers,
            echoes,
            replies,
        })
    }

    /// How many replies end a round.
    pub(crate) fn replies(&self) -> usize {
        self.replies
    }

    /// Somebody who asks, with a socket of its own.
    pub(crate) async fn caller(&self) -> io::Result<Caller> {
        Ok(Caller {
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            peers: self.peers.clone(),
            replies: self.replies,
            round: 0,
        })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for echo in &self.echoes {
            echo.abort();
        }
    }
}

async fn echo(socket: UdpSocket) {
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
    replies: usize,
    round: u64,
}

impl Caller {
    /// Asks all, and is done at the last reply that is needed. Later ones are passed over.
    pub(crate) async fn round(&mut self) -> io::Result<()> {
        self.round += 1;
        let count = self.round.to_le_bytes();
        let mut datagram = [0; DATAGRAM_BYTES];
        datagram[..COUNT_BYTES].copy_from_slice(&count);
        for peer in &self.peers {
            self.socket.send_to(&datagram, peer).await?;
        }
        let mut replies = 0;
        while replies < self.replies {
            let (len, _) = self.socket.recv_from(&mut datagram).await?;
            replies += usize::from(datagram[..len].starts_with(&count));
        }
        Ok(())
    }
}
