//! The other nodes: where they are, and which of their lives was last heard of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::id::{Incarnation, NodeId, NodeName};
use crate::proto::roster::Roster;
use crate::proto::view::View;

/// The most nodes that are remembered, members of the roster aside.
pub(crate) const NODES_MAX: usize = 8_192;

#[derive(Clone, Debug, Default)]
struct Known {
    /// The highest life that itself was heard of, not by gossip.
    incarnation: Option<Incarnation>,
    /// Whether this node remembered anything of a life of the cluster before that one, when it
    /// first heard of it.
    knew: bool,
    /// Where its last datagram came from.
    heard_at: Option<SocketAddr>,
    /// Where gossip says that it is, and in which life.
    gossiped: Option<(SocketAddr, Incarnation)>,
    /// When it was last heard, in datagrams heard.
    heard: u64,
}

/// What hearing a node amounts to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// In the life that is known.
    Again,
    /// In a new life, or for the first time.
    NewLife,
    /// In a life that is over.
    Outdated { seen: Incarnation },
    /// There is no room to remember it.
    TooMany,
}

/// All other nodes that this one has heard of.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    me: NodeId,
    roster: Arc<Roster>,
    known: BTreeMap<NodeId, Known>,
    /// Counts the datagrams that were heard: the clock of [`Known::heard`].
    heard: u64,
}

impl Peers {
    pub(crate) fn new(me: NodeId, roster: Arc<Roster>) -> Self {
        Self {
            me,
            roster,
            known: BTreeMap::new(),
            heard: 0,
        }
    }

    /// How many nodes are remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The id of a node that speaks. One that is known has one already.
    pub(crate) fn id_of(&self, name: NodeName<'_>) -> NodeId {
        let known = self.known.get_key_value(name.as_str());
        known.map_or_else(|| name.to_id(), |(node, _)| node.clone())
    }

    /// A datagram of `node` has come. `knew` answers whether this node has anything to remember
    /// now; it is only asked where the life is new.
    pub(crate) fn hear(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        addr: SocketAddr,
        knew: impl FnOnce() -> bool,
    ) -> Heard {
        if !self.has_room_for(node) {
            return Heard::TooMany;
        }
        self.heard += 1;
        let known = self.known.entry(node.clone()).or_default();
        known.heard = self.heard;
        match known.incarnation {
            Some(seen) if incarnation < seen && mistaken!(EarlierLivesHeard) => {
                return Heard::Again;
            }
            Some(seen) if incarnation < seen => return Heard::Outdated { seen },
            Some(seen) if incarnation == seen => {
                known.heard_at = Some(addr);
                return Heard::Again;
            }
            earlier => known.knew = earlier.is_some() || knew(),
        }
        known.incarnation = Some(incarnation);
        known.heard_at = Some(addr);
        Heard::NewLife
    }

    /// Whether anything was known of a life before the present one of `node`, and which was the
    /// highest that was heard of.
    pub(crate) fn memory_of(&self, node: &NodeId) -> (bool, Incarnation) {
        let known = self.known.get(node);
        let seen = known
            .and_then(|known| known.incarnation)
            .unwrap_or_default();
        (known.is_some_and(|known| known.knew), seen)
    }

    /// Takes over what gossip says. Answers the nodes that can be reached now and could not.
    pub(crate) fn handle_view(&mut self, view: &View) -> Vec<NodeId> {
        let mut reachable = Vec::new();
        for (node, known) in &mut self.known {
            if !view.peers.contains_key(node) {
                known.gossiped = None;
            }
        }
        for (node, peer) in &view.peers {
            if *node == self.me || !self.has_room_for(node) {
                continue;
            }
            let before = self.address_of(node);
            let known = self.known.entry(node.clone()).or_default();
            known.gossiped = Some((peer.addr, peer.incarnation));
            if before != self.address_of(node) {
                reachable.push(node.clone());
            }
        }
        reachable
    }

    /// The members that gossip knows in a life in which they were not heard themselves.
    pub(crate) fn unheard_members(&self) -> impl Iterator<Item = &NodeId> {
        let known = self.known.iter().filter(|(node, known)| {
            let gossiped = known.gossiped.map(|(_, incarnation)| incarnation);
            known.incarnation < gossiped && self.roster.has_member(node)
        });
        known.map(|(node, _)| node)
    }

    /// Whether it is known, or may be. Clients come and go under new names: where there are as
    /// many nodes as may be, the one goes that was silent for longest. Gossip does not know it any
    /// more, and what it has at the voter runs out by itself. Members stay: a voter that lost its
    /// memory asks what is known of it.
    fn has_room_for(&mut self, node: &NodeId) -> bool {
        if self.known.len() < NODES_MAX
            || self.known.contains_key(node)
            || self.roster.has_member(node)
        {
            return true;
        }
        let roster = &self.roster;
        let gone = self
            .known
            .iter()
            .filter(|(node, known)| known.gossiped.is_none() && !roster.has_member(node))
            .min_by_key(|(_, known)| known.heard)
            .map(|(node, _)| node.clone());
        gone.is_some_and(|gone| self.known.remove(&gone).is_some())
    }

    /// Where to send to. What the node itself was heard from counts, unless gossip has heard of a
    /// later life of it.
    pub(crate) fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        let known = self.known.get(node)?;
        match (known.heard_at, known.gossiped) {
            (Some(heard), Some((addr, incarnation))) => {
                Some(if known.incarnation < Some(incarnation) {
                    addr
                } else {
                    heard
                })
            }
            (heard, gossiped) => heard.or_else(|| gossiped.map(|(addr, _)| addr)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::roster::Timing;
    use crate::proto::view::Peer;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn peers() -> Peers {
        let roster = Roster::new(1, vec![node("me"), node("voter")], 2, Timing::lan());
        Peers::new(node("me"), Arc::new(roster.unwrap()))
    }

    fn view(peers: &[(&str, u16, u64, bool)]) -> View {
        let peers = peers.iter().map(|(name, port, life, alive)| {
            let incarnation = Incarnation::new(*life);
            (
                node(name),
                Peer {
                    addr: addr(*port),
                    incarnation,
                    alive: *alive,
                },
            )
        });
        View {
            peers: peers.collect(),
        }
    }

    #[test]
    fn an_earlier_life_is_not_heard_after_a_later_one() {
        let mut peers = peers();
        let life = Incarnation::new;
        assert_eq!(
            peers.hear(&node("a"), life(5), addr(1), || false),
            Heard::NewLife
        );
        assert_eq!(
            peers.hear(&node("a"), life(5), addr(2), || true),
            Heard::Again
        );
        let outdated = Heard::Outdated { seen: life(5) };
        assert_eq!(peers.hear(&node("a"), life(4), addr(3), || true), outdated);
        assert_eq!(peers.address_of(&node("a")), Some(addr(2)));
        // What was known when this life was first heard of is what counts.
        assert_eq!(peers.memory_of(&node("a")), (false, life(5)));
        assert_eq!(
            peers.hear(&node("a"), life(6), addr(4), || false),
            Heard::NewLife
        );
        assert_eq!(peers.memory_of(&node("a")), (true, life(6)));
    }

    #[test]
    fn a_later_life_that_gossip_knows_has_the_address() {
        let mut peers = peers();
        peers.hear(&node("a"), Incarnation::new(5), addr(1), || false);
        assert!(peers.handle_view(&view(&[("a", 9, 5, true)])).is_empty());
        assert_eq!(peers.address_of(&node("a")), Some(addr(1)));
        assert_eq!(
            peers.handle_view(&view(&[("a", 9, 6, true)])),
            vec![node("a")]
        );
        assert_eq!(peers.address_of(&node("a")), Some(addr(9)));
    }

    #[test]
    fn a_node_becomes_reachable_once() {
        let mut peers = peers();
        let seen = view(&[("a", 9, 5, true)]);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
        assert!(peers.handle_view(&seen).is_empty());
        assert!(peers.handle_view(&View::default()).is_empty());
        assert_eq!(peers.address_of(&node("a")), None);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
    }

    #[test]
    fn a_member_is_unheard_until_it_speaks_in_the_life_that_gossip_knows() {
        let mut peers = peers();
        let life = |life| view(&[("client", 8, life, true), ("voter", 9, life, true)]);
        let unheard = |peers: &Peers| peers.unheard_members().cloned().collect::<Vec<_>>();
        peers.handle_view(&life(5));
        assert_eq!(unheard(&peers), [node("voter")]);
        peers.hear(&node("voter"), Incarnation::new(5), addr(9), || false);
        assert_eq!(unheard(&peers), []);
        peers.handle_view(&life(5));
        assert_eq!(unheard(&peers), []);
        peers.handle_view(&life(6));
        assert_eq!(unheard(&peers), [node("voter")]);
    }

    fn hears(peers: &mut Peers, name: &str) -> Heard {
        peers.hear(&node(name), Incarnation::new(1), addr(1), || false)
    }

    #[test]
    fn clients_that_came_and_went_leave_room_for_others() {
        let mut peers = peers();
        assert_eq!(hears(&mut peers, "voter"), Heard::NewLife);
        assert!(
            peers
                .handle_view(&view(&[("n0", 9, 1, true)]))
                .contains(&node("n0"))
        );
        for n in 0..NODES_MAX + 10 {
            let heard = hears(&mut peers, &format!("n{n}"));
            assert!(heard == Heard::NewLife || n == 1, "n{n}: {heard:?}");
            hears(&mut peers, "n1");
        }
        assert_eq!(peers.known.len(), NODES_MAX);
        // A member stays, one that gossip knows, and one that was heard of lately.
        for name in ["voter", "n0", "n1"] {
            assert_eq!(hears(&mut peers, name), Heard::Again, "{name}");
        }
        assert_eq!(hears(&mut peers, "n2"), Heard::NewLife);
    }

    #[test]
    fn memory_is_bounded_whatever_gossip_says() {
        let mut peers = peers();
        let names: Vec<String> = (0..NODES_MAX + 10).map(|n| format!("n{n}")).collect();
        let all: Vec<_> = names.iter().map(|n| (n.as_str(), 9, 1, true)).collect();
        assert_eq!(peers.handle_view(&view(&all)).len(), NODES_MAX);
        assert_eq!(peers.known.len(), NODES_MAX);
        assert_eq!(hears(&mut peers, "late"), Heard::TooMany);
        // A voter is heard though the rest of the world is too large.
        assert_eq!(hears(&mut peers, "voter"), Heard::NewLife);
    }
}
