//! A transport of your own: three nodes exchange datagrams through channels of this process.
//!
//! `cargo run --example transport`

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use lockmesh::{Mesh, Transport};
use tokio::sync::mpsc::{Receiver, Sender, channel};

type Datagram = (SocketAddr, Vec<u8>);

/// The network: the inbound channel of each address.
#[derive(Debug, Default)]
struct Network(Mutex<HashMap<SocketAddr, Sender<Datagram>>>);

/// The endpoint of one node. The first datagram is taken from the channel by `poll_readable`.
#[derive(Debug)]
struct Endpoint {
    addr: SocketAddr,
    network: Arc<Network>,
    inbound: Mutex<(Receiver<Datagram>, Option<Datagram>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    fn join(network: &Arc<Network>, port: u16) -> Self {
        let addr = SocketAddr::from(([192, 0, 2, 1], port));
        // A full channel loses datagrams, as a full socket does.
        let (sender, receiver) = channel(1_024);
        lock(&network.0).insert(addr, sender);
        Self {
            addr,
            network: network.clone(),
            inbound: Mutex::new((receiver, None)),
        }
    }
}

impl Transport for Endpoint {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let peer = lock(&self.network.0).get(&to).cloned();
        let peer = peer.ok_or(io::ErrorKind::HostUnreachable)?;
        peer.try_send((self.addr, bytes.to_vec()))
            .map_err(io::Error::other)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (receiver, next) = &mut *lock(&self.inbound);
        if next.is_none() {
            match receiver.poll_recv(cx) {
                Poll::Ready(datagram) => *next = datagram,
                Poll::Pending => return Poll::Pending,
            }
        }
        match next {
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending, // closed
        }
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (receiver, next) = &mut *lock(&self.inbound);
        let next = next.take().or_else(|| receiver.try_recv().ok());
        let (from, bytes) = next.ok_or(io::ErrorKind::WouldBlock)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok((bytes.len(), from))
    }

    fn close(&self) {
        lock(&self.network.0).remove(&self.addr);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = Arc::new(Network::default());
    let mut nodes = Vec::new();
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        let builder = Mesh::builder(name)
            .transport(Endpoint::join(&network, n as u16 + 1))
            .seeds(["192.0.2.1:1"])
            .voters(["a", "b", "c"])
            .insecure_plaintext()
            .bootstrap();
        nodes.push(builder.start().await?);
    }
    for node in &nodes {
        node.ready(Duration::from_secs(30)).await?;
    }
    let guard = nodes[2].lock("report").acquire().await?;
    println!("c holds {:?} with epoch {}", guard.key(), guard.epoch());
    Ok(())
}
