//! Locks without a network.
//!
//! Every node is the node of production, rules, queue, epochs and all; only the socket and the
//! clock are others. Datagrams are handed over before the call that sends them returns, so that a
//! free lock is there at the first poll. One voter that nobody sees decides. The alternative that
//! was rejected is a second, simple implementation of the contract: it would be a second contract.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use crate::config::MeshBuilder;
use crate::error::ConfigError;
use crate::runtime::{Clock, Mesh, Shared};
use lockmesh_proto::id::{Incarnation, NodeId};
use lockmesh_proto::view::{Peer, View};

/// The voter behind the nodes.
const VOTER: &str = "the voter in memory";

/// Locks within one process, for unit tests: nodes that share them, without a network.
///
/// Each [`node`](InMemoryLocks::node) is a [`Mesh`] like any other, and keeps the same contract;
/// hand it to the code that is tested. What is different:
///
/// - Time is tokio's. Under a paused clock (`start_paused`) leases run as that does: sleep, and
///   they are renewed meanwhile; `advance`, and they are those of a process that was frozen. A
///   thread outside of the runtime does not see that clock.
/// - A node has no address that means anything, and nothing to be ready for.
/// - [`cut_off`](InMemoryLocks::cut_off) is all that can go wrong. See
///   [`LocalMesh`](super::LocalMesh) for more.
///
/// Requests of several nodes that come within the same millisecond of the clock are in the order
/// of the nodes' ids, as in any mesh; those of one node are in the order in which they came.
///
/// Cheap to clone; all clones are the same locks.
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
    /// Locks with the settings of [`Mesh::builder`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with timers.
    #[must_use]
    pub fn new() -> Self {
        Self::like(MeshBuilder::lan("any")).expect("the settings of Mesh::builder are good")
    }

    /// Locks with the settings of a builder: its ttl, timing, renewal and bounds. Its id, seeds,
    /// voters and key do not count.
    ///
    /// # Errors
    /// [`ConfigError`] as from [`MeshBuilder::start`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with timers.
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

    /// The node that is called `name`: always the same one, until it is shut down; then a new
    /// incarnation of it.
    ///
    /// # Panics
    /// Where `name` is no node id (1 to 64 bytes), and outside of a tokio runtime.
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

    /// Nothing that the node called `name` says reaches the others any more, and nothing reaches
    /// it: it loses what it holds once its leases are over, and the next in line has it then.
    ///
    /// # Panics
    /// Where `name` is no node id.
    pub fn cut_off(&self, name: &str) {
        let addr = lock(&self.inner.nodes).addr(&id(name));
        lock(&self.inner.wire.state).cut.insert(addr);
    }

    /// Takes [`cut_off`](InMemoryLocks::cut_off) back.
    ///
    /// # Panics
    /// Where `name` is no node id.
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
    /// A node has the same address in all its incarnations.
    fn addr(&mut self, id: &NodeId) -> SocketAddr {
        let next = self.addrs.len() + 1;
        let addr = || address(u16::try_from(next).expect("a test has less than 65,536 nodes"));
        *self.addrs.entry(id.clone()).or_insert_with(addr)
    }
}

/// An address that is nobody's: of a net that is set aside for documents.
fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// What is there in place of the network.
#[derive(Debug, Default)]
struct Wire {
    state: Mutex<Ends>,
    /// Held by the one call that hands datagrams over: they come in the order in which they left.
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

/// A node's end of it.
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

    /// The next datagram, and whom it reaches.
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

    /// Puts a datagram on its way. Returns `true`, as a system does that takes one and loses it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        let datagram = Datagram {
            from: self.addr,
            to,
            bytes: bytes.to_vec(),
        };
        lock(&self.wire.state).on_its_way.push_back(datagram);
        true
    }

    /// Hands over what is on its way, and what comes of it, unless another call is at it. To be
    /// called without any lock: the receivers take theirs.
    pub(crate) fn deliver(&self) {
        // Once more where something came after the last look and before the lock was free again.
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
