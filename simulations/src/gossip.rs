//! Membership as an adversary: what gossip tells each node.
//!
//! Gossip is advice. No lock may change hands early whatever it says, so here it may say anything:
//! that the living are dead, that the dead live, that a node is where it was two incarnations ago.

use std::net::SocketAddr;

use lockmesh_proto::id::{Incarnation, NodeId};
use lockmesh_proto::view::{Peer, View};

use crate::rng::Rng;
use crate::settings::Gossip;

/// One incarnation of a host, as gossip knew it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) addr: SocketAddr,
    pub(crate) incarnation: Incarnation,
}

/// What there is to say about one host.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: NodeId,
    /// All its incarnations, the present or last one at the end.
    pub(crate) incarnations: Vec<Sighting>,
    pub(crate) up: bool,
}

/// What one node is told.
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
            Gossip::Honest | Gossip::Heard => (last, known.up),
            Gossip::Hostile if rng.chance(150_000) => continue,
            Gossip::Hostile => (rng.pick(&known.incarnations), rng.chance(500_000)),
        };
        let peer = Peer {
            addr: sighting.addr,
            incarnation: sighting.incarnation,
            alive,
        };
        view.peers.insert(known.id.clone(), peer);
    }
    view
}
