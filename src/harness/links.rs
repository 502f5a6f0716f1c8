//! Links between the meshes of one process, with injected faults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use lockmesh_proto::NodeId;

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

/// The links between meshes that were built with the same `Links`.
///
/// Datagrams are real UDP, and faults apply when they are sent. A fault belongs to a node: a node
/// that restarts under its id keeps it, even at another address. An address at which no such mesh
/// has listened is an end of its own.
pub struct Links {
    state: Mutex<State>,
    /// Delayed datagrams.
    late: Mutex<JoinSet<()>>,
}

struct State {
    rng: SmallRng,
    everywhere: Fault,
    faults: BTreeMap<(End, End), Fault>,
    /// The node that last listened at each address.
    nodes: BTreeMap<SocketAddr, NodeId>,
}

/// One end of a link.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum End {
    Node(NodeId),
    At(SocketAddr),
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
    pub fn new(seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        let state = State {
            rng,
            everywhere: Fault::default(),
            faults: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            late: Mutex::new(JoinSet::new()),
        }
    }

    /// Sets the fault of every link that has none of its own.
    pub fn everywhere(&self, fault: Fault) {
        self.lock().everywhere = fault;
    }

    /// Sets the fault of the link from `from` to `to`, in that direction only.
    pub fn one_way(&self, from: SocketAddr, to: SocketAddr, fault: Fault) {
        let mut state = self.lock();
        let link = (state.end(from), state.end(to));
        state.faults.insert(link, fault);
    }

    /// Cuts all links between the two sides, in both directions.
    pub fn partition(&self, one: &[SocketAddr], other: &[SocketAddr]) {
        let mut state = self.lock();
        for a in one {
            for b in other {
                let (a, b) = (state.end(*a), state.end(*b));
                state.on(a.clone(), b.clone()).cut = true;
                state.on(b, a).cut = true;
            }
        }
    }

    /// Removes all faults.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.everywhere = Fault::default();
        state.faults.clear();
    }

    /// Changes the fault of the link from `from` to `to`.
    pub(crate) fn change(&self, from: &NodeId, to: &NodeId, change: impl FnOnce(&mut Fault)) {
        let (from, to) = (End::Node(from.clone()), End::Node(to.clone()));
        change(self.lock().on(from, to));
    }

    /// Returns the fault of the link from `from` to `to`.
    pub(crate) fn fault(&self, from: &NodeId, to: &NodeId) -> Fault {
        let (from, to) = (End::Node(from.clone()), End::Node(to.clone()));
        self.lock().fault(from, to)
    }

    /// Registers the address of a node. Faults that were set on the address become faults of the
    /// node.
    pub(crate) fn register(&self, addr: SocketAddr, node: &NodeId) {
        let mut state = self.lock();
        state.nodes.insert(addr, node.clone());
        let renamed = |end| match end {
            End::At(at) if at == addr => End::Node(node.clone()),
            end => end,
        };
        state.faults = std::mem::take(&mut state.faults)
            .into_iter()
            .map(|((from, to), fault)| ((renamed(from), renamed(to)), fault))
            .collect();
    }

    /// Drops all delayed datagrams.
    pub(crate) fn lose_late(&self) {
        self.late().abort_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram, subject to the faults of its link. Returns `true` if the system accepted
    /// it. A datagram dropped by a fault counts as accepted, like one that is lost on the way.
    pub(crate) fn pass(
        &self,
        socket: &Arc<UdpSocket>,
        from: &NodeId,
        to: SocketAddr,
        bytes: &[u8],
    ) -> bool {
        let mut taken = true;
        let delays = self.lock().fate(from, to);
        for delay in delays {
            if delay.is_zero() {
                taken &= socket.send_to(bytes, to).is_ok();
            } else {
                taken &= self.send_later(socket, to, bytes, delay);
            }
        }
        taken
    }

    /// Sends a datagram after `delay`. It does not keep the socket open: a node that ends frees its
    /// address.
    fn send_later(
        &self,
        socket: &Arc<UdpSocket>,
        to: SocketAddr,
        bytes: &[u8],
        delay: Duration,
    ) -> bool {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return socket.send_to(bytes, to).is_ok();
        };
        let (socket, bytes) = (Arc::downgrade(socket), bytes.to_vec());
        let send = async move {
            tokio::time::sleep(delay).await;
            if let Some(socket) = socket.upgrade() {
                // Lost if the system does not accept it.
                let _ = socket.send_to(&bytes, to);
            }
        };
        let mut late = self.late();
        while late.try_join_next().is_some() {}
        late.spawn_on(send, &runtime);
        true
    }
}

impl State {
    fn end(&self, addr: SocketAddr) -> End {
        let node = self.nodes.get(&addr).cloned();
        node.map_or(End::At(addr), End::Node)
    }

    /// Returns the fault of a link for modification.
    fn on(&mut self, from: End, to: End) -> &mut Fault {
        let everywhere = self.everywhere;
        self.faults.entry((from, to)).or_insert(everywhere)
    }

    fn fault(&self, from: End, to: End) -> Fault {
        let own = self.faults.get(&(from, to)).copied();
        own.unwrap_or(self.everywhere)
    }

    /// Returns the delay of each copy of a datagram; empty if it is lost.
    fn fate(&mut self, from: &NodeId, to: SocketAddr) -> Vec<Duration> {
        let fault = self.fault(End::Node(from.clone()), self.end(to));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn node_at_new_address_keeps_its_faults() {
        let links = Links::new(1);
        let (a, b) = (node("a"), node("b"));
        links.register(addr(1), &a);
        links.register(addr(2), &b);
        links.partition(&[addr(1)], &[addr(2)]);
        links.register(addr(3), &b);
        assert!(links.lock().fate(&a, addr(3)).is_empty());
        links.heal();
        assert_eq!(links.lock().fate(&a, addr(3)), [Duration::ZERO]);
    }

    #[test]
    fn fault_on_unused_address_applies_after_register() {
        let links = Links::new(1);
        links.register(addr(1), &node("a"));
        links.partition(&[addr(1)], &[addr(2)]);
        assert!(links.lock().fate(&node("a"), addr(2)).is_empty());
        links.register(addr(2), &node("b"));
        assert!(links.fault(&node("a"), &node("b")).cut);
        assert!(links.lock().fate(&node("b"), addr(1)).is_empty());
    }

    #[test]
    fn cut_keeps_other_faults_of_link() {
        let links = Links::new(1);
        let (a, b) = (node("a"), node("b"));
        links.change(&a, &b, |fault| fault.loss = 0.5);
        links.change(&a, &b, |fault| fault.cut = true);
        assert_eq!(links.fault(&a, &b).loss, 0.5);
        assert_eq!(links.fault(&b, &a), Fault::default());
    }
}
