//! Membership as an adversary: the views that gossip gives each node.
//!
//! Gossip is advice. No lock may change hands early whatever it reports, so here it may report
//! anything. Examples: live nodes as dead, dead nodes as alive, a node at its address of two
//! incarnations ago.

use std::net::SocketAddr;

use crate::cluster::Gossip;
use crate::kernel::Rng;
use crate::proto::{Incarnation, NodeId, Peer, View};

/// One incarnation of a host, as reported by gossip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) addr: SocketAddr,
    pub(crate) incarnation: Incarnation,
    /// The version that it announces, if it does.
    pub(crate) version: Option<u8>,
}

/// The data about one host.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: NodeId,
    /// All its incarnations, in order; if the host is up, the last one is current.
    pub(crate) incarnations: Vec<Sighting>,
    pub(crate) up: bool,
}

/// Returns the view of one node.
pub(crate) fn view(rng: &mut Rng, gossip: Gossip, me: usize, hosts: &[Known]) -> View {
    let mut view = View::default();
    for (at, known) in hosts.iter().enumerate() {
        let Some(last) = known.incarnations.last() else {
            continue;
        };
        if at == me {
            continue;
        }
        let (sighting, alive) = match gossip {
            Gossip::Honest | Gossip::Heartbeats => (last, known.up),
            Gossip::Hostile if rng.chance(150_000) => continue,
            Gossip::Hostile => (rng.pick(&known.incarnations), rng.chance(500_000)),
        };
        let peer = Peer {
            addr: sighting.addr,
            incarnation: sighting.incarnation,
            alive,
            version: sighting.version,
        };
        view.peers.insert(known.id.clone(), peer);
    }
    view
}
