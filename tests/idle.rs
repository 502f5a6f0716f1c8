//! The datagrams of gossip in an idle cluster, and how soon it reports a change. Five nodes run in
//! one process over a network in memory, on a paused clock.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use lockmesh::{Clock, Mesh, Transport};
use tokio::time::{Instant, sleep};

const NODES: u16 = 5;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct TokioClock(Instant, SystemTime);

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.1 + self.0.elapsed()
    }
}

/// The datagrams that a node has not received yet, and its task if it waits.
#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// The queue of each address. It has none once the node has ended.
type Network = Arc<Mutex<BTreeMap<SocketAddr, Queue>>>;

#[derive(Debug)]
struct Endpoint {
    addr: SocketAddr,
    network: Network,
}

impl Transport for Endpoint {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        if let Some(queue) = self.network.lock().unwrap().get_mut(&to) {
            queue.datagrams.push_back((self.addr, bytes.to_vec()));
            queue.waker.take().into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.network.lock().unwrap().get_mut(&self.addr) {
            Some(queue) if !queue.datagrams.is_empty() => return Poll::Ready(Ok(())),
            Some(queue) => queue.waker = Some(cx.waker().clone()),
            None => {}
        }
        Poll::Pending
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut network = self.network.lock().unwrap();
        let queue = network.get_mut(&self.addr);
        let next = queue.and_then(|queue| queue.datagrams.pop_front());
        let (from, bytes) = next.ok_or(io::ErrorKind::WouldBlock)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok((bytes.len(), from))
    }

    fn close(&self) {
        self.network.lock().unwrap().remove(&self.addr);
    }
}

fn name(n: u16) -> String {
    format!("n{n}")
}

/// Starts five voters, each a third of a gossip interval after the last. Waits until they know each
/// other.
async fn cluster() -> Vec<Mesh> {
    let clock = TokioClock(Instant::now(), SystemTime::now());
    let network = Network::default();
    let mut nodes = Vec::new();
    for n in 0..NODES {
        let addr = |n| SocketAddr::from(([192, 0, 2, 1], n + 1));
        let network = network.clone();
        network.lock().unwrap().insert(addr(n), Queue::default());
        let endpoint = Endpoint {
            addr: addr(n),
            network,
        };
        let builder = Mesh::builder(name(n)).transport(endpoint).clock(clock);
        let builder = builder.voters((0..NODES).map(name)).insecure_plaintext();
        let builder = builder.seeds([addr(0).to_string()]).bootstrap();
        nodes.push(builder.start().await.unwrap());
        sleep(SECOND / 3).await;
    }
    for node in &nodes {
        node.ready(10 * SECOND).await.unwrap();
    }
    sleep(10 * SECOND).await;
    assert!(nodes.iter().all(|node| alive(node) == usize::from(NODES)));
    nodes
}

fn alive(node: &Mesh) -> usize {
    let members = node.status().members;
    let alive = members.iter().filter(|it| it.is_alive == Some(true));
    alive.count()
}

/// A node starts three handshakes in each second and answers as many. A handshake without news ends
/// with the second datagram.
#[tokio::test(start_paused = true)]
async fn handshake_without_news_takes_two_datagrams() {
    let nodes = cluster().await;
    let sent = || {
        let traffic = nodes.iter().map(|node| node.status().traffic);
        traffic.map(|it| it.gossip_datagrams_out).sum::<u64>()
    };
    let before = sent();
    let seconds = 60;
    sleep(SECOND * seconds).await;
    let handshakes = 3 * u64::from(NODES) * u64::from(seconds);
    let datagrams = sent() - before;
    let slack = 3 * u64::from(NODES);
    assert!(datagrams >= 2 * (handshakes - slack), "{datagrams}");
    assert!(datagrams <= 2 * (handshakes + slack), "{datagrams}");
}

#[tokio::test(start_paused = true)]
async fn crashed_node_is_dead_to_all_within_ten_seconds() {
    let nodes = cluster().await;
    nodes[4].abort();
    let others = &nodes[..4];
    sleep(2 * SECOND).await;
    assert!(others.iter().all(|node| alive(node) == 5), "too soon");
    sleep(8 * SECOND).await;
    assert!(others.iter().all(|node| alive(node) == 4));
}
