//! Links between the meshes of one process, with injected faults.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::delay::DelayLine;

use lockmesh::{Transport, UdpTransport};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The faults of a link, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// `true` if all datagrams are blocked.
    pub cut: bool,
    /// The share of datagrams that are lost: 0.0 to 1.0.
    pub loss: f64,
    /// The share of datagrams that are delivered twice: 0.0 to 1.0.
    pub duplicate: f64,
    /// The range from which the delay of each datagram is drawn uniformly. Delayed datagrams are
    /// reordered.
    pub delay: Option<(Duration, Duration)>,
}

/// Links between nodes of one process.
///
/// Each node takes its transport from [`bind`](Links::bind). Datagrams are real UDP, and faults
/// apply when they are sent. A fault belongs to the names of two nodes: a node that restarts keeps
/// it, even at another address.
pub struct Links {
    state: Mutex<State>,
    late: DelayLine,
}

struct State {
    rng: SmallRng,
    everywhere: Fault,
    faults: BTreeMap<(String, String), Fault>,
    /// The node that last listened at each address.
    nodes: BTreeMap<SocketAddr, String>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Links")
            .field("everywhere", &state.everywhere)
            .field("faults", &state.faults)
            .finish_non_exhaustive()
    }
}

impl Links {
    /// Creates links without faults. Loss, duplication and delay are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            everywhere: Fault::default(),
            faults: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            late: DelayLine::default(),
        })
    }

    /// Binds a UDP socket for the node named `node`; see
    /// [`MeshBuilder::transport`](lockmesh::MeshBuilder::transport).
    ///
    /// # Errors
    /// The errors of [`UdpTransport::bind`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O.
    pub fn bind(self: &Arc<Self>, node: &str, listen: SocketAddr) -> io::Result<LinkedTransport> {
        let udp = Arc::new(UdpTransport::bind(listen)?);
        self.lock().nodes.insert(udp.local_addr(), node.to_owned());
        Ok(LinkedTransport(Arc::new(Linked {
            udp,
            links: self.clone(),
            node: node.to_owned(),
            paused: Mutex::default(),
        })))
    }

    /// Sets the fault of every link that has none of its own.
    pub fn everywhere(&self, fault: Fault) {
        self.lock().everywhere = fault;
    }

    /// Sets the fault of the link from `from` to `to`, in that direction only.
    pub fn one_way(&self, from: &str, to: &str, fault: Fault) {
        self.change(from, to, |old| *old = fault);
    }

    /// Cuts all links between the two sides, in both directions.
    pub fn partition(&self, one: &[impl AsRef<str>], other: &[impl AsRef<str>]) {
        for a in one {
            for b in other {
                self.change(a.as_ref(), b.as_ref(), |fault| fault.cut = true);
                self.change(b.as_ref(), a.as_ref(), |fault| fault.cut = true);
            }
        }
    }

    /// Removes all faults.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.everywhere = Fault::default();
        state.faults.clear();
    }

    /// Returns the fault of the link from `from` to `to`.
    #[must_use]
    pub fn fault(&self, from: &str, to: &str) -> Fault {
        self.lock().fault(from, to)
    }

    /// Changes the fault of the link from `from` to `to`.
    pub(crate) fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Fault)) {
        let mut state = self.lock();
        let everywhere = state.everywhere;
        let link = (from.to_owned(), to.to_owned());
        change(state.faults.entry(link).or_insert(everywhere));
    }

    /// Drops all delayed datagrams, now and later.
    pub(crate) fn lose_late(&self) {
        self.late.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fault(&self, from: &str, to: &str) -> Fault {
        let own = self.faults.get(&(from.to_owned(), to.to_owned())).copied();
        own.unwrap_or(self.everywhere)
    }

    /// Returns the delay of each copy of a datagram; empty if it is lost.
    fn fate(&mut self, from: &str, to: SocketAddr) -> Vec<Duration> {
        let fault = match self.nodes.get(&to) {
            Some(to) => self.fault(from, to),
            None => self.everywhere,
        };
        let rng = &mut self.rng;
        if fault.cut || (fault.loss > 0.0 && rng.random::<f64>() < fault.loss) {
            return Vec::new();
        }
        let twice = fault.duplicate > 0.0 && rng.random::<f64>() < fault.duplicate;
        let mut delay = || match fault.delay {
            Some((from, to)) if to > from => from + (to - from).mul_f64(rng.random::<f64>()),
            Some((from, _)) => from,
            None => Duration::ZERO,
        };
        (0..=usize::from(twice)).map(|_| delay()).collect()
    }
}

/// The transport of one node: UDP over [`Links`]. Clones are the same transport.
#[derive(Clone, Debug)]
pub struct LinkedTransport(Arc<Linked>);

#[derive(Debug)]
struct Linked {
    udp: Arc<UdpTransport>,
    links: Arc<Links>,
    node: String,
    paused: Mutex<Paused>,
}

#[derive(Debug, Default)]
struct Paused {
    is_paused: bool,
    /// The task that waits for a datagram.
    waker: Option<Waker>,
}

impl LinkedTransport {
    /// Pauses or resumes the node: while it is paused, its datagrams are lost, and those that it
    /// receives wait in the socket.
    pub(crate) fn pause(&self, is_paused: bool) {
        let mut paused = self.paused();
        paused.is_paused = is_paused;
        if let Some(waker) = paused.waker.take() {
            waker.wake();
        }
    }

    fn paused(&self) -> MutexGuard<'_, Paused> {
        self.0.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for LinkedTransport {
    fn local_addr(&self) -> SocketAddr {
        self.0.udp.local_addr()
    }

    /// A datagram dropped by a fault counts as accepted, like one that is lost on the way.
    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        if self.paused().is_paused {
            return Ok(());
        }
        let delays = self.0.links.lock().fate(&self.0.node, to);
        for delay in delays {
            match delay {
                Duration::ZERO => self.0.udp.try_send(to, bytes)?,
                delay => self.0.links.late.send(&self.0.udp, to, bytes, delay),
            }
        }
        Ok(())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut paused = self.paused();
        if paused.is_paused {
            paused.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(paused);
        self.0.udp.poll_readable(cx)
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.paused().is_paused {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => self.0.udp.try_recv(buf),
        }
    }

    fn close(&self) {
        self.0.udp.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test]
    async fn node_at_new_address_keeps_its_faults() {
        let links = Links::new(1);
        let first = links.bind("b", addr(0)).unwrap();
        links.partition(&["a"], &["b"]);
        assert!(links.lock().fate("a", first.local_addr()).is_empty());
        let second = links.bind("b", addr(0)).unwrap();
        assert!(links.lock().fate("a", second.local_addr()).is_empty());
        links.heal();
        let delays = links.lock().fate("a", second.local_addr());
        assert_eq!(delays, [Duration::ZERO]);
    }

    #[test]
    fn cut_keeps_other_faults_of_link() {
        let links = Links::new(1);
        links.change("a", "b", |fault| fault.loss = 0.5);
        links.change("a", "b", |fault| fault.cut = true);
        assert_eq!(links.fault("a", "b").loss, 0.5);
        assert_eq!(links.fault("b", "a"), Fault::default());
    }
}
