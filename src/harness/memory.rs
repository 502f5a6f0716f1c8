//! Locks without a network.
//!
//! Every node is a production node with its rules, queue and epochs. Only the socket and the clock
//! differ. Datagrams are delivered before the call that sends them returns, so that a free lock is
//! granted at the first poll. One hidden voter grants all locks.
//!
//! Rejected: a second, simple implementation of the contract. It would be a second contract.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use crate::config::MeshBuilder;
use crate::error::ConfigError;
use crate::runtime::{Clock, Mesh, Shared};
use lockmesh_proto::{Incarnation, NodeId, Peer, View};

/// The id of the hidden voter.
const VOTER: &str = "the voter in memory";

/// Locks within one process, shared by nodes without a network. For unit tests.
///
/// Each [`node`](InMemoryLocks::node) is a [`Mesh`] with the contract of any other: pass it to the
/// code under test. The differences are:
///
/// - Time is tokio's. Under a paused clock (`start_paused`), `sleep` lets leases be renewed, and
///   `advance` acts like a frozen process. A thread outside the runtime does not see the paused
///   clock.
/// - The address of a node has no meaning, and there is no start to wait for.
/// - The only fault is [`cut_off`](InMemoryLocks::cut_off). [`LocalMesh`](super::LocalMesh) has
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
    clock: Clock,
    wire: Arc<Wire>,
    voter: Mesh,
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    incarnations: u64,
    addrs: BTreeMap<NodeId, SocketAddr>,
    meshes: BTreeMap<NodeId, Mesh>,
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
    /// [`ConfigError`] if a setting is invalid, as from [`MeshBuilder::start`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    pub fn like(settings: MeshBuilder) -> Result<Self, ConfigError> {
        let settings = settings
            .listen("127.0.0.1:0")
            .voters([VOTER])
            .voters_per_key(1)
            .insecure_plaintext()
            .new_cluster(true);
        let checked = settings.clone().named(VOTER).check()?;
        let clock = Clock::of_tokio();
        let wire = Arc::new(Wire::default());
        let incarnation = Incarnation::new(clock.incarnation(0));
        let port = wire.port(0);
        let voter = Mesh::in_memory(clock, incarnation, checked, port.clone(), None);
        wire.join(&port, &voter);
        let inner = Inner {
            settings,
            clock,
            wire,
            voter,
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
        let Inner {
            settings,
            clock,
            wire,
            voter,
            nodes,
        } = &*self.inner;
        let mut nodes = lock(nodes);
        let id = id(name);
        if let Some(mesh) = nodes.meshes.get(&id)
            && !mesh.is_over()
        {
            return mesh.clone();
        }
        let checked = settings.clone().named(name).check();
        let checked = checked.expect("the settings were good for the voter");
        nodes.incarnations += 1;
        let incarnation = Incarnation::new(clock.incarnation(0).saturating_add(nodes.incarnations));
        let port = Port {
            wire: wire.clone(),
            addr: nodes.addr(&id),
        };
        let mesh = Mesh::in_memory(
            *clock,
            incarnation,
            checked,
            port.clone(),
            Some(voter.clone()),
        );
        wire.join(&port, &mesh);
        let view = View {
            peers: BTreeMap::from([(
                voter.id().clone(),
                Peer {
                    addr: voter.local_addr(),
                    incarnation: Incarnation::new(voter.status().incarnation),
                    alive: true,
                },
            )]),
        };
        mesh.shared().with(|core, now| {
            core.node.handle_view(now, &view);
            core.voting.insert(voter.id().clone());
        });
        nodes.meshes.insert(id, mesh.clone());
        mesh
    }

    /// Cuts off the node named `name`: no datagram leaves or reaches it. Its leases expire, and its
    /// locks are then granted to the next waiters.
    ///
    /// # Panics
    /// Panics if `name` is not a node id.
    pub fn cut_off(&self, name: &str) {
        let addr = lock(&self.inner.nodes).addr(&id(name));
        lock(&self.inner.wire.state).cut.insert(addr);
    }

    /// Reconnects the node named `name` after [`cut_off`](InMemoryLocks::cut_off).
    ///
    /// # Panics
    /// Panics if `name` is not a node id.
    pub fn reconnect(&self, name: &str) {
        let addr = lock(&self.inner.nodes).addr(&id(name));
        lock(&self.inner.wire.state).cut.remove(&addr);
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

/// The replacement of the network.
#[derive(Debug, Default)]
struct Wire {
    state: Mutex<Ends>,
    /// Held by the one call that delivers datagrams, so that they arrive in the order of sending.
    delivering: Mutex<()>,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Ends {
    joined: BTreeMap<SocketAddr, Weak<Shared>>,
    cut: BTreeSet<SocketAddr>,
    on_its_way: VecDeque<Datagram>,
}

/// The endpoint of a node.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    wire: Arc<Wire>,
    addr: SocketAddr,
}

impl Wire {
    fn port(self: &Arc<Self>, number: u16) -> Port {
        Port {
            wire: self.clone(),
            addr: address(number),
        }
    }

    fn join(&self, port: &Port, mesh: &Mesh) {
        let end = Arc::downgrade(mesh.shared());
        lock(&self.state).joined.insert(port.addr, end);
    }

    /// Returns the next datagram, and its receiver unless that is cut off or gone.
    fn next(&self) -> Option<(Datagram, Option<Arc<Shared>>)> {
        let mut ends = lock(&self.state);
        let datagram = ends.on_its_way.pop_front()?;
        let is_cut = ends.cut.contains(&datagram.from) || ends.cut.contains(&datagram.to);
        let end = ends.joined.get(&datagram.to).filter(|_| !is_cut);
        let end = end.and_then(Weak::upgrade);
        Some((datagram, end))
    }

    fn is_empty(&self) -> bool {
        lock(&self.state).on_its_way.is_empty()
    }
}

impl Port {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Queues a datagram. Returns `true`, like a system that accepts a datagram and loses it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        let datagram = Datagram {
            from: self.addr,
            to,
            bytes: bytes.to_vec(),
        };
        lock(&self.wire.state).on_its_way.push_back(datagram);
        true
    }

    /// Delivers the queued datagrams and all that follow from them, unless another call does so.
    /// The caller must not hold any lock, since the receivers lock their engines.
    pub(crate) fn deliver(&self) {
        // Repeats if a datagram was queued after the last check and before the lock was released.
        while !self.wire.is_empty() {
            let _turn = match self.wire.delivering.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            while let Some((Datagram { from, bytes, .. }, end)) = self.wire.next() {
                let Some(end) = end else { continue };
                end.with(|core, now| {
                    if !core.is_shut_down {
                        core.node.handle_datagram(now, from, &bytes);
                    }
                });
            }
        }
    }
}
