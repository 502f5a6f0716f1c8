//! Locks without a network.
//!
//! Every node is a production node with its rules, queue and epochs. Only the transport and the
//! clock differ. One hidden voter grants all locks.
//!
//! Rejected: a second, simple implementation of the contract. It would be a second contract.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use lockmesh::{Clock, ConfigError, Mesh, MeshBuilder, NodeId, Transport};

/// The id of the hidden voter.
const VOTER: &str = "the voter in memory";
/// The maximum number of datagrams that wait for a node. Further ones are lost, as in a socket.
const QUEUE_MAX: usize = 16_384;
/// The least time between the starts of two incarnations, by the wall clock that they see.
const BETWEEN_STARTS: Duration = Duration::from_millis(2);

/// Locks within one process, shared by nodes without a network. For unit tests.
///
/// Each [`node`](InMemoryLocks::node) is a [`Mesh`] with the contract of any other: pass it to the
/// code under test. The differences are:
///
/// - Time is tokio's. Under a paused clock (`start_paused`), `sleep` lets leases be renewed, and
///   `advance` acts like a frozen process. A thread outside the runtime does not see the paused
///   clock.
/// - The address of a node has no meaning, and there is no start to wait for.
/// - The only fault is [`cut_off`](InMemoryLocks::cut_off). [`LocalMesh`](crate::LocalMesh) has
///   more.
///
/// Requests of several nodes within one millisecond are served in the order of the node ids, as in
/// any mesh. Requests of one node are served in the order in which they were made.
///
/// Cloning is cheap, and all clones share the same locks.
#[derive(Clone, Debug)]
pub struct InMemoryLocks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: MeshBuilder,
    clock: TokioClock,
    network: Arc<Network>,
    voter: Mesh,
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    addrs: BTreeMap<NodeId, SocketAddr>,
    meshes: BTreeMap<NodeId, (Mesh, SystemTime)>,
}

impl Default for InMemoryLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl InMemoryLocks {
    /// Creates locks with the settings of [`Mesh::builder`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    #[must_use]
    pub fn new() -> Self {
        Self::like(MeshBuilder::lan("any")).expect("the settings of Mesh::builder are good")
    }

    /// Creates locks with the ttl, timing, renewal and limits of a builder. Its id, seeds, voters
    /// and secret are ignored.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfBounds`], [`ConfigError::Renewal`] or [`ConfigError::VoterSet`] if a
    ///   duration or a number is out of range.
    /// - [`ConfigError::ShortLivedVoter`] if the builder is
    ///   [`short_lived`](MeshBuilder::short_lived).
    /// - [`ConfigError::NoRuntime`] if there is no tokio runtime.
    ///
    /// # Panics
    /// Panics in a tokio runtime without timers.
    pub fn like(settings: MeshBuilder) -> Result<Self, ConfigError> {
        let settings = settings
            .voters([VOTER])
            .voters_per_key(1)
            .insecure_plaintext()
            .seeds([""; 0])
            .advertise(address(1).to_string())
            .bootstrap();
        let (clock, network) = (TokioClock::new(), Arc::new(Network::default()));
        let builder = settings
            .clone()
            .node_id(VOTER)
            .static_peers::<String>([])
            .transport(network.join(address(0), None))
            .clock(clock);
        let inner = Inner {
            voter: start(builder)?,
            settings,
            clock,
            network,
            nodes: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Returns the node named `name`. Returns the same node until it is shut down, then a new
    /// incarnation.
    ///
    /// # Panics
    /// Panics if `name` is not a node id (1 to 64 bytes), or is the id of the hidden voter. Panics
    /// outside a tokio runtime.
    #[must_use]
    pub fn node(&self, name: &str) -> Mesh {
        let inner = &*self.inner;
        let mut nodes = lock(&inner.nodes);
        let id = id(name);
        let mut clock = inner.clock;
        if let Some((mesh, started)) = nodes.meshes.get(&id) {
            if !mesh.is_shut_down() {
                return mesh.clone();
            }
            // Its number must be higher even if no time has passed.
            clock.start_after(*started + BETWEEN_STARTS);
        }
        let voter = inner.voter.clone();
        let builder = inner.settings.clone().node_id(name).clock(clock);
        let builder = builder.static_peers([(VOTER, voter.local_addr())]);
        let transport = inner.network.join(nodes.addr(&id), Some(voter));
        let mesh = start(builder.transport(transport));
        let mesh = mesh.expect("the settings were good for the voter");
        nodes.meshes.insert(id, (mesh.clone(), clock.wall()));
        mesh
    }

    /// Cuts off the node named `name`: no datagram leaves or reaches it. Its leases expire, and its
    /// locks are then granted to the next waiters.
    ///
    /// # Panics
    /// Panics if `name` is not a node id.
    pub fn cut_off(&self, name: &str) {
        let addr = lock(&self.inner.nodes).addr(&id(name));
        lock(&self.inner.network.0).cut.insert(addr);
    }

    /// Reconnects the node named `name` after [`cut_off`](InMemoryLocks::cut_off).
    ///
    /// # Panics
    /// Panics if `name` is not a node id.
    pub fn reconnect(&self, name: &str) {
        let addr = lock(&self.inner.nodes).addr(&id(name));
        lock(&self.inner.network.0).cut.remove(&addr);
    }
}

fn id(name: &str) -> NodeId {
    assert_ne!(name, VOTER, "this name is taken");
    NodeId::new(name).unwrap_or_else(|error| panic!("{name:?}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes {
    /// Returns the address of a node, the same in all its incarnations.
    fn addr(&mut self, id: &NodeId) -> SocketAddr {
        let next = self.addrs.len() + 1;
        let addr = || address(u16::try_from(next).expect("a test has less than 65,536 nodes"));
        *self.addrs.entry(id.clone()).or_insert_with(addr)
    }
}

/// Returns an address that no machine has, from a range reserved for documentation (RFC 5737).
fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// Starts a node without gossip.
fn start(builder: MeshBuilder) -> Result<Mesh, ConfigError> {
    match pin!(builder.start()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(mesh) => mesh,
        Poll::Pending => unreachable!("a node without gossip starts when it is first polled"),
    }
}

/// Tokio's clock, which a test can pause, and a wall clock that follows it.
#[derive(Clone, Copy, Debug)]
struct TokioClock {
    start: tokio::time::Instant,
    wall_at_start: SystemTime,
}

impl TokioClock {
    fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            wall_at_start: SystemTime::now(),
        }
    }

    /// Sets the wall clock to `earliest` if it is before that.
    fn start_after(&mut self, earliest: SystemTime) {
        if let Ok(ahead) = earliest.duration_since(self.wall()) {
            self.wall_at_start += ahead;
        }
    }
}

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.wall_at_start + self.start.elapsed()
    }
}

/// The replacement of the network.
#[derive(Debug, Default)]
struct Network(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    joined: BTreeMap<SocketAddr, Weak<Queue>>,
    cut: BTreeSet<SocketAddr>,
}

/// The datagrams that a node has not received yet.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

impl Network {
    fn join(self: &Arc<Self>, addr: SocketAddr, voter: Option<Mesh>) -> MemoryTransport {
        let queue = Arc::new(Queue::default());
        let end = Arc::downgrade(&queue);
        lock(&self.0).joined.insert(addr, end);
        MemoryTransport {
            addr,
            network: self.clone(),
            queue: Mutex::new(Some(queue)),
            _voter: voter,
        }
    }

    /// Returns the queue of `to`, unless one of the two is cut off or gone.
    fn way(&self, from: SocketAddr, to: SocketAddr) -> Option<Arc<Queue>> {
        let ends = lock(&self.0);
        let is_cut = ends.cut.contains(&from) || ends.cut.contains(&to);
        let end = ends.joined.get(&to).filter(|_| !is_cut);
        end.and_then(Weak::upgrade)
    }
}

/// The transport of one node.
#[derive(Debug)]
struct MemoryTransport {
    addr: SocketAddr,
    network: Arc<Network>,
    /// `None` once it is closed.
    queue: Mutex<Option<Arc<Queue>>>,
    /// The voter must not end before the nodes.
    _voter: Option<Mesh>,
}

impl Transport for MemoryTransport {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        if lock(&self.queue).is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let Some(queue) = self.network.way(self.addr, to) else {
            return Ok(());
        };
        let mut waiting = lock(&queue.0);
        if waiting.datagrams.len() < QUEUE_MAX {
            waiting.datagrams.push_back((self.addr, bytes.to_vec()));
        }
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(queue) = lock(&self.queue).clone() else {
            return Poll::Pending;
        };
        let mut waiting = lock(&queue.0);
        if !waiting.datagrams.is_empty() {
            return Poll::Ready(Ok(()));
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let queue = lock(&self.queue).clone();
        let next = queue.and_then(|queue| lock(&queue.0).datagrams.pop_front());
        let (from, bytes) = next.ok_or(io::ErrorKind::WouldBlock)?;
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok((len, from))
    }

    fn close(&self) {
        *lock(&self.queue) = None;
    }
}
